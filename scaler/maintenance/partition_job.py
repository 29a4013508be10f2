"""The daemon's part: the partition sets of a database are kept in order, and what is new is said.

Which of several daemons works on a database is settled there, by the lock of its session; a daemon
that does not lead only looks.
"""

from typing import Final

from scaler.clock import Clock
from scaler.errors import ScalerError
from scaler.maintenance.duty import Duty, Steps
from scaler.maintenance.partition_plan import Finding, Level
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner, Outcome

MOST_SAID: Final = 10  # of one run; the rest is counted


class PartitionJob:
    """One database, for as long as the daemon lives."""

    def __init__(self, rules: Database, clock: Clock, duty: Duty) -> None:
        """Raises ConfigError: the address cannot be used."""
        self.name = f"partitions {rules.name}"
        self.every = rules.every
        self._rules = rules
        self._duty = duty
        self._steps = Steps(self.name, duty)
        self._partitioner = DatabasePartitioner(
            rules, clock=clock, hold=lambda: duty.hold(rules.wait_for)
        )
        self._said: set[str] = set()  # what was found at the last look

    @property
    def trouble(self) -> str:
        """Why it could not be looked at, the last time."""
        return self._steps.trouble

    def start_soon(self) -> None:
        """Begin a run, unless one is under way."""
        self._steps.start_soon(self.step)

    async def step(self) -> None:
        """One run, and what is new in it."""
        try:
            if self._duty.may_act:
                report = await self._partitioner.run()
                if report.standing_by:
                    return
                found = [f for outcome in report.outcomes for f in _findings(outcome)]
                self._say_done(report.outcomes)
            else:
                found = [f for plan in await self._partitioner.plan() for f in plan.findings]
        except ScalerError as error:
            self._steps.failed(error, f"it is tried again in {self.every}")
            return
        self._steps.made()
        self._say_found(found)

    def _say_done(self, outcomes: tuple[Outcome, ...]) -> None:
        done = [f"{o.table}: {text}" for o in outcomes for text in o.done]
        for text in done[:MOST_SAID]:
            self._steps.say(text)
        if (more := len(done) - MOST_SAID) > 0:
            self._steps.say(f"{more} more steps done", data={"done": done})

    def _say_found(self, found: list[Finding]) -> None:
        """Say what was not found at the last look; notes stay out of the journal."""
        texts = [f"{f.level}: {f.text}" for f in found if f.level is not Level.NOTE]
        new = [text for text in texts if text not in self._said]
        for text in new[:MOST_SAID]:
            self._steps.say(text, ok=False)
        if (more := len(new) - MOST_SAID) > 0:
            self._steps.say(f"{more} more; see scaler partitions plan {self._rules.name}", ok=False)
        self._said = set(texts)

    async def aclose(self) -> None:
        """End what is under way; the next run carries on from what is there."""
        await self._steps.aclose()
        await self._partitioner.aclose()


def _findings(outcome: Outcome) -> list[Finding]:
    if not outcome.failed:
        return list(outcome.plan.findings)
    failed = Finding(Level.WARNING, f"{outcome.table}: {outcome.failed}")
    return [*outcome.plan.findings, failed]
