"""What queries gain and lose: the same rows in a plain table, in months, and in days.

The plain table has its rows in the order of time, as a ledger writes them, and once more in random
order, as a table has them after much updating or a restore. Each query runs on all of them in
turns, with a hot cache; a figure is the median of its rounds in milliseconds, planning included.
"""

import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from benchmarks.partitionbench.rig import OPTIONS, ROWS, say
from tests.integration.postgreses import PostgresServer

DAYS: Final = 730
ROUNDS: Final = 9
BEGIN: Final = datetime(2024, 1, 1, tzinfo=UTC)
END: Final = BEGIN + timedelta(days=DAYS)
COLUMNS: Final = (
    "id bigint NOT NULL, account int NOT NULL, amount bigint NOT NULL, note text NOT NULL, "
    "created_at timestamptz NOT NULL"
)
TABLES: Final = ("plain", "monthly", "daily", "random")
INDEXES: Final = (
    "CREATE INDEX ON {t} (created_at); CREATE INDEX ON {t} (account, created_at); "
    "CREATE INDEX ON {t} (amount)"
)
MONTH: Final = "created_at >= '2025-06-01' AND created_at < '2025-07-01'"
QUERIES: Final = {
    "month_sum": f"SELECT sum(amount) FROM {{t}} WHERE {MONTH}",
    "month_filter": f"SELECT count(*) FROM {{t}} WHERE {MONTH} AND note LIKE '%7x'",
    "day_sum": "SELECT sum(amount) FROM {t} WHERE created_at >= '2025-06-10'"
    " AND created_at < '2025-06-11'",
    "quarter_by_account": "SELECT account, sum(amount) FROM {t} WHERE created_at >= '2025-04-01'"
    " AND created_at < '2025-07-01' GROUP BY account ORDER BY 2 DESC LIMIT 10",
    "account_30_days": "SELECT sum(amount) FROM {t} WHERE account = 77 AND created_at >="
    " '2025-12-01'",
    "by_id": f"SELECT amount FROM {{t}} WHERE id = {ROWS // 3}",
    "count": "SELECT count(*) FROM {t}",
}


def measure() -> dict[str, Any]:
    server = PostgresServer(*OPTIONS, "shared_buffers=2GB")
    try:
        server.start()
        say(f"  queries: {ROWS:,} rows, {len(TABLES)} times")
        _filled(server)
        with psycopg.connect(server.dsn(), autocommit=True, prepare_threshold=None) as connection:
            return _figures(connection)
    finally:
        server.stop()


def _filled(server: PostgresServer) -> None:
    server.psql(f"CREATE TABLE plain ({COLUMNS})")
    server.psql(
        f"INSERT INTO plain SELECT i, i * 7919 % 1000, i * 104729 % 1000003, repeat('n', 79) "
        f"|| i % 10 || 'x', '{BEGIN}'::timestamptz + i * (interval '{DAYS} days' / {ROWS + 1}) "
        f"FROM generate_series(1, {ROWS}::bigint) i"
    )
    server.psql("ALTER TABLE plain ADD PRIMARY KEY (id)")
    server.psql(f"CREATE TABLE random ({COLUMNS})")
    server.psql("INSERT INTO random SELECT * FROM plain ORDER BY hashint8(id)")
    server.psql("ALTER TABLE random ADD PRIMARY KEY (id)")
    for table, step in (("monthly", "month"), ("daily", "day")):
        server.psql(
            f"CREATE TABLE {table} ({COLUMNS}) PARTITION BY RANGE (created_at); "
            f"DO $$ DECLARE m timestamptz := '{BEGIN}'; BEGIN WHILE m < '{END}' LOOP "
            f"EXECUTE format('CREATE TABLE {table}_%s PARTITION OF {table} FOR VALUES FROM (%L) "
            f"TO (%L)', to_char(m, 'YYYYMMDD'), m, m + interval '1 {step}'); "
            f"m := m + interval '1 {step}'; END LOOP; END $$"
        )
        server.psql(f"INSERT INTO {table} SELECT * FROM plain")
        server.psql(f"ALTER TABLE {table} ADD PRIMARY KEY (id, created_at)")
    for table in TABLES:
        server.psql(INDEXES.format(t=table))
        server.psql(f"VACUUM ANALYZE {table}")


def _figures(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, query in QUERIES.items():
        took: dict[str, list[float]] = {table: [] for table in TABLES}
        for number in range(ROUNDS + 1):
            for table in TABLES:
                begin = time.perf_counter()
                connection.execute(query.format(t=table)).fetchall()
                if number:  # the first round warms the cache
                    took[table].append(1000 * (time.perf_counter() - begin))
        middle = {table: statistics.median(took[table]) for table in TABLES}
        for table in TABLES:
            found[f"query_{name}_{table}_ms"] = round(middle[table], 2)
        for other in ("plain", "random"):
            ratio = round(middle[other] / middle["monthly"], 2)
            found[f"query_{name}_{other}_by_monthly"] = ratio
    return found
