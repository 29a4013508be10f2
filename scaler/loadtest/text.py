"""A report as text: for people in a terminal, for Prometheus, and two beside each other."""

from collections.abc import Iterator
from typing import Final

from scaler.core.units import format_percent, format_rate
from scaler.loadtest.record import Kind
from scaler.loadtest.report import Report

COLUMNS: Final = (0.5, 0.9, 0.99, 0.999)
COMPARED: Final = ("rate", "errors", "not_sent", "p50", "p90", "p99", "p99.9", "max")


def summary(report: Report) -> str:
    """Everything that matters, the doubts before the figures they are about."""
    record, figures = report.record, report.figures()
    lines = [f"{report.target}, {report.seconds:.3g} s, {_model(report)}", ""]
    doubts = report.doubts()
    if doubts:
        lines.append("NOT TO BE TRUSTED, because")
        lines += [f"  {doubt}" for doubt in doubts] + [""]
    errors = f"{record.errors} errors ({format_percent(figures.get('errors', 0))})"
    lines += [
        f"requests   {record.due} due, {record.answered} answered well, {errors}",
        f"rate       {format_rate(round(figures['rate'], 1))} answered well",
    ]
    if record.retried:
        lines.append(f"retried    {record.retried} at another endpoint")
    if record.answered:
        lines += ["", *_latencies(report)]
    if record.failures:
        lines += ["", "errors"]
        lines += [f"  {count:>8}  {why}" for why, count in record.failures.most_common()]
        wrong = [f"{status}: {count}" for status, count in sorted(record.statuses.items())]
        lines += [f"  statuses  {', '.join(wrong)}"] if wrong else []
    if len(record.kinds) > 1:
        lines += ["", *_kinds(report)]
    if report.wanted:
        lines += ["", "thresholds", *(f"  {one}" for one in report.judged())]
    return "\n".join(lines)


def _model(report: Report) -> str:
    if report.kind == "closed":
        return "users who wait for each answer: no time that they did not ask is in the figures"
    return "latency counts from the moment each request was due"


def _row(name: str, values: list[float]) -> str:
    return f"{name:<20}" + "".join(f"{value * 1000:>11.2f}" for value in values)


def _latencies(report: Report) -> Iterator[str]:
    record, response = report.record, report.record.response
    yield (
        f"{'milliseconds':<20}"
        + "".join(f"{f'p{s * 100:g}':>11}" for s in COLUMNS)
        + f"{'max':>11}"
    )
    yield _row("response time", [*response.percentiles(COLUMNS), response.highest])
    yield _row("service time", [*record.service.percentiles(COLUMNS), record.service.highest])
    if report.kind == "open":
        yield _row("lag of this tester", [*record.lag.percentiles(COLUMNS), record.lag.highest])
    cores = ", ".join(format_percent(round(cpu, 2)) for cpu in report.cpu)
    yield f"{'cores used':<20}{cores:>11}"


def _kinds(report: Report) -> Iterator[str]:
    record = report.record
    width = max(len("request"), *(len(title) for title in record.titles))
    yield f"{'request':<{width}}  {'answered':>9}{'errors':>9}{'p50 ms':>10}{'p99 ms':>10}"
    for title, kind in zip(record.titles, record.kinds, strict=True):
        yield f"{title:<{width}}  {_kind(kind)}"


def _kind(kind: Kind) -> str:
    half, most = kind.response.percentiles([0.5, 0.99])
    count = kind.response.count
    return f"{count:>9}{kind.errors:>9}{half * 1000:>10.2f}{most * 1000:>10.2f}"


def comparison(old: Report, new: Report) -> str:
    """Figure by figure, with the change."""
    before, after = old.figures(), new.figures()
    lines = [f"{'':<10}{'before':>12}{'now':>12}{'change':>12}"]
    lines += [
        f"{name:<10}{_shown(name, before[name]):>12}{_shown(name, after[name]):>12}"
        f"{_change(name, before[name], after[name]):>12}"
        for name in COMPARED
        if name in before and name in after
    ]
    for name, report in (("before", old), ("now", new)):
        if report.doubts():
            lines.append(f"the run {name} is not to be trusted: {report.doubts()[0]}")
    if old.kind != new.kind:
        lines.append(f"one is {old.kind} and one {new.kind}: their latencies mean different things")
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    if name in {"errors", "not_sent"}:
        return format_percent(round(value, 5))
    return format_rate(round(value, 1)) if name == "rate" else f"{value * 1000:.2f} ms"


def _change(name: str, before: float, after: float) -> str:
    if name in {"errors", "not_sent"}:
        return f"{(after - before) * 100:+.2f} pp"
    return f"{(after / before - 1) * 100:+.1f} %" if before else "new"


def exposition(report: Report) -> str:
    """In the text format of Prometheus, as a node exporter collects it from a file."""
    record, figures = report.record, report.figures()
    label = '{target="%s"}' % _escaped(report.target)  # noqa: UP031 - braces stand in it
    lines = []
    for name, kind, words, value in (
        ("requests_due_total", "counter", "Requests that were due.", record.due),
        ("requests_answered_total", "counter", "Requests answered well.", record.answered),
        ("rate_per_second", "gauge", "Answered well per second.", figures["rate"]),
        ("trusted", "gauge", "1 if the figures tell of the server.", int(not report.doubts())),
        ("passed", "gauge", "1 if every threshold holds.", int(report.passed)),
    ):
        full = f"scaler_loadtest_{name}"
        lines += [f"# HELP {full} {words}", f"# TYPE {full} {kind}", f"{full}{label} {value:.12g}"]
    full = "scaler_loadtest_errors_total"
    lines += [f"# HELP {full} Errors by reason.", f"# TYPE {full} counter"]
    lines += [
        f'{full}{label[:-1]},reason="{_escaped(why)}"}} {count}'
        for why, count in sorted(record.failures.items())
    ]
    for name, values in (("response", record.response), ("service", record.service)):
        full = f"scaler_loadtest_{name}_seconds"
        lines += [f"# HELP {full} Time to whole answers.", f"# TYPE {full} summary"]
        lines += [
            f'{full}{label[:-1]},quantile="{share:g}"}} {value:.6g}'
            for share, value in zip(COLUMNS, values.percentiles(COLUMNS), strict=True)
        ]
        lines += [f"{full}_sum{label} {values.total:.9g}", f"{full}_count{label} {values.count}"]
    return "\n".join([*lines, ""])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
