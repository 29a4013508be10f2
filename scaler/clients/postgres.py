"""PostgreSQL: one connection, statements with bounded waits, and its refusals in our words.

Statements commit by themselves, which DETACH ... CONCURRENTLY and CREATE INDEX CONCURRENTLY insist
on; `transaction` is for what belongs together. Names reach a statement through `name` and values
through `value` or parameters, never by formatting text. Works behind a pooler as far as one can:
nothing is prepared, and `backend` shows when somebody stands in between.
"""

import asyncio
import os
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import conninfo, errors, sql

from scaler.errors import (
    Busy,
    ConfigError,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
)

Statement = str | sql.SQL | sql.Composed
Part = sql.Composable
Query = sql.Composed
Row = tuple[Any, ...]
T = TypeVar("T")

PATIENCE: Final = timedelta(seconds=5)  # for a connection
DEADLINE: Final = timedelta(minutes=1)  # for a statement, unless the caller says otherwise
MOST_NOTICES: Final = 100
MOST_TEXT: Final = 600  # characters of a message of the server
_ADDRESS: Final = re.compile(r"://[^\s@/]*@")
_LIMITS: Final = re.compile(r"^(SET LOCAL [^;]+; )+")

# The first match wins, so the widest types stand last.
ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {
    errors.LockNotAvailable: Busy,
    errors.DeadlockDetected: Busy,
    errors.SerializationFailure: Busy,
    errors.ObjectInUse: Busy,
    errors.QueryCanceled: Unavailable,  # a deadline; of the server's, or of ours
    errors.InsufficientPrivilege: Forbidden,
    errors.InvalidPassword: Forbidden,
    errors.InvalidAuthorizationSpecification: Forbidden,
    errors.UndefinedTable: NotFound,
    errors.InvalidCatalogName: NotFound,
    errors.InvalidSchemaName: NotFound,
    errors.ReadOnlySqlTransaction: Unavailable,  # a replica, until it takes over
    errors.DiskFull: Unavailable,
    errors.ObjectNotInPrerequisiteState: PermanentError,  # the library calls it operational
    errors.ProgramLimitExceeded: PermanentError,
    errors.OperationalError: Unavailable,  # among them: shut down, starting, too many clients
    psycopg.Error: PermanentError,
    OSError: Unavailable,
    TimeoutError: Unavailable,
}
# While it connects, the library hands on words and no code.
REFUSALS: Final[tuple[tuple[str, type[ScalerError]], ...]] = (
    ("password authentication failed", Forbidden),
    ("no password supplied", Forbidden),
    ("authentication failed", Forbidden),
    ("no pg_hba.conf entry", Forbidden),
    ("permission denied for database", Forbidden),
    ('role "', Forbidden),
    ('database "', NotFound),
)


def name(*parts: str) -> Part:
    """An identifier, quoted: `name("public", "transactions")`."""
    return sql.Identifier(*parts)


def value(plain: Any) -> Part:
    """A literal, quoted; for statements that take no parameters, such as DDL."""
    return sql.Literal(plain)


def phrase(text: LiteralString, *parts: Part, **named: Part) -> Query:
    """A statement or a part of one, with `{}` and `{name}` filled in."""
    return sql.SQL(text).format(*parts, **named)


def listed(parts: Sequence[Part], between: LiteralString = ", ") -> Query:
    return sql.SQL(between).join(parts)


def given(text: str) -> sql.SQL:
    """SQL that the server itself wrote, such as `pg_get_constraintdef`; never a person's words."""
    return sql.SQL(text)


def written(statement: Statement) -> str:
    """The statement as text, for people who read before it runs."""
    return statement if isinstance(statement, str) else statement.as_string(None)


