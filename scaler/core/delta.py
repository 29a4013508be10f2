"""The difference between two histories of one target, small enough to be written every tick.

A history is windows that slide: some points fall off at the front and one is added at the end. So a
delta says how many fell off and which were added, and holds another field in full only when it has
changed. A whole history is its delta to the empty one. Moments are whole microseconds since 1970
and floats keep every bit: what is put together again is equal to what was taken apart.
"""

import json
import math
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, TypeVar, get_type_hints

import orjson
from pydantic import TypeAdapter

from scaler.core.model import Asked, Change, History, Point

T = TypeVar("T", Asked, Change, Point)
Delta = dict[str, Any]

EMPTY: Final = History()
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
WINDOWS: Final = ("asked", "changes", "points", "at")  # fields with a form of their own
CHECKSUM_BYTES: Final = 4
_WHOLE: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(hint) for name, hint in get_type_hints(History).items() if name not in WINDOWS
}
_AT: Final = attrgetter("at")
_ASKED_WIDTH: Final = 2  # numbers that stand for one
_CHANGE_WIDTH: Final = 3
_POINT_WIDTH: Final = 3


class Damaged(Exception):
    """Bytes that are not what was written."""


def microseconds(moment: datetime) -> int:
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(count: int) -> datetime:
    return EPOCH + timedelta(0, 0, count)  # half the time of naming the argument


def between(old: History, new: History) -> Delta:
    """What turns `old` into `new`, as plain values; empty when nothing does."""
    delta: Delta = {}
    if new.at != old.at:
        delta["at"] = None if new.at is None else microseconds(new.at)
    if old.asked is not new.asked and old.asked != new.asked:
        delta["asked"] = _slid(old.asked, new.asked, _plain_asked)
    if old.changes is not new.changes and old.changes != new.changes:
        delta["changes"] = _slid(old.changes, new.changes, _plain_changes)
    points = {
        name: _slid(old.points.get(name, ()), seen, _plain_points)
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


def _slid(old: Sequence[T], new: Sequence[T], plain: Any) -> list[Any]:
    """How many of `old` fall off at the front and at the end, and what comes before and after.

    Besides what slides, the newest entry may be replaced, or the oldest two be folded into one.
    """
    for front in (0, 1):
        if len(new) <= front:
            break
        cut = bisect_left(old, new[front].at, key=_AT)
        for pop in (0, 1):
            kept = len(old) - cut - pop
            if kept > 0 and tuple(old[cut : cut + kept]) == tuple(new[front : front + kept]):
                return [cut, pop, plain(new[:front]), plain(new[front + kept :])]
    return [len(old), 0, [], plain(new)]


def _plain_asked(asked: Iterable[Asked]) -> list[Any]:
    flat: list[Any] = []
    for ask in asked:
        flat += (microseconds(ask.at), ask.count)
    return flat


def _plain_changes(changes: Iterable[Change]) -> list[Any]:
    flat: list[Any] = []
    for change in changes:
        flat += (microseconds(change.at), change.before, change.after)
    return flat


def _plain_points(points: Iterable[Point]) -> list[Any]:
    flat: list[Any] = []
    for point in points:
        flat += (microseconds(point.at), _plain(point.value), _plain(point.load))
    return flat


def _plain(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)  # JSON has no infinity


class Rebuilt:
    """A history in the making: deltas are put on plain values, and values made once at the end."""

    def __init__(self) -> None:
        self._at: int | None = None
        self._asked: list[Any] = []
        self._changes: list[Any] = []
        self._points: dict[str, list[Any]] = {}
        self._whole: Delta = {}

    def apply(self, delta: Delta) -> None:
        """Bring it up to the next one.

        Raises:
            Damaged: this is no delta.
        """
        try:
            self._apply(dict(delta))
        except (TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"a delta of a history has a strange form: {error}") from error

    def _apply(self, delta: Delta) -> None:
        self._at = delta.pop("at", self._at)
        if "asked" in delta:
            _slide(self._asked, _ASKED_WIDTH, *delta.pop("asked"))
        if "changes" in delta:
            _slide(self._changes, _CHANGE_WIDTH, *delta.pop("changes"))
        for name, slid in delta.pop("points", {}).items():
            _slide(self._points.setdefault(name, []), _POINT_WIDTH, *slid)
        for name in delta.pop("gone", ()):
            self._points.pop(name, None)
        self._whole |= delta

    def history(self) -> History:
        """All of it.

        Raises:
            Damaged: the deltas do not make a history.
        """
        asked, made, flat = self._asked, self._changes, self._points
        try:
            return History(
                at=None if self._at is None else moment(self._at),
                asked=tuple(
                    Asked(moment(at), count)
                    for at, count in zip(asked[::2], asked[1::2], strict=True)
                ),
                changes=tuple(
                    Change(moment(at), before, after)
                    for at, before, after in zip(made[::3], made[1::3], made[2::3], strict=True)
                ),
                points={
                    name: tuple(
                        Point(moment(at), float(value), float(load))
                        for at, value, load in zip(f[::3], f[1::3], f[2::3], strict=True)
                    )
                    for name, f in flat.items()
                },
                **{name: _WHOLE[name].validate_python(v) for name, v in self._whole.items()},
            )
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise Damaged(f"a history cannot be put together: {error}") from error


def _slide(
    flat: list[Any], width: int, cut: int, pop: int, front: list[Any], back: list[Any]
) -> None:
    del flat[len(flat) - pop * width :]
    flat[: cut * width] = front
    flat += back


def pack(deltas: Mapping[str, Delta]) -> bytes:
    """As bytes with a checksum in front: a bit that has turned is noticed."""
    try:
        body = orjson.dumps(deltas)
    except TypeError:  # half a surrogate pair in a name, which only the slow way can write
        body = json.dumps(deltas).encode()
    return zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "big") + body


def unpack(packed: bytes) -> dict[str, Delta]:
    """What `pack` was given.

    Raises:
        Damaged: it is not what was written.
    """
    body = packed[CHECKSUM_BYTES:]
    if zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "big") != packed[:CHECKSUM_BYTES]:
        raise Damaged("a checksum is wrong")
    plain: dict[str, Delta]
    try:
        plain = orjson.loads(body)
    except ValueError:
        plain = json.loads(body)
    return plain
