"""What trials say about an objective: the share of late requests, and how sure it is.

Late requests come in clumps, since one waits for the other, so an interval that takes each for
independent is far too narrow. Here the variance is that between stretches of several seconds
(batch means: Law and Kelton, Simulation Modeling and Analysis, section 9.5.3).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Final

from scaler.core.units import format_percent, format_span
from scaler.errors import ConfigError
from scaler.loadtest import thresholds

SURE: Final = 1.645  # standard errors: 95 % on one side
GROUPS: Final = 6  # fewest stretches for a variance
LONGEST_GROUP: Final = 5  # batches in one
FEWEST_LATE: Final = 10  # before a share of late requests ends a trial at once
FAR_BEYOND: Final = 10  # times the share allowed: no interval is needed
NONE_LATE: Final = 3.0  # rule of three: none of n says less than 3/n with 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """At most `share` of the requests may take longer than `within`; a failed one is late."""

    within: timedelta
    share: float

    def __str__(self) -> str:
        return f"p{round(100 * (1 - self.share), 6):g}<{format_span(self.within)}"


@dataclass(frozen=True, slots=True)
class Batch:
    """About a second of load, by when requests were due."""

    due: int
    late: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one trial has found."""

    batches: tuple[Batch, ...]
    doubts: tuple[str, ...] = ()  # why it may tell of the load generator and not of the server
    broken: str | None = None  # why nothing was measured at all: "connection refused"


class Verdict(Enum):
    """Whether an objective holds."""

    HELD = "held"
    BROKEN = "broken"
    OPEN = "open"  # not known yet


@dataclass(slots=True)
class Evidence:
    """Everything counted at one rate."""

    rate: float
    batches: list[Batch] = field(default_factory=list)
    doubts: tuple[str, ...] = ()

    @property
    def due(self) -> int:
        return sum(batch.due for batch in self.batches)

    @property
    def late(self) -> int:
        return sum(batch.late for batch in self.batches)

    @property
    def share(self) -> float:
        return self.late / self.due if self.due else 0.0

    @property
    def error(self) -> float:
        """The standard error of `share`; infinite when there is too little to tell."""
        groups = grouped(self.batches)
        if len(groups) < GROUPS or not self.due:
            return math.inf
        squares = math.fsum((group.late - self.share * group.due) ** 2 for group in groups)
        return math.sqrt(squares * len(groups) / (len(groups) - 1)) / self.due

    def add(self, counts: Counts, skip: int) -> None:
        """Keep what a trial has found, without the first `skip` batches: queues were filling."""
        self.batches += counts.batches[skip:]
        self.doubts = (*self.doubts, *(d for d in counts.doubts if d not in self.doubts))

    def judge(self, objective: Objective) -> Verdict:
        """What can be said with 95 % on either side."""
        if self.due == 0:
            return Verdict.OPEN
        if self.late >= FEWEST_LATE and self.share > FAR_BEYOND * objective.share:
            return Verdict.BROKEN
        error = self.error
        if self.late == 0:
            enough = self.due * objective.share >= NONE_LATE and error < math.inf
            return Verdict.HELD if enough else Verdict.OPEN
        if self.share + SURE * error < objective.share:
            return Verdict.HELD
        if self.late >= FEWEST_LATE and self.share - SURE * error > objective.share:
            return Verdict.BROKEN
        return Verdict.OPEN

    def __str__(self) -> str:
        spread = SURE * self.error
        sure = "" if spread == math.inf else f" ± {format_percent(round(spread, 5))}"
        return f"{format_percent(round(self.share, 5))}{sure} of {self.due} requests late"


def grouped(batches: Sequence[Batch]) -> list[Batch]:
    """Stretches of up to LONGEST_GROUP batches; shorter ones while there are few."""
    size = max(1, min(LONGEST_GROUP, len(batches) // (GROUPS + 2)))
    return [
        Batch(sum(b.due for b in part), sum(b.late for b in part))
        for start in range(0, len(batches) - size + 1, size)
        if (part := batches[start : start + size])
    ]


def objective_of(written: str) -> Objective:
    """From text like `p99<250ms`.

    Raises:
        ConfigError: it is no single percentile with a time.
    """
    try:
        (threshold,) = thresholds.parse(written)
    except ValueError as error:
        raise ConfigError(f'"{written}" is no objective: {error}') from error
    share = threshold.percentile
    if share is None or threshold.sign not in ("<", "<=") or threshold.figure[0] != "p":
        raise ConfigError(f'"{written}" is no objective; write a percentile like p99<250ms')
    return Objective(within=timedelta(seconds=threshold.limit), share=round(1 - share, 9))
