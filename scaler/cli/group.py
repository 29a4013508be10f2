"""What all commands share: the group that they are in, its options, and how they fail.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 files invalid, 4 no daemon, 5 refused,
6 `plan --exit-code` found changes, 7 `import` made something that needs a person,
8 `loadtest` missed a threshold, 78 `run` with an invalid configuration, 130 and 143 interrupted.
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
MISSED: Final = 8
BAD_CONFIG: Final = 78

F = TypeVar("F", bound=Callable[..., object])


class _Examples(click.Command):
    """A command whose help ends with its examples, printed as they are."""

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write_text(line)


class _Group(_Examples, click.Group):
    """Commands about one thing, as in `scaler cache status`."""

    command_class = _Examples


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
      scaler demo            watch the whole loop for two minutes
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


def group(name: str, examples: str, text: str) -> click.Group:
    """A group of commands inside `scaler`; `text` is its help."""
    made = _Group(name, help=text, epilog=examples)
    scaler.add_command(made)
    return made


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
def errors(invalid: int = INVALID) -> Iterator[None]:
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


def settings_of(context: click.Context, **overrides: object) -> "Settings":
    from scaler import settings  # noqa: PLC0415 - start-up time

    config, socket = context.obj
    if socket is not None:
        overrides["socket"] = socket
    return settings.load(config, **overrides)


def daemon_of(context: click.Context) -> "Daemon":
    from scaler.cli.client import Daemon  # noqa: PLC0415 - start-up time

    socket = context.obj[1]
    return Daemon(socket if socket is not None else settings_of(context).socket)
