"""The client of PostgreSQL against a real server: bounded waits, refusals, what is not shown."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from scaler.clients import postgres
from scaler.clients.postgres import Postgres
from scaler.errors import (
    Busy,
    ConfigError,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
)
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import until

SHORT = timedelta(milliseconds=50)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        server.psql("CREATE TABLE things (id int)")
        yield server


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[Postgres]:
    database = Postgres(server.dsn())
    yield database
    await database.aclose()


async def together(database: Postgres, *statements: str) -> None:
    async with database.transaction(lock_wait=SHORT, statement=4 * SHORT) as handle:
        for statement in statements:
            await handle.execute(statement)


async def test_rows_and_counts(database: Postgres) -> None:
    assert await database.fetch("SELECT %s::int + 1, 'x'", (1,)) == [(2, "x")]
    assert await database.execute("INSERT INTO things SELECT generate_series(1, 3)") == 3
    assert await database.execute("DELETE FROM things") == 3


async def test_names_and_values_are_quoted(database: Postgres) -> None:
    odd = 'a"b; DROP TABLE things'
    await database.execute(
        postgres.phrase(
            "CREATE TABLE {t} (at text DEFAULT {v})",
            t=postgres.name("public", odd),
            v=postgres.value("it's"),
        )
    )
    statement = postgres.phrase("INSERT INTO {} DEFAULT VALUES RETURNING at", postgres.name(odd))
    assert await database.fetch(statement) == [("it's",)]
    await database.execute(postgres.phrase("DROP TABLE {}", postgres.name(odd)))


async def test_a_transaction_is_all_or_nothing(database: Postgres) -> None:
    with pytest.raises(PermanentError, match="division by zero"):
        await together(database, "INSERT INTO things VALUES (1)", "SELECT 1 / 0")
    assert await database.fetch("SELECT count(*) FROM things") == [(0,)]
    assert await database.fetch("SHOW lock_timeout") == [("0",)]


async def test_one_message_is_all_or_nothing_and_bounded(
    server: PostgresServer, database: Postgres
) -> None:
    insert = postgres.phrase("INSERT INTO things VALUES (1)")
    for last, message in (("1 / 0", "INSERT INTO things.*division by zero"),
                          ("pg_sleep(60)", "statement timeout")):  # fmt: skip
        parts = (insert, postgres.given(f"SELECT {last}"))
        with pytest.raises(ScalerError, match=message):
            await database.together(parts, lock_wait=SHORT, statement=4 * SHORT)
    assert await database.fetch("SELECT count(*) FROM things") == [(0,)]
    other = Postgres(server.dsn())
    async with other.transaction(lock_wait=SHORT) as held:
        await held.execute("LOCK TABLE things")
        with pytest.raises(Busy, match="lock timeout"):
            await database.together((insert,), lock_wait=SHORT)
    await other.aclose()
    await database.together((insert, postgres.phrase("DELETE FROM things")), lock_wait=SHORT)
    assert await database.fetch("SHOW lock_timeout") == [("0",)]


async def test_a_lock_is_waited_for_no_longer_than_said(
    server: PostgresServer, database: Postgres
) -> None:
    other = Postgres(server.dsn())
    async with other.transaction(lock_wait=SHORT) as held:
        await held.execute("LOCK TABLE things")
        with pytest.raises(Busy, match="lock timeout"):
            await together(database, "ALTER TABLE things ADD COLUMN b int")
        with pytest.raises(Busy):
            await database.execute("ALTER TABLE things ADD COLUMN b int", lock_wait=SHORT)
    await other.aclose()
    assert await database.fetch("SHOW lock_timeout") == [("0",)]


async def test_a_statement_past_its_deadline_is_cancelled_on_the_server(
    database: Postgres, server: PostgresServer
) -> None:
    with pytest.raises(Unavailable):
        await database.fetch("SELECT pg_sleep(60)", deadline=SHORT)
    with pytest.raises(Unavailable):
        await together(database, "SELECT pg_sleep(60)")
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    until(lambda: server.psql(asleep) == "0", "the statement ends on the server")
    assert await database.fetch("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("SELECT * FROM nowhere", NotFound, 'relation "nowhere" does not exist'),
        ("SELEC 1", PermanentError, "syntax error"),
        ("SET ROLE nobody", PermanentError, 'role "nobody" does not exist'),
    ],
)
async def test_refusals_are_ours(
    database: Postgres, statement: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await database.execute(statement)


async def test_missing_rights_are_forbidden(server: PostgresServer) -> None:
    server.psql("CREATE ROLE stranger LOGIN")
    stranger = Postgres(server.dsn(user="stranger"))
    with pytest.raises(Forbidden, match="permission denied for table things"):
        await stranger.fetch("SELECT * FROM things")
    await stranger.aclose()


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ("user=nobody", Forbidden),
        ("dbname=nowhere", NotFound),
        ("host=/nowhere", Unavailable),
    ],
)
async def test_who_cannot_connect_hears_why(
    server: PostgresServer, parts: str, kind: type[Exception]
) -> None:
    database = Postgres(f"{server.dsn()} password=geheim {parts}")
    with pytest.raises(kind) as caught:
        await database.fetch("SELECT 1")
    assert "geheim" not in str(caught.value)


def test_an_address_that_cannot_be_read_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Postgres("postgres//me:geheim@host/db nonsense")
    assert "geheim" not in str(caught.value)


async def test_after_a_restart_of_the_server_the_next_statement_connects_anew(
    server: PostgresServer, database: Postgres
) -> None:
    await database.fetch("SELECT 1")
    first = database.connections
    server.restart()
    with pytest.raises(Unavailable):
        await database.fetch("SELECT 1")
    assert await database.fetch("SELECT 1") == [(1,)]
    assert database.connections == first + 1


async def test_a_cancelled_task_leaves_no_statement_behind(database: Postgres) -> None:
    task = asyncio.create_task(database.fetch("SELECT pg_sleep(60)"))
    while not database.backend:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.fetch("SELECT 1") == [(1,)]
