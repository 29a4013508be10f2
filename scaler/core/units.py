"""Numbers with units, as people write them in YAML: spans, percentages, sizes, rates and ranges.

One parser for every file. A bare number where a unit is needed is an error that shows both
readings. In the code a span is a `timedelta` and a percentage a ratio; the `format_` functions
write them again, so a policy survives a round trip through JSON.
"""

import math
import re
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

SPAN_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
SIZE_UNITS: Final = {
    **{f"{p}{b}": 1024 ** (i + 1) for i, p in enumerate("KMGTPE") for b in ("i", "iB")},
    **{p: 1000 ** (i + 1) for i, p in enumerate("kMGTPE")},
    **{f"{p}B": 1000 ** (i + 1) for i, p in enumerate("kMGTPE")},
    "KB": 1000,
    "B": 1,
    "m": 0.001,
}
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SPAN_PATTERN: Final = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"
PERCENT_PATTERN: Final = r"^\d+(\.\d+)?%$"
_SPAN_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_QUANTITY = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")
_LONGEST: Final = timedelta(days=3660)  # a span beyond ten years is a slip of the pen


def parse_span(written: object) -> timedelta:
    """A span such as `30s`, `1h30m` or `500ms`."""
    if isinstance(written, timedelta):
        return written
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        raise ValueError(f"{_shown(written)} is not a span; write it like 30s, 5m or 1h30m")
    text = str(written).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{text} has no unit; write {text}s for seconds or {text}m for minutes")
    parts = _SPAN_PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f'"{text}" is not a span; write it like 30s, 5m or 1h30m')
    if len(text) > 40 or any(len(number) > 12 for number, _ in parts):
        raise ValueError(f'"{text[:40]}" is longer than a span can be; the longest is 3660d')
    span = sum((float(number) * SPAN_UNITS[unit] for number, unit in parts), timedelta())
    if span > _LONGEST:
        raise ValueError(f'"{text}" is longer than 3660d, the longest span')
    return span


def format_span(span: timedelta) -> str:
    """The shortest written form of `span`: `1h30m`, `90ms`, `0s`."""
    rest = round(span.total_seconds() * 1000)
    if rest <= 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        whole, rest = divmod(rest, size)
        if whole:
            parts.append(f"{whole}{unit}")
    return "".join(parts)


def parse_percent(written: object) -> float:
    """A percentage as a ratio: `70%` is 0.7. A bare number is an error: 0.7 and 70 both occur."""
    if isinstance(written, Ratio):
        return written
    text = str(written).strip()
    found = _PERCENT.fullmatch(text)
    if found:
        return Ratio(float(found[1]) / 100)
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{_shown(written)} is not a percentage; write it like 70%") from None
    likely = number * 100 if 0 < number <= 1 else number
    raise ValueError(
        f"{text} has no %; write {likely:g}% if you mean {likely:g} out of a hundred"
        + (f", or {number:g}% if you mean {number:g}" if likely != number else "")
    )


def format_percent(ratio: float) -> str:
    """`0.7` as `70%`, with no more digits than it needs."""
    return f"{round(ratio * 100, 6):g}%"


class Ratio(float):
    """A float that was written as a percentage."""

    __slots__ = ()


def parse_quantity(written: object) -> float:
    """A number with an optional decimal or binary suffix: `100`, `1.5k`, `512MiB`, `250m`."""
    if isinstance(written, bool) or not isinstance(written, str | int | float):
        raise ValueError(f"{_shown(written)} is not a number; write it like 100 or 512MiB")
    found = _QUANTITY.fullmatch(str(written).strip())
    if not found or (found[2] and found[2] not in SIZE_UNITS):
        raise ValueError(f"{_shown(written)} is not a number; write it like 100, 1.5k or 512MiB")
    number = float(found[1]) * float(SIZE_UNITS.get(found[2], 1))
    if not math.isfinite(number):
        raise ValueError(f"{_shown(written)} is too large")
    return number


