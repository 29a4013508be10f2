"""What stands in the way of a table that is to be partitioned, found before anything is done.

A finding that `stops` has to be remedied first, because the conversion would fail later or
something would quietly change for the clients. Everything here is pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from scaler.maintenance.partition_ranges import BY_TYPE, KeyKind
from scaler.maintenance.partition_table import Facts, Span

LONG: Final = timedelta(seconds=30)  # of an open transaction: the swap waits for such
BLOATED: Final = 0.3  # share of dead rows that is worth a VACUUM first


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to know before; `stops` when nothing goes on until it is remedied."""

    about: str
    message: str
    stops: bool = True


def kind_of(facts: Facts, said: KeyKind | None) -> KeyKind | None:
    """What the key holds; None when it is no column, or of no type that can be one."""
    column = facts.key_column
    possible = BY_TYPE.get(column.type, ()) if column else ()
    return said if said in possible else possible[0] if possible and said is None else None


def findings(facts: Facts, said: KeyKind | None, *, split: bool = False) -> tuple[Finding, ...]:
    """What the catalogue gives reason to say, those that stop first."""
    found = (
        *_about_table(facts),
        *_about_key(facts, said),
        *_about_indexes(facts, split=split),
        *_about_others(facts),
        *_about_rights(facts),
        *_about_state(facts, split=split),
    )
    return tuple(sorted(found, key=lambda one: not one.stops))


def _about_table(facts: Facts) -> Iterator[Finding]:
    where = f"{facts.schema}.{facts.table}"
    if facts.kind == "p":
        yield Finding(about="table", message=f"{where} is partitioned already; nothing to convert")
    elif facts.kind != "r":
        yield Finding(about="table", message=f"{where} is no table; name the table behind it")
    if facts.persistence != "p":
        yield Finding(
            about="table",
            message=f"{where} is not logged and would lose its rows in a crash; "
            f"run ALTER TABLE {where} SET LOGGED first",
        )
    if facts.inherits:
        yield Finding(
            about="inheritance",
            message=f"{where} inherits or is inherited from; run ALTER TABLE ... NO INHERIT first",
        )
    if facts.rules:
        yield Finding(about="rules", message=f"{where} has rules; drop them or make them triggers")
    if facts.version < 13:
        yield Finding(about="server", message=f"PostgreSQL {facts.version} is too old; 13 works")


def _about_key(facts: Facts, said: KeyKind | None) -> Iterator[Finding]:
    column = facts.key_column
    if column is None:
        names = ", ".join(c.name for c in facts.columns)
        yield Finding(about="key", message=f"there is no column {facts.key}; it has {names}")
    elif kind_of(facts, said) is None:
        wish = f" of {said}" if said else ""
        yield Finding(
            about="key",
            message=f"{facts.key} is {column.type}, which is no key{wish}; it has to be one of "
            + ", ".join(BY_TYPE),
        )
    elif column.generated:
        yield Finding(
            about="key",
            message=f"{facts.key} is generated, which a key may not be; choose a plain column",
        )
    elif not column.notnull:
        yield Finding(
            about="key",
            message=f"{facts.key} may be NULL so far; from the first step on it may not",
            stops=False,
        )


def _about_indexes(facts: Facts, *, split: bool) -> Iterator[Finding]:
    for index in facts.indexes:
        if not index.valid:
            yield Finding(
                about="index",
                message=f"{index.name} is not valid; REINDEX INDEX CONCURRENTLY or drop it",
            )
        elif index.exclusion:
            yield Finding(
                about="index",
                message=f"{index.name} is an exclusion constraint, which partitions cannot share; "
                "drop it first",
            )
        elif index.unique and not index.primary and facts.key not in index.columns:
            yield Finding(
                about="index",
                message=f"{index.name} is unique without {facts.key}: no index can keep that over "
                f"partitions; drop it, or make it unique together with {facts.key}",
            )
    primary = facts.primary
    if primary is not None and facts.key not in primary.columns:
        columns = ", ".join(primary.columns)
        yield Finding(
            about="primary key",
            message=f"({columns}) alone is unique within a partition only afterwards, and "
            f"ON CONFLICT ({columns}) has to become ON CONFLICT ({columns}, {facts.key})",
            stops=False,
        )
    if not facts.identity:
        yield Finding(
            about="primary key",
            message="nothing tells one row from another, so the history cannot be split; "
            "add a primary key",
            stops=split,
        )


