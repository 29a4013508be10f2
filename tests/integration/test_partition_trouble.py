"""Conversions that meet trouble: nothing is lost, it is said, and they go on afterwards."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scaler.clients.postgres import Handle, Postgres
from scaler.clock import SystemClock
from scaler.errors import Busy, ConfigError, Refused, ScalerError, Unavailable
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_copy import Watch
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partition_steps import Ears, Progress
from scaler.maintenance.partitions import DatabasePartitioner
from tests.integration.converter import WISH, wish
from tests.integration.ledger_traffic import NOTHING, Traffic, table, wrong
from tests.integration.ledgers import Books, with_ledger
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import SCALER, eventually, until

ROWS = 10_000
KIND = "SELECT relkind FROM pg_class WHERE relname = 'transactions'"
FILE = """\
databases:
  ledger:
    dsn: "{dsn}"
    partitions:
      - {{table: transactions, by: created_at, every: 1 month, locks: {{wait: 50ms, tries: 1000}}}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres("deadlock_timeout=10s") as server:
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


class Bounded(Postgres):
    """Notes the limits of each transaction, and how often a lock was not free in time."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.limits: set[tuple[timedelta, timedelta | None]] = set()
        self.refused = 0

    @asynccontextmanager
    async def transaction(
        self, *, lock_wait: timedelta, statement: timedelta | None = None
    ) -> AsyncIterator[Handle]:
        self.limits.add((lock_wait, statement))
        try:
            async with super().transaction(lock_wait=lock_wait, statement=statement) as handle:
                yield handle
        except Busy:
            self.refused += 1
            raise


async def test_a_long_transaction_holds_up_nobody_and_only_postpones_it(
    server: PostgresServer, place: str
) -> None:
    said: list[Progress] = []
    database = Bounded(server.dsn(place))
    conversion = Conversion(database, wish(), ears=Ears(told=said.append))
    clients = traffic(server, place)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with (
        await psycopg.AsyncConnection.connect(server.dsn(place)) as idle,
        await psycopg.AsyncConnection.connect(server.dsn(place), autocommit=True) as other,
        clients.running() as seen,
    ):
        await idle.execute("SELECT count(*) FROM transactions")
        running = asyncio.create_task(conversion.run(Stage.LIVE))
        await eventually(lambda: any("waits for" in one.message for one in said))
        for _ in range(100):  # a few seconds: no lock is asked for, so nobody waits behind it
            found = await (await other.execute(waiting)).fetchone()
            assert found is not None
            assert found[0] == 0
            await asyncio.sleep(0.03)
        assert not running.done()
        assert database.refused == 0
        await idle.rollback()
        assert (await running).stage is Stage.LIVE
    await database.aclose()
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(server.dsn(place), seen, ROWS) == NOTHING


async def test_one_that_comes_at_the_last_moment_costs_a_bounded_wait_each_time(
    server: PostgresServer, place: str
) -> None:
    """It is not seen when it is looked, so the lock is asked for: for so long, and again later."""
    locks = {"wait": "50ms", "max_block": "250ms", "tries": 100}
    database = Bounded(server.dsn(place))
    conversion = Conversion(database, wish(locks=locks))

    async def unseen(*_: Any) -> None:
        """Nobody is there."""

    conversion._hands._until_free = unseen  # type: ignore[assignment,method-assign]
    clients = traffic(server, place)
    async with (
        await psycopg.AsyncConnection.connect(server.dsn(place)) as idle,
        clients.running() as seen,
    ):
        await idle.execute("SELECT count(*) FROM transactions")
        running = asyncio.create_task(conversion.run(Stage.LIVE))
        await eventually(lambda: database.refused >= 3)
        await idle.rollback()
        assert (await running).stage is Stage.LIVE
    await database.aclose()
    wait, block = timedelta(milliseconds=50), timedelta(milliseconds=250)
    ours = {limit for limit in database.limits if limit[0] == wait}
    assert ours == {(wait, None), (wait, block)}
    assert (seen.errors, seen.missed) == ([], [])
    assert wrong(server.dsn(place), seen, ROWS) == NOTHING


@pytest.mark.parametrize(
    ("statement", "stage"),
    [
        ("ADD CONSTRAINT", Stage.LIVE),
        ("CREATE UNIQUE INDEX CONCURRENTLY", Stage.LIVE),
        ("ATTACH PARTITION", Stage.LIVE),
        ("CREATE TRIGGER", Stage.SPLIT),
        ("INSERT INTO", Stage.SPLIT),
        ("DETACH PARTITION", Stage.VERIFIED),
    ],
)
@pytest.mark.parametrize("loses_power", [False, True])
async def test_a_server_that_restarts_within_a_step_is_said_and_it_goes_on(
    server: PostgresServer,
    place: str,
    database: Postgres,
    statement: str,
    stage: Stage,
    loses_power: bool,
) -> None:
    broken = False

    def after(said: str) -> None:
        nonlocal broken
        if not broken and statement in said:
            broken = True
            if loses_power:
                server.kill()
                server.start()
            else:
                server.restart()

    unhurried = wish(locks={"max_block": "10s"})  # else a slow restart only has a swap tried again
    conversion = Conversion(database, unhurried, ears=Ears(after=after))
    with pytest.raises(ScalerError):
        await conversion.run(stage)
    assert broken
    assert (await conversion.run(Stage.VERIFIED)).stage is Stage.VERIFIED
    assert wrong(server.dsn(place), traffic(server, place).seen, ROWS) == NOTHING


async def test_a_disk_that_is_nearly_full_stops_the_copy(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    free = 10_000
    conversion = Conversion(database, wish(), watch=Watch(free_bytes=lambda: free))
    with pytest.raises(Unavailable, match="nothing is lost"):
        await conversion.run(Stage.SPLIT)
    free = 10**12
    assert (await conversion.run(Stage.VERIFIED)).stage is Stage.VERIFIED


async def test_a_disk_that_is_full_stops_the_copy_where_it_is(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    """The server says so in the middle of a batch, through a check that the copies share."""
    server.psql(
        "CREATE TABLE disk (rows_left int); INSERT INTO disk VALUES (4000);"
        "CREATE FUNCTION fits() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('used') > (SELECT rows_left FROM public.disk) THEN"
        " RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';"
        " END IF; RETURN true; END $$;"
        "CREATE SEQUENCE used; ALTER FUNCTION fits() SET search_path = public",
        place,
    )
    conversion = Conversion(database, wish())
    await conversion.run(Stage.LIVE)
    server.psql("ALTER TABLE transactions ADD CONSTRAINT fits CHECK (fits()) NOT VALID", place)
    with pytest.raises(Unavailable, match="No space left on device"):
        await conversion.run(Stage.SPLIT)
    known = await conversion.status()
    assert known is not None
    assert known.stage is Stage.LIVE
    assert 0 < known.steps["copy"]["rows"] < ROWS
    server.psql("UPDATE disk SET rows_left = 1000000", place)
    assert (await conversion.run(Stage.VERIFIED)).stage is Stage.VERIFIED
    assert wrong(server.dsn(place), traffic(server, place).seen, ROWS) == NOTHING


async def test_of_two_processes_one_converts_and_the_other_is_refused(
    server: PostgresServer, place: str, tmp_path: Path
) -> None:
    file = tmp_path / "partitions.yaml"
    file.write_text(FILE.format(dsn=server.dsn(place)))
    words = [SCALER, "partitions", "convert", "transactions", "--yes", "--file", str(file)]
    lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    async with await psycopg.AsyncConnection.connect(server.dsn(place)) as idle:
        await idle.execute("SELECT count(*) FROM transactions")
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as first:
            until(lambda: server.psql(lock, place) == "1", "the first is at work")
            second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            await idle.rollback()
            assert first.wait(60) == 0
    assert second.returncode == 5
    assert "public.transactions is being converted by process" in second.stderr
    assert server.psql(KIND, place) == "p"
    assert server.psql("SELECT count(*) FROM transactions", place) == str(ROWS)


async def test_of_two_processes_one_keeps_the_partitions_and_the_other_stands_by(
    server: PostgresServer, place: str, database: Postgres, tmp_path: Path
) -> None:
    await Conversion(database, wish(ahead=1)).run(Stage.LIVE)
    file = tmp_path / "partitions.yaml"
    file.write_text(FILE.format(dsn=server.dsn(place)))
    words = [SCALER, "partitions", "run", "--yes", "--file", str(file)]
    lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    async with await psycopg.AsyncConnection.connect(server.dsn(place)) as other:
        await other.execute("LOCK TABLE transactions IN SHARE UPDATE EXCLUSIVE MODE")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
            until(lambda: server.psql(lock, place) == "1", "the first is at work")
            second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            await other.rollback()
            assert first.wait(60) == 0
            assert first.stdout is not None
            assert "done: create transactions_" in first.stdout.read()
    assert second.returncode == 0
    assert "another run has the partitions of this database in hand" in second.stdout


async def test_a_replica_is_not_converted(tmp_path: Path) -> None:
    with serving_postgres() as server:
        server.psql(table(100, 40))
        (server.data / "standby.signal").touch()
        server.restart()
        database = Postgres(server.dsn())
        with pytest.raises(Refused, match="the server is a replica"):
            await Conversion(database, wish()).run()
        await database.aclose()
        file = tmp_path / "partitions.yaml"
        file.write_text(FILE.format(dsn=server.dsn()))
        run = subprocess.run(
            [SCALER, "partitions", "run", "--yes", "--file", str(file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (run.returncode, "the server is a replica" in run.stdout) == (0, True)
        assert server.psql(KIND) == "r"


async def test_a_query_whose_plan_becomes_worse_stops_the_swap(
    server: PostgresServer, place: str, database: Postgres
) -> None:
    """A row that is asked for without the key is looked for in each of the partitions."""
    queries = ["SELECT * FROM transactions WHERE id = 7"]
    conversion = Conversion(database, wish(ahead=60, migrate={"queries": queries}))
    with pytest.raises(Refused, match=r"would cost \d+ in place of 8; nothing has changed"):
        await conversion.run(Stage.LIVE)
    assert server.psql(KIND, place) == "r"
    assert server.psql("SELECT count(*) FROM transactions", place) == str(ROWS)
    assert (await conversion.undo()).stage is Stage.UNDONE
    few = Conversion(database, wish(ahead=3, migrate={"queries": queries}))
    assert (await few.run(Stage.LIVE)).stage is Stage.LIVE


async def test_a_server_that_loses_power_within_a_detach(server: PostgresServer) -> None:
    """The first half is committed, the second waits for a transaction; the next run does it."""
    books = Books(server, "halfway")
    books.ledger()
    bounds = "FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00')"
    books.sql(f"CREATE TABLE old PARTITION OF ledger FOR VALUES {bounds}")
    books.sql("INSERT INTO ledger VALUES (1, '2026-01-05 00:00+00', 1)")
    rules = {"keep": "3 months", "locks": {"wait": "10s"}}
    half = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
    idle = await psycopg.AsyncConnection.connect(server.dsn("halfway"))
    await idle.execute("SELECT count(*) FROM ledger")
    running = asyncio.create_task(books.run(rules))
    while server.psql(half, "halfway") == "0":
        await asyncio.sleep(0.02)
    server.psql("CHECKPOINT")  # it does not wait for the disk by itself
    server.kill()
    server.start()
    report = await running
    await idle.close()
    assert not report.ok
    assert "old" in books.partitions()
    report = await books.run(rules)
    assert report.outcomes[0].done[0] == "finish detaching old"
    assert "old" not in books.partitions()
    assert books.sql("SELECT count(*) FROM old") == "1"


async def test_who_keeps_the_sets_converts_as_well(server: PostgresServer, place: str) -> None:
    rules = Database.model_validate(
        {"name": "ledger", "dsn": server.dsn(place), "partitions": [WISH, {**WISH, "table": "x"}]}
    )
    keeper = DatabasePartitioner(rules, clock=SystemClock())
    assert (await keeper.convert("public.transactions")).stage is Stage.LIVE
    conversion = await keeper.conversion("public.transactions")
    assert (await conversion.undo()).stage is Stage.UNDONE
    with pytest.raises(ConfigError, match=r"public\.y stands in no partition set; there are"):
        await keeper.convert("public.y")
    await keeper.aclose()
    assert server.psql(KIND, place) == "r"
