"""Moves rows out of a DEFAULT partition so that no reader ever misses one.

Moving rows to a table that is not attached yet would hide them until it is, and PostgreSQL attaches
no partition for rows that DEFAULT still holds. So nothing is moved. The rows are copied into new
partitions and into a new DEFAULT, and one transaction exchanges the old DEFAULT for all of these:
before its commit readers find every row in the old table, after it in the new ones. No row is
deleted, so triggers of the table do not fire. The old DEFAULT stays, detached and marked, and is
dropped a day later.
"""

from datetime import datetime, timedelta
from typing import Final

from scaler.clients.postgres import Handle, Part, Query, listed, name, phrase
from scaler.core.units import format_span
from scaler.errors import PermanentError, Unavailable
from scaler.maintenance import partition_sql
from scaler.maintenance.partition_keeper import Keeper
from scaler.maintenance.partition_plan import Drain
from scaler.maintenance.partition_sql import Place

COLUMNS: Final = """
SELECT a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attgenerated = '' ORDER BY a.attnum
"""


async def drain(keeper: Keeper, step: Drain) -> None:
    """Put few rows where they belong; `partition_exchange` does it with many.

    They are copied in the transaction that exchanges the tables. It holds everybody up, for
    `locks.max_block` and the statement under way then at most.

    Raises:
        Busy: a lock was not free in time; nothing has changed.
        Unavailable: it would have taken longer than `locks.max_block`; nothing has changed.
    """
    grants = await keeper.grants()
    async with keeper.transaction(keeper.rules.locks.max_block) as handle:
        await _exchange(keeper, step, handle, grants)


async def _exchange(
    keeper: Keeper, step: Drain, handle: Handle, grants: list[partition_sql.Grant]
) -> None:
    parent, default = keeper.parent, (step.default.schema, step.default.name)
    columns = _columns(await handle.fetch(COLUMNS, parent))
    await handle.execute(phrase("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", name(*parent)))
    since = keeper.monotonic()
    (before,) = (await handle.fetch(phrase("SELECT count(*) FROM {}", name(*default))))[0]
    old = drained(default, keeper.now())
    await handle.execute(
        partition_sql.script(
            [
                partition_sql.detached(parent, default),
                partition_sql.renamed(default, old[1]),
                keeper.alike(default),
                *partition_sql.granted(default, grants),
                *(part for target in step.targets for part in keeper.made(target, grants)),
            ]
        )
    )
    belongs = [partition_sql.within(keeper.key, keeper.rules.by, t.bounds) for t in step.targets]
    copied = 0
    for target, condition in zip(step.targets, belongs, strict=True):
        copied += await handle.execute(_copy(old, keeper.at(target.name), columns, condition))
        _in_time(keeper, since)
    rest = phrase("({}) IS NOT TRUE", listed(belongs, " OR "))
    copied += await handle.execute(_copy(old, default, columns, rest))
    if copied != before:
        raise PermanentError(f"{copied} of {before} rows of {default[1]} would have been moved")
    await handle.execute(
        partition_sql.script(
            [
                *(
                    partition_sql.attached(parent, keeper.at(t.name), keeper.key, t.bounds)
                    for t in step.targets
                ),
                partition_sql.attached_default(parent, default),
                partition_sql.commented(old, keeper.drained(), step.default.comment),
            ]
        )
    )
    _in_time(keeper, since)


def drained(default: Place, now: datetime) -> Place:
    """What a DEFAULT partition is called when it is none any more."""
    return (default[0], f"{default[1][:40]}_drained_{now:%y%m%d%H%M%S}")


def _in_time(keeper: Keeper, since: timedelta) -> None:
    """Others have not been held up for too long yet.

    Raises:
        Unavailable: they have; what was done in the transaction is undone.
    """
    held, most = keeper.monotonic() - since, keeper.rules.locks.max_block
    if held > most:
        raise Unavailable(
            f"draining DEFAULT takes longer than locks.max_block ({format_span(most)}), so nothing "
            "was changed; raise it for one run at a quiet time"
        )


def _columns(rows: list[tuple[str, ...]]) -> Part:
    return listed([name(str(row[0])) for row in rows])


def _copy(source: Place, target: Place, columns: Part, condition: Part) -> Query:
    return phrase(
        "INSERT INTO {} ({}) SELECT {} FROM {} WHERE {}",
        name(*target),
        columns,
        columns,
        name(*source),
        condition,
    )
