"""A live table becomes partitioned on a real PostgreSQL; every write of its clients is checked."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg
import pytest

from scaler.clients.postgres import Postgres
from scaler.clock import SystemClock
from scaler.errors import Forbidden, NotFound, PermanentError, Refused
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_steps import Ears, Progress
from tests.integration.converter import wish
from tests.integration.ledger_traffic import NOTHING, Traffic, table, wrong
from tests.integration.ledgers import with_ledger
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import eventually

ROWS = 20_000


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


@pytest.fixture
def place(server: PostgresServer, request: pytest.FixtureRequest) -> str:
    """A database of this test, with the ledger."""
    return with_ledger(server, request.node.name, ROWS)


@pytest.fixture
async def database(server: PostgresServer, place: str) -> AsyncIterator[Postgres]:
    database = Postgres(server.dsn(place))
    yield database
    await database.aclose()


def traffic(server: PostgresServer, place: str) -> Traffic:
    return Traffic(server.dsn(place), rows=ROWS)


async def test_no_write_is_lost_from_the_plain_table_to_the_ranges(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    clients = traffic(server, place)
    conversion = Conversion(database, wish())
    async with clients.running() as seen:
        await eventually(lambda: len(seen.waits_ms) > 50)
        live = await conversion.run(Stage.LIVE)
        assert live.stage is Stage.LIVE
        so_far = len(seen.waits_ms)
        await eventually(lambda: len(seen.waits_ms) > so_far + 50)
        ranges = await conversion.run(Stage.VERIFIED)
        assert ranges.stage is Stage.VERIFIED
        so_far = len(seen.waits_ms)
        await eventually(lambda: len(seen.waits_ms) > so_far + 50)
    assert (seen.errors, seen.missed) == ([], [])
    assert seen.reads > 10
    assert wrong(server.dsn(place), seen, ROWS) == NOTHING
    parts = server.psql("SELECT count(DISTINCT tableoid) FROM transactions", place)
    assert int(parts) >= 4
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND "
    key += "conrelid = 'transactions'::regclass"
    assert server.psql(key, place) == "PRIMARY KEY (id, created_at)"
    assert (await conversion.drop_old()).stage is Stage.DROPPED
    assert server.psql("SELECT to_regclass('transactions_history') IS NULL", place) == "t"
    assert wrong(server.dsn(place), seen, ROWS) == NOTHING


async def test_undone_under_load_it_is_the_table_that_it_was(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    look = "SELECT string_agg(relname || relkind::text, ',' ORDER BY relname) FROM pg_class WHERE "
    look += "relnamespace = 'public'::regnamespace"
    before = server.psql(look, place)
    clients = traffic(server, place)
    conversion = Conversion(database, wish())
    async with clients.running() as seen:
        await conversion.run(Stage.SPLIT)
        server.psql(
            "INSERT INTO transactions (id, account, amount, created_at) SELECT 10000000, 1, 5, "
            "now() + interval '45 days'",
            place,
        )
        seen.rows[10_000_000] = 5
        assert (await conversion.undo()).stage is Stage.UNDONE
        so_far = len(seen.waits_ms)
        await eventually(lambda: len(seen.waits_ms) > so_far + 50)
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(server.dsn(place), seen, ROWS) == NOTHING
    assert server.psql(look, place) == before
    assert (await conversion.run(Stage.LIVE)).stage is Stage.LIVE  # and again


async def test_before_the_split_an_undo_is_one_transaction(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    await Conversion(database, wish()).run(Stage.LIVE)
    query = "SELECT relkind FROM pg_class WHERE relname = 'transactions'"
    committed: list[tuple[str, str]] = []

    def after(statement: str) -> None:
        if statement.startswith("committed"):
            committed.append((statement, server.psql(query, place)))

    await Conversion(database, wish(), ears=Ears(after=after)).undo()
    assert committed[0] == ("committed undo", "r")


async def test_a_replica_that_stands_still_holds_the_split_back(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    said: list[Progress] = []
    guards = {"replica_lag": "1s", "wal_per_s": "4MB"}
    conversion = Conversion(database, wish(guards=guards), ears=Ears(told=said.append))
    await conversion.run(Stage.LIVE)
    replica = PostgresServer("hot_standby=on", follows=server)
    try:
        replica.start()
        replica.psql("SELECT pg_wal_replay_pause()")
        clients = traffic(server, place)
        async with clients.running() as seen:
            running = asyncio.create_task(conversion.run(Stage.VERIFIED))
            await eventually(lambda: any("a replica is" in one.message for one in said))
            copied = len([one for one in said if one.share is not None])
            so_far = len(seen.waits_ms)
            await eventually(lambda: len(seen.waits_ms) > so_far + 200)
            assert len([one for one in said if one.share is not None]) == copied
            replica.psql("SELECT pg_wal_replay_resume()")
            assert (await running).stage is Stage.VERIFIED
        assert (seen.errors, seen.missed) == ([], [])
        assert wrong(server.dsn(place), seen, ROWS) == NOTHING
    finally:
        replica.stop()


async def test_replicas_whose_lag_is_not_shown_to_us_stop_the_split(
    server: PostgresServer, place: str
) -> None:
    server.psql(
        "CREATE ROLE poor LOGIN; ALTER TABLE transactions OWNER TO poor; "
        "GRANT CREATE ON SCHEMA public TO poor; CREATE SCHEMA scaler AUTHORIZATION poor",
        place,
    )
    database = Postgres(server.dsn(place, "poor"))
    conversion = Conversion(database, wish())
    assert (await conversion.run(Stage.LIVE)).stage is Stage.LIVE
    replica = PostgresServer(follows=server)
    try:
        replica.start()
        with pytest.raises(PermanentError, match="run GRANT pg_monitor TO poor"):
            await conversion.run(Stage.SPLIT)
        server.psql("GRANT pg_monitor TO poor")
        assert (await conversion.run(Stage.SPLIT)).stage is Stage.SPLIT
    finally:
        replica.stop()
        await database.aclose()


class Slow(SystemClock):
    """A second goes by between two looks at it; pauses take no time."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = count()

    def monotonic(self) -> timedelta:
        return super().monotonic() + timedelta(seconds=next(self._seconds))

    async def sleep(self, span: timedelta) -> None:
        await asyncio.sleep(0)


