"""How a run stands, told once a second while it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scaler.core.units import format_rate
from scaler.loadtest.histogram import Histogram
from scaler.loadtest.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts since the start of counting, and the answers to what was due most recently."""

    second: float  # since the start of counting; below zero while warming up
    due: int = 0
    answered: int = 0
    errors: int = 0
    in_flight: int = 0
    width: int = 1  # seconds that `recent` covers
    recent: Histogram = field(default_factory=Histogram)

    def line(self) -> str:
        """As it is shown."""
        if self.second < 0:
            return f"{self.second:6.0f} s  warming up, {self.in_flight} under way"
        half, most = self.recent.percentiles([0.5, 0.99])
        return (
            f"{self.second:6.0f} s  {format_rate(self.recent.count / self.width):>9}  "
            f"p50 {half * 1000:8.2f} ms  p99 {most * 1000:8.2f} ms  "
            f"{self.errors} errors  {self.in_flight} under way"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "second": self.second,
            "due": self.due,
            "answered": self.answered,
            "errors": self.errors,
            "in_flight": self.in_flight,
            "width": self.width,
            "recent": self.recent.to_dict(),
        }

    @classmethod
    def of_dict(cls, written: Mapping[str, Any]) -> "Progress":
        return cls(**{**written, "recent": Histogram.of_dict(written["recent"])})


def of(record: Record, second: float, in_flight: int) -> Progress:
    """How a record stands at that second."""
    record.settle()
    number = int(second / record.width) - 1
    recent = Histogram()
    if 0 <= number < len(record.slices):
        recent.merge(record.slices[number].response)
    return Progress(
        second=second,
        due=record.due,
        answered=record.answered,
        errors=record.errors,
        in_flight=in_flight,
        width=record.width,
        recent=recent,
    )


def together(several: Sequence[Progress]) -> Progress:
    """Of all workers; at least one is given."""
    recent = Histogram()
    for one in several:
        recent.merge(one.recent)
    return Progress(
        second=max(one.second for one in several),
        due=sum(one.due for one in several),
        answered=sum(one.answered for one in several),
        errors=sum(one.errors for one in several),
        in_flight=sum(one.in_flight for one in several),
        width=max(one.width for one in several),
        recent=recent,
    )
