"""A number that PostgreSQL holds or says of itself: a query, its connections, its replication.

Nothing is ever written: each question is one query in a transaction that only reads. The number
speaks for the whole target. A ratio is meant as it stands: for `utilization`, 1 is 100 %.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from scaler.clients import number
from scaler.clients.by_address import ByAddress
from scaler.clients.number import Missing
from scaler.clients.web import LONGEST_QUOTE, address
from scaler.core.document import Source, Target, within
from scaler.core.model import Fleet, Reading
from scaler.core.policy import Metric
from scaler.core.units import Span
from scaler.errors import Forbidden, PermanentError, ScalerError
from scaler.interfaces import Context

if TYPE_CHECKING:
    from scaler.clients.postgres import Handle

LONGEST_QUERY: Final = 16_384  # characters
LONGEST_WAIT: Final = timedelta(minutes=1)  # for one number
ON_THE_SERVER: Final = 0.9  # of the timeout, so that the server ends a slow query and says so
NUMBERS: Final = ("int2", "int4", "int8", "float4", "float8", "numeric")
SCHEMES: Final = ("postgresql", "postgres")
SECRETS: Final = ("password", "sslpassword")
EXAMPLE: Final = "postgresql://user@host:5432/database"
HOST: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:[0-9]*)?")
WORD: Final = re.compile(r"(?:^|\s)(?:ssl)?password\s*=")
GRANT: Final = "allow it with: GRANT pg_read_all_stats TO the user of this address"
STARTS: Final = ("connecting to PostgreSQL: ", "asking PostgreSQL: ")  # of messages, said by us
REMEDIES: Final[Mapping[str, str]] = {
    "57014": "make the query cheaper, or write a longer timeout",
    "25006": "a query only reads: leave out what writes",
    "0A000": "a query only reads: leave out what writes",
    "42": "correct the query, which is one SELECT",
}  # by what the server calls it, or by how that begins

# Sessions of clients take the slots; replication and background workers have slots of their own.
# A role is refused when only the reserved slots are left, those of PostgreSQL 16 among them.
CONNECTIONS: Final = """
SELECT count(*) FILTER (WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true), '0')::int,
       count(*) FILTER (WHERE backend_type IS NULL)
FROM pg_stat_activity
"""
# The lag is null when a replica had applied all there was at its last report.
OF_REPLICAS: Final = """
SELECT count(*) FILTER (WHERE replay_lsn IS NOT NULL),
       count(*) FILTER (WHERE state IS NULL),
       count(*) FILTER (WHERE replay_lag IS NULL AND replay_lsn < sent_lsn),
       coalesce(max(extract(epoch FROM replay_lag)), 0)::float8
FROM pg_stat_replication
"""
# A replica that reads an archive has received nothing, and has no receiver.
OF_ITSELF: Final = """
SELECT pg_last_wal_receive_lsn() IS NOT NULL,
       EXISTS (SELECT FROM pg_stat_wal_receiver),
       pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(),
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""


class PostgresSource(Source):
    """A number from PostgreSQL, which is only read. Needs `pip install 'scaler[postgres]'`.

    Exactly one of `dsn`, `dsn_env` and `dsn_file`, and exactly one of `query` and `figure`. All
    metrics of one address are asked on one connection, one after another.
    """

    dsn: str = ""
    """Address without a password: `postgresql://user@host:5432/database`, or `host=h user=u`."""
    dsn_env: str = ""
    """Environment variable with the address, which may hold a password."""
    dsn_file: str = ""
    """File with the address and its password; read each time, so that it may be renewed."""
    timeout: Span = timedelta(seconds=2)
    """How long the whole answer may take, up to 1m. The server ends a query after nine tenths."""
    query: Annotated[str, Field(max_length=LONGEST_QUERY)] = ""
    """One SELECT that gives one number: one row with one numeric column that is not NULL."""
    figure: Literal["", "connections", "replication_lag"] = ""
    """What the server says of itself; who asks needs the role `pg_read_all_stats`.

    `connections`: sessions of clients, this one included, as a share of `max_connections` without
    the reserved slots; at 1 an ordinary user is refused. `replication_lag`, in seconds: on a
    primary of the slowest connected replica, on a replica its own, 0 when all it received is
    replayed.
    """

    @field_validator("dsn")
    @classmethod
    def _is_one(cls, dsn: str) -> str:
        if dsn and _holds_password(dsn):
            raise ValueError("it holds a password; write dsn_env: or dsn_file: instead")
        if dsn and (problem := _wrong_with(dsn)):
            raise ValueError(problem)
        return dsn

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(milliseconds=50), LONGEST_WAIT)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(map(bool, (self.dsn, self.dsn_env, self.dsn_file))) != 1:
            raise ValueError("write exactly one of dsn, dsn_env and dsn_file")
        if bool(self.query.strip()) == bool(self.figure):
            raise ValueError("write exactly one of query and figure")
        return self


