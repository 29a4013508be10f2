"""A pool of connections to one PostgreSQL, for many tasks of one application."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from psycopg_pool import AsyncConnectionPool

from scaler.clients.postgres import DEADLINE, Handle, Row, Statement, translated, understood
from scaler.errors import Unavailable

if TYPE_CHECKING:
    import psycopg

PATIENCE: Final = timedelta(seconds=5)  # for a free connection
MOST_WAITING: Final = 1000  # tasks that wait for one; more are refused at once


class Pool:
    """At most `most` connections, opened when needed. Statements commit by themselves."""

    def __init__(self, dsn: str, *, most: int = 8, name: str = "scaler ledger") -> None:
        """`dsn` as libpq takes it.

        Raises:
            ConfigError: it cannot be read; the message does not show it.
        """
        parts, self._secrets = understood(dsn)
        options = f"{parts.get('options') or ''} -c datestyle=ISO -c timezone=UTC".strip()
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] = AsyncConnectionPool(
            dsn,
            min_size=min(2, most),
            max_size=most,
            max_waiting=MOST_WAITING,
            timeout=PATIENCE.total_seconds(),
            # The library reads moments in one style only, whatever the server's is.
            kwargs={
                "autocommit": True,
                "application_name": name,
                "options": options,
            },
            check=AsyncConnectionPool.check_connection,
            open=False,
            name=name,
        )

    async def open(self) -> None:
        """Raises Unavailable when nobody answers in time."""
        with translated("connecting to PostgreSQL", self._secrets):
            await self._pool.open(wait=True, timeout=PATIENCE.total_seconds())

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Handle]:
        """One connection for this task. Raises Unavailable when none is free in time."""
        with translated("taking a connection", self._secrets):
            async with self._pool.connection() as connection:
                yield Handle(connection, self._secrets)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Handle]:
        """Reads that all see one moment, and writes nothing."""
        with translated("reading at one moment", self._secrets):
            async with self._pool.connection() as connection, connection.transaction():
                await connection.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )
                yield Handle(connection, self._secrets)

    async def fetch(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = DEADLINE,
    ) -> list[Row]:
        """The rows of the answer, committed at once. Raises as `Handle.fetch`."""
        async with self.connection() as handle:
            return await handle.fetch(statement, params, deadline=deadline)

    async def ping(self) -> bool:
        """Whether the database answers within a second."""
        try:
            return await self.fetch("SELECT 1", deadline=timedelta(seconds=1)) == [(1,)]
        except Unavailable:
            return False

    async def aclose(self) -> None:
        await self._pool.close()
