"""The daemon's part: the partition sets of a database are kept in order, and what is new is said.

A run that is due while one is under way is left out, so there is never a queue. Which of several
daemons works on a database is settled there, by the lock of its session; a daemon that does not
lead only looks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from scaler.clock import Clock
from scaler.errors import ScalerError
from scaler.maintenance.partition_plan import Finding, Level
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner, Outcome

MOST_SAID: Final = 10  # of one run; the rest is counted


class Note(Protocol):
    """Takes what is to be written into the journal."""

    def __call__(self, summary: str, *, ok: bool, data: Mapping[str, Any]) -> None: ...


class PartitionJob:
    """One database, for as long as the daemon lives."""

    def __init__(
        self,
        rules: Database,
        clock: Clock,
        *,
        note: Note,
        leads: Callable[[], bool],
        act: bool,
        wrap: Callable[[Awaitable[None]], Awaitable[None]],
        hold: Callable[[tuple[str, ...]], str],
    ) -> None:
        """`leads`: whether this daemon may act now; `hold`: why heavy steps wait while one of
        these policies is being scaled; `wrap` takes care of our own defects.

        Raises:
            ConfigError: the address cannot be used.
        """
        self.name = f"partitions {rules.name}"
        self.every = rules.every
        self.trouble = ""  # why it could not be looked at, the last time
        self._rules = rules
        self._note = note
        self._leads = leads
        self._act = act
        self._wrap = wrap
        self._partitioner = DatabasePartitioner(
            rules, clock=clock, hold=lambda: hold(rules.wait_for)
        )
        self._said: set[str] = set()  # what was found at the last look
        self._task: asyncio.Future[None] | None = None

    def start_soon(self) -> None:
        """Begin a run, unless one is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._wrap(self.step()))

    async def step(self) -> None:
        """One run, and what is new in it."""
        try:
            if self._act and self._leads():
                report = await self._partitioner.run()
                if report.standing_by:
                    return
                found = [f for outcome in report.outcomes for f in _findings(outcome)]
                self._say_done(report.outcomes)
            else:
                found = [f for plan in await self._partitioner.plan() for f in plan.findings]
        except ScalerError as error:
            if str(error) != self.trouble:
                self._say(f"{error}; it is tried again in {self.every}", ok=False)
            self.trouble = str(error)
            return
        if self.trouble:
            self.trouble = ""
            self._say("answers again")
        self._say_found(found)

    def _say_done(self, outcomes: tuple[Outcome, ...]) -> None:
        done = [f"{o.table}: {text}" for o in outcomes for text in o.done]
        for text in done[:MOST_SAID]:
            self._say(text)
        if (more := len(done) - MOST_SAID) > 0:
            self._say(f"{more} more steps done", data={"done": done})

    def _say_found(self, found: list[Finding]) -> None:
        """Say what was not found at the last look; notes stay out of the journal."""
        texts = [f"{f.level}: {f.text}" for f in found if f.level is not Level.NOTE]
        new = [text for text in texts if text not in self._said]
        for text in new[:MOST_SAID]:
            self._say(text, ok=False)
        if (more := len(new) - MOST_SAID) > 0:
            self._say(f"{more} more; see scaler partitions plan {self._rules.name}", ok=False)
        self._said = set(texts)

    def _say(self, text: str, *, ok: bool = True, data: Mapping[str, Any] | None = None) -> None:
        self._note(f"{self.name}: {text}", ok=ok, data=data or {})

    async def aclose(self) -> None:
        """End what is under way; the next run carries on from what is there."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._partitioner.aclose()


def _findings(outcome: Outcome) -> list[Finding]:
    if not outcome.failed:
        return list(outcome.plan.findings)
    failed = Finding(Level.WARNING, f"{outcome.table}: {outcome.failed}")
    return [*outcome.plan.findings, failed]
