"""`scaler partitions convert`: a live table becomes partitioned, step by step."""

from pathlib import Path

import click

from scaler.cli.group import daemon_of, errors, output, settings_of
from scaler.cli.partition_commands import DEFAULT_FILE, in_file, partitions, working

EXAMPLES = (
    "scaler partitions convert transactions\n"
    "scaler partitions convert transactions --sql\n"
    "scaler partitions convert transactions --until verified --yes\n"
    "scaler partitions convert transactions --undo"
)


@partitions.command(epilog=EXAMPLES)
@click.argument("table")
@in_file
@click.option(
    "--until",
    type=click.Choice(["live", "split", "verified"]),
    default="live",
    show_default=True,
    help="live: partitioned; split: the history copied aside; verified: compared, in place.",
)
@click.option("--sql", "action", flag_value="sql", help="Print what would run, and do nothing.")
@click.option("--status", "action", flag_value="status", help="Show how far it is.")
@click.option("--undo", "action", flag_value="undo", help="Make it the table that it was.")
@click.option("--drop-old", "action", flag_value="drop", help="Drop the old table, once verified.")
@click.option("-y", "--yes", is_flag=True, help="Do it without a question.")
@output
@click.pass_context
def convert(
    context: click.Context,
    file: Path | None,
    table: str,
    until: str,
    action: str | None,
    form: str,
    *,
    yes: bool,
) -> None:
    """Turn TABLE, which stands in the file, into a partitioned one while it is in use.

    It may be broken off at any moment; the same command goes on. Nothing is dropped but by
    --drop-old.
    """
    with errors():
        work = working("partition_conversions")
        path = file or settings_of(context).partitions or DEFAULT_FILE
        found = work.chosen(path, table)
        daemon = daemon_of(context)
        raise SystemExit(work.convert(found, action or "run", until, form, yes=yes, daemon=daemon))
