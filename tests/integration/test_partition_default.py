"""Many rows leave DEFAULT while clients write; each of their acknowledged writes is checked."""

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

from scaler.clock import SystemClock
from scaler.maintenance.partitions import Report
from tests.integration.ledger_traffic import NOTHING, Traffic, table, wrong
from tests.integration.ledgers import Books, kept, rules
from tests.integration.postgreses import PostgresServer, serving_postgres

numbers = count()
SET = {"table": "transactions", "default": "guard", "migrate": {"batch_rows": 1000}}
INTO_DEFAULT = """
ALTER TABLE transactions RENAME TO rest;
CREATE TABLE transactions (LIKE rest INCLUDING DEFAULTS INCLUDING IDENTITY,
  PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
CREATE INDEX ON transactions (account, created_at);
ALTER TABLE rest ALTER id DROP IDENTITY, DROP CONSTRAINT transactions_pkey;
SELECT setval(pg_get_serial_sequence('transactions', 'id'), (SELECT max(id) FROM rest));
ALTER TABLE transactions ATTACH PARTITION rest DEFAULT;
"""
UUID = (
    "(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0') || '70008000'"
    " || lpad(to_hex(i), 12, '0'))::uuid"
)
LEFT = "SELECT count(*) FROM pg_class WHERE relname ~ '_aside' AND relkind = 'r'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


def filled(server: PostgresServer, rows: int) -> Books:
    """All rows of the ledger are in DEFAULT, and there is no other partition."""
    books = Books(server, f"default{next(numbers)}")
    books.sql(table(rows, 120))
    books.sql(INTO_DEFAULT)
    return books


async def drained(books: Books, *, clock: Any = None, **more: Any) -> Report:
    keeper = books.keeper({**SET, **more})
    keeper._clock = clock or SystemClock()
    return await kept(keeper)


def where(books: Books) -> dict[str, int]:
    rows = "SELECT tableoid::regclass || ' ' || count(*) FROM transactions GROUP BY tableoid"
    return {line.split()[0]: int(line.split()[1]) for line in books.sql(rows).splitlines()}


async def test_fifty_thousand_rows_leave_under_load(server: PostgresServer) -> None:
    rows = 50_000
    books = filled(server, rows)
    books.sql("INSERT INTO transactions (id, account, amount, created_at) VALUES "
              "(90000000, 1, 7, '1969-01-01 00:00+00')")  # fmt: skip
    clients = Traffic(server.dsn(books.database), rows=rows)
    async with clients.running() as seen:
        seen.rows[90_000_000] = 7
        report = await drained(books)
        assert any(done.startswith("move ") for done in report.outcomes[0].done), report
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(server.dsn(books.database), seen, rows) == NOTHING
    found = where(books)
    assert found.pop("rest") == 1  # it belongs to no time that is kept
    assert len(found) >= 4
    assert f"transactions_{datetime.now(UTC):%Y_%m}" in found
    assert books.sql(LEFT) == "0"
    checks = "SELECT count(*) FROM pg_constraint WHERE conname ~ 'scaler_range'"
    assert books.sql(checks) == "0"
    assert (await drained(books)).outcomes[0].done == ()


async def test_killed_in_the_middle_the_next_run_carries_on(server: PostgresServer) -> None:
    rows = 10_000
    books = filled(server, rows)
    dsn = server.dsn(books.database)
    words = rules(server, SET, database=books.database, user="postgres").model_dump(
        mode="json", exclude_defaults=True
    )
    words = {**words, "dsn": dsn}
    command = [sys.executable, "-m", "tests.integration.partition_killed", json.dumps(words),
               datetime.now(UTC).isoformat()]  # fmt: skip
    clients = Traffic(dsn, rows=rows)
    kills = 0
    async with clients.running() as seen:
        for point in range(25, 1000, 8):  # each run comes further than the one before
            process = await asyncio.create_subprocess_exec(*command, str(point))
            code = await process.wait()
            kills += code == -signal.SIGKILL
            if code == 0 and "rest" not in where(books):
                break  # else it stood by: the session of the one before had not ended yet
    assert code == 0
    assert kills >= 5
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(dsn, seen, rows) == NOTHING
    assert (await drained(books)).ok
    assert set(where(books)) > {f"transactions_{datetime.now(UTC):%Y_%m}"}
    assert "rest" not in where(books)
    assert books.sql(LEFT) == "0"


