"""What each cached function did: where answers came from, what the backend cost, what was saved."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SPANS: Final = 256  # of the last calls of a backend


@dataclass(slots=True)
class Counts:
    """Of one function in one process since it began."""

    hits_local: int = 0
    hits_shared: int = 0
    stale: int = 0
    misses: int = 0  # the backend was called
    joined: int = 0  # waited for somebody else's call
    errors: int = 0  # the backend failed, or had failed a moment ago
    refreshed: int = 0  # before the end, in the background
    unkept: int = 0  # answers that could not be kept
    bytes: int = 0  # of the answers that were kept
    recomputed: int = 0
    total_s: float = 0.0
    p95_s: float = 0.0
    spans: deque[float] = field(default_factory=lambda: deque(maxlen=SPANS))

    def took(self, seconds: float) -> None:
        self.recomputed += 1
        self.total_s += seconds
        self.spans.append(seconds)
        self.p95_s = self.percentile(0.95)

    def percentile(self, share: float) -> float:
        """Seconds of the last calls of the backend; 0 before the first."""
        ordered = sorted(self.spans)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def plain(self) -> dict[str, Any]:
        """For people and for other processes; what was saved is hits times the mean cost."""
        hits = self.hits_local + self.hits_shared + self.stale
        mean = self.total_s / self.recomputed if self.recomputed else 0.0
        asked = hits + self.misses + self.joined + self.errors
        return {
            "hits_local": self.hits_local,
            "hits_shared": self.hits_shared,
            "stale": self.stale,
            "misses": self.misses,
            "joined": self.joined,
            "errors": self.errors,
            "refreshed": self.refreshed,
            "unkept": self.unkept,
            "hit_ratio": round(hits / asked, 4) if asked else None,
            "saved_s": round(hits * mean, 3),
            "bytes": self.bytes,
            "recompute": {
                "count": self.recomputed,
                "p50_s": round(self.percentile(0.5), 6),
                "p95_s": round(self.percentile(0.95), 6),
            },
        }


def plain(counts: Iterable[tuple[str, Counts]]) -> Mapping[str, dict[str, Any]]:
    """All functions of one process, by name."""
    return {name: one.plain() for name, one in counts}
