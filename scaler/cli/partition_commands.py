"""`scaler partitions`: how partition sets stand, what a run would do, and doing it."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scaler.cli.group import CHANGES, FAILED, daemon_of, errors, group, output, settings_of

if TYPE_CHECKING:
    from types import ModuleType

    from scaler.maintenance.named_file import Named
    from scaler.maintenance.partition_rules import Database

DEFAULT_FILE: Final = Path("config/partitions.yaml")

partitions = group(
    "partitions",
    "scaler partitions verify\nscaler partitions plan\nscaler partitions run ledger --yes",
    "Keep tables of PostgreSQL partitioned: create ahead, retire, and say what is in the way.",
)


in_file = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The databases; those of the settings, else config/partitions.yaml.",
)


def _of_databases(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which databases are meant, and how the result is printed."""
    chosen = in_file(output(click.pass_context(function)))
    return click.argument("name", required=False)(chosen)


def _databases(context: click.Context, file: Path | None) -> "Named[Database]":
    from scaler.maintenance.partition_file import load_partitions  # noqa: PLC0415 - start-up time

    return load_partitions(file or settings_of(context).partitions or DEFAULT_FILE)


def working(module: str) -> "ModuleType":
    """The module of this package that does the work.

    Raises:
        ConfigError: the library for PostgreSQL is not installed.
    """
    from scaler.errors import ConfigError  # noqa: PLC0415 - start-up time

    try:
        return import_module(f"scaler.cli.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; pip install 'scaler[postgres]'"
        ) from None


def _sets() -> "ModuleType":
    return working("partition_sets")


@partitions.command(epilog="scaler partitions status\nscaler partitions status ledger --json")
@_of_databases
def status(context: click.Context, file: Path | None, name: str | None, form: str) -> None:
    """Show up to when rows find a partition, and what needs a person."""
    with errors():
        _sets().status(_databases(context, file).chosen(name), form)


@partitions.command(epilog="scaler partitions plan\nscaler partitions plan ledger --exit-code")
@_of_databases
@click.option("--exit-code", is_flag=True, help="Exit with 6 when a run would change something.")
def plan(
    context: click.Context, file: Path | None, name: str | None, form: str, *, exit_code: bool
) -> None:
    """Say what a run would do, and why. Nothing is changed."""
    with errors():
        changes = _sets().plan(_databases(context, file).chosen(name), form)
        raise SystemExit(CHANGES if exit_code and changes else 0)


@partitions.command(epilog="scaler partitions run\nscaler partitions run ledger --yes --json")
@_of_databases
@click.option("-y", "--yes", is_flag=True, help="Do it without a question.")
def run(
    context: click.Context, file: Path | None, name: str | None, form: str, *, yes: bool
) -> None:
    """Say what will be done, ask, and do it. Exits with 1 when a table could not be kept."""
    with errors():
        well = _sets().run(
            _databases(context, file).chosen(name), form, yes=yes, daemon=daemon_of(context)
        )
        raise SystemExit(0 if well else FAILED)


@partitions.command(epilog="scaler partitions verify\nscaler partitions verify ledger --json")
@_of_databases
def verify(context: click.Context, file: Path | None, name: str | None, form: str) -> None:
    """Check addresses, rights and tables; print the statements that would grant what is missing.

    Exits with 1 when something is not as it has to be.
    """
    with errors():
        well = _sets().verify(_databases(context, file).chosen(name), form)
        raise SystemExit(0 if well else FAILED)


@partitions.command(
    epilog="scaler partitions adopt\nscaler partitions adopt --dsn-env SHOP_DSN --database shop "
    "--into config/partitions.yaml\nscaler partitions adopt --table public.orders --json"
)
@output
@click.option("--dsn-env", default="LEDGER_DSN", show_default=True,
              help="The environment variable that holds the address.")  # fmt: skip
@click.option("--database", default="ledger", show_default=True, help="Its name in the file.")
@click.option("--table", "tables", multiple=True, help="Only this one; may be given again.")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False),
              help="A new file; it is printed without.")  # fmt: skip
def adopt(
    dsn_env: str, database: str, tables: tuple[str, ...], into: Path | None, form: str
) -> None:
    """Write rules for sets that pg_partman, pg-partsmith or a person has made. Changes nothing.

    Exits with 7 when something in them needs a person.
    """
    with errors():
        raise SystemExit(working("partition_adopt").run(dsn_env, database, tables, into, form))
