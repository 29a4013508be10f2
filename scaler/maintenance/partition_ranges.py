"""The ranges that partitions of a table cover: bounds and names, as the catalogue has them.

Boundaries are local midnights of the declared zone, whatever zone a session or this machine is in.
A day of 23 or 25 hours is one range like any other; a midnight that does not exist is the moment
at which the clocks jump, and a day that a zone has skipped has no range. Bounds are compared as
whole numbers on the scale of the key, from LOWEST (MINVALUE) to HIGHEST (MAXVALUE).
"""

import hashlib
import re
import uuid
from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

LOWEST: Final = -(2**200)
HIGHEST: Final = 2**200
MOST_RANGES: Final = 20_000  # 54 years of days; more is a slip of the pen
MOST_NAME: Final = 63  # bytes of an identifier of PostgreSQL
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
FIRST_DAY: Final = date(1970, 1, 1)
MICROSECOND: Final = timedelta(microseconds=1)
_MINVALUE: Final = "MINVALUE"
_MAXVALUE: Final = "MAXVALUE"


class Unit(StrEnum):
    """What an interval is counted in."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


@dataclass(frozen=True, slots=True)
class Interval:
    """How long a range is. Only days may be several; they are counted from 1970-01-01 on."""

    unit: Unit
    count: int = 1

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"

    def first(self, day: date) -> date:
        """The first day of the range that `day` is in. Weeks begin on Monday."""
        match self.unit:
            case Unit.DAY:
                past = (day - FIRST_DAY).days % self.count
                return day - timedelta(days=past)
            case Unit.WEEK:
                return day - timedelta(days=day.weekday())
            case Unit.MONTH:
                return day.replace(day=1)
            case Unit.QUARTER:
                return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)
            case Unit.YEAR:
                return day.replace(month=1, day=1)

    def following(self, first: date) -> date:
        """The first day of the range after the one that begins at `first`.

        Raises:
            OverflowError: it is after the year 9999.
        """
        match self.unit:
            case Unit.DAY:
                return first + timedelta(days=self.count)
            case Unit.WEEK:
                return first + timedelta(days=7)
            case _:
                return moved(first, _MONTHS[self.unit])


_MONTHS: Final = {Unit.MONTH: 1, Unit.QUARTER: 3, Unit.YEAR: 12}


@dataclass(frozen=True, slots=True)
class Age:
    """A span on the calendar, such as 24 months."""

    count: int
    unit: Unit

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"

    def before(self, moment: datetime, zone: ZoneInfo) -> datetime:
        """The moment this long before `moment`, by the calendar and the clocks of `zone`.

        One month before 31 March is the last day of February. What is before the year 1 is
        its beginning.
        """
        local = moment.astimezone(zone)
        try:
            if self.unit in _MONTHS:
                day = moved(local.date(), -self.count * _MONTHS[self.unit])
            else:
                days = self.count * (7 if self.unit is Unit.WEEK else 1)
                day = local.date() - timedelta(days=days)
            there = local.replace(year=day.year, month=day.month, day=day.day, fold=0)
            return there.astimezone(UTC)
        except OverflowError:
            return FIRST


def moved(day: date, months: int) -> date:
    """The same day so many months on, or the last one of a shorter month.

    Raises:
        OverflowError: it is outside the years 1 to 9999.
    """
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise OverflowError(f"the year {year} is out of range")
    beginning = date(year, month + 1, 1)
    last = monthrange(year, month + 1)[1]
    return beginning.replace(day=min(day.day, last))


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """From `begin` on and before `end`; the first days of both are those of the zone."""

    begin: datetime
    end: datetime
    since: date
    until: date  # the first day that is no longer in it


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """When `day` begins in `zone`.

    Where clocks are set back over midnight it begins the first time; where midnight is left out,
    when the clocks jump.
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def starting(interval: Interval, zone: ZoneInfo, moment: datetime) -> Iterator[Range]:
    """The range that holds `moment`, and those after it, up to the year 9999.

    Raises:
        ValueError: the moment is in the year 1, where offsets lead out of the calendar.
    """
    if moment.year < 2:
        raise ValueError(f"{moment.isoformat()} is too early for a range")
    first = interval.first(moment.astimezone(zone).date())
    for _ in range(2):  # a midnight that is left out may lie between, and a day that is
        first = interval.first(first - timedelta(days=1))
    before: tuple[date, datetime] | None = None
    for day, at in _boundaries(interval, zone, first):
        if before is not None and moment < at:
            yield Range(begin=before[1], end=at, since=before[0], until=day)
        before = (day, at)


def _boundaries(interval: Interval, zone: ZoneInfo, first: date) -> Iterator[tuple[date, datetime]]:
    """First days with their moments; of two at the same moment the later day."""
    day, at = first, midnight(first, zone)
    while True:
        try:
            later = interval.following(day)
            then = midnight(later, zone)
        except OverflowError:
            return
        if then > at:
            yield day, at
        day, at = later, then