async def test_what_holds_it_back_stops_it_and_the_next_run_goes_on(server: PostgresServer) -> None:
    rows = 5000
    books = filled(server, rows)
    said = ""
    keeper = books.keeper(SET, hold=lambda: said)
    keeper._clock = SystemClock()
    plans = await keeper.plan()
    (drain,) = (step for step in plans[0].steps if step.heavy)
    assert plans[0].later == ()
    looks = 0

    def hold() -> str:
        nonlocal looks
        looks += 1
        return "web is being scaled" if looks > 3 else ""

    keeper._hold = hold
    report = await kept(keeper)
    assert "the next run goes on: web is being scaled" in report.outcomes[0].failed
    copied = int(report.outcomes[0].failed.replace(",", "").split()[0])
    assert 0 < copied < rows
    assert where(books) == {"rest": rows}
    keeper._hold = lambda: ""
    assert (await kept(keeper)).ok
    assert "rest" not in where(books)
    assert sum(where(books).values()) == rows
    assert drain.because.startswith(f"{rows} rows belong into")


async def test_it_stops_when_the_other_tables_have_their_turn(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = filled(server, 3000)
    with monkeypatch.context() as patched:
        patched.setattr("scaler.maintenance.partition_exchange.TURN", timedelta())
        report = await drained(books)
    assert "the other tables have their turn" in report.outcomes[0].failed
    assert where(books) == {"rest": 3000}
    assert (await drained(books)).ok
    assert "rest" not in where(books)


async def test_a_table_that_changed_meanwhile_begins_anew(server: PostgresServer) -> None:
    books = filled(server, 5000)
    calls = iter([""] * 3 + ["later"] * 100)
    keeper = books.keeper(SET, hold=lambda: next(calls))
    keeper._clock = SystemClock()
    assert "later" in (await kept(keeper)).outcomes[0].failed
    books.sql("ALTER TABLE transactions ADD reviewed boolean NOT NULL DEFAULT true")
    report = await drained(books)
    assert report.ok, report
    assert books.sql("SELECT count(*) FROM transactions WHERE reviewed") == "5000"
    assert "rest" not in where(books)


async def test_a_transaction_that_stays_postpones_the_move(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = filled(server, 5000)
    monkeypatch.setattr("scaler.maintenance.partition_exchange.PATIENCE", timedelta(seconds=1))
    keeper = books.keeper(SET, hold=lambda: "later")
    keeper._clock = SystemClock()
    assert (await kept(keeper)).outcomes[0].done  # what is missing is created
    async with await psycopg.AsyncConnection.connect(server.dsn(books.database)) as idle:
        await idle.execute("SELECT count(*) FROM transactions")
        report = await drained(books)
        assert "stays on public.rest; the next run goes on" in report.outcomes[0].failed
        assert where(books) == {"rest": 5000}
    assert (await drained(books)).ok
    assert "rest" not in where(books)


async def test_rows_that_nothing_tells_apart_are_left_and_named(server: PostgresServer) -> None:
    books = Books(server, "twins")
    books.sql("CREATE TABLE transactions (created_at timestamptz) PARTITION BY RANGE (created_at);"
              "CREATE TABLE rest PARTITION OF transactions DEFAULT;"
              "INSERT INTO transactions SELECT now() FROM generate_series(1, 1500)")  # fmt: skip
    report = await drained(books)
    assert "nothing tells one row of public.transactions from another" in report.outcomes[0].failed
    assert where(books) == {"rest": 1500}


async def test_every_belonging_of_the_table_goes_with_the_rows(server: PostgresServer) -> None:
    """Foreign keys, a generated column, NULL as a key, rights, and an owner that is not us."""
    books = Books(server, "belongings")
    books.sql(
        "CREATE ROLE keeps; CREATE ROLE works LOGIN IN ROLE keeps; CREATE ROLE reads;"
        "GRANT CREATE ON DATABASE belongings TO works; GRANT ALL ON SCHEMA public TO keeps;"
        "SET ROLE keeps; CREATE TABLE accounts (id int PRIMARY KEY);"
        "INSERT INTO accounts SELECT generate_series(0, 9);"
        "CREATE TABLE transactions (id int, account int REFERENCES accounts,"
        " twice int GENERATED ALWAYS AS (account * 2) STORED, created_at timestamptz,"
        " UNIQUE (id, created_at)) PARTITION BY RANGE (created_at);"
        "GRANT SELECT ON transactions TO reads;"
        "ALTER TABLE transactions ALTER id SET NOT NULL, ALTER created_at SET NOT NULL;"
        "CREATE TABLE rest PARTITION OF transactions DEFAULT;"
        "INSERT INTO transactions (id, account, created_at)"
        " SELECT i, i % 10, now() - i * interval '1 hour' FROM generate_series(1, 1500) i"
    )
    keeper = books.keeper({**SET, "template": {"privileges": "copy"}}, user="works")
    keeper._clock = SystemClock()
    report = await kept(keeper)
    assert report.ok, report
    assert sum(where(books).values()) == 1500
    month = f"transactions_{datetime.now(UTC):%Y_%m}"
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename ~ 'transactions|rest'"
    assert books.sql(owners) == "keeps"
    rights = "SELECT count(*), bool_and(has_table_privilege('reads', inhrelid, 'SELECT'))"
    rights += " FROM pg_inherits WHERE inhparent = 'transactions'::regclass"
    there = len(books.partitions("transactions"))  # those that were made empty as well
    assert books.sql(rights) == f"{there}|t"
    keys = f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{month}'::regclass "
    assert books.sql(keys + "AND contype = 'f' AND conparentid <> 0") == "1"
    assert books.sql("SELECT sum(twice) FROM transactions") == "13500"


@pytest.mark.parametrize(
    ("kind", "key", "made"),
    [
        ("date", None, "{at}"),
        ("timestamp", None, "{at}"),
        ("timestamptz", None, "{at}"),
        ("bigint", "epoch s", "extract(epoch FROM {at})::bigint"),
        ("bigint", "epoch ms", "(extract(epoch FROM {at}) * 1000)::bigint"),
        (
            "uuid",
            "uuidv7",
            UUID,
        ),
    ],
)
async def test_every_kind_of_key_leaves_a_gap_to_default(
    server: PostgresServer, kind: str, key: str | None, made: str
) -> None:
    """May and March are moved; April, of which there are no rows, goes on to be in DEFAULT."""
    books = Books(server, f"kinds{next(numbers)}")
    books.sql(f"CREATE TABLE transactions (id int, created_at {kind}, PRIMARY KEY (id, created_at))"
              " PARTITION BY RANGE (created_at);"
              "CREATE TABLE rest PARTITION OF transactions DEFAULT")  # fmt: skip
    at = "(timestamptz '2026-{month}-15 00:00+00' + i * interval '1 hour')"
    for month, low, high in (("03", 1, 200), ("05", 201, 300)):
        made_at = made.format(at=at.format(month=month))
        books.sql(
            f"SET timezone = UTC; INSERT INTO transactions SELECT i, {made_at}"
            f" FROM generate_series({low}, {high}) i"
        )
    one = {"migrate": {"batch_rows": 100}, "key": key, "keep": "12 months"}
    report = await drained(books, clock=books.clock, **one)
    assert any(done.startswith("move 300 rows") for done in report.outcomes[0].done), report
    found = where(books)
    assert found == {"transactions_2026_03": 200, "transactions_2026_05": 100}
    bound = "SELECT relpartbound IS NOT NULL FROM pg_class WHERE relname = 'rest'"
    assert books.sql(bound) == "t"
    assert (await drained(books, clock=books.clock, **one)).ok
    assert "transactions_2026_04" in books.partitions("transactions")
