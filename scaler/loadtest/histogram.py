"""Latencies in bounded memory: buckets that grow with the value, as in HDR histograms."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

ERROR: Final = 0.002  # relative; a percentile is at most this far above the true value
_GROWTH: Final = math.log1p(ERROR)
LEAST: Final = 1e-6  # seconds; anything shorter counts as this


class Histogram:
    """Counts of values in seconds. A percentile is right to 0.2 %, whatever the range."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.highest = 0.0

    def add(self, value: float) -> None:
        self.add_all((value,))

    def add_all(self, values: Sequence[float]) -> None:
        """Many at once, for a fifth of the cost of each by itself."""
        if not values:
            return
        log, ceil = math.log, math.ceil
        self._buckets.update([ceil(log(v / LEAST) / _GROWTH) if v > LEAST else 0 for v in values])
        self.count += len(values)
        self.total += math.fsum(values)
        self.highest = max(self.highest, *values)

    def merge(self, other: "Histogram") -> None:
        """Add what the other holds; nothing is lost, since all have the same buckets."""
        self._buckets.update(other._buckets)  # noqa: SLF001 - its own kind
        self.count += other.count
        self.total += other.total
        self.highest = max(self.highest, other.highest)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """The value that `share` (0 to 1) of all are not above; 0 when there are none."""
        return self.percentiles([share])[0]

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """Several in one pass; `shares` rise."""
        found: list[float] = []
        buckets = iter(sorted(self._buckets.items()))
        bucket, seen = 0, 0
        for share in shares:
            # the slack takes back what a decimal share such as 0.999 is above its true value
            needed = math.ceil(share * self.count - 1e-9 * self.count)
            while seen < needed:
                bucket, count = next(buckets)
                seen += count
            value = min(LEAST * math.exp(bucket * _GROWTH), self.highest)
            found.append(value if needed > 0 else 0.0)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; `of_dict` reads it again without loss."""
        buckets = {str(bucket): count for bucket, count in sorted(self._buckets.items())}
        return {"buckets": buckets, "total": self.total, "highest": self.highest}

    @classmethod
    def of_dict(cls, written: Mapping[str, Any]) -> "Histogram":
        made = cls()
        made._buckets.update({int(b): int(n) for b, n in written["buckets"].items()})
        made.count = made._buckets.total()
        made.total = float(written["total"])
        made.highest = float(written["highest"])
        return made
