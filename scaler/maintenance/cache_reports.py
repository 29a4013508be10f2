"""What the processes of a cache say about themselves, added up per function.

It is written by others: whatever is no number counts as 0, what is not known is left out, and
nothing in it raises.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from scaler.clients.redis_scan import shown

MOST_FUNCTIONS: Final = 1_000  # of all processes together
LARGEST: Final = 2.0**53  # what a number may be and still be exact
COUNTS: Final = ("hits_local", "hits_shared", "stale", "misses", "joined", "errors", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionStats:
    """One cached function, over all processes."""

    hits_local: int = 0
    hits_shared: int = 0
    stale: int = 0  # answered with an old value while a new one was made
    misses: int = 0
    joined: int = 0  # waited for somebody else's call
    errors: int = 0
    bytes: int = 0
    saved_s: float = 0.0
    recomputed: int = 0
    p50_s: float = 0.0  # the mean of the processes, by how often each has recomputed
    p95_s: float = 0.0  # that of the slowest process

    @property
    def hit_ratio(self) -> float | None:
        """Answers from the cache of all answers; None when nobody has asked."""
        hits = self.hits_local + self.hits_shared + self.stale
        asked = hits + self.misses + self.joined + self.errors
        return hits / asked if asked else None

    def __add__(self, other: "FunctionStats") -> "FunctionStats":
        recomputed = self.recomputed + other.recomputed
        weighed = self.p50_s * self.recomputed + other.p50_s * other.recomputed
        return replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in COUNTS},
            saved_s=self.saved_s + other.saved_s,
            recomputed=recomputed,
            p50_s=weighed / recomputed if recomputed else 0.0,
            p95_s=max(self.p95_s, other.p95_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """All functions of one cache."""

    processes: int = 0
    unreadable: int = 0  # processes whose statistics could not be read
    functions: Mapping[str, FunctionStats] = field(default_factory=dict)


def add_up(texts: Iterable[bytes]) -> Statistics:
    """The sums over what each process has written."""
    processes = unreadable = 0
    functions: dict[str, FunctionStats] = {}
    for text in texts:
        said = _functions(text)
        if said is None:
            unreadable += 1
            continue
        processes += 1
        for name, numbers in said.items():
            known = functions.get(name)
            if known is None and len(functions) >= MOST_FUNCTIONS:
                continue
            functions[name] = numbers if known is None else known + numbers
    return Statistics(processes=processes, unreadable=unreadable, functions=functions)


def _functions(text: bytes) -> dict[str, FunctionStats] | None:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return None
    written = plain.get("functions") if isinstance(plain, dict) else None
    if not isinstance(written, dict):
        return None
    return {
        shown(name.encode("utf-8", "surrogatepass")): _function(numbers)
        for name, numbers in written.items()
        if isinstance(numbers, dict)
    }


def _function(numbers: Mapping[str, Any]) -> FunctionStats:
    made = numbers.get("recompute")
    recompute: Mapping[str, Any] = made if isinstance(made, dict) else {}
    return FunctionStats(
        **{name: int(_number(numbers, name)) for name in COUNTS},
        saved_s=_number(numbers, "saved_s"),
        recomputed=int(_number(recompute, "count")),
        p50_s=_number(recompute, "p50_s"),
        p95_s=_number(recompute, "p95_s"),
    )


def _number(numbers: Mapping[str, Any], name: str) -> float:
    value = numbers.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 <= value <= LARGEST else 0.0  # NaN is in no range
