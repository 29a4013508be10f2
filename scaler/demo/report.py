"""The table at the end of the demo: what the load got, what scaler did, where to look next."""

from collections.abc import Sequence

from scaler.loadtest.report import Report

BARS = " ▁▂▃▄▅▆▇█"
PLAIN = " 123456789"
COLUMNS = 60


def closing_table(
    report: Report,
    counts: Sequence[tuple[float, int]],
    span: float,
    restarts: Sequence[str],
    unicode: bool,
) -> str:
    """`counts` are (seconds after the start, instances), oldest first, over `span` seconds."""
    record, response = report.record, report.record.response
    failed = ", ".join(f"{count} × {why}" for why, count in record.failures.most_common())
    half, most = response.percentiles([0.5, 0.99])
    seconds = {"p50": half, "p99": most, "max": response.highest}
    lines = [
        f"requests    {record.due} due, {record.errors} failed{f' ({failed})' if failed else ''}",
        "latency     "
        + ", ".join(f"{name} {_milliseconds(value)}" for name, value in seconds.items())
        + ", from the moment each was due",
        f"instances   {_line(counts, span, unicode)}",
        f"            0 s{f'{span:.0f} s':>{COLUMNS - 3}}",
        f"restarts    {len(restarts)}",
        *(f"            {why}" for why in restarts),
    ]
    lines += [f"note        {doubt}" for doubt in report.doubts()]
    return "\n".join(lines)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _line(counts: Sequence[tuple[float, int]], span: float, unicode: bool) -> str:
    """One column for each slice of time, as high as the most instances in it."""
    levels = []
    for column in range(COLUMNS):
        begin, end = span * column / COLUMNS, span * (column + 1) / COLUMNS
        before = [count for at, count in counts if at <= begin][-1:]
        inside = [count for at, count in counts if begin < at < end]
        levels.append(max([*before, *inside], default=0))
    most = max([*levels, 1])
    if not unicode:
        return "".join(PLAIN[min(level, len(PLAIN) - 1)] for level in levels)
    bars = "".join(BARS[round(level / most * (len(BARS) - 1))] for level in levels)
    return f"{bars}  most: {most}"
