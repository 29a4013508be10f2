"""A number that Redis or Valkey holds or says of itself: queues, counters, figures of the server.

Nothing is ever written. The number speaks for the whole target. A ratio is meant as it stands: for
`utilization`, 1 is 100 %.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, field_validator, model_validator

from scaler.clients import number
from scaler.clients.by_address import ByAddress
from scaler.clients.number import Missing
from scaler.clients.redis import Redis
from scaler.clients.web import LONGEST_QUOTE, address
from scaler.core.document import Source, Target, Wrong, within
from scaler.core.model import Fleet, Reading
from scaler.core.policy import Metric
from scaler.core.units import Span
from scaler.errors import Forbidden, NotFound, PermanentError, ScalerError
from scaler.interfaces import Context

LONGEST_NUMBER: Final = 64  # bytes of a text that may be a number
LONGEST_NAME: Final = 1024  # characters of a key or field
LONGEST_WAIT: Final = timedelta(minutes=1)  # for one number
MOST_GROUPS: Final = 20  # that a message names
NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
SCHEMES: Final = ("redis", "rediss", "unix")
OPTIONS: Final = frozenset({"db", "password", "ssl_ca_certs"})  # others would change how we ask
TYPES: Final[Mapping[str, str]] = {
    "list": "list:",
    "stream": "stream:",
    "zset": "zset:",
    "string": "key:",
    "hash": "hash: and field:",
}  # how the types of Redis are read here

Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Score = Annotated[float, Field(allow_inf_nan=False)] | Literal["now", "now_ms"] | None


class RedisSource(Source):
    """A number from Redis or Valkey, which is only read.

    Exactly one of `url`, `url_env` and `url_file`, and exactly one of `list`, `stream`, `zset`,
    `key`, `hash` and `info`. A list, stream or sorted set that does not exist is empty; a key or
    field that does not exist is missing data.
    """

    url: str = ""
    """Address without credentials: `redis://host:6379/0`, `rediss://host`, `unix:///socket`."""
    url_env: str = ""
    """Environment variable with the address, which may hold credentials: `redis://:word@host`."""
    url_file: str = ""
    """File with the address and its credentials; read each time, so that it may be renewed."""
    timeout: Span = timedelta(seconds=2)
    """How long the whole answer may take, up to 1m."""
    list_: Name = Field(default="", alias="list")
    """A list: how many elements it has."""
    stream: Name = ""
    """A stream: how many entries it has, or with `group` how many wait."""
    group: Name = ""
    """A consumer group of the stream: entries not yet delivered to it or not yet acknowledged."""
    zset: Name = ""
    """A sorted set: how many members it has, or with scores how many lie between them."""
    from_score: Score = None
    """The lowest score that counts: a number, `now` (seconds since 1970) or `now_ms`."""
    to_score: Score = None
    """The highest score that counts; `now` counts the jobs of a schedule that are due."""
    key: Name = ""
    """A key with a number in a string."""
    hash_: Name = Field(default="", alias="hash")
    """A hash, with `field`."""
    field: Name = ""
    """The field of the hash with the number."""
    info: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = ""
    """What INFO says: `used_memory`, `connected_clients`, `instantaneous_ops_per_sec`."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: str) -> str:
        if url and (problem := _wrong_with(url)):
            raise ValueError(problem)
        if url and (urlsplit(url).username or _password(url)):
            raise ValueError("it holds credentials; write url_env: or url_file: instead")
        return url

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(milliseconds=50), LONGEST_WAIT)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if sum(map(bool, (self.url, self.url_env, self.url_file))) != 1:
            raise ValueError("write exactly one of url, url_env and url_file")
        asked = (self.list_, self.stream, self.zset, self.key, self.hash_, self.info)
        if sum(map(bool, asked)) != 1:
            raise ValueError("write exactly one of list, stream, zset, key, hash and info")
        if self.group and not self.stream:
            raise Wrong("a group reads a stream; write stream: with its name", "group")
        if bool(self.field) != bool(self.hash_):
            raise Wrong("hash and field belong together; write both", "field")
        for name in ("from_score", "to_score"):
            if getattr(self, name) is not None and not self.zset:
                raise Wrong("members of a zset have scores; write zset: with its name", name)
        low, high = self.from_score, self.to_score
        if isinstance(low, float) and isinstance(high, float) and low > high:
            raise Wrong(f"it is below from_score ({low:g}); nothing lies between", "to_score")
        return self


class _Server:
    """One connection; whoever asks waits for those who asked before."""

    def __init__(self, url: str) -> None:
        self._redis = Redis(url, deadline=LONGEST_WAIT)
        self._turn = asyncio.Lock()

    async def ask(self, *words: str | int) -> Any:
        async with self._turn:
            return await self._redis.ask(*words)

    async def aclose(self) -> None:
        await self._redis.aclose()