async def test_a_lock_that_is_held_for_too_long_is_let_go(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    conversion = Conversion(database, wish(), clock=Slow())
    with pytest.raises(PermanentError, match="swap: it takes longer than 250 ms"):
        await conversion.run(Stage.LIVE)
    kind = "SELECT relkind FROM pg_class WHERE oid = 'transactions'::regclass"
    assert server.psql(kind, place) == "r"
    assert (await Conversion(database, wish()).run(Stage.LIVE)).stage is Stage.LIVE


async def test_batches_that_take_long_become_smaller(place: str, database: Postgres) -> None:
    await Conversion(database, wish()).run(Stage.LIVE)
    said: list[Progress] = []
    ears = Ears(told=said.append)
    conversion = Conversion(database, wish(), clock=Slow(), ears=ears)
    await conversion.run(Stage.SPLIT)
    rows = [int(one.message.split()[0].replace(",", "")) for one in said if one.share is not None]
    assert rows[-1] == ROWS
    assert rows[0] > 900
    assert rows[-2] - rows[-3] < 200, "the fewest are 100, in whole pages"


async def test_killed_at_any_of_many_points_it_goes_on(server: PostgresServer) -> None:
    """Each second statement and commit is the last of a process; no point is met twice."""
    rows = 5000
    server.psql("CREATE DATABASE killed")
    server.psql(table(rows, 90), "killed")
    dsn = server.dsn("killed")
    words = [sys.executable, "-m", "tests.integration.converter", dsn, "verified"]
    clients = Traffic(dsn, rows=rows)
    async with clients.running() as seen:
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    assert process.returncode == 0
    kills = output.decode().splitlines()
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(dsn, seen, rows) == NOTHING
    assert len(set(kills)) == len(kills) >= 50
    kinds = {kill.split()[0] for kill in kills}
    assert kinds >= {"ALTER", "CREATE", "DROP", "INSERT", "committed", "compared"}
    database = Postgres(dsn)
    status = await Conversion(database, wish()).status()
    await database.aclose()
    assert status is not None
    assert status.stage is Stage.VERIFIED


async def test_a_writer_above_read_committed_is_copied_again(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    conversion = Conversion(database, wish())
    await conversion.run(Stage.LIVE)
    async with await psycopg.AsyncConnection.connect(server.dsn(place)) as strict:
        await strict.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await strict.execute("SELECT 1 FROM pg_class")  # its snapshot is from before the copies
        await conversion.run(Stage.SPLIT)
        await strict.execute("DELETE FROM transactions WHERE id = 1")
        await strict.execute("UPDATE transactions SET amount = -7 WHERE id = 2")
        await strict.commit()
    assert (await conversion.run(Stage.VERIFIED)).stage is Stage.VERIFIED
    rows = server.psql("SELECT id, amount FROM transactions WHERE id < 4 ORDER BY id", place)
    assert rows == "2|-7\n3|3"


@pytest.mark.parametrize(
    ("statement", "more", "words"),
    [
        ("ALTER TABLE transactions ALTER created_at TYPE text", {}, "created_at is text"),
        ("SELECT 1", {"by": "happened_at"}, "there is no column happened_at"),
        ("CREATE UNIQUE INDEX odd ON transactions (amount)", {}, "odd is unique without"),
        ("CREATE TABLE x (t bigint REFERENCES transactions)", {}, "x_t_fkey"),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM transactions", {}, "would keep to the old"),
        ("CREATE PUBLICATION p FOR TABLE transactions", {}, "p publishes this table"),
        ("CREATE TABLE transactions_history (id int)", {}, "transactions_history exists already"),
        (
            "ALTER TABLE transactions ALTER created_at DROP NOT NULL; "  # noqa: ISC004
            "UPDATE transactions SET created_at = NULL WHERE id = 5",
            {},
            "there are rows without created_at",
        ),
        (
            "UPDATE transactions SET created_at = 'infinity' WHERE id = 5",
            {},
            "at infinity",
        ),
    ],
)
async def test_what_cannot_be_converted_is_said_and_left_alone(
    server: PostgresServer,
    place: str,
    database: Postgres,
    statement: str,
    more: dict[str, Any],
    words: str,
) -> None:
    server.psql(statement, place)
    with pytest.raises(Refused, match=words):
        await Conversion(database, wish(**more)).run()
    assert server.psql("SELECT relkind FROM pg_class WHERE relname = 'transactions'", place) == "r"


async def test_missing_rights_name_what_to_grant(server: PostgresServer, place: str) -> None:
    server.psql("CREATE ROLE guest LOGIN; GRANT SELECT ON transactions TO guest", place)
    guest = Postgres(server.dsn(place, "guest"))
    with pytest.raises((Refused, Forbidden), match="GRANT postgres TO"):
        await Conversion(guest, wish()).run()
    await guest.aclose()


async def test_a_table_that_is_gone_is_named(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    conversion = Conversion(database, wish())
    await conversion.run(Stage.LIVE)
    server.psql("DROP TABLE transactions CASCADE", place)
    with pytest.raises(NotFound, match="transactions_history is gone"):
        await conversion.run(Stage.SPLIT)
    with pytest.raises(NotFound, match="there is no table"):
        await Conversion(database, wish(table="nowhere")).run()


async def test_an_altered_copy_is_noticed_before_the_swap(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    conversion = Conversion(database, wish())
    await conversion.run(Stage.SPLIT)
    month = server.psql(
        "SELECT tablename FROM pg_tables WHERE tablename ~ '^transactions_20' ORDER BY 1 LIMIT 1",
        place,
    )
    server.psql(
        f"UPDATE {month} SET amount = amount + 1 WHERE id = (SELECT min(id) FROM {month})", place
    )
    with pytest.raises(PermanentError, match="the table stays as it is"):
        await conversion.run(Stage.VERIFIED)
    with pytest.raises(Refused, match="still in use"):
        await conversion.drop_old()


async def test_the_attached_table_is_not_read_under_the_lock(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    await database.execute("SET client_min_messages = debug1")
    conversion = Conversion(database, wish())
    implied = set()
    for stage in (Stage.LIVE, Stage.VERIFIED):
        await conversion.run(stage)
        implied |= {one for one in database.notices if "is implied by existing constraints" in one}
    attached = int(
        server.psql(
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'transactions'::regclass", place
        )
    )
    assert len(implied) == 1 + attached - 3  # those that were made empty are not attached


def test_the_script_names_every_statement(server: PostgresServer, place: str) -> None:
    async def script() -> str:
        database = Postgres(server.dsn(place))
        text = await Conversion(database, wish()).script()
        await database.aclose()
        return text

    text = asyncio.run(script())
    server_side = subprocess.run(
        ["psql", server.dsn(place), "-v", "ON_ERROR_STOP=1", "-q"],
        input=text,
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert server_side.returncode == 0, server_side.stderr
    assert server.psql("SELECT count(*) FROM transactions", place) == str(ROWS)
    assert server.psql("SELECT relkind FROM pg_class WHERE relname = 'transactions'", place) == "p"
