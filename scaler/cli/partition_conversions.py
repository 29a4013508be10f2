"""Conversions on the command line: what was found, a question, progress, and how far it is."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scaler.cli.client import Daemon
from scaler.cli.ease import unsettled
from scaler.cli.output import short, show, table
from scaler.clock import SystemClock
from scaler.errors import ConfigError, Refused
from scaler.maintenance.partition_convert import Conversion, Report
from scaler.maintenance.partition_file import load_partitions
from scaler.maintenance.partition_notes import Notes, Stage
from scaler.maintenance.partition_rules import Database, PartitionSet
from scaler.maintenance.partition_steps import Ears, Progress
from scaler.maintenance.partitions import DatabasePartitioner

Found = tuple[Database, PartitionSet]


def chosen(path: Path, name: str) -> Found:
    """The one set of the file for that table.

    Raises:
        ConfigError: it stands in no database, or in several.
    """
    whole = name if "." in name else f"public.{name}"
    found = [
        (database, one)
        for database in load_partitions(path).rules.values()
        for one in database.partitions
        if one.table == whole
    ]
    if len(found) != 1:
        where = "no database" if not found else "several databases"
        raise ConfigError(
            f"{path}: {whole} stands in {where}; write it under partitions: of one, with by: and "
            "every:"
        )
    return found[0]


def convert(found: Found, action: str, until: str, form: str, *, yes: bool, daemon: Daemon) -> int:
    """Do it, and answer with the exit code. A `daemon` that runs knows when to hold back."""
    return asyncio.run(_convert(found, action, Stage(until), form, yes=yes, daemon=daemon))


async def _convert(
    found: Found, action: str, until: Stage, form: str, *, yes: bool, daemon: Daemon
) -> int:
    database, wish = found
    clock = SystemClock()
    partitioner = DatabasePartitioner(
        database, clock=clock, hold=unsettled(daemon, database.wait_for, clock)
    )
    try:
        conversion = await partitioner.conversion(wish.table, ears=Ears(told=_Voice().told))
        if action == "sql":
            click.echo(await conversion.script())
            return 0
        if action == "status":
            known = await conversion.status()
        elif action == "undo":
            _ask(f"Make {wish.table} the table that it was?", yes=yes)
            known = await conversion.undo()
        elif action == "drop":
            _ask(f"Drop the old table of {wish.table}? It cannot be brought back.", yes=yes)
            known = await conversion.drop_old()
        else:
            known = await _run(conversion, wish, until, yes=yes)
        plain = _plain(wish.table, known)
        show(form, plain, lambda: _shown(plain))
    finally:
        await partitioner.aclose()
    return 0


async def _run(conversion: Conversion, wish: PartitionSet, until: Stage, *, yes: bool) -> Notes:
    known = await conversion.status()
    if known is None or known.stage is Stage.UNDONE:
        report = await conversion.preflight(split=until.reaches(Stage.SPLIT))
        _report(report)
        if report.stopped:
            raise Refused(f"{wish.table} cannot be converted yet; see above")
    _ask(f"Convert {wish.table} until it is {until}?", yes=yes)
    return await conversion.run(until)


def _report(report: Report) -> None:
    for one in report.findings:
        word = "stops" if one.stops else "note"
        click.echo(f"{word}: {one.about}: {one.message}", err=True)


def _ask(question: str, *, yes: bool) -> None:
    if not yes and not click.confirm(question, err=True):
        raise Refused("nothing was done; say yes, or give --yes")


class _Voice:
    """Progress on stderr: a line for each step, and one for each hundredth of the copy."""

    def __init__(self) -> None:
        self._said: tuple[str, int | None] = ("", None)

    def told(self, progress: Progress) -> None:
        hundredth = None if progress.share is None else int(progress.share * 100)
        if hundredth is None or (progress.step, hundredth) != self._said:
            self._said = (progress.step, hundredth)
            _say(progress)


def _say(progress: Progress) -> None:
    parts = [f"{progress.step}: {progress.message}"]
    if progress.share is not None:
        parts.append(f"{progress.share:.0%}")
    if progress.rows_per_s is not None:
        parts.append(f"{progress.rows_per_s:,.0f} rows/s")
    if progress.left is not None:
        parts.append(f"{short(progress.left)} left")
    click.echo(", ".join(parts), err=True)


def _plain(name: str, known: Notes | None) -> Mapping[str, Any]:
    if known is None:
        return {"table": name, "stage": Stage.NONE.value, "steps": []}
    return {
        "table": name,
        "stage": known.stage.value,
        "begun_at": known.begun_at.isoformat(),
        "changed_at": known.changed_at.isoformat(),
        "old_table": f"{known.facts.schema}.{known.form.history}",
        "ranges": len(known.form.pieces),
        "steps": [{"step": step, **note} for step, note in sorted(known.steps.items())],
    }


def _shown(plain: Mapping[str, Any]) -> str:
    lines = [f"{plain['table']}: {plain['stage']}"]
    rows = [
        (step["step"], ", ".join(f"{k} {v}" for k, v in step.items() if k != "step"))
        for step in plain["steps"]
    ]
    return "\n".join((*lines, table(("STEP", "NOTED"), rows))) if rows else lines[0]