def containing(interval: Interval, zone: ZoneInfo, moment: datetime) -> Range:
    """The range that holds `moment`.

    Raises:
        ValueError: it ends after the year 9999.
    """
    for found in starting(interval, zone, moment):
        return found
    raise ValueError(f"{moment:%Y-%m-%d} is too late for a range of {interval}")


def ranges(interval: Interval, zone: ZoneInfo, begin: datetime, end: datetime) -> tuple[Range, ...]:
    """Every range that holds a moment from `begin` on and before `end`, in order.

    Raises:
        ValueError: there are more than MOST_RANGES.
    """
    found = []
    for one in starting(interval, zone, begin):
        if one.begin >= end:
            break
        found.append(one)
        if len(found) > MOST_RANGES:
            raise ValueError(
                f"{begin:%Y-%m-%d} to {end:%Y-%m-%d} takes more than {MOST_RANGES} partitions of "
                f"{interval}; choose a longer interval"
            )
    return tuple(found) if begin < end else ()


def upcoming(interval: Interval, zone: ZoneInfo, moment: datetime, count: int) -> tuple[Range, ...]:
    """The range that holds `moment` and the `count` after it."""
    return tuple(islice(starting(interval, zone, moment), count + 1))


def suffix(interval: Interval, since: date) -> str:
    """What the name of a partition ends with: `2026_03`, `2026_03_01`, `2026_w10`, `2026_q1`."""
    match interval.unit:
        case Unit.DAY:
            return f"{since.year:04}_{since.month:02}_{since.day:02}"
        case Unit.WEEK:
            year, week, _ = since.isocalendar()
            return f"{year:04}_w{week:02}"
        case Unit.MONTH:
            return f"{since.year:04}_{since.month:02}"
        case Unit.QUARTER:
            return f"{since.year:04}_q{(since.month + 2) // 3}"
        case Unit.YEAR:
            return f"{since.year:04}"


def called(table: str, ending: str) -> str:
    """`table_ending`; a long one is cut to what PostgreSQL keeps, with a hash of the whole."""
    whole = f"{table}_{ending}"
    if len(whole.encode()) <= MOST_NAME:
        return whole
    mark = hashlib.sha256(table.encode()).hexdigest()[:6]
    kept = table.encode()[: MOST_NAME - len(ending.encode()) - 8].decode(errors="ignore")
    return f"{kept}_{mark}_{ending}"


class KeyKind(StrEnum):
    """What the partition key holds."""

    TIMESTAMPTZ = "timestamptz"
    TIMESTAMP = "timestamp"  # the wall time of the zone
    DATE = "date"
    EPOCH_S = "epoch s"
    EPOCH_MS = "epoch ms"
    UUIDV7 = "uuidv7"


