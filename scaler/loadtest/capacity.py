"""The search for the highest rate that a service carries within an objective.

A state machine without clock or network: `next` says which load to put on, `took` tells what came
of it. It gallops up until the objective breaks, halves the space between (each trial goes on until
the interval around the share of late requests decides), and ends with a long confirming trial.
The answer is never above the boundary that all trials together show. The method, and how far
others are off: docs/calibration.md.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from scaler.core.units import format_rate
from scaler.loadtest.boundary import boundary
from scaler.loadtest.evidence import Counts, Evidence, Objective, Verdict

MOST_TRIALS: Final = 200  # a search that needs more has a mistake; each also takes seconds

BELOW: Final = 0.04  # how far a confirmed rate may be above the truth, and the broken one below it;
ABOVE: Final = 0.03  # both from searches on stations whose capacity is known

CONFIRMED: Final = 0.005  # the answer is so far below the rate that was confirmed, and so far
POOLED: Final = 0.015  # below the boundary of all trials: of two mistakes, too high is the worse
PERCENT: Final = 0.01
PLENTY: Final = 10_000  # requests that end a trial while narrowing down; twice that confirm
SPREAD: Final = 0.05  # standard error of the boundary, relative, that no answer is given beyond
IN_A_ROW: Final = 3  # trials that may be disturbed before one is taken as it is
DISTURBED: Final = 0.5  # of the seconds allowed, which disturbed trials may take besides


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where a search may go, and how long. Rates per second."""

    lowest: float = 5.0
    highest: float = 20_000.0
    seconds: float = 400.0  # of load in all
    warm: int = 5  # seconds of load whose figures nobody looks at
    settle: int = 2  # seconds at the begin of a trial in which queues fill; see Search.settle
    probe: int = 5  # seconds that count of the first trial at a rate
    longest: int = 30  # seconds that count at one rate, while narrowing down
    confirm: int = 80  # seconds that count of the trial at the end
    factor: float = 1.6  # between rates while galloping; twice that while nothing is late
    near: float = 1.05  # how close the two ends must come
    step: float = 0.03  # down, when the confirming trial fails
    steps: int = 6  # down at most
    fair: float = 0.8  # of the share allowed: of two mistakes, too high is the worse one
    fewest: int = 1000  # requests in the confirming trial for a p99, for a p90 a tenth of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Load to put on: evenly many requests a second, at moments as of independent users."""

    rate: float
    seconds: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The capacity, and the rates it lies between; how often it does: docs/calibration.md."""

    rate: float
    low: float
    high: float
    because: str
    seconds: float  # of load that it took
    points: tuple[Evidence, ...]  # what was seen, by rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No capacity can be named; why, and what to do."""

    because: str
    seconds: float
    points: tuple[Evidence, ...]


class Phase(Enum):
    """Where the search is."""

    WARM = "warming up"
    GALLOP = "looking for a rate that is too high"
    BISECT = "narrowing down"
    CONFIRM = "confirming"


