"""Partition sets on a real PostgreSQL, for tests."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from scaler.clients.postgres import Postgres
from scaler.clock import ManualClock
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner, Report
from tests.integration.ledger_traffic import table
from tests.integration.postgreses import PostgresServer

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
LEDGER = """
CREATE TABLE {name} (id bigint NOT NULL, created_at timestamptz NOT NULL, amount numeric,
  PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);
CREATE INDEX ON {name} (amount);
"""


def with_ledger(server: PostgresServer, test: str, rows: int) -> str:
    """A database of a test, with so many rows of 120 days in a plain table."""
    place = f"db{abs(hash(test))}"
    server.psql(f"CREATE DATABASE {place}")
    server.psql(table(rows, 120), place)
    return place


class Clock(ManualClock):
    """Stands at `NOW`; pauses between attempts take no time."""

    def __init__(self, start: datetime = NOW) -> None:
        super().__init__(start)

    async def sleep(self, span: Any) -> None:
        await super().sleep(span * 0)


def rules(server: PostgresServer, *sets: dict[str, Any], database: str, user: str) -> Database:
    plain = [{"by": "created_at", "every": "month", "table": "ledger", **one} for one in sets]
    return Database.model_validate(
        {"name": "ledger", "dsn": server.dsn(database, user), "partitions": plain}
    )


class Books:
    """One database of a server, and who keeps its partitions."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.database = database
        self.clock = Clock()
        server.psql(f"CREATE DATABASE {database}")

    def sql(self, statement: str, user: str = "postgres") -> str:
        return self.server.psql(statement, self.database, user)

    def ledger(self, name: str = "ledger") -> None:
        self.sql(LEDGER.format(name=name))

    def keeper(
        self, *sets: dict[str, Any], user: str = "postgres", **more: Any
    ) -> DatabasePartitioner:
        found = rules(self.server, *(sets or ({},)), database=self.database, user=user)
        return DatabasePartitioner(found, clock=self.clock, **more)

    async def run(self, *sets: dict[str, Any], user: str = "postgres", **more: Any) -> Report:
        return await kept(self.keeper(*sets, user=user, **more))

    def partitions(self, table: str = "ledger") -> list[str]:
        return self.sql(
            "SELECT inhrelid::regclass FROM pg_inherits "
            f"WHERE inhparent = '{table}'::regclass ORDER BY inhrelid::regclass::text"
        ).split()


async def kept(keeper: DatabasePartitioner) -> Report:
    """One run; the session of one before may take a moment to end on the server."""
    for _ in range(200):
        if not (report := await keeper.run()).standing_by:
            break
        await asyncio.sleep(0.05)
    return report


def counting(seen: list[str]) -> Any:
    """Connections that note the statements they send."""

    class Counting(Postgres):
        async def fetch(self, statement: Any, *more: Any, **options: Any) -> Any:
            seen.append(str(statement))
            return await super().fetch(statement, *more, **options)

        async def execute(self, statement: Any, *more: Any, **options: Any) -> Any:
            seen.append(str(statement))
            return await super().execute(statement, *more, **options)

        async def together(self, parts: Any, **options: Any) -> None:
            seen.extend(str(part) for part in parts)
            await super().together(parts, **options)

    return Counting