BY_TYPE: Final = {  # what `format_type` says, to what such a column can hold
    "timestamp with time zone": (KeyKind.TIMESTAMPTZ,),
    "timestamp without time zone": (KeyKind.TIMESTAMP,),
    "date": (KeyKind.DATE,),
    "bigint": (KeyKind.EPOCH_S, KeyKind.EPOCH_MS),
    "integer": (KeyKind.EPOCH_S,),
    "uuid": (KeyKind.UUIDV7,),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """From `lower` on and before `upper`, on the scale of the key."""

    lower: int
    upper: int

    def overlaps(self, other: "Bounds") -> bool:
        return self.lower < other.upper and other.lower < self.upper


@dataclass(frozen=True, slots=True)
class Key:
    """The scale of one partition key.

    Microseconds since 1970 for both timestamps (of UTC, or of the wall clock), days since then for
    dates, seconds or milliseconds for epochs, the whole 128 bits for a UUID.
    """

    kind: KeyKind
    zone: ZoneInfo

    def bounds(self, of: Range) -> Bounds:
        return Bounds(self._edge(of.begin, of.since), self._edge(of.end, of.until))

    def _edge(self, at: datetime, day: date) -> int:
        match self.kind:
            case KeyKind.DATE:
                return (day - FIRST_DAY).days
            case KeyKind.TIMESTAMP:
                return (day - FIRST_DAY) // MICROSECOND
            case _:
                return self.at(at)

    def at(self, moment: datetime) -> int:
        """The least value of the key at `moment`."""
        micros = (moment - EPOCH) // MICROSECOND
        match self.kind:
            case KeyKind.TIMESTAMPTZ:
                return micros
            case KeyKind.TIMESTAMP:
                wall = moment.astimezone(self.zone).replace(tzinfo=UTC)
                return (wall - EPOCH) // MICROSECOND
            case KeyKind.DATE:
                return (moment.astimezone(self.zone).date() - FIRST_DAY).days
            case KeyKind.EPOCH_S:
                return micros // 1_000_000
            case KeyKind.EPOCH_MS:
                return micros // 1000
            case KeyKind.UUIDV7:
                return max(0, min(micros // 1000, 2**48 - 1)) << 80  # RFC 9562, section 5.7

    def moment(self, value: int) -> datetime:
        """When a value of the key is; the years 1 and 9999 for what is outside of them."""
        try:
            match self.kind:
                case KeyKind.TIMESTAMPTZ:
                    return EPOCH + value * MICROSECOND
                case KeyKind.TIMESTAMP:
                    wall = EPOCH + value * MICROSECOND
                    return wall.replace(tzinfo=self.zone).astimezone(UTC)
                case KeyKind.DATE:
                    return midnight(FIRST_DAY + timedelta(days=value), self.zone)
                case KeyKind.EPOCH_S:
                    return EPOCH + timedelta(seconds=value)
                case KeyKind.EPOCH_MS:
                    return EPOCH + timedelta(milliseconds=value)
                case KeyKind.UUIDV7:
                    return EPOCH + timedelta(milliseconds=value >> 80)
        except OverflowError:
            return LAST if value > 0 else FIRST

    def literal(self, value: int) -> str:
        """`value` as the server reads it in any session; MINVALUE and MAXVALUE are no literals."""
        match self.kind:
            case KeyKind.TIMESTAMPTZ:
                return f"{_wall(value)}+00"
            case KeyKind.TIMESTAMP:
                return _wall(value)
            case KeyKind.DATE:
                return (FIRST_DAY + timedelta(days=value)).isoformat()
            case KeyKind.EPOCH_S | KeyKind.EPOCH_MS:
                return str(value)
            case KeyKind.UUIDV7:
                return str(uuid.UUID(int=value))

    def parse(self, text: str) -> int:
        """What a bound of the catalogue means, as a session in UTC with ISO dates shows it.

        Raises:
            ValueError: it is no value of such a key.
        """
        if text in (_MINVALUE, "-infinity"):
            return LOWEST if text == _MINVALUE else LOWEST + 1
        if text in (_MAXVALUE, "infinity"):
            return HIGHEST if text == _MAXVALUE else HIGHEST - 1
        match self.kind:
            case KeyKind.EPOCH_S | KeyKind.EPOCH_MS:
                return int(text)
            case KeyKind.UUIDV7:
                return uuid.UUID(text).int
            case _ if text.endswith("BC"):
                return LOWEST + 2
            case _ if re.match(r"\d{5}", text):
                return HIGHEST - 2  # after the year 9999
            case KeyKind.DATE:
                return (date.fromisoformat(text) - FIRST_DAY).days
            case _:
                at = datetime.fromisoformat(text)
                if (at.tzinfo is None) != (self.kind is KeyKind.TIMESTAMP):
                    raise ValueError(f"{text} is no {self.kind}")
                aware = at if at.tzinfo else at.replace(tzinfo=UTC)
                return (aware - EPOCH) // MICROSECOND


def _wall(micros: int) -> str:
    return (EPOCH + micros * MICROSECOND).replace(tzinfo=None).isoformat(sep=" ")


_BOUND: Final = re.compile(r"FOR VALUES FROM \((?P<lower>.+)\) TO \((?P<upper>.+)\)")


def bounds_of(key: Key, expression: str) -> Bounds | None:
    """What `pg_get_expr(relpartbound)` says of one range partition; None for DEFAULT.

    Raises:
        ValueError: it is no range of one column of this kind.
    """
    if expression == "DEFAULT":
        return None
    found = _BOUND.fullmatch(expression)
    if found is None:
        raise ValueError(f"{expression[:80]} is no range of one column")
    return Bounds(*(key.parse(found[edge].strip("'")) for edge in ("lower", "upper")))


def on_midnights(key: Key, bounds: Bounds) -> bool:
    """Whether both edges are midnights of the zone of the key."""
    return all(_is_midnight(key, edge) for edge in (bounds.lower, bounds.upper))


def _is_midnight(key: Key, edge: int) -> bool:
    if not finite(edge):
        return False
    try:
        held = containing(Interval(Unit.DAY), key.zone, key.moment(edge))
    except ValueError:
        return False
    return key.bounds(held).lower == edge


def finite(edge: int) -> bool:
    """Whether a bound is one of the calendar; infinities lie next to the two ends."""
    return LOWEST + 9 < edge < HIGHEST - 9


def edges_of(expression: str) -> tuple[str, str]:
    """Where a range begins and ends, in the words of the catalogue; empty for DEFAULT."""
    found = _BOUND.fullmatch(expression)
    return (found["lower"].strip("'"), found["upper"].strip("'")) if found else ("", "")


def uncovered(wanted: Bounds, covered: Sequence[Bounds]) -> tuple[Bounds, ...]:
    """The parts of `wanted` that no other bounds cover, in order."""
    parts = []
    lower = wanted.lower
    for other in sorted(covered, key=lambda b: b.lower):
        if other.upper <= lower or other.lower >= wanted.upper:
            continue
        if other.lower > lower:
            parts.append(Bounds(lower, other.lower))
        lower = max(lower, other.upper)
    if lower < wanted.upper:
        parts.append(Bounds(lower, wanted.upper))
    return tuple(parts)
