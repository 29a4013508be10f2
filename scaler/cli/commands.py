"""The command line. Results go to stdout, everything else to stderr; heavy imports wait.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 files invalid, 4 no daemon, 5 refused,
6 `plan --exit-code` found changes, 7 `import` made something that needs a person,
78 `run` with an invalid configuration, 130 and 143 interrupted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

if TYPE_CHECKING:
    from scaler.cli.client import Daemon
    from scaler.settings import Settings

FAILED: Final = 1
INVALID: Final = 3
NO_DAEMON: Final = 4
REFUSED: Final = 5
CHANGES: Final = 6
BAD_CONFIG: Final = 78

F = TypeVar("F", bound=Callable[..., object])


class _Examples(click.Command):
    """A command whose help ends with its examples, printed as they are."""

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write_text(line)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SCALER_CONFIG",
    help="Process settings; /etc/scaler/scaler.yaml or config/scaler.yaml when one is there.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="SCALER_SOCKET",
    help="Where the daemon listens.",
)
@click.version_option(None, "-V", "--version", package_name="scaler", message="scaler %(version)s")
@click.pass_context
def scaler(context: click.Context, config: Path | None, socket: Path | None) -> None:
    """Keeps services at the right size and in good health, and can always say why.

    \b
    First steps:
      scaler demo            watch it at work for a minute and a half
      scaler init            write a first policy here
      scaler check           look for mistakes in the policies
      scaler run             start the daemon
      scaler status          how every service stands
      scaler explain NAME    why it has the size it has
    """  # noqa: D301 - click wants the character itself
    context.obj = (config, socket)


def command(examples: str = "", name: str | None = None) -> Callable[[F], click.Command]:
    """A command of `scaler`, with examples at the end of its help."""
    return scaler.command(name, cls=_Examples, epilog=examples)


def output(function: F) -> F:
    """The options that choose how a result is printed."""
    choice = click.Choice(["table", "json", "yaml"])
    function = click.option(
        "-o", "--output", "form", type=choice, default="table", help="How to print the result."
    )(function)
    return click.option("--json", "form", flag_value="json", help="Short for --output json.")(
        function
    )


@contextmanager
def _errors(invalid: int = INVALID) -> Iterator[None]:
    """Our errors as one line to stderr and the exit code that stands for them."""
    from scaler.cli.client import NoDaemon  # noqa: PLC0415 - start-up time
    from scaler.errors import ConfigError, Refused, ScalerError  # noqa: PLC0415

    try:
        yield
    except ScalerError as error:
        click.echo(f"scaler: {error}", err=True)
        codes = {NoDaemon: NO_DAEMON, Refused: REFUSED, ConfigError: invalid}
        code = next((c for kind, c in codes.items() if isinstance(error, kind)), FAILED)
        raise SystemExit(code) from None


def _settings(context: click.Context, **overrides: object) -> "Settings":
    from scaler import settings  # noqa: PLC0415 - start-up time

    config, socket = context.obj
    if socket is not None:
        overrides["socket"] = socket
    return settings.load(config, **overrides)


def _daemon(context: click.Context) -> "Daemon":
    from scaler.cli.client import Daemon  # noqa: PLC0415 - start-up time

    socket = context.obj[1]
    return Daemon(socket if socket is not None else _settings(context).socket)


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
    with _errors(invalid=BAD_CONFIG):
        raise SystemExit(daemon.main(_settings(context, **overrides), once=once))


@command("scaler check\nscaler check config/policies/web.yaml\nscaler check --json")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@output
@click.pass_context
def check(context: click.Context, files: tuple[Path, ...], form: str) -> None:
    """Look for mistakes in policy files. Exits with 3 when there are any.

    FILES are files or folders; those of the settings when none are given.
    """
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with _errors():
        paths = files or tuple(_settings(context).policies)
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

    with _errors():
        decisions = reports.planned(_daemon(context), _settings(context), files)
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

    with _errors():
        daemon = _daemon(context)
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

    with _errors():
        wanted = None if why_not is None else str(why_not)
        when = None if at is None else moment(at)
        answer = _daemon(context).get("explain", name, at=when, why_not=wanted)
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

    with _errors():
        answer = _daemon(context).get(
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
    with _errors():
        answer = _daemon(context).post("pause", body=body)
        click.echo(f"paused: {', '.join(answer['paused'])}", err=True)


@command("scaler resume web\nscaler resume --all")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All targets.")
@click.pass_context
def resume(context: click.Context, names: tuple[str, ...], *, everything: bool) -> None:
    """Take back a pause, and a count set by hand."""
    with _errors():
        answer = _daemon(context).post("resume", body=_names(names, everything=everything))
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
    with _errors():
        _daemon(context).post("scale", name, body=body)
        click.echo(f"{name}: set to {count}", err=True)


@command("scaler restart web web-2")
@click.argument("name")
@click.argument("instance")
@click.pass_context
def restart(context: click.Context, name: str, instance: str) -> None:
    """Start one instance again. It counts in its back-off and in the budget of its target."""
    with _errors():
        _daemon(context).post("restart", name, instance)
        click.echo(f"{name}: {instance} is being restarted", err=True)


@command("scaler reload")
@output
@click.pass_context
def reload(context: click.Context, form: str) -> None:
    """Let the daemon read its policies again. Exits with 3 when a file is invalid."""
    from scaler.cli import reports  # noqa: PLC0415 - start-up time

    with _errors():
        answer = _daemon(context).post("reload")
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

    with _errors():
        first.write(folder)


@command(
    "scaler import hpa web.yaml\nkubectl get hpa -o yaml | scaler import hpa -\n"
    "scaler import scaledobject web.yaml -o policies/web.yaml",
    "import",
)
@click.argument("kind", type=click.Choice(["hpa", "scaledobject"]))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--exact", is_flag=True, help="Decide as the HPA does, to the number.")
@click.option("--prometheus", default="", metavar="URL", help="Where adapters' metrics are asked.")
@click.option("-n", "--namespace", default="", help="Of manifests that name none.")
@click.option("--context", default="", help="The kubeconfig context to write into the policies.")
@click.option("--json", "form", flag_value="json", default="table", help="Print JSON.")
@click.option("-o", "into", type=click.Path(path_type=Path), help="Write a new file.")
def import_(
    kind: str,
    files: tuple[Path, ...],
    prometheus: str,
    namespace: str,
    context: str,
    form: str,
    into: Path | None,
    *,
    exact: bool,
) -> None:
    """Turn manifests of an HPA or a ScaledObject into policies. Exits with 7 if some need you.

    FILES may hold several documents and lists; `-` is standard input. What does not map is said
    on stderr and in comments, and such a policy only observes.
    """
    from scaler.cli import imports  # noqa: PLC0415 - start-up time
    from scaler.importing.draft import Options  # noqa: PLC0415

    with _errors():
        options = Options(exact=exact, prometheus=prometheus, namespace=namespace, context=context)
        raise SystemExit(imports.run(kind, files, options, into, form))


@command(
    "scaler rbac | kubectl apply -f -\nscaler rbac --namespace scaler policies/\n"
    "scaler rbac --sidecar deployment/web policies/"
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--service-account", "account", default="scaler", show_default=True)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    help="Where the daemon runs; '' leaves it to kustomize.",
)
@click.option("--sidecar", "own", default="", help="The workload that `workload: self` stands for.")
@click.option("--lease", default="", help="The Lease that several daemons share.")
@click.option("--json", "form", flag_value="json", default="yaml", help="Print JSON.")
@click.pass_context
def rbac(
    context: click.Context,
    files: tuple[Path, ...],
    account: str,
    namespace: str,
    own: str,
    lease: str,
    form: str,
) -> None:
    """Print exactly the Roles that the policies need on Kubernetes, with a reason for each rule."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time
    from scaler.cli import rbac as rights  # noqa: PLC0415

    with _errors():
        settings = _settings(context)
        policies = policyfile.load(files or settings.policies).insist().values()
        who = rights.Account(name=account, namespace=namespace)
        rights.run(policies, who, form, act=settings.act, own=own, lease=lease)


@command("scaler doctor\nscaler doctor --json")
@output
@click.pass_context
def doctor(context: click.Context, form: str) -> None:
    """Look at everything the daemon needs here, and say what to do about what is missing."""
    from scaler.cli import doctor as examination  # noqa: PLC0415 - start-up time

    with _errors():
        raise SystemExit(examination.run(lambda: _settings(context), form))


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


@command("scaler demo\nscaler demo --folder /tmp/demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-out"),
    show_default=True,
    help="The one place where it writes.",
)
@click.option("--seconds", type=click.IntRange(20, 600), default=80, show_default=True)
def demo(folder: Path, seconds: int) -> None:
    """Watch a small web service being scaled, killed, hung and healed on this machine.

    Local processes only: no network, no root, no Docker. Ends by itself in under 90 s.
    """
    from scaler.demo import show  # noqa: PLC0415 - start-up time

    with _errors():
        raise SystemExit(show.main(folder, seconds))