def parse_level(written: object) -> float:
    """A percentage as a ratio, or a quantity as it stands."""
    if isinstance(written, Ratio) or (isinstance(written, str) and written.strip().endswith("%")):
        return parse_percent(written)
    return parse_quantity(written)


def format_level(level: float) -> str | float:
    return format_percent(level) if isinstance(level, Ratio) else level


@dataclass(frozen=True, slots=True)
class Amount:
    """So many instances, or so large a share of them."""

    count: int = 0
    share: float | None = None

    def of(self, base: int) -> float:
        """How many instances this is of `base`, before rounding."""
        return self.count if self.share is None else base * self.share

    def __str__(self) -> str:
        return str(self.count) if self.share is None else format_percent(self.share)


def parse_amount(written: object) -> Amount:
    """A count such as `4`, or a share such as `50%`."""
    if isinstance(written, Amount):
        return written
    text = str(written).strip()
    if text.endswith("%"):
        return Amount(share=float(parse_percent(text)))
    if isinstance(written, bool) or not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(
            f"{_shown(written)} is neither a count nor a share; write it like 4 or 50%"
        )
    return Amount(count=int(text))


def format_amount(amount: Amount) -> str | int:
    return amount.count if amount.share is None else format_percent(amount.share)


@dataclass(frozen=True, slots=True)
class Per:
    """So many in so long: `12 per 1h`."""

    count: int
    span: timedelta

    def __str__(self) -> str:
        return f"{self.count} per {format_span(self.span)}"


def parse_per(written: object) -> Per:
    if isinstance(written, Per):
        return written
    found = re.fullmatch(r"(\d{1,6})\s+per\s+(\S+)", str(written).strip())
    if not found:
        raise ValueError(f"{_shown(written)} is not a rate; write it like 12 per 1h")
    return Per(int(found[1]), parse_span(found[2]))


@dataclass(frozen=True, slots=True)
class Spans:
    """From one span to a longer one: `1s..5m`."""

    low: timedelta
    high: timedelta

    def __str__(self) -> str:
        return f"{format_span(self.low)}..{format_span(self.high)}"


def parse_spans(written: object) -> Spans:
    if isinstance(written, Spans):
        return written
    low, dots, high = str(written).strip().partition("..")
    if not dots:
        raise ValueError(f"{_shown(written)} is not a range of spans; write it like 1s..5m")
    spans = Spans(parse_span(low), parse_span(high))
    if spans.low > spans.high:
        raise ValueError(f"{spans} begins above its end; write the shorter span first")
    return spans


@dataclass(frozen=True, slots=True)
class Votes:
    """At least so many of the last so many points: `3 of 5`."""

    needed: int
    of: int

    def __str__(self) -> str:
        return f"{self.needed} of {self.of}"


def parse_votes(written: object) -> Votes:
    if isinstance(written, Votes):
        return written
    found = re.fullmatch(r"(\d{1,3})\s+of\s+(\d{1,3})", str(written).strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{_shown(written)} is not a number of points; write it like 3 of 5")
    return Votes(int(found[1]), int(found[2]))


_RATE_SPANS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(written: object) -> float:
    """So many in a second: `500/s`, `30/m` and `2k/s` are 500, 0.5 and 2000."""
    if isinstance(written, Frequency):
        return written
    number, slash, span = str(written).strip().partition("/")
    if not slash or span.strip() not in _RATE_SPANS:
        raise ValueError(f"{_shown(written)} is not a rate; write it like 500/s or 30/m")
    rate = parse_quantity(number.strip()) / _RATE_SPANS[span.strip()]
    if rate < 0:
        raise ValueError(f"{_shown(written)} is below zero; a rate is zero or more")
    return Frequency(rate)


def format_rate(rate: float) -> str:
    """`0.5` as `30/m`, `500.0` as `500/s`: whichever needs no fraction."""
    if rate >= 1 or rate == 0 or round(rate * 60, 6) < 1:
        return f"{round(rate, 6):g}/s"
    return f"{round(rate * 60, 6):g}/m"


class Frequency(float):
    """A float that was written as a rate; in a second."""

    __slots__ = ()


def _shown(written: object) -> str:
    text = str(written)
    short = text if len(text) <= 60 else text[:57] + "..."
    return f'"{short}"' if isinstance(written, str) else short


def _typed(parse: Any, write: Any, schema: dict[str, Any]) -> tuple[Any, ...]:
    return PlainValidator(parse), PlainSerializer(write), WithJsonSchema(schema)


_NUMBER = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?\d+(\.\d+)?\s*[A-Za-z]*$"}]
}
_PERCENT_SCHEMA = {"type": "string", "pattern": PERCENT_PATTERN, "examples": ["70%"]}

