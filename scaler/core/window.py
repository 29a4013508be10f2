"""Points in time to one number, and samples that can be believed."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final, TypeVar

from scaler.core.model import Asked, Change, InstanceId, Point, Reading, Sample

T = TypeVar("T", Asked, Change, Point)

AHEAD: Final = timedelta(seconds=5)  # another host's clock may be so far ahead of ours


_at: Final = attrgetter("at")


def since(remembered: Sequence[T], moment: datetime) -> Sequence[T]:
    """What is younger than `moment`, of a sequence with the oldest first."""
    if not remembered or remembered[0].at > moment:
        return remembered
    return remembered[bisect_right(remembered, moment, key=_at) :]


def reduce(numbers: Sequence[float], how: str) -> float:
    """One number for a window; `numbers` is not empty, oldest first."""
    return _WAYS[how](numbers)


def _percentile(share: float) -> Callable[[Sequence[float]], float]:
    """The nearest-rank percentile: always a number that was really measured."""

    def percentile(numbers: Sequence[float]) -> float:
        return sorted(numbers)[max(0, math.ceil(share * len(numbers)) - 1)]

    return percentile


_WAYS: Final[dict[str, Callable[[Sequence[float]], float]]] = {
    "mean": lambda numbers: math.fsum(numbers) / len(numbers),
    "max": max,
    "min": min,
    "last": lambda numbers: numbers[-1],
    "p50": _percentile(0.50),
    "p90": _percentile(0.90),
    "p95": _percentile(0.95),
    "p99": _percentile(0.99),
}


def is_load(value: float) -> bool:
    """Whether a number can be a load: neither negative nor infinite, and a number at all."""
    return 0 <= value < math.inf


def newest(
    reading: Reading, now: datetime, max_age: timedelta
) -> tuple[dict[InstanceId, Sample], Sample | None, str]:
    """The newest believable sample of each instance, that of the whole, and why others are not.

    A sample that is not a number, negative, too old or from the future is left out with a reason.
    """
    each: dict[InstanceId, Sample] = {}
    whole: Sample | None = None
    doubt = ""
    oldest, latest = now - max_age, now + AHEAD
    for sample in reading.samples:
        value = sample.value
        if not is_load(value):
            doubt = f"{value} is not a load"
        elif sample.at < oldest:
            doubt = f"newest sample is {round((now - sample.at).total_seconds())} s old"
        elif sample.at > latest:
            doubt = f"sample is {round((sample.at - now).total_seconds())} s in the future"
        elif sample.base is not None and not 0 < sample.base < math.inf:
            doubt = f"{sample.base} cannot be 100 %"
        elif sample.instance is None:
            if whole is None or sample.at >= whole.at:
                whole = sample
        else:
            other = each.get(sample.instance)
            if other is None or sample.at >= other.at:
                each[sample.instance] = sample
    return each, whole, doubt
