"""What a run must reach: `p99<250ms, errors<0.1%`, read from text and held against its figures."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from scaler.core.units import (
    format_percent,
    format_rate,
    format_span,
    parse_percent,
    parse_rate,
    parse_span,
)

SPANS: Final = ("mean", "max")  # and any percentile, such as p50 or p99.9; of response time
SHARES: Final = ("errors", "not_sent")  # of all requests that were due
_WRITTEN: Final = re.compile(r"(service_)?(p\d{1,2}(?:\.\d{1,3})?|[a-z_]+)\s*(<=|>=|<|>)\s*(\S+)")
_HELP: Final = "write it like p99<250ms, errors<0.1% or rate>=490/s"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A figure, how it is compared, and with what: seconds, a ratio, or requests per second."""

    figure: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{shown(self.figure, self.limit)}"

    def holds(self, value: float) -> bool:
        match self.sign:
            case "<":
                return value < self.limit
            case "<=":
                return value <= self.limit
            case ">":
                return value > self.limit
            case _:
                return value >= self.limit

    @property
    def percentile(self) -> float | None:
        """0 to 1, when the figure is one."""
        name = self.figure.removeprefix("service_")
        return float(name[1:]) / 100 if name[1:2].isdigit() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A threshold and what was found; nothing found fails it."""

    threshold: Threshold
    found: float | None

    @property
    def holds(self) -> bool:
        return self.found is not None and self.threshold.holds(self.found)

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.threshold}: nothing was answered, so there is no such figure"
        verdict = "holds" if self.holds else "FAILED"
        return f"{self.threshold}: {shown(self.threshold.figure, self.found)}, {verdict}"


def parse(written: object) -> tuple[Threshold, ...]:
    """Thresholds from text with commas between them, or from a list of such texts."""
    if isinstance(written, tuple) and all(isinstance(one, Threshold) for one in written):
        return written
    parts = written if isinstance(written, list | tuple) else [written]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError(f"is no list of thresholds; {_HELP}")
    texts = [text.strip() for part in parts for text in str(part).split(",")]
    return tuple(_one(text) for text in texts if text)


def _one(text: str) -> Threshold:
    found = _WRITTEN.fullmatch(text)
    if not found:
        raise ValueError(f'"{text}" is no threshold; {_HELP}')
    service, name, sign, limit = found.groups()
    figure = (service or "") + name
    if name == "p0" or (name[0] == "p" and name[1:2].isdigit() and float(name[1:]) == 0):
        raise ValueError(f'"{text}" is no percentile; the lowest is p1')
    if (name[0] == "p" and name[1:2].isdigit()) or name in SPANS:
        return Threshold(figure, sign, parse_span(limit).total_seconds())
    if service or name not in (*SHARES, "rate"):
        known = "p50 to p99.999, service_p50 and so on, mean, max, errors, not_sent, rate"
        raise ValueError(f'"{figure}" is no figure of a run; known are {known}')
    if name == "rate":
        return Threshold(figure, sign, float(parse_rate(limit)))
    return Threshold(figure, sign, float(parse_percent(limit)))


def shown(figure: str, value: float) -> str:
    """A value in the unit of its figure."""
    if figure in SHARES:
        return format_percent(value)
    if figure == "rate":
        return format_rate(value)

    return format_span(timedelta(seconds=value)) if value >= 0.01 else f"{value * 1000:.3g}ms"


def judge(thresholds: tuple[Threshold, ...], figures: Mapping[str, float]) -> tuple[Judged, ...]:
    """Each threshold with its figure; `figures` lacks what could not be measured."""
    return tuple(Judged(threshold=t, found=figures.get(t.figure)) for t in thresholds)
