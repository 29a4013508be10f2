"""`scaler partitions adopt`: sets that others have made, as `partitions.yaml`."""

import asyncio
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from scaler.cli.imports import UNMAPPED, write
from scaler.cli.output import show
from scaler.clients.postgres import Postgres
from scaler.errors import ConfigError, NotFound
from scaler.importing import written
from scaler.importing.draft import Remark
from scaler.maintenance import partition_adopt
from scaler.maintenance.partition_adopt import Adopted
from scaler.maintenance.partition_rules import Database


def run(variable: str, database: str, tables: Sequence[str], into: Path | None, form: str) -> int:
    """Print or write the rules; 7 when something in them needs a person.

    Raises:
        ConfigError: the variable holds no address, or `into` exists.
        NotFound: there is no set, or none of `tables`.
        ScalerError: the database does not answer.
    """
    address = os.environ.get(variable)
    if not address:
        raise ConfigError(
            f"{variable} is not set; export {variable}=postgresql://USER@HOST/DATABASE"
        )
    wanted = {table if "." in table else f"public.{table}" for table in tables}
    adopted = asyncio.run(_looked(address, wanted))
    absent = wanted - {one.table for one in adopted}
    if absent or not adopted:
        which = ", ".join(sorted(absent)) or "this database"
        raise NotFound(
            f"{which}: there is no table partitioned by a range; name it like public.orders, and "
            "see scaler partitions convert for a plain one"
        )
    sets = [one.rules for one in adopted if one.rules]
    fields = {"version": 1, "databases": {database: {"dsn_env": variable, "partitions": sets}}}
    if sets:
        Database.model_validate(fields["databases"][database])  # type: ignore[index]
    text = _text(fields, database, adopted)
    if into is not None and not sets:
        raise NotFound("no set could be adopted; the reasons: " + "; ".join(_reasons(adopted)))
    if into is not None:
        write(into, text, f"scaler partitions plan --file {into}")
    else:
        show(form, {**fields, "remarks": _plain(adopted)}, text.rstrip)
    for reason in _reasons(adopted):
        click.echo(reason, err=True)
    needed = any(remark.kind != "differs" for one in adopted for remark in one.remarks)
    return UNMAPPED if needed else 0


async def _looked(address: str, tables: Collection[str]) -> list[Adopted]:
    database = Postgres(address)
    try:
        return await partition_adopt.found(database, tables)
    finally:
        await database.aclose()


def _text(fields: dict[str, Any], database: str, adopted: Sequence[Adopted]) -> str:
    remarks = []
    number = 0
    for one in adopted:
        place: tuple[str | int, ...] = ("databases", database, "partitions")
        if one.rules:
            place = (*place, number)
            number += 1
        remarks += [_at(remark, place, bool(one.rules)) for remark in one.remarks]
    lines = ["# Made by: scaler partitions adopt", *written.fields(fields, remarks)]
    return "\n".join(lines) + "\n"


def _at(remark: Remark, place: tuple[str | int, ...], kept: bool) -> Remark:
    """What is said of a set stands at its field, of one that is left out above all sets."""
    return replace(remark, at=(*place, *remark.at) if kept else place)


def _reasons(adopted: Sequence[Adopted]) -> list[str]:
    return [f"{one.table} ({one.maker}): {r.text()}" for one in adopted for r in one.remarks]


def _plain(adopted: Sequence[Adopted]) -> list[dict[str, str]]:
    return [
        {"table": one.table, "kind": r.kind, "field": r.field, "message": r.message}
        for one in adopted
        for r in one.remarks
    ]
