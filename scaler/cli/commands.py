"""The command line. Results go to stdout, everything else to stderr; heavy imports wait."""

from pathlib import Path

import click

from scaler.cli import (
    cache_commands,
    calibrate_command,
    kube_commands,
    loadtest_command,
    partition_commands,
    partition_convert_commands,
)
from scaler.cli.group import (
    BAD_CONFIG,
    CHANGES,
    INVALID,
    command,
    daemon_of,
    errors,
    output,
    scaler,
    settings_of,
)

__all__ = [
    "cache_commands",
    "calibrate_command",
    "kube_commands",
    "loadtest_command",
    "partition_commands",
    "partition_convert_commands",
    "scaler",
]  # its commands are there once it is imported


@command("scaler run\nscaler -c /etc/scaler/scaler.yaml run\nscaler run --observe policies/")
@click.argument("policies", nargs=-1, type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Look at every target once, act, and end.")
@click.option("--observe", is_flag=True, help="Decide and record, but change nothing.")
@click.pass_context
def run(context: click.Context, policies: tuple[Path, ...], *, once: bool, observe: bool) -> None:
    """Run the daemon in the foreground.

    POLICIES are files or folders; those of the settings when none are given. SIGHUP reads them
    again, SIGTERM ends it; what runs keeps running.
    """
    from scaler import daemon  # noqa: PLC0415 - start-up time

    overrides: dict[str, object] = {}
    if policies:
        overrides["policies"] = policies
    if observe:
        overrides["act"] = False
    with errors(invalid=BAD_CONFIG):
        raise SystemExit(daemon.main(settings_of(context, **overrides), once=once))


@command("scaler check\nscaler check config/policies/web.yaml\nscaler check --json")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@output
@click.pass_context
def check(context: click.Context, files: tuple[Path, ...], form: str) -> None:
    """Look for mistakes in policy files. Exits with 3 when there are any.

    FILES are files or folders; those of the settings when none are given.
    """
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with errors():
        paths = files or tuple(settings_of(context).policies)
        raise SystemExit(reports.check(paths, form))


@command("scaler plan\nscaler plan config/policies/web.yaml\nscaler plan --exit-code --json")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--exit-code", is_flag=True, help="Exit with 6 when something would change.")
@output
@click.pass_context
def plan(context: click.Context, files: tuple[Path, ...], form: str, *, exit_code: bool) -> None:
    """Show what the next look would decide, and change nothing.

    With a daemon its own history counts, so cooldowns and windows are as they are; policies in
    FILES stand in for its own. Without one the targets are looked at from here.
    """
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with errors():
        decisions = reports.planned(daemon_of(context), settings_of(context), files)
        reports.show_plan(decisions, form)
        changes = any(d["desired"] != d["current"] or d["restarts"] for d in decisions)
        raise SystemExit(CHANGES if exit_code and changes else 0)


@command("scaler status\nscaler status web\nscaler status --watch\nscaler status --json")
@click.argument("name", required=False)
@click.option("-w", "--watch", is_flag=True, help="Show it again every two seconds.")
@output
@click.pass_context
def status(context: click.Context, name: str | None, form: str, *, watch: bool) -> None:
    """Show how every target stands, or one with its instances."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with errors():
        daemon = daemon_of(context)
        if watch:
            reports.watch_status(daemon, name)
        else:
            reports.show_status(daemon.get("status", name=name), name, form)


@command(
    "scaler explain web\nscaler explain web --at 10m\nscaler explain web --at 2026-01-31T12:00\n"
    "scaler explain web --why-not 8"
)
@click.argument("name")
@click.option("--at", help="A moment in the past: 10m (ago) or 2026-01-31T12:00.")
@click.option("--why-not", type=click.IntRange(0), help="What speaks against this count.")
@output
@click.pass_context
def explain(
    context: click.Context, name: str, at: str | None, why_not: int | None, form: str
) -> None:
    """Say why a target has the size it has: metric, goal, every rule, and the result."""
    from scaler.cli.output import moment, show  # noqa: PLC0415 - start-up time

    with errors():
        wanted = None if why_not is None else str(why_not)
        when = None if at is None else moment(at)
        answer = daemon_of(context).get("explain", name, at=when, why_not=wanted)
        show(form, answer, lambda: "\n".join(answer["lines"]))


@command("scaler history\nscaler history web --since 2h\nscaler history --json --limit 1000")
@click.argument("name", required=False)
@click.option("--since", help="Not older than: 2h (ago) or 2026-01-31T12:00.")
@click.option("--until", help="Not newer than.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--facts", is_flag=True, help="With what every decision was made from (JSON, YAML).")
@output
@click.pass_context
def history(
    context: click.Context,
    name: str | None,
    since: str | None,
    until: str | None,
    limit: int,
    form: str,
    *,
    facts: bool,
) -> None:
    """List what was decided, done, refused and commanded, oldest first."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time
    from scaler.cli.output import moment, show  # noqa: PLC0415

    with errors():
        answer = daemon_of(context).get(
            "history",
            name=name,
            since=None if since is None else moment(since),
            until=None if until is None else moment(until),
            limit=str(limit),
            facts="1" if facts else None,
        )
        show(form, answer["entries"], lambda: reports.history(answer["entries"]))


def _names(names: tuple[str, ...], *, everything: bool) -> dict[str, object]:
    if everything == bool(names):
        raise click.UsageError("name one policy or several, or say --all")
    return {"all": True} if everything else {"names": list(names)}


@command(
    "scaler pause web --for 30m --reason deployment\nscaler pause web --scale-in\n"
    "scaler pause --all"
)
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All targets.")
@click.option("--scale-in", is_flag=True, help="Only shrinking.")
@click.option("--scale-out", is_flag=True, help="Only growing.")
@click.option("--for", "span", help="End by itself after this span, such as 30m.")
@click.option("--reason", default="", help="Shown in status, explain and history.")
@click.pass_context
def pause(
    context: click.Context,
    names: tuple[str, ...],
    span: str | None,
    reason: str,
    *,
    everything: bool,
    scale_in: bool,
    scale_out: bool,
) -> None:
    """Leave targets alone, in both directions or in one. It outlasts a restart of the daemon."""
    from scaler.cli.output import seconds  # noqa: PLC0415 - start-up time

    both = scale_in == scale_out
    body = {
        **_names(names, everything=everything),
        "scale_in": scale_in or both,
        "scale_out": scale_out or both,
        "for": None if span is None else seconds(span),
        "reason": reason,
    }
    with errors():
        answer = daemon_of(context).post("pause", body=body)
        click.echo(f"paused: {', '.join(answer['paused'])}", err=True)


@command("scaler resume web\nscaler resume --all")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All targets.")
@click.pass_context
def resume(context: click.Context, names: tuple[str, ...], *, everything: bool) -> None:
    """Take back a pause, and a count set by hand."""
    with errors():
        answer = daemon_of(context).post("resume", body=_names(names, everything=everything))
        click.echo(f"resumed: {', '.join(answer['resumed'])}", err=True)


@command("scaler scale web 5\nscaler scale web 5 --hold 30m --reason 'sale starts'")
@click.argument("name")
@click.argument("count", type=click.IntRange(0))
@click.option("--hold", help="Keep it there for this span, such as 30m; `forever` until resumed.")
@click.option("--reason", default="", help="Shown in status, explain and history.")
@click.pass_context
def scale(context: click.Context, name: str, count: int, hold: str | None, reason: str) -> None:
    """Set a count by hand, within the limits. Without --hold the rules go on from there."""
    from scaler.cli.output import seconds  # noqa: PLC0415 - start-up time

    lasting = hold is not None and hold != "forever"
    span = seconds(hold) if lasting and hold is not None else None
    body = {"count": count, "hold": hold is not None, "for": span, "reason": reason}
    with errors():
        daemon_of(context).post("scale", name, body=body)
        click.echo(f"{name}: set to {count}", err=True)


@command("scaler restart web web-2")
@click.argument("name")
@click.argument("instance")
@click.pass_context
def restart(context: click.Context, name: str, instance: str) -> None:
    """Start one instance again. It counts in its back-off and in the budget of its target."""
    with errors():
        daemon_of(context).post("restart", name, instance)
        click.echo(f"{name}: {instance} is being restarted", err=True)


@command("scaler reload")
@output
@click.pass_context
def reload(context: click.Context, form: str) -> None:
    """Let the daemon read its policies again. Exits with 3 when a file is invalid."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with errors():
        answer = daemon_of(context).post("reload")
        reports.show_reload(answer, form)
        raise SystemExit(INVALID if answer["problems"] else 0)


@command("scaler schema > policy.schema.json\nscaler schema --docs > policies.md")
@click.option("--docs", is_flag=True, help="The reference as Markdown instead.")
def schema(*, docs: bool) -> None:
    """Print the JSON Schema of policy files."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    click.echo(reports.schema(docs=docs), nl=False)


@command("scaler init\nscaler init /etc/scaler")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(folder: Path) -> None:
    """Write settings and a first policy to FOLDER. Never overwrites a file."""
    from scaler.cli import first  # noqa: PLC0415 - start-up time

    with errors():
        first.write(folder)


@command("scaler doctor\nscaler doctor --json")
@output
@click.pass_context
def doctor(context: click.Context, form: str) -> None:
    """Look at everything the daemon needs here, and say what to do about what is missing."""
    from scaler.cli import doctor as examination  # noqa: PLC0415 - start-up time

    with errors():
        raise SystemExit(examination.run(lambda: settings_of(context), form))


@command("scaler version --json")
@output
def version(form: str) -> None:
    """Show the version, and those of Python and of the installed adapters."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    reports.show_version(form)


@command('eval "$(scaler completion bash)"\nscaler completion fish | source')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands and options."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - start-up time

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click knows all three
    click.echo(kind(scaler, {}, "scaler", "_SCALER_COMPLETE").source())


@command("scaler demo\nscaler demo --short --folder /tmp/demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="The one place where it writes.",
)
@click.option("--seconds", type=click.IntRange(20, 600), default=60, show_default=True,
              help="How long the day of visitors lasts.")  # fmt: skip
@click.option("--short", is_flag=True, help="Less of everything: 20 s of visitors.")
def demo(folder: Path, seconds: int, short: bool) -> None:
    """Watch a financial-data service being measured, scaled, broken and healed on this machine.

    Local processes, a PostgreSQL and a Valkey of its own: no network, no root, no Docker. Ends by
    itself in about two minutes.
    """
    from scaler.demo import show  # noqa: PLC0415 - start-up time

    with errors():
        raise SystemExit(show.main(folder, 20 if short else seconds, short=short))
