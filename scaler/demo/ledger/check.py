"""Whether the books are right: to the cent, and with every transfer that a client was told of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

import orjson

from scaler.clients.postgres import Handle
from scaler.clients.postgres_pool import Pool
from scaler.demo.ledger.records import Wanted
from scaler.errors import ConfigError

DEADLINE: Final = timedelta(minutes=5)  # of one look through all lines
MOST_SHOWN: Final = 5  # examples of one mistake
STEP: Final = 5000  # transfers compared at a time

_FOUND: Final = "SELECT *, count(*) OVER () FROM ({}) AS found LIMIT 5"
# Each answers with what is wrong, and nothing when all is well.
_LOOKS: Final[Mapping[str, str]] = {
    "all lines together are not zero": (
        "SELECT sum(amount)::text FROM transactions HAVING sum(amount) <> 0"
    ),
    "transfers that are not two lines with the sum zero": (
        "SELECT transfer_id::text FROM transactions GROUP BY transfer_id"
        " HAVING count(*) <> 2 OR sum(amount) <> 0 OR count(DISTINCT account_id) <> 2"
    ),
    "balances that are not the sum of their lines": (
        "SELECT 'account ' || coalesce(account_id, summed.id) || ': ' || coalesce(balance::text,"
        " 'no balance') || ' and not ' || coalesce(summed.total, 0) FROM balances"
        " FULL JOIN (SELECT account_id AS id, sum(amount) AS total FROM transactions GROUP BY 1)"
        " AS summed ON summed.id = account_id WHERE balance IS DISTINCT FROM coalesce(total, 0)"
    ),
    "accounts that owe and may not": (
        "SELECT 'account ' || id FROM accounts JOIN balances ON account_id = id"
        " WHERE balance < 0 AND NOT overdraft"
    ),
    "transfers that were asked for and have no such lines": (
        "SELECT t.key FROM transfers t WHERE 2 <> (SELECT count(*) FROM transactions l"
        " WHERE l.transfer_id = t.id AND l.created_at = t.created_at"
        " AND (l.account_id, l.amount) IN ((t.source, -t.amount), (t.target, t.amount)))"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """What a client was told: its transfer was made, as this number."""

    wanted: Wanted
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was looked at, and what is wrong; nothing wrong is an empty tuple."""

    lines: int
    transfers: int  # that clients asked for
    acknowledged: int
    wrong: tuple[str, ...]


async def check(pool: Pool, acknowledged: Sequence[Acknowledged] = ()) -> Checked:
    """All of it as of one moment. Changes nothing.

    `acknowledged` are transfers that clients were told of; each has to be there once, as it was
    asked for. Others may be there too: their answers got lost.
    """
    wrong: list[str] = []
    async with pool.snapshot() as handle:
        await handle.execute("SET LOCAL work_mem = '128MB'")
        for what, statement in _LOOKS.items():
            found = await handle.fetch(
                _FOUND.format(statement),
                deadline=DEADLINE,
            )
            if found:
                wrong.append(f"{found[0][1]} {what}: {', '.join(row[0] for row in found)}")
        wrong += await _told(handle, acknowledged)
        counts = await handle.fetch(
            "SELECT (SELECT count(*) FROM transactions), (SELECT count(*) FROM transfers)",
            deadline=DEADLINE,
        )
    lines, transfers = counts[0]
    return Checked(
        lines=lines, transfers=transfers, acknowledged=len(acknowledged), wrong=tuple(wrong)
    )


async def _told(handle: Handle, acknowledged: Sequence[Acknowledged]) -> list[str]:
    """What of that is missing or different, with a few examples."""
    known: dict[str, Acknowledged] = {}
    wrong: list[str] = []
    wrong += [
        f"{one.wanted.key} was acknowledged as two different transfers"
        for one in acknowledged
        if known.setdefault(one.wanted.key, one) != one
    ]
    keys = list(known)
    for at in range(0, len(keys), STEP):
        rows = await handle.fetch(
            "SELECT key, id, source, target, amount FROM transfers WHERE key = ANY (%s)",
            (keys[at : at + STEP],),
            deadline=DEADLINE,
        )
        there = {
            key: Acknowledged(
                wanted=Wanted(key=key, source=source, target=target, amount=amount), id=number
            )
            for key, number, source, target, amount in rows
        }
        for key in keys[at : at + STEP]:
            if key not in there:
                wrong.append(f"{key} was acknowledged and is not there")
            elif there[key] != known[key]:
                wrong.append(f"{key} was acknowledged and is another transfer")
    shown = wrong[:MOST_SHOWN]
    return [*shown, f"and {len(wrong) - MOST_SHOWN} more"] if len(wrong) > MOST_SHOWN else shown


def read_acknowledged(file: Path) -> list[Acknowledged]:
    """One JSON object in each line: key, id, from, to, amount.

    Raises:
        ConfigError: a line is none; the message names it.
    """
    return list(_read(file))


def _read(file: Path) -> Iterator[Acknowledged]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                plain = orjson.loads(line)
                wanted = Wanted(
                    key=plain["key"],
                    source=plain["from"],
                    target=plain["to"],
                    amount=Decimal(plain["amount"]),
                )
                yield Acknowledged(wanted=wanted, id=int(plain["id"]))
            except (ValueError, KeyError, TypeError, ArithmeticError):
                raise ConfigError(
                    f"{file}:{number}: is not an object with key, id, from, to and amount"
                ) from None
