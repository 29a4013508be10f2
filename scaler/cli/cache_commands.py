"""`scaler cache`: how caches stand, what is wrong with them, and what is done about it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scaler.cli.group import CHANGES, FAILED, errors, group, output, settings_of

if TYPE_CHECKING:
    from scaler.maintenance.cache_rules import Cache
    from scaler.maintenance.named_file import Named

DEFAULT_FILE: Final = Path("config/caches.yaml")

cache = group(
    "cache",
    "scaler cache verify\nscaler cache status\nscaler cache plan ledger\nscaler cache run ledger",
    "Keep caches in Redis healthy: keys without a TTL, dead versions, idle and big keys.",
)


def _of_caches(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which caches are meant, and how the result is printed."""
    file = click.option(
        "--file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The caches; that of the settings, else config/caches.yaml.",
    )
    return click.argument("name", required=False)(file(output(click.pass_context(function))))


def _caches(context: click.Context, file: Path | None) -> "Named[Cache]":
    from scaler.maintenance.cache_file import load_caches  # noqa: PLC0415 - start-up time

    return load_caches(file or settings_of(context).caches or DEFAULT_FILE)


@cache.command(
    epilog="scaler cache status\nscaler cache status ledger --json\n"
    "scaler cache status --file /etc/scaler/caches.yaml"
)
@_of_caches
def status(context: click.Context, file: Path | None, name: str | None, form: str) -> None:
    """Show the server's own numbers and what the processes of a cache say of it."""
    from scaler.cli import caches  # noqa: PLC0415 - start-up time

    with errors():
        caches.status(_caches(context, file).chosen(name), form)


@cache.command(
    epilog="scaler cache plan\nscaler cache plan ledger --sample\nscaler cache plan --exit-code"
)
@_of_caches
@click.option("--sample", is_flag=True, help="Look at a sample only, which is faster.")
@click.option("--exit-code", is_flag=True, help="Exit with 6 when something is found.")
def plan(
    context: click.Context,
    file: Path | None,
    name: str | None,
    form: str,
    *,
    sample: bool,
    exit_code: bool,
) -> None:
    """Look at every key, say what is wrong and what a run would do. Nothing is changed."""
    from scaler.cli import caches  # noqa: PLC0415 - start-up time

    with errors():
        found = caches.plan(_caches(context, file).chosen(name), form, sample=sample)
        raise SystemExit(CHANGES if exit_code and found else 0)


@cache.command(epilog="scaler cache run ledger\nscaler cache run ledger --yes --json")
@_of_caches
@click.option("-y", "--yes", is_flag=True, help="Do it without a question.")
def run(
    context: click.Context, file: Path | None, name: str | None, form: str, *, yes: bool
) -> None:
    """Look at every key, say what will be done, ask, and do it.

    Only what `act` turns on is done, inside `prefixes` and within `budget`.
    """
    from scaler.cli import caches  # noqa: PLC0415 - start-up time

    with errors():
        caches.run(_caches(context, file).chosen(name), form, yes=yes)


@cache.command(epilog="scaler cache verify\nscaler cache verify ledger --json")
@_of_caches
def verify(context: click.Context, file: Path | None, name: str | None, form: str) -> None:
    """Check the address, the rights and the rules, and that looking writes nothing.

    Exits with 1 when something is not as it has to be.
    """
    from scaler.cli import caches  # noqa: PLC0415 - start-up time

    with errors():
        well = caches.verify(_caches(context, file).chosen(name), form)
        raise SystemExit(0 if well else FAILED)