def _about_others(facts: Facts) -> Iterator[Finding]:
    for other in facts.referenced_by:
        yield Finding(
            about="foreign key",
            message=f"{other} refers to this table by a key that will not be unique any more; "
            f"drop it, and afterwards add it again with {facts.key} in it",
        )
    for constraint in (*facts.checks, *facts.references):
        if not constraint.valid:
            yield Finding(
                about="constraint",
                message=f"{constraint.name} was never validated; VALIDATE CONSTRAINT it first",
            )
    for trigger in facts.triggers:
        if trigger.constraint or trigger.transition or trigger.enabled != "O":
            yield Finding(
                about="trigger",
                message=f"{trigger.name} is a constraint trigger, reads transition tables or is "
                "not enabled as usual, which does not carry over; drop it, and create it again",
            )
        else:
            yield Finding(
                about="trigger",
                message=f"{trigger.name} moves to the new table and fires as before",
                stops=False,
            )
    for view in facts.views:
        if not view.mine:
            yield Finding(
                about="view",
                message=f"{view.schema}.{view.name} reads this table and belongs to another role; "
                "grant us its owner, because it has to be replaced in the same transaction",
            )
    for what in facts.dependants:
        yield Finding(
            about="dependant",
            message=f"{what} would keep to the old table; drop it, and create it again afterwards",
        )
    for publication in facts.publications:
        yield Finding(
            about="publication",
            message=f"{publication} publishes this table; take it out, convert, and add it again "
            "with publish_via_partition_root",
        )


def _about_rights(facts: Facts) -> Iterator[Finding]:
    where = f"{facts.schema}.{facts.table}"
    if not facts.mine:
        yield Finding(
            about="rights",
            message=f"{where} belongs to {facts.owner}, and only its owner may change it; "
            f"run GRANT {facts.owner} TO CURRENT_USER as an administrator",
        )
    if not facts.creates_here:
        yield Finding(
            about="rights",
            message=f"no right to create tables in {facts.schema}; "
            f"run GRANT CREATE ON SCHEMA {facts.schema} TO the role we connect as",
        )
    if not facts.creates_schema:
        yield Finding(
            about="rights",
            message="no right to keep notes of the conversion; run CREATE SCHEMA scaler "
            "AUTHORIZATION the role we connect as",
        )
    if facts.replica_identity not in {"d", "n"}:
        yield Finding(
            about="replica identity",
            message="it is not the default one and does not carry over; "
            "run ALTER TABLE ... REPLICA IDENTITY DEFAULT first",
        )


def _about_state(facts: Facts, *, split: bool) -> Iterator[Finding]:
    if facts.longest is not None and facts.longest > LONG.total_seconds():
        yield Finding(
            about="transaction",
            message=f"one of {facts.longest_by} on this table is open for {facts.longest:.0f} s; "
            "the last step waits until it has ended, and holds up nobody meanwhile",
            stops=False,
        )
    if facts.rows > 0 and facts.dead / facts.rows > BLOATED:
        yield Finding(
            about="bloat",
            message=f"{facts.dead:.0f} of its rows are dead; VACUUM makes the steps quicker",
            stops=False,
        )
    if facts.tablespace:
        yield Finding(
            about="tablespace",
            message=f"it is in {facts.tablespace}; new partitions go to the default one",
            stops=False,
        )
    size = facts.bytes / 1e6
    if split:
        yield Finding(
            about="disk",
            message=f"the split needs room for a second copy, {size:,.0f} MB, until the old table "
            "is dropped, and writes about as much to the log",
            stops=False,
        )


def about_rows(span: Span, latest: int, key: str) -> tuple[Finding, ...]:
    """What the rows give reason to say; `latest` is the greatest key that is believed."""
    found = []
    if span.nulls:
        message = f"there are rows without {key}; fill them in or delete them"
        found.append(Finding(about="key", message=message))
    if span.endless:
        message = f"there are rows with {key} at infinity, which no range holds; give them a moment"
        found.append(Finding(about="key", message=message))
    if span.highest is not None and span.highest > latest:
        message = f"there are rows with {key} more than a year ahead; correct them, or the kind of"
        found.append(Finding(about="key", message=f"{message} the key (key: epoch s, epoch ms)"))
    return tuple(found)
