"""Where the share of late requests crosses what an objective allows, from trials around it.

Near its capacity C a service is late exponentially more often with the rate r, with the share
s exp(k (r/C - 1)) where s is allowed, so a trial beside the capacity tells of it too. `k` is not
known before: C and k are weighed together on a grid, and the mean of C is the answer. Late requests
come in clumps, so their likelihood is that of a Poisson count to the power of 1/f, with f the
variance between stretches over the mean (quasi-likelihood: McCullagh and Nelder, Generalized
Linear Models, section 9.2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scaler.loadtest.evidence import Evidence, Objective, grouped

STEEP: Final = tuple(6 * 1.4**n for n in range(9))  # of k; 6 to 89
REACH: Final = 0.2  # how far a trial may be from the capacity, relative, to tell of it
STEP: Final = 0.004  # of the grid over the capacity
CLUMPED: Final = 10.0  # variance over mean, before anything is known of it, and
KNOWN: Final = 10.0  # so many late requests speak for that


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """The rate at which exactly the allowed share is late, and its standard error, relative."""

    rate: float
    error: float


def boundary(points: Sequence[Evidence], objective: Objective, about: float) -> Boundary:
    """From all that was counted within REACH of `about`, a first guess."""
    near = [point for point in points if abs(point.rate / about - 1) <= REACH]
    clumped = _clumped(near, objective.share)
    counts = [
        (point.rate / about, point.due * objective.share / clumped, point.late / clumped)
        for point in near
    ]
    highest = -math.log(2 * objective.share)  # half of all late is as bad as it gets
    size = round(REACH / STEP)
    places = [1 + number * STEP for number in range(-size, size + 1)]
    logs = [(at, sum(_log(*one, at, k, highest) for one in counts)) for at in places for k in STEEP]
    most = max(log for _, log in logs)
    weights = [(place, math.exp(log - most)) for place, log in logs]
    total = math.fsum(weight for _, weight in weights)
    mean = math.fsum(place * weight for place, weight in weights) / total
    square = math.fsum((place - mean) ** 2 * weight for place, weight in weights) / total
    return Boundary(rate=about * mean, error=math.sqrt(square) / mean)


def _log(rate: float, allowed: float, late: float, place: float, k: float, highest: float) -> float:
    """How well a capacity at `place` agrees with a point, a logarithm up to a constant.

    Below the capacity the variance is as the share, above it as its square.
    """
    slope = min(k * (rate / place - 1), highest)
    if slope <= 0:
        return late * slope - allowed * math.exp(slope)
    return late - allowed - late * math.exp(-slope) - allowed * slope


def _clumped(points: Sequence[Evidence], share: float) -> float:
    """The variance of late requests between stretches, over their mean, at the boundary."""
    squares, late = CLUMPED * KNOWN, KNOWN
    for point in points:
        groups = grouped(point.batches)
        if len(groups) > 1:
            some = math.fsum((g.late - point.share * g.due) ** 2 for g in groups)
            beyond = max(1.0, point.share / share)
            squares += some / beyond * len(groups) / (len(groups) - 1) / beyond
            late += sum(g.late for g in groups) / beyond
    return max(1.0, squares / late)
