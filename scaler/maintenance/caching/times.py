"""How long a value is good: a span, a moment of the calendar, or what a function says of it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from scaler.core.units import parse_span

LONGEST: Final = timedelta(days=30)
WEEKDAYS: Final = frozenset(range(5))
MOST_DAYS: Final = 366  # that a session may be away


@dataclass(frozen=True, slots=True)
class BarEnd:
    """Until the bar ends that is being made now: `BarEnd("5m")`.

    Bars begin at midnight UTC and every `span` after it.
    """

    span: timedelta | str

    def left(self, now: datetime) -> timedelta:
        length = parse_span(self.span)
        midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
        return length - (now - midnight) % length


@dataclass(frozen=True, slots=True)
class SessionClose:
    """Until the next close of an exchange: `SessionClose(time(16), "America/New_York")`."""

    at: time
    zone: str
    days: Collection[int] = WEEKDAYS  # Monday is 0
    holidays: Collection[date] = ()

    def left(self, now: datetime) -> timedelta:
        zone = ZoneInfo(self.zone)
        day = now.astimezone(zone).date()
        for ahead in range(MOST_DAYS):
            some = day + timedelta(days=ahead)
            close = datetime.combine(some, self.at, zone).astimezone(UTC)
            if some.weekday() in self.days and some not in self.holidays and close > now:
                return close - now
        return LONGEST


Ttl = timedelta | float | str | BarEnd | SessionClose | Callable[[Any], "timedelta | float | str"]


def span_s(written: timedelta | float | str) -> float:
    """Seconds, from a span as in YAML, a `timedelta` or a number of seconds.

    Raises:
        ValueError: it is none, or longer than 30 days.
    """
    if isinstance(written, int | float):
        seconds = float(written)
    else:
        seconds = parse_span(written).total_seconds()
    if not 0 <= seconds <= LONGEST.total_seconds():
        raise ValueError(f"{written!r} is no time to live; it has to be between 0s and 30d")
    return seconds


def reader(ttl: Ttl) -> Callable[[Any, datetime], float]:
    """Says for a value and now how many seconds it is good; zero is not at all.

    Raises:
        ValueError: `ttl` is no span.
    """
    if isinstance(ttl, BarEnd | SessionClose):
        return lambda _, now: min(ttl.left(now), LONGEST).total_seconds()
    if callable(ttl):
        return lambda value, _: span_s(ttl(value))
    seconds = span_s(ttl)
    return lambda *_: seconds
