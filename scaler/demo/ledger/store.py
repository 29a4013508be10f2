"""The ledger in PostgreSQL: its statements, its schema, and its seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from scaler.clients.postgres import Postgres
from scaler.clients.postgres_pool import Pool
from scaler.demo.ledger.records import (
    Account,
    Day,
    Line,
    Made,
    Outcome,
    Position,
    Wanted,
    following,
    midnight,
)
from scaler.errors import ConfigError
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_file import load_partitions
from scaler.maintenance.partition_notes import Stage

FOLDER: Final = Path(__file__).parent
PARTITIONS: Final = FOLDER / "partitions.yaml"
DEADLINE: Final = timedelta(seconds=5)  # of a statement of the application
OPENING: Final = 1_000_000  # what each account begins with
MONTHS: Final = 24  # that the seed reaches back
SYMBOLS: Final = {"AAPL": 230, "MSFT": 430, "SAP": 210, "SIE": 190, "ALV": 330, "BTC": 90_000}
MOST_ROWS: Final = 50_000_000  # of a seed

_LINES: Final = (
    "SELECT id, transfer_id, account_id, amount, created_at FROM transactions"
    " WHERE created_at >= %s AND created_at < %s AND (created_at, id) > (%s, %s){which}"
    " ORDER BY created_at, id LIMIT %s"
)
_REPORT: Final = (
    "SELECT (created_at AT TIME ZONE 'UTC')::date, count(*), sum(amount) FROM transactions"
    " WHERE created_at >= %s AND created_at < %s AND amount > 0 GROUP BY 1 ORDER BY 1"
)
# A price that moves: two waves about a reference, never more than 3 % away from it.
_QUOTE: Final = (
    "SELECT round(reference * (1 + 0.02 * sin(extract(epoch FROM now()) / 60)"
    " + 0.01 * sin(extract(epoch FROM now()) / 7 + length(symbol)))::numeric, 4)"
    " FROM quotes WHERE symbol = %s"
)
_BALANCES: Final = (
    "INSERT INTO balances (account_id, balance) SELECT a.id, coalesce(sum(t.amount), 0)"
    " FROM accounts a LEFT JOIN transactions t ON t.account_id = a.id GROUP BY a.id"
)
# Lines of transfer i: two, from one account to another that is never the same. The first ones open
# the accounts. 7919 and 104729 are primes, so that amounts and accounts are spread.
# One transaction on an emptied table, whose key comes afterwards: no index is kept up, and with
# wal_level=minimal nothing is logged. For 2 M lines 3.8 s; COPY by way of a client took 16.5 s.
_SEED: Final = """
TRUNCATE transactions;
ALTER TABLE transactions DROP CONSTRAINT transactions_pkey;
INSERT INTO transactions (transfer_id, account_id, amount, created_at)
  SELECT i, (CASE side WHEN 1 THEN target ELSE source END)::bigint,
         (CASE side WHEN 1 THEN cents ELSE -cents END / 100.0)::numeric(18, 2), at
  FROM (
    SELECT i,
      CASE WHEN i <= {accounts} THEN 0 ELSE 1 + (i * 7919) % {accounts} END AS source,
      CASE WHEN i <= {accounts} THEN i
           ELSE 1 + ((i * 7919) % {accounts} + 1 + (i * 104729) % ({accounts} - 1)) % {accounts}
      END AS target,
      CASE WHEN i <= {accounts} THEN {opening} * 100 ELSE 1 + (i * 104729) % 25000 END AS cents,
      timestamptz '{begin}'
        + (timestamptz '{end}' - timestamptz '{begin}') * (i::float8 / {transfers}) AS at
    FROM generate_series(1::bigint, {transfers}) AS i OFFSET 0
  ) AS made CROSS JOIN (VALUES (0), (1)) AS sides (side);
