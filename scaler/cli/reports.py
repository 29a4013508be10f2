"""What the commands print, and how they come by it."""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scaler.cli.client import Daemon, NoDaemon
from scaler.cli.output import ago, local, show, styled, table
from scaler.clock import SystemClock

if TYPE_CHECKING:
    from scaler.settings import Settings

WATCH_EVERY: Final = timedelta(seconds=2)
CLEAR: Final = "\x1b[H\x1b[2J"


def check(paths: Sequence[Path], form: str) -> int:
    """Print what is wrong with the files; 3 when something is, else 0."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time

    found = policyfile.load(paths)
    plain = {
        "version": 1,
        "files": [str(file) for file in found.files],
        "policies": sorted(found.policies),
        "problems": [problem.to_dict() for problem in found.problems],
    }
    if form != "table":
        show(form, plain, str)
    else:
        for problem in found.problems:
            click.echo(problem.text(), err=True)
        click.echo(_counts(found), err=bool(found.problems))
    return 3 if found.problems else 0


def _counts(found: Any) -> str:
    count, files = len(found.problems), len(found.files)
    fine = f"{_many(len(found.policies), 'policy', 'policies')} fine"
    if not count:
        return f"{fine}, in {_many(files, 'file', 'files')}"
    broken = len({problem.file for problem in found.problems})
    errors = _many(count, "error", "errors")
    return f"{errors} in {broken} of {_many(files, 'file', 'files')}; {fine}"


def _many(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def planned(daemon: Daemon, settings: "Settings", files: Sequence[Path]) -> list[dict[str, Any]]:
    """The decisions that a tick would make now: the daemon's, or from here when none runs."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time

    if files:
        policyfile.load(files).insist()
    paths = [str(file.resolve()) for file in files]
    try:
        answer = daemon.post("plan", body={"files": paths})
    except NoDaemon:
        from scaler import daemon as own  # noqa: PLC0415 - start-up time

        return asyncio.run(own.plan_once(settings, files))
    decisions: list[dict[str, Any]] = answer["decisions"]
    return decisions


def show_plan(decisions: Sequence[Mapping[str, Any]], form: str) -> None:
    def as_table() -> str:
        changed = sum(d["desired"] != d["current"] or bool(d["restarts"]) for d in decisions)
        lines = [line for d in decisions for line in (*d["lines"], "")]
        return "\n".join(
            [*lines, f"{changed} of {_many(len(decisions), 'target', 'targets')} change"]
        )

    show(form, {"version": 1, "decisions": list(decisions)}, as_table)


def show_status(answer: Mapping[str, Any], name: str | None, form: str) -> None:
    show(form, answer, lambda: status(answer, with_instances=name is not None))


def status(answer: Mapping[str, Any], *, with_instances: bool) -> str:
    rows = [_target_row(target) for target in answer["targets"]]
    lines = [
        table(
            ("NAME", "COUNT", "READY", "LIMITS", "CONDITION", "LAST CHANGE", "METRICS"),
            rows,
        )
    ]
    for target in answer["targets"]:
        if target["trouble"]:
            lines.append(f"{target['name']}: {target['trouble']}")
        lines += [f"waiting: {why}" for why in target["waiting"]]
        lines += [f"{target['name']}: {word}" for word in _words(target)]
        if with_instances:
            lines += ["", target["because"], "", _instances(target)]
    daemon = answer["daemon"]
    if daemon["leadership"]:
        lines.append(f"this daemon: {daemon['leadership']}")
    lines += [f"! {trouble}" for trouble in daemon["troubles"]]
    return "\n".join(lines)


def _target_row(target: Mapping[str, Any]) -> tuple[str, ...]:
    count, desired = target["wanted"], target["desired"]
    shown = "?" if count is None else str(count)
    if desired is not None and count is not None and desired != count:
        shown += f" → {desired}"
    condition = target["condition"]
    if condition == "ok" and target["paused"]:
        condition = "paused"
    elif condition == "ok" and target["mode"] == "observe":
        condition = "observing"
    last = target["last_change"]
    changed = "-" if last is None else f"{last['before']} → {last['after']} {ago(last['at'])}"
    metrics = ", ".join(metric["because"] for metric in target["metrics"]) or "-"
    return (
        target["name"],
        shown,
        "?" if target["ready"] is None else str(target["ready"]),
        f"{target['min']}-{target['max']}",
        styled(condition, condition),
        changed,
        metrics,
    )


def _words(target: Mapping[str, Any]) -> list[str]:
    said = []
    if pause := target["paused"]:
        sides = [side for side in ("scale_in", "scale_out") if pause[side]]
        which = "" if len(sides) == 2 else f" ({sides[0].replace('_', '-')} only)"
        said.append(f"paused{which}{_by(pause)}")
    if hold := target["held"]:
        said.append(f"held at {hold['count']}{_by(hold)}")
    return said


def _by(word: Mapping[str, Any]) -> str:
    until = f" until {local(word['until'])}" if word["until"] else " until resumed"
    reason = f": {word['reason']}" if word["reason"] else ""
    return f"{until} by {word['by']}{reason}"


def _instances(target: Mapping[str, Any]) -> str:
    rows = [
        (
            instance["id"],
            instance["state"],
            {True: "yes", False: "no", None: "-"}[instance["ready"]],
            instance["health"],
            str(instance["restarts"]),
            ago(instance["since"]).removesuffix(" ago") if instance["since"] else "-",
            str(instance["pid"] or "-"),
            str(instance["port"] or "-"),
            instance["because"],
        )
        for instance in target["instances"]
    ]
    head = ("INSTANCE", "STATE", "READY", "HEALTH", "RESTARTS", "AGE", "PID", "PORT", "BECAUSE")
    return table(head, rows)


def watch_status(daemon: Daemon, name: str | None) -> None:
    """The table again and again until interrupted; on a terminal in place."""

    async def run() -> None:
        clock = SystemClock()
        while True:
            shown = status(daemon.get("status", name=name), with_instances=name is not None)
            click.echo((CLEAR if sys.stdout.isatty() else "") + shown)
            await clock.sleep(WATCH_EVERY)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def history(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return "nothing is written down for that"
    rows = [
        (
            local(entry["at"]),
            entry["target"] or "-",
            styled(entry["kind"], "ok" if entry["ok"] else "broken"),
            entry["summary"],
        )
        for entry in entries
    ]
    return table(("TIME", "TARGET", "KIND", "WHAT"), rows)


def show_reload(answer: Mapping[str, Any], form: str) -> None:
    def as_table() -> str:
        return answer["summary"] if not answer["problems"] else ""

    if form == "table" and answer["problems"]:
        click.echo("\n".join(problem["text"] for problem in answer["problems"]), err=True)
        click.echo(answer["summary"], err=True)
        return
    show(form, answer, as_table)


def schema(*, docs: bool) -> str:
    from scaler import schema as generator  # noqa: PLC0415 - start-up time

    if docs:
        return generator.policy_reference()
    return json.dumps(generator.policy_schema(), indent=2) + "\n"


def show_version(form: str) -> None:
    from scaler import plugins  # noqa: PLC0415 - start-up time

    plain = {
        "version": version("scaler"),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        "providers": list(plugins.names("providers")),
        "sources": list(plugins.names("sources")),
    }

    def as_table() -> str:
        return (
            f"scaler {plain['version']}, Python {plain['python']} on {plain['platform']}\n"
            f"providers: {', '.join(plugins.names('providers'))}\n"
            f"sources:   {', '.join(plugins.names('sources'))}"
        )

    show(form, plain, as_table)