class _Server:
    """One connection; whoever asks holds the turn."""

    def __init__(self, dsn: str) -> None:
        try:
            from scaler.clients.postgres import Postgres  # noqa: PLC0415 - an extra
        except ImportError:
            remedy = "pip install 'scaler[postgres]'"
            raise PermanentError(f"PostgreSQL cannot be asked without psycopg; {remedy}") from None
        self._postgres = Postgres(dsn, name="scaler metrics")
        self.place = self._postgres.place
        self.turn = asyncio.Lock()

    async def ask(self, question: "Question", source: PostgresSource) -> float:
        return await self._postgres.at_once(self._ask(question, source))

    async def _ask(self, question: "Question", source: PostgresSource) -> float:
        longest = source.timeout * ON_THE_SERVER
        async with self._postgres.transaction(lock_wait=longest, statement=longest) as handle:
            await handle.execute("SET TRANSACTION READ ONLY")
            return await question(handle, source)

    async def aclose(self) -> None:
        await self._postgres.aclose()


class Servers(ByAddress[_Server]):
    """The connections of this process, as a part of `Context.shared`."""

    def __init__(self) -> None:
        super().__init__(_Server)


class PostgresMetrics:
    """One question of one policy."""

    def __init__(self, name: str, source: PostgresSource, servers: Servers) -> None:
        self._name = name
        self._source = source
        self._servers = servers
        self._question = QUESTIONS[source.figure]

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - an instant
        return await number.reading(self._name, now, self._read())

    async def aclose(self) -> None:
        await self._servers.leave(self)

    async def _read(self) -> float:
        source = self._source
        dsn = address(source.dsn, source.dsn_file, source.dsn_env, _wrong_with)
        server = await self._servers.used(dsn, self)
        where = f"PostgreSQL at {server.place}"
        begun = False
        try:
            async with asyncio.timeout(self._source.timeout.total_seconds()), server.turn:
                begun = True
                return await server.ask(self._question, self._source)
        except TimeoutError:
            took = f"{self._source.timeout.total_seconds():g} s"
            if not begun:
                remedy = "make that one cheaper, or write a longer timeout here"
                raise Missing(f"{where} answered another metric for {took}; {remedy}") from None
            raise Missing(f"{where} did not answer within {took}") from None
        except Missing as reason:
            raise Missing(f"{where}: {reason}") from None
        except ScalerError as error:
            raise Missing(f"{where}: {_remedied(error)}") from None


# --- addresses ---


def _wrong_with(dsn: str) -> str:
    """What is wrong with an address, without a word of it; empty when nothing shows.

    The library reads it in the end, but quotes what it does not understand.
    """
    if "://" not in dsn:
        return "" if "=" in dsn else f"it is not an address of PostgreSQL; write it like {EXAMPLE}"
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return f"it is not an address; write it like {EXAMPLE}"
    if parts.scheme not in SCHEMES:
        return f"it is not an address of PostgreSQL; write it like {EXAMPLE}"
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if "@" in parts.path or not all(map(HOST.fullmatch, hosts)):
        return f"it is not an address ({EXAMPLE}; in a password / is %2F, @ is %40, : is %3A)"
    return ""


