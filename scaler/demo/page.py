"""The same as the closing table as one HTML file, with plots of how it came about."""

import html
from collections.abc import Sequence

from scaler.demo.report import Story, rows
from scaler.loadtest import plots
from scaler.loadtest.page import STYLE
from scaler.loadtest.record import Slice

Points = Sequence[tuple[float, float]]
TITLE = "scaler demo: a day of the ledger"
ROWS = """\
th { text-align: left; white-space: nowrap; vertical-align: top; padding-right: 1rem }
td { padding-bottom: .3rem }
.mark { stroke: #d62728; stroke-dasharray: 3 3 } svg text.marked { fill: #d62728 }
"""


def page(story: Story) -> str:
    """The whole file, which needs nothing else."""
    story.report.record.settle()
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title><style>{STYLE}{ROWS}</style></head><body><h1>{TITLE}</h1>"
        f"{_rate(story)}{_instances(story)}{_latency(story)}{_errors(story)}{_table(story)}"
        "</body></html>\n"
    )


def _table(story: Story) -> str:
    lines = []
    for name, texts in rows(story, unicode=True):
        shown = texts[-1:] if name == "instances" else texts  # the bars are a plot here
        cell = "<br>".join(map(html.escape, shown))
        lines.append(f"<tr><th>{html.escape(name)}</th><td>{cell}</td></tr>")
    return f"<table>{''.join(lines)}</table>"


def _over_time(story: Story) -> list[tuple[float, Slice]]:
    """The middle of each slice, in seconds, and the slice; the last one is cut short."""
    width = story.report.record.width
    found = [((n + 0.5) * width, one) for n, one in enumerate(story.report.record.slices)]
    return found[:-1] if len(found) > 1 else found


def _across(story: Story) -> plots.Axis:
    return plots.linear(story.seconds, " s")


def _rate(story: Story) -> str:
    width = story.report.record.width
    due: Points = [(at, one.due / width) for at, one in _over_time(story)]
    answered: Points = [(at, one.answered / width) for at, one in _over_time(story)]
    up = plots.linear(max((value for _, value in due), default=1), "/s")
    lines = [("due", due), ("answered well", answered)]
    return plots.plot("Requests", _across(story), up, lines, story.marks)


def _instances(story: Story) -> str:
    """Steps: a count stands until the next one."""
    points: list[tuple[float, float]] = []
    for at, count in story.counts:
        moment = max(at, 0.0)
        if points:
            points.append((moment, points[-1][1]))
        points.append((moment, float(count)))
    if points:
        points.append((story.seconds, points[-1][1]))
    up = plots.linear(max((value for _, value in points), default=1))
    return plots.plot("Instances", _across(story), up, [("decided on", points)], story.marks)


def _latency(story: Story) -> str:
    found = [(at, one.response.percentiles([0.5, 0.99])) for at, one in _over_time(story)
             if one.response.count]  # fmt: skip
    half: Points = [(at, values[0] * 1000) for at, values in found]
    most: Points = [(at, values[1] * 1000) for at, values in found]
    low = min((value for _, value in half), default=1.0)
    up = plots.logarithmic(low, max((value for _, value in most), default=1.0), " ms")
    lines = [("p50", half), ("p99", most)]
    return plots.plot("Response time", _across(story), up, lines, story.marks)


def _errors(story: Story) -> str:
    width = story.report.record.width
    points: Points = [(at, one.errors / width) for at, one in _over_time(story)]
    up = plots.linear(max((value for _, value in points), default=1.0) or 1.0, "/s")
    return plots.plot("Failed requests", _across(story), up, [("failed", points)], story.marks)