ALTER TABLE transactions ADD PRIMARY KEY (id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """How much there is to begin with."""

    accounts: int = 1000
    rows: int = 2_000_000  # lines of transactions: two for each transfer

    def __post_init__(self) -> None:
        if not 2 <= self.accounts <= self.rows // 2 or self.rows > MOST_ROWS:
            raise ConfigError(
                f"{self.rows} rows for {self.accounts} accounts cannot be: write 2 accounts or "
                f"more, and from two rows for each of them to {MOST_ROWS} rows"
            )


class PostgresStore:
    """`records.Store`, by a pool of connections."""

    def __init__(self, dsn: str, *, connections: int = 8) -> None:
        self._dsn = dsn
        self.pool = Pool(dsn, most=connections)

    async def open(self) -> None:
        await self.pool.open()

    async def _one(self, statement: str, *params: Any) -> Any:
        rows = await self.pool.fetch(statement, params, deadline=DEADLINE)
        return rows[0] if rows else None

    async def account(self, number: int) -> Account | None:
        row = await self._one(
            "SELECT id, owner, currency, opened_at FROM accounts WHERE id = %s", number
        )
        return Account(id=row[0], owner=row[1], currency=row[2], opened_at=row[3]) if row else None

    async def balance(self, number: int) -> Decimal | None:
        row = await self._one("SELECT balance FROM balances WHERE account_id = %s", number)
        return row[0] if row else None

    async def lines(
        self,
        begin: datetime,
        end: datetime,
        account: int | None,
        *,
        after: Position | None,
        most: int,
    ) -> Sequence[Line]:
        place = (after.at, after.id) if after else (begin, -1)
        which = "" if account is None else " AND account_id = %s"
        whose = () if account is None else (account,)
        statement = _LINES.format(which=which)
        rows = await self.pool.fetch(
            statement, (begin, end, *place, *whose, most), deadline=DEADLINE
        )
        return [Line(id=a, transfer=b, account=c, amount=d, created_at=e) for a, b, c, d, e in rows]

    async def transfer(self, wanted: Wanted) -> Made:
        row = await self._one(
            "SELECT * FROM transfer(%s, %s, %s, %s)",
            wanted.key, wanted.source, wanted.target, wanted.amount,
        )  # fmt: skip
        return Made(outcome=Outcome(row[0]), id=row[1], at=row[2])

    async def report(self, month: date) -> Sequence[Day]:
        span = (midnight(month), midnight(following(month)))
        rows = await self.pool.fetch(_REPORT, span)
        return [Day(day=day, transfers=count, turnover=total) for day, count, total in rows]

    async def quote(self, symbol: str) -> Decimal | None:
        row = await self._one(_QUOTE, symbol)
        return row[0] if row else None

    async def ready(self) -> bool:
        return await self.pool.ping()

    async def aclose(self) -> None:
        await self.pool.aclose()

    # --- making it ---

    async def make(self, seed: Seed, now: datetime) -> None:
        """The schema with its seed, all before `now`.

        Raises:
            ConfigError: there is one in this database already; nothing has changed.
        """
        ((there,),) = await self.pool.fetch("SELECT to_regclass('transactions')::text")
        if there:
            raise ConfigError("there is a ledger in this database already; nothing was changed")
        async with self.pool.connection() as handle:
            await handle.fetch((FOLDER / "schema.sql").read_text())
            begin = midnight(_earlier(now.date(), MONTHS))
            await handle.fetch(
                "INSERT INTO accounts (id, owner, overdraft, opened_at)"
                " SELECT i, CASE i WHEN 0 THEN 'the bank' ELSE 'Customer ' || i END, i = 0, %s"
                " FROM generate_series(0, %s) AS i",
                (begin, seed.accounts),
            )
            for symbol, price in SYMBOLS.items():
                await handle.fetch("INSERT INTO quotes VALUES (%s, %s)", (symbol, price))
        transfers = seed.rows // 2
        rows = _SEED.format(
            accounts=seed.accounts,
            transfers=transfers,
            opening=OPENING,
            begin=begin.isoformat(),
            end=now.isoformat(),
        )
        await self.pool.fetch(rows, deadline=None)
        for statement in (
            f"SELECT setval('transfer_ids', {transfers})",
            "CREATE INDEX transactions_created ON transactions (created_at, id)",
            "CREATE INDEX transactions_account ON transactions (account_id, created_at, id)",
            _BALANCES,
            "ANALYZE",
        ):
            await self.pool.fetch(statement)

    async def convert(self, *, split: bool = False) -> None:
        """The plain table becomes partitioned by month, while it is in use.

        `split` also moves the history into months; else it is one partition until then.
        """
        database = Postgres(self._dsn, name="scaler convert")
        (wish,) = load_partitions(PARTITIONS).rules["ledger"].partitions
        try:
            await Conversion(database, wish).run(Stage.VERIFIED if split else Stage.LIVE)
        finally:
            await database.aclose()


def _earlier(day: date, months: int) -> date:
    """The first day of the month so many months before."""
    whole = day.year * 12 + day.month - 1 - months
    return date(whole // 12, whole % 12 + 1, 1)
