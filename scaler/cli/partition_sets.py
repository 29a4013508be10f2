"""`scaler partitions`: looks at databases, prints what is found, and does what was agreed to."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from scaler.cli.client import Daemon
from scaler.cli.ease import unsettled
from scaler.cli.output import show, styled, table
from scaler.clock import SystemClock
from scaler.errors import Refused, ScalerError
from scaler.maintenance import partition_words
from scaler.maintenance.partition_plan import Finding, Level, Plan, Step
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner, Report

T = TypeVar("T")


def _of_each(
    databases: Iterable[Database],
    ask: Callable[[DatabasePartitioner], Awaitable[T]],
    daemon: Daemon | None = None,
) -> list[T]:
    """The answers of each; a `daemon` that runs knows when heavy steps wait."""

    async def one_by_one() -> list[T]:
        answers = []
        for rules in databases:
            clock = SystemClock()
            hold = unsettled(daemon, rules.wait_for, clock)
            partitioner = DatabasePartitioner(rules, clock=clock, hold=hold)
            try:
                answers.append(await ask(partitioner))
            finally:
                await partitioner.aclose()
        return answers

    return asyncio.run(one_by_one())


def _plans(databases: Sequence[Database], daemon: Daemon | None = None) -> list[tuple[Plan, ...]]:
    return _of_each(databases, lambda partitioner: partitioner.plan(), daemon)


def status(databases: Sequence[Database], form: str) -> None:
    """Print a line for each set."""
    found = list(zip(databases, _plans(databases), strict=True))
    rows = [
        (
            f"{rules.name}/{plan.table}",
            f"{plan.until:%Y-%m-%d}" if plan.until else "-",
            str(plan.horizon),
            str(len(plan.steps) + len(plan.later)),
            partition_words.sized(plan.forecast.held),
            partition_words.sized(plan.forecast.later),
            _worst(plan.findings),
        )
        for rules, plans in found
        for plan in plans
    ]
    plain = [{"database": rules.name, **_plain(plan)} for rules, plans in found for plan in plans]
    headings = ("TABLE", "UNTIL", "AHEAD", "STEPS", "SIZE", "IN 30 DAYS", "STATE")
    show(form, plain, lambda: "\n".join([table(headings, rows), *_said(found)]))


def _said(found: Iterable[tuple[Database, tuple[Plan, ...]]]) -> list[str]:
    return [f"  {_finding(f)}" for _, plans in found for plan in plans for f in plan.findings]


def _worst(findings: Sequence[Finding]) -> str:
    levels = {finding.level for finding in findings}
    worst = next((level for level in (Level.ALARM, Level.WARNING) if level in levels), None)
    return styled(str(worst), "degraded") if worst else styled("ok", "ok")


def plan(databases: Sequence[Database], form: str) -> bool:
    """Print what a run would do; whether it would change something."""
    found = list(zip(databases, _plans(databases), strict=True))
    plain = [{"database": rules.name, **_plain(plan)} for rules, plans in found for plan in plans]
    show(form, plain, lambda: "\n".join(_lines(found)))
    return any(plan.steps for _, plans in found for plan in plans)


def _lines(found: Iterable[tuple[Database, tuple[Plan, ...]]]) -> list[str]:
    lines = [line for _, plans in found for one in plans for line in partition_words.lines(one)]
    return lines or ["every partition set is as it should be"]


def run(databases: Sequence[Database], form: str, *, yes: bool, daemon: Daemon) -> bool:
    """Print what will be done, ask, and do it; whether all went well.

    Raises:
        Refused: nobody is there to be asked.
    """
    if not yes:
        found = list(zip(databases, _plans(databases, daemon), strict=True))
        click.echo("\n".join(_lines(found)), err=True)
        if not any(plan.steps for _, plans in found for plan in plans):
            return True
        if not sys.stdin.isatty():
            raise Refused("nobody is there to be asked; say --yes to do it")
        if not click.confirm("Do it?", err=True):
            raise Refused("nothing was changed")
    reports = _of_each(databases, lambda partitioner: partitioner.run(), daemon)
    show(form, [_report(r) for r in reports], lambda: "\n".join(map(_text, reports)))
    return all(report.ok for report in reports)


def _text(report: Report) -> str:
    if report.standing_by:
        return f"{report.database}: {report.standing_by}"
    lines = []
    for outcome in report.outcomes:
        lines += [f"{outcome.table}: done: {text}" for text in outcome.done]
        lines += [_finding(finding) for finding in outcome.plan.findings]
        if outcome.failed:
            lines.append(styled(f"{outcome.table}: {outcome.failed}", "degraded"))
    return "\n".join(lines or [f"{report.database}: nothing was to be done"])


def verify(databases: Sequence[Database], form: str) -> bool:
    """Print whether each database can be kept, and the grants that are missing."""
    plain = verified(databases)
    show(form, plain, lambda: "\n".join(map(_verified, plain)))
    return all(entry["ok"] for entry in plain)


def verified(databases: Sequence[Database]) -> list[dict[str, Any]]:
    """Whether each database can be kept, what needs a person, and the grants that are missing."""
    plain: list[dict[str, Any]] = []
    for rules in databases:
        try:
            ((plans, grants),) = _of_each([rules], lambda partitioner: partitioner.verify())
        except ScalerError as error:
            plain.append({"database": rules.name, "ok": False, "trouble": str(error)})
            continue
        alarms = [f.text for p in plans for f in p.findings if f.level is Level.ALARM]
        ok = not alarms and not grants
        entry = {"database": rules.name, "ok": ok, "alarms": alarms, "grants": list(grants)}
        plain.append(entry)
    return plain


def _verified(entry: dict[str, Any]) -> str:
    word = styled("ok", "ok") if entry["ok"] else styled("not ok", "degraded")
    lines = [f"{entry['database']}: {word}"]
    if trouble := entry.get("trouble"):
        lines.append(f"  {trouble}")
    lines += [f"  {text}" for text in entry.get("alarms", ())]
    if entry.get("grants"):
        lines += [
            "  a person with the right to do so runs:",
            *(f"    {g}" for g in entry["grants"]),
        ]
    return "\n".join(lines)


def _report(report: Report) -> dict[str, Any]:
    return {
        "database": report.database,
        "ok": report.ok,
        "standing_by": report.standing_by,
        "tables": [
            {
                "table": o.table,
                "done": list(o.done),
                "failed": o.failed,
                "findings": [{"level": str(f.level), "text": f.text} for f in o.plan.findings],
            }
            for o in report.outcomes
        ],
    }


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "table": plan.table,
        "until": plan.until.isoformat() if plan.until else None,
        "ahead": plan.horizon,
        "forecast": _forecast(plan),
        "steps": [_step(step) for step in plan.steps],
        "later": [{**_step(step), "waits": why} for step, why in plan.later],
        "findings": [{"level": str(f.level), "text": f.text} for f in plan.findings],
    }


def _forecast(plan: Plan) -> dict[str, Any]:
    known = plan.forecast
    return {
        "reached": known.reached.isoformat() if known.reached else None,
        "bytes": known.held,
        "bytes_per_day": None if known.per_day is None else round(known.per_day),
        "bytes_of_next": known.next,
        "bytes_in_30_days": known.later,
    }


def _step(step: Step) -> dict[str, str]:
    return {"step": partition_words.described(step), "because": step.because}


def _finding(finding: Finding) -> str:
    word = "degraded" if finding.level is Level.ALARM else "starting"
    return f"{styled(str(finding.level), word)}: {finding.text}"