def understood(dsn: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parts of an address, and which of them no message may show.

    Raises:
        ConfigError: it cannot be read; the message does not show it.
    """
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        raise ConfigError(
            "the address of PostgreSQL cannot be read; write it like "
            "postgresql://user@host:5432/database"
        ) from None
    hidden = (parts.get("password"), parts.get("sslpassword"))
    return parts, tuple(str(secret) for secret in hidden if secret)


class Handle:
    """Statements on one connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Row], secrets: Sequence[str]) -> None:
        self._connection = connection
        self._secrets = secrets

    async def fetch(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = DEADLINE,
    ) -> list[Row]:
        """The rows of the answer; none when the statement gives none.

        Raises:
            ScalerError: as `ERRORS` says; `Unavailable` when the deadline passed.
        """
        cursor = await self._run(statement, params, deadline)
        return await cursor.fetchall() if cursor.description else []

    async def execute(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = DEADLINE,
    ) -> int:
        """How many rows were concerned; 0 where the server does not say. Raises as `fetch`."""
        cursor = await self._run(statement, params, deadline)
        return max(cursor.rowcount, 0)

    async def first(
        self, query: str, most: int, *, kinds: Collection[str] = ()
    ) -> tuple[tuple[str, ...], list[Row]]:
        """The types of the columns of a query, as in `int8`, and its first rows, at most `most`.

        Inside of a transaction. Whoever wrote the query, it is one statement and a query, or it is
        refused. With `kinds` no row is fetched unless all types are among them: what is huge stays
        where it is.

        Raises:
            ScalerError: as `ERRORS` says.
        """
        with translated("asking PostgreSQL", self._secrets):
            async with self._connection.cursor(name="scaler") as cursor:
                await cursor.execute(query.encode())
                columns = cursor.description or ()
                found = tuple(column.type_display.partition("(")[0] for column in columns)
                if kinds and not set(found) <= set(kinds):
                    return found, []
                return found, await cursor.fetchmany(most)

    async def _run(
        self, statement: Statement, params: Sequence[Any], deadline: timedelta | None
    ) -> psycopg.AsyncCursor[Row]:
        with translated(_doing(statement), self._secrets):
            # asyncio's cancellation makes the library cancel the statement on the server
            async with asyncio.timeout(deadline.total_seconds() if deadline else None):
                return await self._connection.execute(statement, params or None)


