"""Latencies in bounded memory: buckets that grow with the value, as in HDR histograms."""

import math
from collections import Counter
from typing import Final

ERROR: Final = 0.01  # relative; a percentile is at most this far above the true value
_GROWTH: Final = math.log1p(ERROR)
LEAST: Final = 1e-6  # seconds; anything shorter counts as this


class Histogram:
    """Counts of values in seconds. A percentile is right to one percent, whatever the range."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0.0
        self.highest = 0.0

    def add(self, value: float) -> None:
        self._buckets[math.ceil(math.log(max(value, LEAST) / LEAST) / _GROWTH)] += 1
        self.count += 1
        self.total += value
        self.highest = max(self.highest, value)

    def percentile(self, share: float) -> float:
        """The value that `share` (0 to 1) of all are not above; 0 when there are none."""
        needed = math.ceil(share * self.count)
        if needed <= 0:
            return 0.0
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= needed:
                return min(LEAST * math.exp(bucket * _GROWTH), self.highest)
        return self.highest