class Servers(ByAddress[_Server]):
    """The connections of this process, as a part of `Context.shared`."""

    def __init__(self) -> None:
        super().__init__(_Server)


class RedisMetrics:
    """One question of one policy."""

    def __init__(self, name: str, source: RedisSource, servers: Servers) -> None:
        self._name = name
        self._source = source
        self._servers = servers
        self._count = _question(source)

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - an instant
        return await number.reading(self._name, now, self._read(now))

    async def aclose(self) -> None:
        await self._servers.leave(self)

    async def _read(self, now: datetime) -> float:
        source = self._source
        url = address(source.url, source.url_file, source.url_env, _wrong_with)
        where = f"Redis at {_shown(url)}"
        try:
            async with asyncio.timeout(self._source.timeout.total_seconds()):
                server = await self._servers.used(url, self)
                return await self._count(server, self._source, now)
        except TimeoutError:
            took = f"{self._source.timeout.total_seconds():g} s"
            raise Missing(f"{where} did not answer within {took}") from None
        except ScalerError as error:
            raise Missing(f"{where}: {_remedied(error, _password(url))}") from None


# --- addresses ---


def _wrong_with(url: str) -> str:
    """What is wrong with an address, without a word of it; empty when nothing is."""
    example = "write it like redis://host:6379/0"
    try:
        parts = urlsplit(url)
        named = bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
        asked = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        return f"it is not an address ({example}; in a password / is %2F, @ is %40, : is %3A)"
    if parts.scheme not in SCHEMES or not named:
        return f"it is not an address of Redis; {example}, rediss://... or unix:///socket"
    if parts.fragment or not asked.keys() <= OPTIONS:
        known = ", ".join(sorted(OPTIONS))
        return f"it has options that are not known here; write none but {known}"
    number = parts.path.strip("/") if parts.scheme != "unix" else ""
    if not re.fullmatch(r"[0-9]{0,5}", asked.get("db", [number])[0] or number):
        return f"what follows the host is not the number of a database; {example}"
    return ""


def _password(url: str) -> str:
    parts = urlsplit(url)
    return unquote(parts.password or "") or parse_qs(parts.query).get("password", [""])[0]


