"""Numbers from a page of metrics, as exporters of Prometheus write it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the page, or what lines are looked for."""

    name: str
    labels: Mapping[str, str]
    value: float = 0.0
    at: datetime | None = None  # few exporters say it


def parse(written: str) -> Series:
    """What `name{label="value"}` looks for.

    Raises:
        ValueError: it cannot be read.
    """
    name = written.partition("{")[0]
    try:
        wanted = _lines(f"{written} 0") if name.strip() == name and " " not in name else []
    except (ValueError, LookupError):
        wanted = []
    if len(wanted) != 1:
        remedy = 'write it like queue_depth or queue_depth{queue="mail"}'
        raise ValueError(f'"{written[:60]}" names no metric; {remedy}')
    return wanted[0]


def find(page: str, wanted: Series) -> list[Series]:
    """All lines with this name and these labels, further labels allowed.

    Only lines that begin with the name are parsed: a page may hold ten thousand others.

    Raises:
        ValueError: such a line cannot be read.
    """
    ends = ("{", " ", "\t")
    size = len(wanted.name)
    lines = [
        line
        for line in page.splitlines()
        if line.startswith(wanted.name) and line[size : size + 1] in ends
    ]
    try:
        found = _lines("\n".join(lines))
    except (ValueError, LookupError) as error:
        raise ValueError(f"a line of {wanted.name} cannot be read: {error}") from error
    return [series for series in found if wanted.labels.items() <= series.labels.items()]


def _lines(text: str) -> list[Series]:
    return [
        Series(
            sample.name,
            sample.labels,
            float(sample.value),
            datetime.fromtimestamp(float(sample.timestamp), UTC) if sample.timestamp else None,
        )
        for family in text_string_to_metric_families(text + "\n")
        for sample in family.samples
    ]