class Postgres:
    """One connection to one database, opened when it is first needed and again when it broke.

    One task at a time. `connections` grows with every new connection: whatever a session held,
    such as an advisory lock, is gone then.
    """

    def __init__(self, dsn: str, *, name: str = "scaler partitions") -> None:
        """`dsn` as libpq takes it: an address, `key=value` pairs, or nothing for `PG*` variables.

        Raises:
            ConfigError: it is neither; the message does not show it.
        """
        self._parts, self._secrets = understood(dsn)
        self._name = name
        self._connection: psycopg.AsyncConnection[Row] | None = None
        self.connections = 0
        self.notices: deque[str] = deque(maxlen=MOST_NOTICES)

    async def open(self) -> None:
        """Connect, unless there is a connection.

        Raises:
            ScalerError: as `ERRORS` says.
        """
        await self._handle()

    async def fetch(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = DEADLINE,
    ) -> list[Row]:
        """As `Handle.fetch`, committed at once."""
        return await (await self._handle()).fetch(statement, params, deadline=deadline)

    async def execute(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = DEADLINE,
        lock_wait: timedelta | None = None,
    ) -> int:
        """As `Handle.execute`, committed at once; with `lock_wait` no lock is waited for longer."""
        handle = await self._handle()
        if lock_wait is None:
            return await handle.execute(statement, params, deadline=deadline)
        await handle.execute(f"SET lock_timeout = {_ms(lock_wait)}")
        try:
            return await handle.execute(statement, params, deadline=deadline)
        finally:
            if self.connected:
                await handle.execute("RESET lock_timeout")

    @asynccontextmanager
    async def transaction(
        self, *, lock_wait: timedelta, statement: timedelta | None = None
    ) -> AsyncIterator[Handle]:
        """All or nothing: commits at the end, unless something was raised inside.

        No lock is waited for longer than `lock_wait`, no statement takes longer than `statement`.

        Raises:
            Busy: a lock was not free in time; nothing has changed.
            ScalerError: as `ERRORS` says. `Unavailable` at the commit leaves open whether it was.
        """
        handle = await self._handle()
        connection = self._connection
        assert connection is not None  # noqa: S101 - _handle has just opened it
        with translated("ending a transaction", self._secrets):
            async with connection.transaction():
                await handle.execute(_limits(lock_wait, statement))
                yield handle

    async def together(
        self, parts: Sequence[Part], *, lock_wait: timedelta, statement: timedelta | None = None
    ) -> None:
        """A transaction that is known from its beginning: one message in place of four.

        Bounded, and raises, as `transaction`.
        """
        limits = sql.SQL(_limits(lock_wait, statement))
        await (await self._handle()).execute(listed([limits, *parts], "; "))

    async def at_once(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` with this connection gives; when cancelled, the connection is broken off.

        The library would ask the server to cancel and wait for it, seconds for one that hangs. A
        statement under way ends when the server notices, at the latest by its `statement_timeout`.
        """
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._connection is None or self._connection.closed:
                task.cancel()
            else:
                _hang_up(self._connection)
            await asyncio.gather(task, return_exceptions=True)
            await self.aclose()
            raise

    @property
    def place(self) -> str:
        """Where it is, as it may be told."""
        host = self._parts.get("host") or self._parts.get("hostaddr") or "the default socket"
        port, database = self._parts.get("port"), self._parts.get("dbname")
        return f"{host}{f':{port}' if port else ''}{f'/{database}' if database else ''}"

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known without asking."""
        return self._connection is not None and not self._connection.closed

    @property
    def backend(self) -> int:
        """The process that serves us, as whoever we connected to said; 0 without a connection.

        A pooler says something of its own here, `pg_backend_pid()` tells the truth.
        """
        return self._connection.info.backend_pid if self._connection and self.connected else 0

    def insist(self, served_by: int) -> None:
        """The session is ours: `pg_backend_pid()` says that who serves us is who we connected to.

        Raises:
            PermanentError: it is not; locks and settings of ours would be given to others.
        """
        if served_by != self.backend:
            raise PermanentError(
                "a pooler stands between us and PostgreSQL and may give our session to others; "
                "write the address of the server itself"
            )

    @property
    def version(self) -> int:
        """Of the server, as in 15; 0 without a connection."""
        if self._connection is None or not self.connected:
            return 0
        return self._connection.info.server_version // 10000

    async def _handle(self) -> Handle:
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
        return Handle(self._connection, self._secrets)

    async def _connect(self) -> psycopg.AsyncConnection[Row]:
        seconds = max(2, round(PATIENCE.total_seconds()))
        options: dict[str, Any] = {
            "application_name": self._name,
            "connect_timeout": seconds,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **self._parts,
        }
        with translated("connecting to PostgreSQL", self._secrets):
            connection = await psycopg.AsyncConnection.connect(
                **options, autocommit=True, prepare_threshold=None
            )
        connection.add_notice_handler(self._noticed)
        self.connections += 1
        return connection

    def _noticed(self, diagnostic: errors.Diagnostic) -> None:
        self.notices.append(f"{diagnostic.severity}: {diagnostic.message_primary}")

    async def aclose(self) -> None:
        """Safe to repeat; a statement under way is broken off by the server when it notices."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


@contextmanager
def translated(doing: str, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Raise the library's exceptions as ours; no password is in the message."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        ours = next(kind for theirs, kind in ERRORS.items() if isinstance(error, theirs))
        said = _said(error)
        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            ours = next((kind for words, kind in REFUSALS if words in said), ours)
        for secret in secrets:
            said = said.replace(secret, "***")
        raise ours(f"{doing}: {_ADDRESS.sub('://***@', said)}") from error


def sqlstate(error: BaseException) -> str:
    """The five characters by which PostgreSQL names what went wrong; empty when it did not say."""
    cause = error.__cause__
    return (cause.sqlstate or "") if isinstance(cause, psycopg.Error) else ""


def _hang_up(connection: psycopg.AsyncConnection[Row]) -> None:
    """Whoever waits for an answer on it gets the end of the connection in its place."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _said(error: Exception) -> str:
    if not isinstance(error, psycopg.Error):
        return str(error) or "no answer in time"
    diagnostic = error.diag
    parts = (diagnostic.message_primary, diagnostic.message_detail, diagnostic.message_hint)
    text = "; ".join(part for part in parts if part) or str(error) or type(error).__name__
    return " ".join(text.split())[:MOST_TEXT]


def _doing(statement: Statement) -> str:
    """The first words of a statement, enough to know it by."""
    return _LIMITS.sub("", " ".join(written(statement).split()))[:90]


def _limits(lock_wait: timedelta, statement: timedelta | None) -> str:
    limits = f"SET LOCAL lock_timeout = {_ms(lock_wait)}"
    return limits + (f"; SET LOCAL statement_timeout = {_ms(statement)}" if statement else "")


def _ms(span: timedelta) -> int:
    """Whole milliseconds, at least one: zero would mean for ever."""
    return max(1, round(span / timedelta(milliseconds=1)))
