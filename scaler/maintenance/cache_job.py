"""The daemon's part: a cache is looked at again and again, and what is new is said once.

Each step looks at a sample; once per `full_lap` it looks at every key, and there acts as the rules
allow.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from scaler.clients.redis_scan import CacheServer
from scaler.clock import Clock
from scaler.errors import ScalerError
from scaler.maintenance.cache_audit import CacheAudit, Done, Outcome
from scaler.maintenance.cache_plan import Finding, Found, SetTtl
from scaler.maintenance.cache_reports import Statistics, add_up
from scaler.maintenance.cache_rules import Cache
from scaler.maintenance.duty import Duty, Steps

MOST_SAID: Final = 3  # findings of one kind that are said one by one
OF_KEYS: Final = frozenset(  # a sample may miss them, so only a look at every key ends them
    {Found.NO_TTL, Found.DEAD_VERSION, Found.IDLE, Found.BIG_KEY, Found.LOPSIDED}
)
LOOKS: Final = 3  # without it, before a finding about the server is gone
LOOKS_SLOW: Final = 60  # the same for slow commands, which come and go


@dataclass(slots=True)
class _Known:
    """A finding that was said, and for how many looks it has not been there."""

    finding: Finding
    missed: int = 0


class Findings:
    """Which findings are new and which are gone, from look to look."""

    def __init__(self) -> None:
        self._known: dict[tuple[Found, str], _Known] = {}

    def take(self, found: Iterable[Finding], *, whole: bool) -> tuple[list[Finding], list[Finding]]:
        """Take in what a look has found; what is new, and what is gone."""
        now = {(finding.kind, finding.subject): finding for finding in found}
        new = [finding for key, finding in now.items() if key not in self._known]
        gone = []
        for key, known in list(self._known.items()):
            known.missed = 0 if key in now else known.missed + self._counts(key[0], whole=whole)
            if known.missed >= _patience(key[0]):
                gone.append(self._known.pop(key).finding)
        for key, finding in now.items():
            self._known[key] = _Known(finding)
        return new, gone

    def counts(self) -> Mapping[Found, int]:
        """How many are known of each kind."""
        return Counter(kind for kind, _ in self._known)

    @staticmethod
    def _counts(kind: Found, *, whole: bool) -> int:
        return int(whole or kind not in OF_KEYS)


def _patience(kind: Found) -> int:
    if kind in OF_KEYS:
        return 1
    return LOOKS_SLOW if kind is Found.SLOW else LOOKS


class CacheJob:
    """One cache, for as long as the daemon lives."""

    def __init__(self, rules: Cache, clock: Clock, duty: Duty) -> None:
        """Raises ConfigError: the address cannot be used."""
        self.cache = rules.name
        self.name = f"cache {rules.name}"
        self.every = rules.every
        self.statistics = Statistics()  # of the processes that use it
        self._rules = rules
        self._clock = clock
        self._duty = duty
        self._steps = Steps(self.name, duty)
        self._server = CacheServer(rules.address())
        self._audit = CacheAudit(rules, self._server, clock, may_act=duty.leads)
        self._findings = Findings()
        self._full_due = clock.monotonic() + rules.every  # the first look is a quick one

    @property
    def trouble(self) -> str:
        """Why it could not be looked at, the last time."""
        return self._steps.trouble

    def start_soon(self) -> None:
        """Begin a step, unless one is under way."""
        self._steps.start_soon(self.step)

    async def step(self) -> None:
        """One look, what is new in it, and what follows."""
        try:
            outcome = await self._look()
            prefixes = self._rules.prefixes
            texts = [text for prefix in prefixes for text in await self._server.stats(prefix)]
            self.statistics = add_up(texts)
        except ScalerError as error:
            self._steps.failed(error, "it is looked at again in time")
            return
        self._steps.made()
        self._tell(outcome)

    @property
    def findings(self) -> Mapping[Found, int]:
        """How many there are of each kind, as of the last looks."""
        return self._findings.counts()

    async def _look(self) -> Outcome:
        if self._clock.monotonic() < self._full_due or not self._duty.leads():
            return await self._audit.sample()
        outcome = await self._audit.run(act=self._duty.act and self._rules.act.anything)
        if outcome.whole:
            self._full_due = self._clock.monotonic() + self._rules.full_lap
        return outcome

    def _tell(self, outcome: Outcome) -> None:
        new, gone = self._findings.take(outcome.plan.findings, whole=outcome.whole)
        for kind in Found:
            self._say_some([f for f in new if f.kind is kind], lambda f: f.text, ok=False)
            self._say_some(
                [f for f in gone if f.kind is kind], lambda f: f"{f.kind} {f.subject}: is gone"
            )
        for done in outcome.done:
            if done.keys or done.ended:
                self._steps.say(_words(done), data={"names": list(done.names), "bytes": done.bytes})
        if outcome.stopped:
            self._steps.say(f"the look was ended early: {outcome.stopped}", ok=False)

    def _say_some(
        self, findings: list[Finding], words: Callable[[Finding], str], *, ok: bool = True
    ) -> None:
        for finding in findings[:MOST_SAID]:
            self._steps.say(words(finding), ok=ok)
        if (more := len(findings) - MOST_SAID) > 0:
            remedy = f"see scaler cache plan {self._rules.name}"
            self._steps.say(f"{more} more of {findings[0].kind}; {remedy}", ok=ok)

    async def aclose(self) -> None:
        """End what is under way; what is done is done, and the next start begins anew."""
        await self._steps.aclose()
        await self._server.aclose()


def _words(done: Done) -> str:
    action = done.action
    ended = f"; ended: {done.ended}" if done.ended else ""
    if isinstance(action, SetTtl):
        return f"{done.keys} keys of {action.prefix} got a TTL: {action.because}{ended}"
    freed = f"{done.bytes / 1e6:.1f} MB"
    return f"{done.keys} keys of {action.prefix} removed, {freed}: {action.because}{ended}"