@dataclass(slots=True)
class Search:
    """One search. Call `next`, do the trial, tell `took`; until there is no trial any more."""

    objective: Objective
    limits: Limits = field(default_factory=Limits)
    spent: float = 0.0
    disturbed: float = 0.0  # seconds of load that counts for nothing
    repeated: int = 0  # trials that were disturbed
    trials: int = 0
    phase: Phase = Phase.WARM
    points: dict[float, Evidence] = field(default_factory=dict)
    _rate: float = 0.0
    _held: float = 0.0
    _broken: float = math.inf
    _down: int = 0
    _again: bool = False
    _in_a_row: int = 0
    _end: Found | Refused | None = None

    def __post_init__(self) -> None:
        self._rate = self.limits.lowest

    @property
    def settle(self) -> int:
        """At least twice the objective: until a request can be late, every overload looks fine."""
        return max(self.limits.settle, math.ceil(2 * self.objective.within.total_seconds()))

    def next(self) -> Trial | Found | Refused:
        """What to do now; the same answer until `took` is told."""
        if self._end is not None:
            return self._end
        limits, so_far = self.limits, len(self._here.batches)
        if self.phase is Phase.WARM:
            seconds = limits.warm
        elif self.phase is Phase.CONFIRM:
            seconds = self.settle + max(limits.probe, min(limits.confirm - so_far, 20))
        else:
            seconds = self.settle + (limits.probe if so_far < limits.probe else 2 * limits.probe)
        left = limits.seconds - self.spent
        if self.trials >= MOST_TRIALS or left < self.settle + limits.probe:
            return self._out_of_time()
        seconds = int(min(seconds, left))
        return Trial(rate=self._rate, seconds=seconds, why=self.phase.value)

    def took(self, trial: Trial, counts: Counts) -> None:
        """Take what came of a trial; one that the load generator has disturbed is repeated."""
        self.trials += 1
        if self._spoilt(trial, counts):
            return
        self.spent += trial.seconds
        if counts.broken is not None:
            self._refuse(f"nothing was measured: {counts.broken}")
        elif self.phase is Phase.WARM:
            self.phase = Phase.GALLOP
        elif not counts.batches:
            self._refuse("a trial has counted nothing; look at the load generator")
        else:
            self.points.setdefault(self._rate, Evidence(self._rate)).add(counts, self.settle)
            step = {
                Phase.GALLOP: self._gallop,
                Phase.BISECT: self._bisect,
                Phase.CONFIRM: self._confirm,
            }
            step[self.phase](self._here)

    def _spoilt(self, trial: Trial, counts: Counts) -> bool:
        """Whether it tells of the generator, and there is time for another."""
        room = DISTURBED * self.limits.seconds - self.disturbed
        if not counts.doubts or self._in_a_row >= IN_A_ROW or trial.seconds > room:
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        self.repeated += 1
        self.disturbed += trial.seconds
        return True

    @property
    def _here(self) -> Evidence:
        return self.points.get(self._rate, Evidence(self._rate))

    def _gallop(self, here: Evidence) -> None:
        """Up, fast while nothing is late. Few requests, or few late ones, do not end it."""
        verdict = self._verdict(here)
        clean = here.share <= self.objective.share / 5 and len(here.batches) >= self.limits.probe
        if verdict is Verdict.BROKEN:
            self._too_high()
        elif verdict is Verdict.HELD or clean:
            self._held = self._rate
            if self._rate >= self.limits.highest:
                self._unbroken()
                return
            factor = self.limits.factor * (2 if here.late == 0 and self._few(here) else 1)
            self._rate = min(self._rate * factor, self.limits.highest)

    def _too_high(self) -> None:
        if self._held == 0 and not self._again:
            self._again = True  # a service that is cold gets a second chance
            del self.points[self._rate]
            return
        self._broken = self._rate
        if self._held == 0:
            self._refuse(
                f"{self.objective} does not hold at the lowest rate, {format_rate(self._rate)}: "
                f"{self._here}; the service is slow without load, so choose a wider objective"
            )
        else:
            self._middle()

    def _unbroken(self) -> None:
        self._refuse(
            f"{self.objective} still holds at {format_rate(self._rate)}, the highest rate allowed; "
            "the capacity is above it: allow a higher one"
        )

    def _bisect(self, here: Evidence) -> None:
        verdict = self._verdict(here)
        if verdict is Verdict.BROKEN:
            self._broken = self._rate
        elif verdict is Verdict.HELD:
            self._held = self._rate
        else:
            return
        self._middle()

    def _middle(self) -> None:
        if self._broken / max(self._held, 1e-9) <= self.limits.near:
            self.phase, self._rate = Phase.CONFIRM, self._held
        else:
            self.phase, self._rate = Phase.BISECT, math.sqrt(self._held * self._broken)

    def _confirm(self, here: Evidence) -> None:
        enough = self._long(here, self.limits.confirm, 2 * PLENTY)
        verdict = here.judge(self.objective)
        if verdict is Verdict.BROKEN or (enough and not self._fairly(here)):
            self._broken = min(self._broken, self._rate)
            self._down += 1
            if self._down > self.limits.steps:
                self._refuse(self._too_few(here) if self._few(here) else self._too_noisy())
            self._rate *= 1 - self.limits.step
        elif enough:
            self._found(here)

    def _verdict(self, here: Evidence) -> Verdict:
        """As `judge`, and after the longest time by where the share itself lies."""
        verdict = here.judge(self.objective)
        if verdict is Verdict.OPEN and self._long(here, self.limits.longest, PLENTY):
            few = self.phase is Phase.GALLOP and self._few(here)  # no rate is too high for that
            held = here.share <= 2 * self.objective.share if few else self._fairly(here)
            return Verdict.HELD if held else Verdict.BROKEN
        return verdict

    def _fairly(self, here: Evidence) -> bool:
        return here.share <= self.limits.fair * self.objective.share

    def _few(self, here: Evidence) -> bool:
        return here.due < self._fewest

    @property
    def _fewest(self) -> int:
        return round(self.limits.fewest * PERCENT / self.objective.share)

    def _too_few(self, here: Evidence) -> str:
        return (
            f"only {here.due} requests at {format_rate(here.rate)}: too few for "
            f"{self.objective}, which needs {self._fewest}; allow more time, or use a "
            "lower percentile"
        )

    def _too_noisy(self) -> str:
        return (
            f"the noise is too large: {format_rate(self._held)} held in a short trial, but no "
            f"long one held down to {format_rate(self._rate)}; measure on a quieter machine or for "
            "longer"
        )

    def _long(self, here: Evidence, seconds: int, requests: int) -> bool:
        """Many requests a second tell as much in less time, down to a quarter of it."""
        batches = len(here.batches)
        return batches >= seconds or (here.due >= requests and 4 * batches >= seconds)

    def _found(self, here: Evidence, *, confirmed: bool = True) -> Found | Refused:
        limit = self.points.get(self._broken)
        if self._few(here):
            return self._refuse(self._too_few(here))
        if limit is not None and limit.doubts:
            return self._refuse(
                f"the load generator is not to be trusted at {format_rate(self._broken)}: "
                f"{'; '.join(limit.doubts)}. The service carries at least {format_rate(here.rate)}"
            )
        pooled = boundary(self._sorted(), self.objective, here.rate).rate * (1 - POOLED)
        rate = min(here.rate * (1 - CONFIRMED), pooled) if confirmed else pooled
        shown = f"{here} at {format_rate(round(here.rate, 1))}"
        if not confirmed:
            shown = "all trials together show it, there was no time to confirm it"
        self._end = Found(
            rate=rate,
            low=rate * (1 - BELOW),
            high=max(self._broken, rate) * (1 + ABOVE),
            because=f"{shown}; {format_rate(self._broken)} did not hold{self._repeats}",
            seconds=self.spent,
            points=self._sorted(),
        )
        return self._end

    @property
    def _repeats(self) -> str:
        if not self.repeated:
            return ""
        what = "trial was" if self.repeated == 1 else "trials were"
        return f"; {self.repeated} {what} disturbed by the load generator itself, and repeated"

    def _out_of_time(self) -> Found | Refused:
        """What all trials together show, when they show enough."""
        best = self.points.get(self._held)
        if self.phase in (Phase.BISECT, Phase.CONFIRM) and best is not None:
            known = boundary(self._sorted(), self.objective, best.rate)
            if known.error <= SPREAD:
                return self._found(best, confirmed=False)
        return self._refuse(
            f"{self.limits.seconds:.0f} s were not enough: still {self.phase.value} at "
            f"{format_rate(self._rate)}; allow more time, or a higher lowest rate"
        )

    def _refuse(self, because: str) -> Refused:
        self._end = Refused(
            because=because + self._repeats, seconds=self.spent, points=self._sorted()
        )
        return self._end

    def _sorted(self) -> tuple[Evidence, ...]:
        return tuple(by_rate(self.points.values()))


def by_rate(points: Iterable[Evidence]) -> list[Evidence]:
    return sorted(points, key=lambda point: point.rate)
