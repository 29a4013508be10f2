"""The end of the demo in words: what the load got, what scaler did, and what the books say.

`Story` is all that is known then; `page.page` draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scaler.loadtest.histogram import Histogram
from scaler.loadtest.report import Report

BARS = " ▁▂▃▄▅▆▇█"
PLAIN = " 123456789"
COLUMNS = 60
NAME = 12  # columns of the name of a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One run. Moments are seconds since the load began."""

    report: Report
    seconds: float  # until the end of the demo
    door: str  # how visitors come in
    counts: Sequence[tuple[float, int]]  # instances, oldest first
    restarts: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]] = ()  # accidents, in a word
    outage: tuple[float, float] | None = None  # of Redis
    calibration: str = ""
    cache: str = ""
    hygiene: Sequence[str] = ()
    partitions: str = ""
    books: str = ""


def rows(story: Story, unicode: bool) -> list[tuple[str, Sequence[str]]]:
    """The table: a name, and one line or several."""
    found: list[tuple[str, Sequence[str]]] = [
        ("requests", [_requests(story.report)]),
        ("latency", [f"{_latency(story.report.record.response)}, from the moment each was due"]),
        ("door", [story.door]),
        ("instances", [_bars(story, unicode), f"0 s{f'{story.seconds:.0f} s':>{COLUMNS - 3}}",
                       path(story.counts)]),
        ("restarts", [str(len(story.restarts)), *(f"{at:.0f} s {w}" for at, w in story.restarts)]),
    ]  # fmt: skip
    if story.outage:
        found.append(("Redis away", [_outage(story.report, story.outage)]))
    found += [
        (name, [text])
        for name, text in (
            ("cache", story.cache),
            ("partitions", story.partitions),
            ("calibration", story.calibration),
            ("books", story.books),
        )
        if text
    ]
    if story.hygiene:
        found.insert(-1, ("hygiene", list(story.hygiene)))
    found += [("note", [doubt]) for doubt in story.report.doubts()]
    return found


def closing_table(story: Story, unicode: bool) -> str:
    lines = []
    for name, texts in rows(story, unicode):
        lines += [f"{name if not n else '':<{NAME}}{text}" for n, text in enumerate(texts)]
    return "\n".join(lines)


def path(counts: Sequence[tuple[float, int]]) -> str:
    """`1 → 2 → 4`: each count once when it changes."""
    seen = [count for _, count in counts]
    changed = seen[:1] + [after for before, after in pairwise(seen) if after != before]
    return " → ".join(map(str, changed))


def _requests(report: Report) -> str:
    record = report.record
    reasons = [f"{count} × {reason}" for reason, count in record.failures.most_common()]
    reasons += [f"status {code}: {n}" for code, n in sorted(record.statuses.items()) if code >= 400]
    why = ", ".join(reasons)
    return f"{record.due} due, {record.errors} failed{f' ({why})' if why else ''}"


def _latency(response: Histogram) -> str:
    if not response.count:
        return "nothing was answered"
    half, most = response.percentiles([0.5, 0.99])
    named = {"p50": half, "p99": most, "max": response.highest}
    return ", ".join(f"{name} {milliseconds(value)}" for name, value in named.items())


def _outage(report: Report, span: tuple[float, float]) -> str:
    """What visitors had in the seconds that the outage touched."""
    record = report.record
    record.settle()
    first, last = (int(moment / record.width) for moment in span)
    touched = record.slices[max(first, 0) : last + 1]
    response = Histogram()
    for one in touched:
        response.merge(one.response)
    due, errors = sum(one.due for one in touched), sum(one.errors for one in touched)
    return f"{span[1] - span[0]:.0f} s: {due} requests, {errors} failed; {_latency(response)}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _bars(story: Story, unicode: bool) -> str:
    """One column for each slice of time, as high as the most instances in it."""
    levels = []
    for column in range(COLUMNS):
        begin = story.seconds * column / COLUMNS
        end = story.seconds * (column + 1) / COLUMNS
        before = [count for at, count in story.counts if at <= begin][-1:]
        inside = [count for at, count in story.counts if begin < at < end]
        levels.append(max([*before, *inside], default=0))
    most = max([*levels, 1])
    if not unicode:
        return "".join(PLAIN[min(level, len(PLAIN) - 1)] for level in levels)
    bars = "".join(BARS[round(level / most * (len(BARS) - 1))] for level in levels)
    return f"{bars}  most: {most}"
