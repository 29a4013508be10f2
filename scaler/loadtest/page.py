"""A report as one HTML file that needs nothing else: figures, and plots of how they came about."""

import html
from typing import Final

from scaler.loadtest import plots, text
from scaler.loadtest.plots import Points
from scaler.loadtest.record import Slice
from scaler.loadtest.report import Report

STYLE: Final = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
pre { overflow-x: auto; background: #f4f4f4; padding: .8rem; font-size: 13px }
figure { margin: 1.5rem 0 } svg { width: 100%; height: auto }
svg text { font-size: 11px; fill: #555 }
.grid { stroke: #ddd } .bad { border-left: .4rem solid #d62728; padding-left: .8rem }
.good { border-left: .4rem solid #2ca02c; padding-left: .8rem } span { margin-left: .6rem }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b }
  pre { background: #262626 } .grid { stroke: #3a3a3a } svg text { fill: #aaa } }
"""
MOST_NINES: Final = 5


def page(report: Report) -> str:
    """The whole file."""
    record = report.record
    record.settle()
    parts = [_verdict(report), f"<pre>{html.escape(text.summary(report))}</pre>"]
    if record.slices:
        parts += [_latency(report), _rate(report), _errors(report)]
    if record.answered:
        parts.append(_percentiles(report))
    title = html.escape(f"Load test of {report.target}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><h1>{title}</h1>{''.join(parts)}</body></html>\n"
    )


def _verdict(report: Report) -> str:
    words = []
    doubts = report.doubts()
    if doubts:
        reasons = "; ".join(map(html.escape, doubts))
        words.append(f'<p class="bad">Not to be trusted, because {reasons}.</p>')
    for one in report.judged():
        colour = "good" if one.holds else "bad"
        words.append(f'<p class="{colour}">{html.escape(str(one))}</p>')
    return "".join(words)


def _over_time(report: Report) -> list[tuple[float, Slice]]:
    """The middle of each slice, in seconds, and the slice."""
    width = report.record.width
    return [((n + 0.5) * width, one) for n, one in enumerate(report.record.slices)]


def _seconds(report: Report) -> plots.Axis:
    return plots.linear(len(report.record.slices) * report.record.width, " s")


def _latency(report: Report) -> str:
    rows = [(at, one.response.percentiles([0.5, 0.99]), one.response.highest)
            for at, one in _over_time(report) if one.response.count]  # fmt: skip
    half: Points = [(at, found[0] * 1000) for at, found, _ in rows]
    most: Points = [(at, found[1] * 1000) for at, found, _ in rows]
    highest: Points = [(at, top * 1000) for at, _, top in rows]
    low = min((value for _, value in half), default=1)
    up = plots.logarithmic(low, max((value for _, value in highest), default=1), " ms")
    lines = [("p50", half), ("p99", most), ("max", highest)]
    return plots.plot("Response time, by when requests were due", _seconds(report), up, lines)


def _rate(report: Report) -> str:
    """The last slice is shorter than the others, and so is left out where there are others."""
    width = report.record.width
    rows = _over_time(report)
    rows = rows[:-1] if len(rows) > 1 else rows
    due: Points = [(at, one.due / width) for at, one in rows]
    answered: Points = [(at, one.answered / width) for at, one in rows]
    up = plots.linear(max((value for _, value in due), default=1), "/s")
    lines = [("due", due), ("answered well", answered)]
    return plots.plot("Rate", _seconds(report), up, lines)


def _errors(report: Report) -> str:
    rows: Points = [(at, one.errors / report.record.width) for at, one in _over_time(report)]
    up = plots.linear(max(1.0, *(value for _, value in rows)), "/s")
    return plots.plot("Errors", _seconds(report), up, [("errors", rows)])


def _percentiles(report: Report) -> str:
    response, service = report.record.response, report.record.service
    nines = min(MOST_NINES, max(2, len(str(response.count)) - 1))
    shares = [n / 100 for n in range(1, 99)]
    shares += [1 - 10 ** (-step / 10) for step in range(20, nines * 10 + 1)]
    shares = sorted(shares)

    def curve(values: list[float]) -> Points:
        return [(share, value * 1000) for share, value in zip(shares, values, strict=True)]

    first, second = curve(response.percentiles(shares)), curve(service.percentiles(shares))
    low = min(first[0][1], second[0][1])
    up = plots.logarithmic(low, response.highest * 1000, " ms")
    lines = [("response time", first), ("service time", second)]
    return plots.plot("Percentiles", plots.percentiles(nines), up, lines)