def _shown(url: str) -> str:
    """An address as it may be told."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return unquote(parts.path)
    return f"{parts.hostname}:{parts.port or 6379}"


def _remedied(error: ScalerError, password: str) -> str:
    """A refusal in words that say what to do."""
    said = str(error).removeprefix("asking Redis: ")
    said = (said.replace(password, "***") if password else said)[:LONGEST_QUOTE]
    if isinstance(error, Forbidden):
        if "permission" in said.lower():
            return f"{said}; allow it with: ACL SETUSER, +command and %R~key"
        return f"{said}; write the right user and password into the address of url_env or url_file"
    if isinstance(error, NotFound):
        node = said.rpartition(" ")[2]
        return f"it is a cluster in which {node} has the key; write the address of that node"
    return said


# --- questions ---

Question = Callable[[_Server, RedisSource, datetime], Awaitable[float]]


def _question(source: RedisSource) -> Question:
    questions: dict[str, Question] = {
        source.list_: _list,
        source.zset: _zset,
        source.stream: _group if source.group else _stream,
        source.key: _key,
        source.hash_: _field,
        source.info: _info,
    }
    return next(question for asked, question in questions.items() if asked)


async def _list(server: _Server, source: RedisSource, _: datetime) -> float:
    return _count(await _of(server, source.list_, "LLEN"))


async def _stream(server: _Server, source: RedisSource, _: datetime) -> float:
    return _count(await _of(server, source.stream, "XLEN"))


async def _zset(server: _Server, source: RedisSource, now: datetime) -> float:
    if source.from_score is None and source.to_score is None:
        return _count(await _of(server, source.zset, "ZCARD"))
    low = _score(source.from_score, now, "-inf")
    high = _score(source.to_score, now, "+inf")
    return _count(await _of(server, source.zset, "ZCOUNT", low, high))


async def _group(server: _Server, source: RedisSource, _: datetime) -> float:
    """What a group has not got yet and what it has got and not acknowledged."""
    try:
        said = await _of(server, source.stream, "XINFO", "GROUPS")
    except PermanentError as error:
        if "no such key" in str(error):
            remedy = f"XGROUP CREATE {_cut(source.stream)} {_cut(source.group)} $ MKSTREAM"
            raise Missing(f"there is no stream {_cut(source.stream)}; make it: {remedy}") from None
        raise
    groups = _groups(said)
    found = groups.get(source.group)
    if found is None:
        names = ", ".join(_cut(name) for name in list(groups)[:MOST_GROUPS]) or "none"
        raise Missing(
            f"stream {_cut(source.stream)} has no group {_cut(source.group)}; "
            f"its groups: {names[:LONGEST_QUOTE]}"
        )
    if "lag" not in found:
        raise Missing(
            "this server does not tell the lag of a group, Redis 7 and Valkey do; "
            "leave group out to count all entries of the stream"
        )
    if found["lag"] is None:
        raise Missing(
            f"the server does not know the lag of group {_cut(source.group)}, since entries were "
            "deleted or the group began in between; it will when the group has read all, or leave "
            "group out to count all entries of the stream"
        )
    return _count(found["lag"]) + _count(found.get("pending"))


async def _key(server: _Server, source: RedisSource, _: datetime) -> float:
    text = await _of(server, source.key, "GETRANGE", 0, LONGEST_NUMBER)
    if text == "":
        raise Missing(f"there is no key {_cut(source.key)}, or it is empty")
    return _number(text, f"key {_cut(source.key)}")


async def _field(server: _Server, source: RedisSource, _: datetime) -> float:
    """It is read when it is short enough, since it cannot be read in part."""
    name = f"field {_cut(source.field)} of hash {_cut(source.hash_)}"
    length = _count(await _of(server, source.hash_, "HSTRLEN", source.field))
    if length > LONGEST_NUMBER:
        raise Missing(f"{name} is not a number: it has {length:g} bytes")
    text = await _of(server, source.hash_, "HGET", source.field) if length else None
    if text is None:
        raise Missing(f"there is no {name}, or it is empty")
    return _number(text, name)


async def _info(server: _Server, source: RedisSource, _: datetime) -> float:
    said = await server.ask("INFO")
    if not isinstance(said, str):
        raise Missing(f"the answer is not one of Redis: {_quoted(said)}")
    for line in said.splitlines():
        name, colon, text = line.partition(":")
        if colon and name == source.info:
            return _number(text, f"{source.info} of INFO")
    raise Missing(f"INFO does not tell {source.info}; see redis-cli INFO for what it tells")


async def _of(server: _Server, name: str, command: str, *more: str | int) -> Any:
    """What a command says about a key; one of another type is named."""
    words = (command, more[0], name) if command == "XINFO" else (command, name, *more)
    try:
        return await server.ask(*words)
    except PermanentError as error:
        if "WRONGTYPE" not in str(error):
            raise
    found = str(await server.ask("TYPE", name))[:LONGEST_NUMBER]
    remedy = f"write {TYPES[found]} instead" if found in TYPES else "it has no number to read"
    raise Missing(f"{_cut(name)} is a {found}; {remedy}")


# --- answers ---


def _groups(said: Any) -> dict[str, dict[str, Any]]:
    """The answer of XINFO GROUPS by the names of groups; names and values stand in turn."""
    if not isinstance(said, list) or not all(isinstance(one, list) for one in said):
        raise Missing(f"the answer is not one of Redis: {_quoted(said)}")
    groups = [_pairs(one) for one in said]
    return {str(group.get("name")): group for group in groups}


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return {str(key): value for key, value in zip(flat[::2], flat[1::2], strict=False)}


def _count(said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int) or said < 0:
        raise Missing(f"the answer is not one of Redis: {_quoted(said)}")
    return float(said)


def _number(said: Any, name: str) -> float:
    if not isinstance(said, str) or not NUMBER.fullmatch(said.strip()):
        raise Missing(f"{name} is not a number: {_quoted(said)}")
    return float(said)


def _score(wanted: float | str | None, now: datetime, default: str) -> str:
    if wanted is None:
        return default
    if wanted == "now":
        return repr(now.timestamp())
    return repr(now.timestamp() * 1000) if wanted == "now_ms" else repr(wanted)


def _quoted(said: Any) -> str:
    return f'"{_cut(said)}"' if isinstance(said, str) else type(said).__name__


def _cut(text: str) -> str:
    """A name or answer on one short line."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text[:80]).split())
    return plain if len(plain) <= LONGEST_NUMBER else f"{plain[: LONGEST_NUMBER - 3]}..."


class _Plugin:
    source = RedisSource

    def open(self, metric: Metric, target: Target, context: Context) -> RedisMetrics:  # noqa: ARG002 - any target
        assert isinstance(metric.source, RedisSource)  # noqa: S101 - the loader made it
        servers = context.shared.setdefault(Servers, Servers())
        return RedisMetrics(metric.name, metric.source, servers)


PLUGIN: Final = _Plugin()