Span = Annotated[
    timedelta,
    *_typed(
        parse_span,
        format_span,
        {"type": "string", "pattern": SPAN_PATTERN, "examples": ["30s", "5m"]},
    ),
]
Percent = Annotated[float, *_typed(parse_percent, format_percent, _PERCENT_SCHEMA)]
Quantity = Annotated[float, *_typed(parse_quantity, float, _NUMBER)]
Level = Annotated[float, *_typed(parse_level, format_level, {"anyOf": [_PERCENT_SCHEMA, _NUMBER]})]
Rate = Annotated[
    float,
    *_typed(
        parse_rate,
        lambda rate: f"{rate:.12g}/s",
        {"type": "string", "pattern": r"^\d+(\.\d+)?[kM]?/[smh]$", "examples": ["500/s"]},
    ),
]
AmountOf = Annotated[
    Amount,
    *_typed(
        parse_amount, format_amount, {"anyOf": [{"type": "integer", "minimum": 0}, _PERCENT_SCHEMA]}
    ),
]
PerSpan = Annotated[
    Per, *_typed(parse_per, str, {"type": "string", "pattern": r"^\d+\s+per\s+\S+$"})
]
SpanRange = Annotated[
    Spans, *_typed(parse_spans, str, {"type": "string", "pattern": r"^\S+\.\.\S+$"})
]
Points = Annotated[
    Votes, *_typed(parse_votes, str, {"type": "string", "pattern": r"^\d+\s+of\s+\d+$"})
]


def _clock_time(written: object) -> time:
    if isinstance(written, time):
        return written
    text = str(written)
    hours, colon, minutes = text.partition(":")
    if not (colon and hours.isdigit() and minutes.isdigit() and len(minutes) == 2):
        raise ValueError(f'"{text}" is not a time of day; write it like 08:00')
    if text == "24:00":
        return time(0)
    if int(hours) > 23 or int(minutes) > 59:
        raise ValueError(f'"{text}" is not a time of day; the last is 23:59')
    return time(int(hours), int(minutes))


def _zone(written: object) -> ZoneInfo:
    if isinstance(written, ZoneInfo):
        return written
    try:
        return ZoneInfo(str(written))
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f'"{written}" is not a known time zone; write it like Europe/Paris or UTC'
        ) from None


def _days(written: object) -> tuple[int, ...]:
    if isinstance(written, tuple):
        return written
    days: set[int] = set()
    for part in str(written).lower().replace(",", " ").split():
        first, _, last = part.partition("-")
        if first not in DAYS or (last and last not in DAYS):
            raise ValueError(f'"{part}" is not a day; write it like mon-fri or sat,sun')
        begin, end = DAYS.index(first), DAYS.index(last or first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    if not days:
        raise ValueError("no day is named; write it like mon-fri")
    return tuple(sorted(days))


ClockTime = Annotated[
    time,
    BeforeValidator(_clock_time),
    PlainSerializer(lambda t: t.strftime("%H:%M")),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,2}:\d{2}$", "examples": ["08:00"]}),
]
Zone = Annotated[
    Any,
    BeforeValidator(_zone),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["Europe/Paris", "UTC"]}),
]
Days = Annotated[
    tuple[int, ...],
    BeforeValidator(_days),
    PlainSerializer(lambda days: ",".join(DAYS[d] for d in days)),
    WithJsonSchema({"type": "string", "examples": ["mon-fri", "sat,sun"]}),
]
