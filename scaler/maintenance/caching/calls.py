"""How the answers of a function are kept, one call of it, and what became of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from types import WrapperDescriptorType
from typing import Any, Final

from scaler.clock import Clock
from scaler.maintenance.caching.counts import Counts
from scaler.maintenance.caching.times import Ttl, reader, span_s
from scaler.maintenance.caching.values import Codec, Seals


class BackendFailed(Exception):
    """Another process called the backend a moment ago and it failed; this is what it said."""


Span = timedelta | float | str
Errors = Span | Mapping[type[Exception], Span] | None
LONGEST_MISSING_S: Final = 60.0  # that there is nothing, unless it is said otherwise


@dataclass(slots=True, eq=False)
class Rule:
    """How the answers of one function are kept."""

    id: str  # its name and version
    name: str
    codec: Codec
    ttl_s: Callable[[Any, datetime], float]
    stale_s: float
    missing_s: float
    errors: Sequence[tuple[type[Exception], float]]  # the first that fits; seconds
    early: bool
    kept: Callable[[Any], bool]
    counts: Counts

    def error_s(self, error: BaseException) -> float:
        return next((s for kind, s in self.errors if isinstance(error, kind)), 0.0)

    def error(self, told: Any) -> Exception:
        """The failure that another process has told of, as a declared class or as ours."""
        name, text = (str(part) for part in told[:2]) if isinstance(told, list) else ("", "")
        for kind, _ in self.errors:
            if kind.__name__ == name and isinstance(kind.__init__, WrapperDescriptorType):
                try:
                    return kind(text)
                except TypeError:  # it is made of more than a text
                    break
        return BackendFailed(f"{name}: {text}")


@dataclass(slots=True, eq=False)
class Call:
    """One call of a cached function."""

    key: str
    rule: Rule
    tags: tuple[str, ...]  # keys of their tokens
    run: Callable[[], Awaitable[Any]]  # calls the backend for somebody who waits
    again: Callable[[], Awaitable[Any]]  # the same when nobody does


@dataclass(slots=True)
class Outcome:
    """What a flight brought."""

    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all event loops of a cache have in common."""

    namespace: str
    process: str  # tells processes and their loops apart
    budget: timedelta
    local_bytes: int  # 0 keeps nothing locally but in an outage
    outage_s: float
    seals: Seals
    clock: Clock
    random: Random
    rules: Mapping[str, Rule] = field(default_factory=dict)  # by id


def rule_of(
    name: str,
    codec: Codec,
    *,
    ttl: Ttl,
    stale: Span,
    missing: Span | None,
    errors: Errors,
    early: bool,
    condition: Callable[[Any], bool] | None = None,
    version: str = "",
) -> Rule:
    """A rule from what a caller has written. Raises ValueError for what is no span."""
    by_class = errors if isinstance(errors, Mapping) else {Exception: errors or 0}
    reads = reader(ttl)
    default = LONGEST_MISSING_S
    if isinstance(ttl, timedelta | int | float | str):
        default = min(span_s(ttl), LONGEST_MISSING_S)
    return Rule(
        id=f"{name}.{version}" if name else "=",
        name=name,
        codec=codec,
        ttl_s=reads,
        stale_s=span_s(stale),
        missing_s=default if missing is None else span_s(missing),
        errors=[(kind, span_s(span)) for kind, span in by_class.items()],
        early=early,
        kept=condition or (lambda _: True),
        counts=Counts(),
    )
