"""Bounds that change with the time of day, in the time zone of the people who wrote them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scaler.core.policy import Limits, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Fewest and most instances at one moment, and which window says so."""

    min: int
    max: int
    min_because: str = ""
    max_because: str = ""


def bounds(limits: Limits, windows: Sequence[Window], now: datetime) -> Bounds:
    """The bounds in force: those of `limits`, unless windows are open.

    Of several open windows the highest `min` and the highest `max` count, and a `min` above the
    `max` raises it: two windows never shrink what one of them asks for.
    """
    if not windows:
        return Bounds(min=limits.min, max=limits.max)
    opened = [window for window in windows if is_open(window, now)]
    lows = [(w.min, _words(w)) for w in opened if w.min is not None]
    highs = [(w.max, _words(w)) for w in opened if w.max is not None]
    low, low_words = max(lows, default=(limits.min, ""))
    high, high_words = max(highs, default=(limits.max, ""))
    if low > high:
        if low_words and not high_words:
            high, high_words = low, low_words
        else:
            low, low_words = high, high_words
    return Bounds(min=low, max=high, min_because=low_words, max_because=high_words)


def is_open(window: Window, now: datetime) -> bool:
    """Whether `now` lies in the window: its start counts, its end does not.

    A time that the clocks skip begins when they have moved; one that happens twice begins at the
    first and ends at the second, so a floor is never cut short.
    """
    today = now.astimezone(window.zone).date()
    for day in (today, today - timedelta(days=1)):
        if day.weekday() not in window.days:
            continue
        last = day if window.to > window.from_ else day + timedelta(days=1)
        begin = datetime.combine(day, window.from_, window.zone)
        end = datetime.combine(last, window.to, window.zone).replace(fold=1)
        skipped = end.astimezone(UTC).astimezone(window.zone).replace(fold=0, tzinfo=None)
        if skipped != end.replace(fold=0, tzinfo=None):
            end = end.replace(fold=0)  # the end was skipped: until the clocks have moved
        if begin.astimezone(UTC) <= now < end.astimezone(UTC):
            return True
    return False


def _words(window: Window) -> str:
    return f" from {window.from_:%H:%M} to {window.to:%H:%M} {window.zone}"
