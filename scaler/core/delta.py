"""The difference between two histories of one target, small enough to be written every tick.

A history is windows that slide: some points fall off at the front and one is added at the end. So a
delta says how many fell off and which were added, and holds a field in full only when it changed.
Moments are whole microseconds since 1970 and floats keep every bit: what is put together again is
equal to what was taken apart.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import orjson
from pydantic import TypeAdapter

from scaler.core.model import Asked, History, Point

T = TypeVar("T")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
WINDOWS: Final = ("asked", "points", "at")  # fields with a form of their own
_WHOLE: Final = {
    field.name: TypeAdapter[Any](field.type)
    for field in fields(History)
    if field.name not in WINDOWS
}


def microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def moment(count: int) -> datetime:
    return EPOCH + timedelta(microseconds=count)


def between(old: History, new: History) -> dict[str, Any]:
    """What turns `old` into `new`, as plain values."""
    delta: dict[str, Any] = {}
    if new.at is not None:
        delta["at"] = microseconds(new.at)
    if old.asked is not new.asked:
        cut, pop, added = _slid(old.asked, new.asked)
        delta["asked"] = [cut, pop, [[microseconds(a.at), a.count] for a in added]]
    points = {
        name: _slid_points(old.points.get(name, ()), seen)
        for name, seen in new.points.items()
        if old.points.get(name) is not seen
    }
    if points:
        delta["points"] = points
    gone = [name for name in old.points if name not in new.points]
    if gone:
        delta["gone"] = gone
    for name, adapter in _WHOLE.items():
        before, after = getattr(old, name), getattr(new, name)
        if before is not after and before != after:
            delta[name] = adapter.dump_python(after, mode="json")
    return delta


def _slid_points(old: Sequence[Point], new: Sequence[Point]) -> list[Any]:
    cut, pop, added = _slid(old, new)
    return [cut, pop, [[microseconds(p.at), p.value, p.load] for p in added]]


def _slid(old: Sequence[T], new: Sequence[T]) -> tuple[int, int, Sequence[T]]:
    """How many of `old` fall off at the front and at the end, and what is added after them."""
    if old and new and new[0] in old:
        cut = old.index(new[0])
        for pop in (0, 1):
            kept = len(old) - cut - pop
            if kept > 0 and tuple(old[cut : len(old) - pop]) == tuple(new[:kept]):
                return cut, pop, new[kept:]
    return len(old), 0, new


def applied(old: History, delta: dict[str, Any]) -> History:
    """`old` with the delta in it."""
    changed: dict[str, Any] = {
        name: adapter.validate_python(delta[name])
        for name, adapter in _WHOLE.items()
        if name in delta
    }
    changed["at"] = moment(delta["at"]) if "at" in delta else None
    if "asked" in delta:
        cut, pop, added = delta["asked"]
        fresh = tuple(Asked(moment(at), count) for at, count in added)
        changed["asked"] = old.asked[cut : len(old.asked) - pop] + fresh
    if "points" in delta or "gone" in delta:
        points = {name: p for name, p in old.points.items() if name not in delta.get("gone", ())}
        for name, (cut, pop, added) in delta.get("points", {}).items():
            before = tuple(points.get(name, ()))
            fresh_points = tuple(Point(moment(at), value, load) for at, value, load in added)
            points[name] = before[cut : len(before) - pop] + fresh_points
        changed["points"] = points
    return replace(old, **changed)


def pack(deltas: dict[str, dict[str, Any]]) -> bytes:
    return orjson.dumps(deltas)


def unpack(body: bytes) -> dict[str, dict[str, Any]]:
    plain: dict[str, dict[str, Any]] = orjson.loads(body)
    return plain
