"""What it costs to keep partition sets in order, and what retention by partitions saves.

Against the goals: 100 sets that each miss a partition, kept in one run; the run after it, which
must find nothing to do; and a month of 24 retired by detaching and dropping its partition, beside
DELETE and VACUUM of the same rows in a table that is not partitioned, in turns: both without the
time it takes to connect and to look, which is a figure of its own, and without the load that they
have in `retain`. The server waits for the disk.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from benchmarks.outcome import Outcome
from benchmarks.partitionbench.rig import ROWS, say
from scaler.clients.postgres import Postgres
from scaler.clock import ManualClock
from scaler.maintenance.partition_facts import Detached, Mark
from scaler.maintenance.partition_keeper import Keeper
from scaler.maintenance.partition_plan import Drop, Retire
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner
from tests.integration.postgreses import PostgresServer

SETS: Final = int(os.environ.get("SCALER_BENCH_SETS", "100"))
MONTHS: Final = 24
KEPT: Final = timedelta(days=730)
MONTH_ROWS: Final = ROWS // MONTHS
ROUNDS: Final = 8
WHOLE_ROUNDS: Final = 3  # with connecting and looking
NOW: Final = datetime(2026, 5, 20, 12, tzinfo=UTC)
COLUMNS: Final = (
    "id bigint NOT NULL, account int, amount bigint, note text, created_at timestamptz NOT NULL"
)
INDEXES: Final = (
    "ALTER TABLE {t} ADD PRIMARY KEY (id, created_at); CREATE INDEX ON {t} (created_at); "
    "CREATE INDEX ON {t} (account, created_at); CREATE INDEX ON {t} (amount)"
)

Step = Callable[[], Awaitable[Any]]


class Clock(ManualClock):
    """Stands at one moment; pauses are real, so that the figures are."""

    async def sleep(self, span: timedelta) -> None:
        await asyncio.sleep(span.total_seconds())


def partitioner(dsn: str, sets: list[dict[str, Any]], **more: Any) -> Any:
    rules = Database.model_validate({"name": "bench", "dsn": dsn, "partitions": sets})
    return DatabasePartitioner(rules, clock=Clock(more.pop("now", NOW)), **more)


async def measure(outcome: Outcome) -> None:
    server = PostgresServer("fsync=on", "synchronous_commit=on", "full_page_writes=on",
                            "shared_buffers=128MB", "max_wal_size=4GB")  # fmt: skip
    try:
        server.start("log_statement=all", "log_line_prefix=")
        say(f"  {SETS} sets")
        await _sets(server, outcome)
        server.restart()  # nothing is logged from now on
        say(f"  retention of {MONTH_ROWS:,} rows")
        await _retention(server, outcome)
    finally:
        server.stop()


async def _sets(server: PostgresServer, outcome: Outcome) -> None:
    for number in range(SETS):
        server.psql(
            f"CREATE TABLE s{number} ({COLUMNS}) PARTITION BY RANGE (created_at); "
            + INDEXES.format(t=f"s{number}")
        )
    sets = [{"table": f"s{n}", "by": "created_at", "every": "month"} for n in range(SETS)]
    began = time.monotonic()
    assert (await partitioner(server.dsn(), sets).run()).ok
    first = time.monotonic() - began
    took = []
    for months in range(1, WHOLE_ROUNDS + 1):
        later = NOW + timedelta(days=30.5 * months)
        began = time.monotonic()
        report = await partitioner(server.dsn(), sets, now=later).run()
        took.append(time.monotonic() - began)
        assert report.ok
        assert all(len(o.done) == 1 for o in report.outcomes)
    before = len(server.log())
    began = time.monotonic()
    report = await partitioner(server.dsn(), sets, now=later).run()
    converged = time.monotonic() - began
    assert all(o.done == () for o in report.outcomes)
    sent = [
        line
        for line in server.log()[before:].splitlines()
        if "statement: " in line or "execute <unnamed>: " in line
    ]
    ddl = [line for line in sent if any(word in line for word in ("CREATE", "ALTER", "DROP"))]
    kept = round(statistics.median(took), 2)
    outcome.figures |= {
        "sets": SETS,
        "first_run_s": round(first, 2),
        "first_run_partitions": 4 * SETS,
        "monthly_run_s": kept,
        "converged_run_s": round(converged, 3),
        "converged_statements": len(sent),
        "converged_ddl": len(ddl),
    }
    outcome.goal(f"{SETS} sets kept, a partition created in each, in s", kept, most=2)
    outcome.goal("statements of a converged run", len(sent), most=3)
    outcome.goal("DDL of a converged run", len(ddl), most=0)


async def _retention(server: PostgresServer, outcome: Outcome) -> None:
    """Month after month, as both ways would go through a table."""
    database = Postgres(server.dsn())
    _filled(server)
    costs: dict[str, list[tuple[float, float]]] = {"delete": [], "detach": [], "runs": []}
    drops: list[float] = []
    for number in range(1, ROUNDS + WHOLE_ROUNDS + 1):
        until = f"{_month(number):%Y-%m-%d} 00:00+00"

        async def delete(until: str = until) -> None:
            await database.execute(f"DELETE FROM flat WHERE created_at < '{until}'")
            await database.execute("VACUUM flat")

        now = _month(number) + timedelta(days=731)
        costs["delete"].append(await _cost(database, delete))
        if number > ROUNDS:
            costs["runs"].append(await _cost(database, partial(_runs, server, now)))
        else:
            async with retiring(server.dsn(), "parted", now) as (detach, drop):

                async def ours(detach: Step = detach, drop: Step = drop) -> None:
                    await detach()
                    began = time.monotonic()
                    await drop()
                    drops.append(time.monotonic() - began)

                costs["detach"].append(await _cost(database, ours))
    await database.aclose()
    seconds = {way: round(statistics.median(s for s, _ in c), 4) for way, c in costs.items()}
    wal = {way: round(statistics.median(w for _, w in c), 3) for way, c in costs.items()}
    outcome.figures |= {
        "rows_of_a_month": MONTH_ROWS,
        "months": MONTHS,
        "delete_and_vacuum_s": seconds["delete"],
        "detach_and_drop_s": seconds["detach"],
        "drop_alone_s": round(statistics.median(drops), 4),
        "detach_and_drop_with_all_looks_s": seconds["runs"],
        "delete_and_vacuum_wal_mb": wal["delete"],
        "detach_and_drop_wal_mb": wal["detach"],
    }
    pairs = zip(costs["delete"], costs["detach"], strict=False)  # of the same month
    ratio = round(statistics.median(theirs / ours for (theirs, _), (ours, _) in pairs), 1)
    outcome.figures["times_faster_than_delete_and_vacuum_without_load"] = ratio
    less = round(wal["delete"] / max(wal["detach"], 0.001), 1)
    outcome.goal("retention, times less WAL than DELETE + VACUUM", less, least=100)


def _month(number: int) -> datetime:
    """The first moment of the month so many after January 2024."""
    return datetime(2024 + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def rules(table: str) -> list[dict[str, Any]]:
    kept = {"keep": f"{KEPT.days} days", "expire": {"drop_after": "1 day"}}
    return [{"table": table, "by": "created_at", "every": "month", "ahead": 1, **kept}]


@asynccontextmanager
async def retiring(dsn: str, table: str, now: datetime) -> AsyncIterator[tuple[Step, Step]]:
    """What detaches the month that has expired by now and what drops it, ready to begin."""
    keeping = partitioner(dsn, rules(table), now=now)
    await keeping._begin(None)
    ((plan, facts),) = await keeping._look(keeping.rules.partitions)
    expired = [step for step in plan.steps if isinstance(step, Retire)]
    assert expired
    assert all(step.concurrently for step in expired)
    keeper = Keeper(keeping._database, Clock(now), keeping.rules.partitions[0], facts,
                    user=keeping._user, address="")  # fmt: skip
    mark = Mark(of=f"public.{table}")
    detached = [Detached(schema="public", name=s.partition.name, mark=mark) for s in expired]

    drops = [Drop(table=each, because="") for each in detached]
    yield partial(keeper.take, expired), partial(keeper.take, drops)
    await keeping.aclose()


async def _runs(server: PostgresServer, now: datetime) -> None:
    """The same by two runs from their beginning, with connecting and looking."""
    report = await partitioner(server.dsn(), rules("parted"), now=now).run()
    assert "concurrently" in str([o.done for o in report.outcomes]), report
    later = now + timedelta(days=1, seconds=5)
    while (report := await partitioner(server.dsn(), rules("parted"), now=later).run()).standing_by:
        await asyncio.sleep(0.001)  # the session before has not quite ended
    assert "drop" in str([o.done for o in report.outcomes])


def _filled(server: PostgresServer) -> None:
    server.psql(
        f"CREATE TABLE parted ({COLUMNS}) PARTITION BY RANGE (created_at); "
        f"CREATE TABLE flat ({COLUMNS})"
    )
    for month in range(MONTHS + 4):
        bounds = f"FROM ('{_month(month):%Y-%m-%d}') TO ('{_month(month + 1):%Y-%m-%d}')"
        server.psql(
            f"SET timezone = UTC; CREATE TABLE parted_{_month(month):%Y_%m} PARTITION OF parted "
            f"FOR VALUES {bounds}"
        )
    rows = (
        f"SELECT n, n % 1000, n, repeat('n', 80), '2024-01-01 00:00+00'::timestamptz + "
        f"n * (interval '30.4 days' / {MONTH_ROWS}) "
        f"FROM generate_series(1, {MONTH_ROWS * MONTHS}) n"
    )
    for table in ("parted", "flat"):
        server.psql(f"INSERT INTO {table} {rows}")
        server.psql(INDEXES.format(t=table))
        server.psql(f"VACUUM ANALYZE {table}")
    server.psql("CHECKPOINT")


async def _cost(database: Postgres, way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and megabytes of WAL; a month after the last one there was a checkpoint."""
    await database.execute("CHECKPOINT")
    ((before,),) = await database.fetch("SELECT pg_current_wal_insert_lsn()::text")
    began = time.monotonic()
    await way()
    took = time.monotonic() - began
    query = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s::pg_lsn)::bigint"
    ((written,),) = await database.fetch(query, (before,))
    return took, written / 1e6
