"""What a person or a program gets to see: tables, JSON, YAML, colours, spans and moments."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import click

from scaler.clock import SystemClock
from scaler.core.units import parse_span

STYLES: Final = {
    "ok": "green",
    "starting": "cyan",
    "deferred": "yellow",
    "degraded": "red",
    "parked": "red",
    "managed-elsewhere": "yellow",
    "broken": "red",
    "paused": "yellow",
    "observing": "cyan",
}


def coloured() -> bool:
    """Colours for a terminal that has not said no (no-color.org)."""
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdout.isatty()


def styled(text: str, word: str) -> str:
    colour = STYLES.get(word)
    return click.style(text, fg=colour) if colour and coloured() else text


def show(form: str, plain: object, as_table: Callable[[], str]) -> None:
    """Print `plain` as JSON or YAML, or the table, to stdout."""
    if form == "json":
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    elif form == "yaml":
        import yaml  # noqa: PLC0415 - start-up time

        click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(as_table(), color=coloured())


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell; the last one is free."""
    grid = [tuple(headings), *(tuple(row) for row in rows)]
    widths = [max(len(click.unstyle(row[i])) for row in grid) for i in range(len(headings))]
    lines = []
    for row in grid:
        cells = [c + " " * (w - len(click.unstyle(c))) for c, w in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def ago(moment: str | None) -> str:
    """How long ago an ISO moment was, in one unit or two."""
    if moment is None:
        return "never"
    span = SystemClock().now() - datetime.fromisoformat(moment)
    return f"{short(span)} ago" if span > timedelta(seconds=1) else "now"


def short(span: timedelta) -> str:
    """A span for people: `42s`, `3m10s`, `2h5m`, `4d3h`."""
    seconds = int(span.total_seconds())
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size or (unit == "s" and not parts):
            parts.append(f"{seconds // size}{unit}")
            seconds %= size
    return "".join(parts[:2])


def local(moment: str) -> str:
    """An ISO moment in the time zone of the reader."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def moment(written: str) -> str:
    """ISO 8601 of `10m` (ago), or of a moment that is local unless it names a zone."""
    try:
        return (SystemClock().now() - parse_span(written)).isoformat()
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(written).astimezone().isoformat()
    except ValueError:
        raise click.UsageError(
            f'"{written}" is no moment; write 10m (ago) or 2026-01-31T12:00'
        ) from None


def seconds(written: str) -> float:
    """The seconds of a span such as `30m`."""
    try:
        return parse_span(written).total_seconds()
    except ValueError as error:
        raise click.UsageError(str(error)) from None
