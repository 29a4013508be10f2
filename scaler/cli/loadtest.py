"""`scaler loadtest`: from what was typed to a plan, and from a run to what was asked for."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click

from scaler.cli import loadtest_manifest as manifest
from scaler.cli.group import MISSED
from scaler.cli.loadtest_manifest import Wanted
from scaler.cli.loadtest_shared import Sharing, be_part, gathering
from scaler.cli.output import coloured
from scaler.clock import SystemClock
from scaler.errors import ConfigError
from scaler.loadtest import loops, page, plan, text
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress
from scaler.loadtest.report import Report
from scaler.loadtest.tester import LoadTester

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed; None where nothing was."""

    what: str
    rate: str | None
    users: int | None
    think: str | None
    span: str | None
    stages: str | None
    warm_up: str | None
    workers: int | None
    thresholds: tuple[str, ...]
    allow_host: bool
    form: str
    html: Path | None
    prometheus: Path | None
    save: Path | None
    compare: Path | None


def run(asked: Asked, sharing: Sharing) -> int:
    """Do it, print it, and return the exit code.

    Raises:
        ConfigError: the plan or the run to compare with cannot be used.
        Refused: the target is not on this machine.
    """
    made = plan_of(asked)
    sharing.check()
    if sharing.manifest:
        click.echo(_manifest(asked, sharing, made), nl=False)
        return 0
    if sharing.part:
        click.echo(loops.run(be_part(made, sharing, allow_host=asked.allow_host)))
        return 0
    old = read_report(asked.compare) if asked.compare else None
    for file in (asked.html, asked.prometheus, asked.save):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"{file.parent} is no folder; make it, or name another one")
    report, interrupted = loops.run(_watched(made, sharing, allow_host=asked.allow_host))
    for target, content in (
        (asked.html, page.page),
        (asked.prometheus, text.exposition),
        (asked.save, _json),
    ):
        if target is not None:
            _write(target, content, report)
    if asked.form == "json":
        click.echo(_json(report), nl=False)
    else:
        click.echo(_styled(text.summary(report)), color=coloured())
        if old:
            click.echo("\n" + text.comparison(old, report))
    if interrupted:
        return INTERRUPTED
    return 0 if report.passed else MISSED


def plan_of(asked: Asked) -> Plan:
    """A file with what was typed laid over it, or all from what was typed."""
    load: dict[str, Any] = {
        "rate": asked.rate,
        "users": asked.users,
        "think": asked.think,
        "for": asked.span,
        "stages": stages_of(asked.stages) if asked.stages else None,
        "warm_up": asked.warm_up,
    }
    load = {name: value for name, value in load.items() if value is not None}
    more: dict[str, Any] = {}
    if asked.thresholds:
        more["thresholds"] = list(asked.thresholds)
    if asked.workers:
        more["workers"] = asked.workers
    if "://" not in asked.what:
        if load:
            given = ", ".join(sorted(load))
            raise ConfigError(f"{asked.what} says how much load; leave {given} out, or give a URL")
        read = plan.load(Path(asked.what))
        fields = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return plan.of_fields({**fields, **more}) if more else read
    if not load.keys() & {"rate", "users", "stages"}:
        load["rate"] = "10/s"
    parts = urlsplit(asked.what)
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    target = f"{parts.scheme}://{parts.netloc}"
    return plan.of_fields({"target": target, "load": load, "scenario": [{"path": path}], **more})


def stages_of(written: str) -> list[dict[str, str]]:
    """`100/s:10s,500/s:1m` as stages: each rate, and how long it takes to get there."""
    stages = []
    for part in written.split(","):
        rate, colon, span = part.strip().partition(":")
        if not colon:
            raise ConfigError(f'"{part}" is no stage; write it like 500/s:1m, rate before span')
        stages.append({"to": rate, "for": span})
    return stages


def _manifest(asked: Asked, sharing: Sharing, made: Plan) -> str:
    if "://" in asked.what:
        raise ConfigError("a manifest takes the plan along; write it to a file, and name that")
    if not asked.allow_host:
        raise ConfigError("from there the target is another machine; add --allow-host")
    wanted = Wanted(
        name=sharing.name,
        parts=sharing.parts or 1,
        through=sharing.through or "",
        words=tuple(word for one in asked.thresholds for word in ("--threshold", one)),
    )
    write = manifest.kubernetes if sharing.manifest == "kubernetes" else manifest.swarm
    return write(wanted, Path(asked.what), made)


async def _watched(made: Plan, sharing: Sharing, *, allow_host: bool) -> tuple[Report, bool]:
    """The report, and whether Ctrl-C has ended it early."""
    tell = _teller()
    if not sharing.parts:
        tester = LoadTester(made, clock=SystemClock(), allow_host=allow_host, tell=tell)
        return await _until_interrupted(tester)
    async with gathering(made, sharing, tell) as crew:
        return await _until_interrupted(LoadTester(made, clock=SystemClock(), crew=crew))


async def _until_interrupted(tester: LoadTester) -> tuple[Report, bool]:
    interrupted = asyncio.Event()

    def stop() -> None:
        interrupted.set()
        tester.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    report = await tester.run()
    if sys.stderr.isatty():
        click.echo(err=True)
    return report, interrupted.is_set()


def _teller() -> Callable[[Progress], None]:
    """One line that is written anew on a terminal; every ten seconds a line elsewhere."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def tell(progress: Progress) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{progress.line()}", err=True, nl=False)
        elif round(progress.second) % 10 == 0:
            click.echo(progress.line(), err=True)

    return tell


def _styled(shown: str) -> str:
    if not coloured():
        return shown
    for words in ("NOT TO BE TRUSTED", "FAILED"):
        shown = shown.replace(words, click.style(words, fg="red"))
    return shown


def _json(report: Report) -> str:
    return json.dumps(report.to_dict(), indent=2) + "\n"


def _write(file: Path, content: Callable[[Report], str], report: Report) -> None:
    try:
        file.write_text(content(report), "utf-8")
    except OSError as error:
        click.echo(f"scaler: cannot write {file}: {error.strerror}", err=True)  # figures follow


def read_report(file: Path) -> Report:
    """A report that `--json` or `--save` has written.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        written = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(written, dict):
        raise ConfigError(f"{file} is no result of a load test; make one with --save")
    try:
        return Report.of_dict(written)
    except ConfigError as error:
        raise ConfigError(f"{file} {error}; make one with --save") from error
