"""Partition sets kept in order on a real PostgreSQL."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from scaler.clients.postgres import Postgres
from scaler.errors import PermanentError, Unavailable
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partitions import DatabasePartitioner
from tests.integration.ledgers import NOW, Books, Clock, counting, rules
from tests.integration.poolers import pooled
from tests.integration.postgreses import PostgresServer, serving_postgres

numbers = count()
KEEP = {"keep": "3 months"}
ROWS = "INSERT INTO ledger SELECT n, {at}, n FROM generate_series({low}, {high}) n"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres("log_statement=all", "log_line_prefix=%d|") as server:
        yield server


@pytest.fixture
def books(server: PostgresServer) -> Books:
    return Books(server, f"books{next(numbers)}")


async def test_partitions_are_created_ahead_and_then_nothing_is_left_to_do(books: Books) -> None:
    books.ledger()
    report = await books.run()
    assert report.ok, report
    names = ["ledger_2026_05", "ledger_2026_06", "ledger_2026_07", "ledger_2026_08"]
    assert books.partitions() == names
    bound = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'ledger_2026_06'"
    wanted = "FOR VALUES FROM ('2026-06-01 00:00:00+00') TO ('2026-07-01 00:00:00+00')"
    assert books.sql(f"SET timezone = UTC; SET datestyle = ISO; {bound}") == wanted
    assert books.sql("SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = "
                     "i.indrelid") == "8"  # fmt: skip
    books.sql("INSERT INTO ledger VALUES (1, '2026-05-31 23:59:59+00', 1)")

    seen: list[str] = []
    again = await books.run({"default": "none"}, connect=counting(seen))
    assert [o.done for o in again.outcomes] == [()]
    assert len(seen) <= 3


async def test_rows_ahead_of_the_clock_call_for_more_partitions(books: Books) -> None:
    books.ledger()
    await books.run()
    books.sql(ROWS.format(at="'2026-07-05 00:00+00'", low=1, high=10))
    books.sql("ANALYZE ledger")
    report = await books.run()
    assert report.outcomes[0].done == ("create ledger_2026_09", "create ledger_2026_10")


async def test_sizes_are_those_of_tables_with_all_that_belongs_to_them(books: Books) -> None:
    books.ledger()
    books.sql("ALTER TABLE ledger ADD COLUMN remark text;"
              " ALTER TABLE ledger ALTER remark SET STORAGE EXTERNAL")  # fmt: skip
    books.sql("CREATE TABLE ledger_2026_04 PARTITION OF ledger"
              " FOR VALUES FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00')")  # fmt: skip
    await books.run()
    books.sql("INSERT INTO ledger SELECT n, '2026-04-05 00:00+00', n, repeat('x', 5000)"
              " FROM generate_series(1, 500) n; ANALYZE ledger")  # fmt: skip
    books.sql("VACUUM ledger_2026_04")
    (plan,) = await books.keeper().plan()
    parts = (
        "pg_inherits i, LATERAL (SELECT inhrelid UNION SELECT indexrelid FROM pg_index WHERE "
        "indrelid = inhrelid UNION SELECT reltoastrelid FROM pg_class WHERE oid = inhrelid) p"
    )
    size = "SELECT sum(pg_relation_size(p.inhrelid)) FROM {} WHERE inhparent = 'ledger'::regclass"
    held = int(books.sql(size.format(parts)))
    assert held > 500 * 5000
    assert plan.forecast.held == held
    april = int(books.sql(f"{size.format(parts)} AND i.inhrelid = 'ledger_2026_04'::regclass"))
    assert plan.forecast.per_day == pytest.approx(april / 30)


async def test_a_disk_that_will_be_full_is_an_alarm(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.ledger()
    books.ledger("small")
    april = "FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00')"
    for table in ("ledger", "small"):
        books.sql(f"CREATE TABLE {table}_2026_04 PARTITION OF {table} FOR VALUES {april}")
    sets: tuple[dict[str, str], ...] = ({}, {"table": "small"})
    await books.run(*sets)
    books.sql(ROWS.format(at="'2026-04-05 00:00+00'", low=1, high=5000))
    books.sql("INSERT INTO small SELECT n, '2026-04-05 00:00+00', n FROM generate_series(1, 9) n")
    books.sql("ANALYZE ledger; ANALYZE small")

    async def found() -> list[tuple[str, str]]:
        return [(str(f.level), f.text) for one in await books.keeper(*sets).plan()
                for f in one.findings]  # fmt: skip

    assert await found() == []
    words = "public.ledger: it grows most; the disk of the server will be full within"
    for free, level, days in ((1000, "alarm", 7), (400_000, "warning", 30)):
        disk = {str(books.server.data): SimpleNamespace(free=free)}
        monkeypatch.setattr("shutil.disk_usage", disk.__getitem__)
        assert await found() == [(level, f"{words} {days} days")]

    def hidden(_: str) -> SimpleNamespace:
        raise PermissionError

    monkeypatch.setattr("shutil.disk_usage", hidden)
    assert await found() == []


async def test_a_converged_run_with_a_default_is_three_statements_and_no_ddl(
    books: Books, server: PostgresServer
) -> None:
    books.ledger()
    await books.run({"default": "guard"})
    begin = len(server.log())
    report = await books.run({"default": "guard"})
    assert [o.done for o in report.outcomes] == [()]
    sent = [line for line in server.log()[begin:].splitlines() if "statement: " in line or
            "execute " in line]  # fmt: skip
    assert len(sent) <= 3, sent
    assert not [line for line in sent if "CREATE" in line or "ALTER" in line]


async def test_old_partitions_are_detached_concurrently_and_dropped_after_their_grace(
    books: Books,
) -> None:
    books.ledger()
    for month in ("01", "02", "03", "04"):
        at = f"FROM ('2026-{month}-01 00:00+00') TO ('2026-0{int(month) + 1}-01 00:00+00')"
        books.sql(f"CREATE TABLE ledger_2026_{month} PARTITION OF ledger FOR VALUES {at}")
    books.sql("COMMENT ON TABLE ledger_2026_01 IS 'the first month'")
    expire = {**KEEP, "expire": {"drop_after": "7 days"}}
    report = await books.run(expire)
    assert "detach ledger_2026_01 concurrently" in report.outcomes[0].done
    assert "ledger_2026_01" not in books.partitions()
    assert "ledger_2026_02" in books.partitions(), "it ended less than three months ago"
    comment = books.sql("SELECT obj_description('ledger_2026_01'::regclass)")
    assert comment.endswith("\nthe first month")

    await books.clock.advance(timedelta(days=6))
    report = await books.run(expire)
    assert report.outcomes[0].done == ()
    await books.clock.advance(timedelta(days=1, seconds=1))
    report = await books.run(expire)
    assert report.outcomes[0].done == ("drop ledger_2026_01",)
    assert books.sql("SELECT to_regclass('ledger_2026_01') IS NULL") == "t"


async def test_what_a_crash_takes_is_done_again(books: Books, server: PostgresServer) -> None:
    books.ledger()
    books.sql("CREATE TABLE old PARTITION OF ledger FOR VALUES FROM ('2026-01-01 00:00+00') TO "
              "('2026-02-01 00:00+00')")  # fmt: skip
    books.sql(f"ALTER DATABASE {books.database} SET synchronous_commit = on")
    waits = []

    class Asking(Postgres):
        async def together(self, *words: Any, **options: Any) -> None:
            waits.append((await self.fetch("SHOW synchronous_commit"))[0][0])
            await super().together(*words, **options)

    report = await books.run(KEEP, connect=Asking)
    server.kill()
    server.start()
    assert "detach old concurrently" in report.outcomes[0].done
    assert set(waits) == {"off"}
    assert (await books.run(KEEP)).ok
    assert "old" not in books.partitions()
    assert '"detached": "2026-05-20' in books.sql("SELECT obj_description('old'::regclass)")


async def test_a_half_done_detach_is_finished(books: Books, server: PostgresServer) -> None:
    books.ledger()
    books.sql("CREATE TABLE old PARTITION OF ledger FOR VALUES FROM ('2026-01-01 00:00+00') TO "
              "('2026-02-01 00:00+00')")  # fmt: skip
    other = Postgres(server.dsn(books.database))
    async with other.transaction(lock_wait=timedelta(seconds=1)) as handle:
        await handle.fetch("SELECT count(*) FROM ledger")
        report = await books.run({**KEEP, "locks": {"wait": "50ms", "tries": 2}})
        assert report.outcomes[0].busy, report
        assert "old" in books.partitions()
    await other.aclose()
    report = await books.run(KEEP)
    assert report.outcomes[0].done[0] == "finish detaching old"
    assert "old" not in books.partitions()
    mark = books.sql("SELECT obj_description('old'::regclass)")
    assert '"detached": "2026-05-20' in mark


async def test_with_a_default_partition_a_short_lock_detaches(books: Books) -> None:
    books.ledger()
    books.sql("CREATE TABLE old PARTITION OF ledger FOR VALUES FROM ('2026-01-01 00:00+00') TO "
              "('2026-02-01 00:00+00')")  # fmt: skip
    report = await books.run({**KEEP, "default": "guard"})
    assert report.ok, report
    assert "detach old under a short lock" in report.outcomes[0].done
    assert books.partitions()[0] == "ledger_2026_02"
    assert "ledger_default" in books.partitions()


async def test_rows_of_the_default_partition_move_where_they_belong(books: Books) -> None:
    books.ledger()
    books.sql("CREATE TABLE rest PARTITION OF ledger DEFAULT")
    books.sql(ROWS.format(at="'2026-06-05 00:00+00'", low=1, high=1000))
    books.sql(ROWS.format(at="'2026-03-05 00:00+00'", low=1001, high=1500))
    books.sql("INSERT INTO ledger VALUES (0, '9000-01-01 00:00+00', 0)")
    report = await books.run()
    assert "move 1500 rows out of rest" in report.outcomes[0].done, report
    assert books.sql("SELECT count(*), sum(id) FROM ledger") == "1501|1125750"
    assert books.sql("SELECT count(*) FROM ledger_2026_06") == "1000"
    assert books.sql("SELECT count(*) FROM ledger_2026_03") == "500"
    assert books.sql("SELECT count(*) FROM rest") == "1"
    warnings = [f.text for f in report.outcomes[0].plan.findings]
    assert any("1 rows in its DEFAULT partition belong to no time" in w for w in warnings)
    again = await books.run()  # which may know by now that rows run ahead of the clock
    assert not [d for d in again.outcomes[0].done if not d.startswith("create ")]
    await books.clock.advance(timedelta(days=1, seconds=1))
    again = await books.run()
    assert [d for d in again.outcomes[0].done if d.startswith("drop rest_drained_")]


async def test_a_drain_that_takes_too_long_changes_nothing(books: Books) -> None:
    books.ledger()
    await books.run({"default": "guard", "ahead": 1})
    books.sql(ROWS.format(at="'2026-09-05 00:00+00'", low=1, high=10))

    class Slow(Clock):
        def monotonic(self) -> timedelta:
            self._elapsed += timedelta(milliseconds=200)
            return super().monotonic()

    books.clock = Slow()
    report = await books.run({"default": "guard", "ahead": 1})
    assert "draining DEFAULT takes longer than locks.max_block (250ms)" in report.outcomes[0].failed
    assert books.sql("SELECT count(*) FROM ledger_default") == "10"
    assert books.partitions() == ["ledger_2026_05", "ledger_2026_06", "ledger_default"]


async def test_one_bad_table_never_stops_the_others(books: Books, server: PostgresServer) -> None:
    for name in ("a", "locked", "z"):
        books.ledger(name)
    books.sql("CREATE TABLE plain (created_at timestamptz)")
    books.sql("CREATE TABLE listed (created_at text) PARTITION BY LIST (created_at)")
    books.sql("CREATE TABLE texts (created_at text) PARTITION BY RANGE (created_at)")
    tables = ("a", "gone", "plain", "listed", "texts", "locked", "z")
    other = Postgres(server.dsn(books.database))
    async with other.transaction(lock_wait=timedelta(seconds=1)) as handle:
        await handle.execute("LOCK TABLE locked")
        sets = [{"table": name, "locks": {"wait": "20ms", "tries": 2}} for name in tables]
        report = await books.run(*sets)
    await other.aclose()
    assert not report.ok
    said = {o.table: o.failed or " ".join(f.text for f in o.plan.findings) for o in report.outcomes}
    assert len(books.partitions("a")) == len(books.partitions("z")) == 4
    assert "there is no such table" in said["public.gone"]
    assert "is not partitioned yet" in said["public.plain"]
    assert "not partitioned by a range" in said["public.listed"]
    assert "texts.created_at is text; a key may be one of timestamp" in said["public.texts"]
    assert "lock timeout" in said["public.locked"]
    assert (await books.run({"table": "locked"})).ok


async def test_owning_the_tables_is_enough(books: Books) -> None:
    books.sql("CREATE ROLE owner; CREATE ROLE member LOGIN IN ROLE owner; CREATE ROLE other LOGIN")
    books.sql("CREATE SCHEMA s; GRANT USAGE, CREATE ON SCHEMA s TO owner; "
              "GRANT USAGE ON SCHEMA s TO other")  # fmt: skip
    books.sql("SET ROLE owner; CREATE TABLE s.ledger (created_at timestamptz NOT NULL) "
              "PARTITION BY RANGE (created_at)")  # fmt: skip
    books.sql("SET ROLE owner; CREATE TABLE s.old PARTITION OF s.ledger FOR VALUES FROM "
              "('2025-01-01 00:00+00') TO ('2025-02-01 00:00+00')")  # fmt: skip
    one = {"table": "s.ledger", **KEEP}
    refused = await books.run(one, user="other")
    assert not refused.ok
    (plan,) = (o.plan for o in refused.outcomes)
    assert "is owned by owner, so it cannot be changed; GRANT owner TO other" in str(plan.findings)
    report = await books.run(one, user="member")
    assert report.ok, report
    assert "detach old concurrently" in report.outcomes[0].done
    owners = (
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class "
        "WHERE relkind = 'r' AND relnamespace = 's'::regnamespace"
    )
    assert books.sql(owners) == "owner"


async def test_without_create_on_the_schema_the_missing_grant_is_named(books: Books) -> None:
    books.sql("CREATE ROLE poor LOGIN; CREATE SCHEMA t; GRANT ALL ON SCHEMA t TO poor")
    books.sql("SET ROLE poor; CREATE TABLE t.ledger (created_at timestamptz NOT NULL) "
              "PARTITION BY RANGE (created_at)")  # fmt: skip
    books.sql("REVOKE CREATE ON SCHEMA t FROM poor")
    report = await books.run({"table": "t.ledger"}, user="poor")
    found = str(report.outcomes[0].plan.findings)
    assert "GRANT CREATE ON SCHEMA t TO poor" in found


async def test_who_comes_second_stands_by(books: Books, server: PostgresServer) -> None:
    books.ledger()
    first, second = books.keeper(), books.keeper()
    assert await first._begin(0x7363616C65725031) == ""
    report = await second.run()
    assert report.standing_by == "another run has the partitions of this database in hand"
    assert books.partitions() == []
    assert len(await second.plan()) == 1
    await first.aclose()


async def test_a_hundred_sets_converge(books: Books) -> None:
    for number in range(100):
        books.ledger(f"t{number}")
    sets = [{"table": f"t{number}"} for number in range(100)]
    assert (await books.run(*sets)).ok
    assert books.sql("SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                     "WHERE c.relkind = 'r'") == "400"  # fmt: skip
    seen: list[str] = []
    again = await books.run(*sets, connect=counting(seen))
    assert {o.done for o in again.outcomes} == {()}
    assert len(seen) <= 3


async def test_gaps_are_filled_and_what_others_made_is_left_alone(books: Books) -> None:
    books.ledger()
    for name, low, high in (
        ("ledger_legacy", "MINVALUE", "'2026-02-10 00:00+00'"),
        ("ledger_odd", "'2026-03-10 07:30+00'", "'2026-03-10 08:30+00'"),
    ):
        books.sql(f"CREATE TABLE {name} PARTITION OF ledger FOR VALUES FROM ({low}) TO ({high})")
    report = await books.run({"keep": "1 month"})
    assert books.partitions() == [
        "ledger_2026_04", "ledger_2026_05", "ledger_2026_06", "ledger_2026_07", "ledger_2026_08",
        "ledger_legacy", "ledger_odd",
    ]  # fmt: skip
    assert "left alone: ledger_legacy" in str(report.outcomes[0].plan.findings)
    await books.run()
    assert {"ledger_2026_02", "ledger_2026_03", "ledger_2026_03_2"} < set(books.partitions())
    for day in ("02-10", "03-01", "03-10 07:29", "03-10 08:30", "03-31"):
        books.sql(f"INSERT INTO ledger VALUES (1, '2026-{day}+00', 1)" if ":" in day else
                  f"INSERT INTO ledger VALUES (1, '2026-{day} 00:00+00', 1)")  # fmt: skip
    assert (await books.run()).outcomes[0].done == ()


async def test_a_restart_of_the_server_in_the_middle_is_said_and_carried_on(
    books: Books, server: PostgresServer
) -> None:
    for name in ("a", "b"):
        books.ledger(name)

    class Breaking(Postgres):
        async def together(self, *words: Any, **options: Any) -> None:
            server.restart()
            await super().together(*words, **options)

    report = await books.run({"table": "a"}, {"table": "b"}, connect=Breaking)
    assert not report.ok
    failures = [o.failed for o in report.outcomes]
    assert "terminating connection" in failures[0]
    assert "what was begun is carried on by the next run" in failures[1]
    assert (await books.run({"table": "a"}, {"table": "b"})).ok
    assert len(books.partitions("a")) == len(books.partitions("b")) == 4


async def test_no_server_is_said(books: Books, server: PostgresServer) -> None:
    server.kill()
    with pytest.raises(Unavailable, match="connecting to PostgreSQL"):
        await books.run()
    server.start("log_statement=all", "log_line_prefix=%d|")


@pytest.mark.parametrize(
    ("kind", "key", "at"),
    [
        ("date", None, "'2026-06-30'"),
        ("timestamp", None, "'2026-06-30 23:59:59'"),
        ("timestamptz", None, "'2026-06-30 21:59:59+00'"),
        ("bigint", "epoch s", "1782856799"),
        ("bigint", "epoch ms", "1782856799999"),
        ("uuid", "uuidv7", "'019f1a8b-d6ff-7fff-bfff-ffffffffffff'"),
    ],
)
async def test_every_kind_of_key_in_a_zone(
    books: Books, kind: str, key: str | None, at: str
) -> None:
    """The last moment of June in Berlin lies in the partition of June, and DEFAULT drains to it."""
    books.sql(f"CREATE TABLE ledger (created_at {kind} NOT NULL) PARTITION BY RANGE (created_at)")
    one = {"key": key, "timezone": "Europe/Berlin", "default": "guard", "ahead": 2}
    assert (await books.run({**one, "ahead": 1})).ok
    names = ["ledger_2026_05", "ledger_2026_06", "ledger_default"]
    assert books.partitions() == names
    books.sql(f"INSERT INTO ledger VALUES ({at})")
    assert books.sql("SELECT count(*) FROM ledger_2026_06") == "1"
    later = {"date": "'2026-07-01'", "timestamp": "'2026-07-01'"}.get(kind)
    if later is None:
        number = str(at).strip("'")
        later = (
            str(int(number) + 1)
            if kind == "bigint"
            else {
                "uuid": "'019f1a8b-d700-7000-8000-000000000000'",
                "timestamptz": "'2026-06-30 22:00:00+00'",
            }[kind]
        )
    books.sql(f"INSERT INTO ledger VALUES ({later})")
    assert books.sql("SELECT count(*) FROM ledger_default") == "1"
    report = await books.run(one)
    assert report.ok, report
    assert books.sql("SELECT count(*) FROM ledger_2026_07") == "1"
    await books.run(one)
    assert (await books.run(one)).outcomes[0].done == ()


@pytest.mark.timeout(300)
async def test_killed_before_any_statement_the_next_run_carries_on(server: PostgresServer) -> None:
    """Creating, detaching, draining, dropping: whatever was begun comes to the same end."""
    one = {"keep": "3 months", "default": "guard", "expire": {"drop_after": "1 day"}}
    ended = False
    for point in range(2, 80, 3):
        books = Books(server, f"killed{point}")
        books.ledger()
        for name, month in (("old", 1), ("recent", 4)):
            bounds = f"FROM ('2026-0{month}-01 00:00+00') TO ('2026-0{month + 1}-01 00:00+00')"
            books.sql(f"CREATE TABLE {name} PARTITION OF ledger FOR VALUES {bounds}")
        if point % 2:  # else it is detached concurrently
            books.sql("CREATE TABLE ledger_default PARTITION OF ledger DEFAULT")
            books.sql(ROWS.format(at="'2026-06-05 00:00+00'", low=1, high=50))
        books.sql(ROWS.format(at="'2026-04-05 00:00+00'", low=51, high=99))
        chosen = {**one, "default": "guard" if point % 2 else "none"}
        found = rules(server, chosen, database=books.database, user="postgres")
        words = found.model_dump(mode="json", exclude_defaults=True) | {
            "dsn": server.dsn(books.database)
        }
        killed = subprocess.run(
            [sys.executable, "-m", "tests.integration.partition_killed", json.dumps(words),
             NOW.isoformat(), str(point)],
            check=False,
        )  # fmt: skip
        assert killed.returncode in (0, -9)
        for _ in range(2):
            assert (await books.run(chosen)).ok, point
        assert (await books.run(chosen)).outcomes[0].done == ()
        rows = "SELECT count(*), sum(id) FROM ledger"
        assert books.sql(rows) == ("99|4950" if point % 2 else "49|3675"), point
        names = books.partitions()
        assert "old" not in names
        assert {"recent", "ledger_2026_05", "ledger_2026_08"} < set(names)
        assert books.sql("SELECT to_regclass('old') IS NOT NULL") == "t"
        if ended and killed.returncode == 0:
            break
        ended = killed.returncode == 0
    assert ended


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_through_a_pooler_nothing_is_done_and_its_sessions_stay_as_they_were(
    books: Books, mode: str
) -> None:
    books.ledger()
    with pooled(books.server, mode) as address:
        dsn = address.replace("dbname=postgres", f"dbname={books.database}")
        found = rules(books.server, {}, database=books.database, user="postgres")
        keeper = DatabasePartitioner(
            found.model_copy(update={"dsn": SecretStr(dsn)}), clock=books.clock
        )
        for asked in (keeper.run, keeper.plan, keeper.verify):
            with pytest.raises(PermanentError, match="write the address of the server itself"):
                await asked()
        wish = found.partitions[0]
        database = Postgres(dsn)
        with pytest.raises(PermanentError, match="a pooler stands between us"):
            await Conversion(database, wish).run()
        assert await database.fetch("SHOW timezone") == [("Asia/Kolkata",)]
        assert await database.fetch(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        ) == [(0,)]
        await database.aclose()
    assert books.partitions() == []