def _holds_password(dsn: str) -> bool:
    if "://" not in dsn:
        return bool(WORD.search(dsn))
    try:
        parts = urlsplit(dsn)
        return bool(parts.password) or any(name in parse_qs(parts.query) for name in SECRETS)
    except ValueError:
        return False  # it is no address either


def _remedied(error: ScalerError) -> str:
    """A refusal in words that say what to do."""
    from scaler.clients.postgres import sqlstate  # noqa: PLC0415 - an extra

    said, state = str(error), sqlstate(error)
    for start in STARTS:
        said = said.removeprefix(start)
    said = said[:LONGEST_QUOTE]
    if isinstance(error, Forbidden):
        if state == "42501":
            return f"{said}; allow it with: GRANT SELECT ON the table TO the user of this address"
        return f"{said}; write the right user and password into the address, or let this user in"
    remedy = REMEDIES.get(state) or REMEDIES.get(state[:2], "")
    return f"{said}; {remedy}" if remedy else said


# --- questions ---

Question = Callable[["Handle", PostgresSource], Awaitable[float]]


async def _query(handle: "Handle", source: PostgresSource) -> float:
    kinds, rows = await handle.first(source.query, 2, kinds=NUMBERS)
    if len(kinds) != 1:
        raise Missing(f"the query gives {len(kinds)} columns; write one")
    if kinds[0] not in NUMBERS:
        remedy = "write a number, such as count(*), word::int or extract(epoch from moment)"
        raise Missing(f"the query gives {kinds[0]}, which is not a number; {remedy}")
    if not rows:
        raise Missing("the query gives no row; an aggregate such as count(*) always gives one")
    if len(rows) > 1:
        raise Missing("the query gives several rows; make one of them, such as by sum() or max()")
    if rows[0][0] is None:
        raise Missing("the query gives NULL; if that means zero, write coalesce(..., 0)")
    return float(rows[0][0])


async def _connections(handle: "Handle", _: PostgresSource) -> float:
    used, room, hidden = await _row(handle, CONNECTIONS)
    if hidden:
        raise Missing(f"the sessions of others are hidden; {GRANT}")
    if room <= 0:
        raise Missing("all connections are reserved; raise max_connections")
    return float(used / room)


async def _lag(handle: "Handle", _: PostgresSource) -> float:
    (replica,) = await _row(handle, "SELECT pg_is_in_recovery()")
    return await (_of_itself(handle) if replica else _of_replicas(handle))


async def _of_replicas(handle: "Handle") -> float:
    replicas, hidden, silent, slowest = await _row(handle, OF_REPLICAS)
    if hidden:
        raise Missing(f"how far replicas are is hidden; {GRANT}")
    if not replicas:
        raise Missing("no replica is connected, so how far one is behind is not known")
    if silent:
        raise Missing("a replica has not said yet how far it is behind")
    return float(slowest)


async def _of_itself(handle: "Handle") -> float:
    received, receiving, replayed, since_s = await _row(handle, OF_ITSELF)
    if received and not receiving:
        raise Missing("this replica receives nothing from its primary, so its lag is not known")
    if replayed:
        return 0.0
    if since_s is None:
        raise Missing("this replica has replayed no transaction yet, so its lag is not known")
    return max(0.0, float(since_s))  # the clocks of two machines


async def _row(handle: "Handle", query: str) -> tuple[Any, ...]:
    _, (row,) = await handle.first(query, 1)
    return row


QUESTIONS: Final[Mapping[str, Question]] = {
    "": _query,
    "connections": _connections,
    "replication_lag": _lag,
}


class _Plugin:
    source = PostgresSource

    def open(self, metric: Metric, target: Target, context: Context) -> PostgresMetrics:  # noqa: ARG002 - any target
        assert isinstance(metric.source, PostgresSource)  # noqa: S101 - the loader made it
        servers = context.shared.setdefault(Servers, Servers())
        return PostgresMetrics(metric.name, metric.source, servers)


PLUGIN: Final = _Plugin()
