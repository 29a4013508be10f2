"""Pairs of cron expressions, from a start to the next end, as windows of a week."""

from typing import Any, Final

from scaler.core.units import DAYS

DAY: Final = 24 * 60  # minutes
WEEK: Final = 7 * DAY
MOST_STARTS: Final = 200  # in a week; more is no schedule for people
_SUNDAY_FIRST: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def windows(start: str, end: str) -> list[dict[str, Any]]:
    """Windows with `days`, `from` and `to` that are open from each start until the next end.

    Raises:
        ValueError: an expression cannot be said in days of the week; the text says why.
    """
    starts, ends = _minutes(start), _minutes(end)
    opened: dict[tuple[int, int], set[int]] = {}
    for begin in starts:
        length = min((finish - begin) % WEEK or WEEK for finish in ends)
        for day, first, last in _days(begin, length):
            opened.setdefault((first, last), set()).add(day)
    return [
        {**_named(days), "from": _clock(first), "to": _clock(last)}
        for (first, last), days in sorted(opened.items())
    ]


def _days(begin: int, length: int) -> list[tuple[int, int, int]]:
    """Day, first and last minute of each piece: one for up to a day, else cut at midnights."""
    if length <= DAY:
        return [(begin // DAY, begin % DAY, (begin + length) % DAY)]
    found = []
    at, finish = begin, begin + length
    while at < finish:
        until = min(finish, (at // DAY + 1) * DAY)
        found.append((at // DAY % 7, at % DAY, until % DAY))
        at = until
    return found


def _named(days: set[int]) -> dict[str, str]:
    if len(days) == 7:
        return {}
    ordered = sorted(days)
    if len(days) > 2 and ordered[-1] - ordered[0] == len(days) - 1:
        return {"days": f"{DAYS[ordered[0]]}-{DAYS[ordered[-1]]}"}
    return {"days": ",".join(DAYS[day] for day in ordered)}


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _minutes(expression: str) -> list[int]:
    """Every minute of the week, from Monday 0:00, at which an expression fires."""
    parts = expression.split()
    if len(parts) != 5:
        raise ValueError(f'"{expression}" has {len(parts)} fields and not five')
    minute, hour, of_month, month, of_week = parts
    if of_month not in ("*", "?") or month not in ("*", "?"):
        raise ValueError(f'"{expression}" names days of a month, and a schedule has days of a week')
    hours, minutes = _values(hour, 0, 23), _values(minute, 0, 59)
    days = {(day - 1) % 7 for day in _values(of_week, 0, 7)}
    if len(hours) * len(minutes) * len(days) > MOST_STARTS:
        raise ValueError(f'"{expression}" fires more than {MOST_STARTS} times a week')
    return sorted(d * DAY + h * 60 + m for d in days for h in hours for m in minutes)


def _values(field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span in ("*", "?"):
            begin, end = low, high
        else:
            begin = _number(first)
            end = _number(last) if dash else (high if step else begin)
        by = int(step) if step.isdecimal() else 1
        if not low <= begin <= end <= high or by < 1:
            raise ValueError(f'"{field}" is not a part of a cron expression that is known here')
        found |= set(range(begin, end + 1, by))
    return found


def _number(text: str) -> int:
    if text[:3] in _SUNDAY_FIRST and text.isalpha():
        return _SUNDAY_FIRST.index(text[:3])
    if not text.isdecimal() or len(text) > 2:
        raise ValueError(f'"{text}" is no number')
    return int(text)
