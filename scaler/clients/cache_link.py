"""The way to a shared cache on Redis: answers within a budget, or at once that there are none.

Reads of one turn of the event loop go together as one MGET. When the server refuses connections or
does not answer twice in a row, nobody asks it any more until a probe in the background has had an
answer, so an outage costs its first callers the budget and everybody after them nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import partial
from hashlib import sha1
from random import Random
from typing import Any, Final, TypeVar

import structlog
from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scaler.clock import Clock
from scaler.errors import ConfigError, Unavailable

TOGETHER: Final = 256  # keys of one MGET
AT_ONCE: Final = 32  # commands under way, of one event loop
SILENT: Final = 2  # times in a row without an answer in time
FIRST_PROBE: Final = timedelta(milliseconds=100)
LONGEST_PROBE: Final = timedelta(seconds=1)
PATIENCE: Final = timedelta(seconds=2)  # of who invalidates or sets something
AGAIN: Final = timedelta(milliseconds=50)
REFUSED_FOR: Final = timedelta(seconds=1)  # no writes after one was refused
T = TypeVar("T")
Client = Redis | RedisCluster
LOST: Final = (exceptions.RedisError, OSError, TimeoutError)

_Pending = list[tuple[str, "asyncio.Future[bytes | None]"]]

log = structlog.get_logger(__name__)


class WritesRefused(Unavailable):
    """The server answers, and does not take anything: it is full, a replica, or forbids it."""


def connected(url: str) -> Client:
    """A client that is told its deadlines by each call and never tries twice.

    Raises:
        ConfigError: `url` is no address of Redis.
    """
    try:
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=None,
            retry=Retry(NoBackoff(), 0),
            max_connections=1000,
            driver_info=None,  # two commands less, that some users may not give
        )
    except ValueError as error:
        raise ConfigError(f"the address of Redis cannot be used: {error}") from None
    return Redis.from_pool(pool)


class Link:
    """One server or cluster, as one event loop asks it."""

    def __init__(
        self, client: Client, *, budget: timedelta, probe_key: str, clock: Clock, random: Random
    ) -> None:
        """`probe_key` is read to find out whether the server is back."""
        if getattr(client, "get_encoder", None) and client.get_encoder().decode_responses:
            raise ConfigError("values are bytes: make the client with decode_responses=False")
        self.up = True
        self.back: Callable[[], None] = lambda: None  # called when the server answers again
        self._client = client
        self._cluster = isinstance(client, RedisCluster)
        self._budget_s = budget.total_seconds()
        self._probe_key = probe_key
        self._clock = clock
        self._random = random
        self._room = asyncio.Semaphore(AT_ONCE)
        self._direct = False
        self._loop = asyncio.get_running_loop()
        self._pending: _Pending = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent = 0
        self._why = ""
        self._lost_at = timedelta()
        self._no_writes_until = timedelta()
        self._refusal = ""
        self._scripts: dict[str, str] = {}
        self._wires: list[AbstractConnection] = []  # that nobody uses at the moment
        self._opened: list[AbstractConnection] = []  # all of them

    def get(self, key: str) -> Awaitable[bytes | None]:
        """Raises Unavailable. Alone it is a GET; whoever comes meanwhile goes with the others."""
        return self._together(key) if self._direct else self._alone(key)

    async def _alone(self, key: str) -> bytes | None:
        self._direct = True
        try:
            answer: bytes | None = await self._read("GET", key)
        finally:
            self._direct = False
        return answer

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """One answer per key, in their order. Raises Unavailable."""
        return list(await asyncio.gather(*[self._together(key) for key in keys]))

    async def ask(self, *words: str | bytes | float) -> Any:
        """What a command answers. Raises Unavailable, within the budget."""
        return await self._answered(lambda: self._client.execute_command(*words))

    async def _answered(self, work: Callable[[], Awaitable[T]]) -> T:
        """What the server answers to one request. Raises Unavailable, within the budget."""
        if not self.up:
            raise Unavailable(self._why)
        try:
            async with asyncio.timeout(self._budget_s) as limit:
                answer = await work()
        except LOST as error:
            raise self._failed(error, limit) from error
        self._silent = 0
        return answer

    async def run(self, script: str, keys: Sequence[str], *values: str | bytes | float) -> Any:
        """What a script that writes answers. Raises Unavailable."""
        if self._clock.monotonic() < self._no_writes_until:
            raise WritesRefused(self._refusal)
        sha = self._scripts.get(script)
        arguments = (len(keys), *keys, *values)
        try:
            async with self._room:
                if sha is None:
                    answer = await self.ask("EVAL", script, *arguments)
                    self._scripts[script] = _sha1(script)
                else:
                    answer = await self.ask("EVALSHA", sha, *arguments)
        except Unavailable as error:
            if isinstance(error.__cause__, exceptions.NoScriptError):  # the server was restarted
                self._scripts.pop(script, None)
                return await self.run(script, keys, *values)
            raise self._refused(error) from error
        if self._refusal:
            self._refusal = ""
            log.info("cache.takes_writes")
        return answer

    async def firmly(self, work: Callable[[], Awaitable[T]]) -> T:
        """What somebody has asked for, and not the cache, is tried for a while if there is hope.

        `work` is one of the other methods with its arguments. Raises Unavailable.
        """
        end = self._clock.monotonic() + PATIENCE
        while True:
            try:
                return await work()
            except WritesRefused:
                raise
            except Unavailable:
                if not self.up or self._clock.monotonic() >= end:
                    raise
            await self._clock.sleep(AGAIN)

    async def unlink(self, keys: Sequence[str]) -> int:
        """How many of these keys there were. Raises Unavailable."""
        return int(await self._answered(lambda: self._client.unlink(*keys))) if keys else 0

    async def scan(self, pattern: str, count: int) -> AsyncIterator[list[str]]:
        """The keys that match, a few at a time. Raises Unavailable."""
        found = aiter(self._client.scan_iter(match=pattern, count=count))
        some: list[str] = []
        while (key := await self._answered(lambda: anext(found, None))) is not None:
            some.append(key.decode(errors="replace"))
            if len(some) >= count:
                yield some
                some = []
        if some:
            yield some

    # --- together ---

    def _together(self, key: str) -> "asyncio.Future[bytes | None]":
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        if not self.up:
            future.set_exception(Unavailable(self._why))
            return future
        if not self._pending:
            self._loop.call_soon(self._send)
        self._pending.append((key, future))
        return future

    def _send(self) -> None:
        pending, self._pending = self._pending, []
        for begin in range(0, len(pending), TOGETHER):
            self._background(self._sent(pending[begin : begin + TOGETHER]))

    async def _sent(self, some: _Pending) -> None:
        keys = list(dict.fromkeys([key for key, _ in some]))
        try:
            async with self._room:
                answers: Sequence[bytes | None] = await self._read("MGET", *keys)
        except Unavailable as error:
            _give_up(some, error)
            return
        if len(keys) < len(some):
            known = dict(zip(keys, answers, strict=True))
            answers = [known[key] for key, _ in some]
        for (_, future), answer in zip(some, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    async def _read(self, command: str, *keys: str) -> Any:
        """What GET or MGET answers. Raises Unavailable.

        On a connection that only reads: the way through the pool costs as much as the rest.
        """
        if not self._cluster:
            work: Callable[[], Awaitable[Any]] = partial(self._wired, command, *keys)
        elif command == "MGET":
            work = partial(self._client.mget_nonatomic, keys)  # type: ignore[union-attr]
        else:
            work = partial(self._client.execute_command, command, *keys)
        try:
            return await self._answered(work)
        except Unavailable as error:
            raise self._forbidden(error) from error

    async def _wired(self, *words: str) -> Any:
        used = bool(self._wires)
        wire = self._wires.pop() if used else self._another()
        try:
            try:
                return await _asked(wire, words)
            except exceptions.ConnectionError:
                if not used:
                    raise
                return await _asked(wire, words)  # the server had closed it meanwhile
        finally:
            self._wires.append(wire)

    def _another(self) -> AbstractConnection:
        wire = opened(self._client)
        self._opened.append(wire)
        return wire

    # --- trouble ---

    def _failed(self, error: Exception, limit: asyncio.Timeout) -> Unavailable:
        """What callers get, after drawing the consequences.

        An event loop that was busy for so long itself says nothing about the server.
        """
        why = str(error) or f"no answer within {self._budget_s:g} s"
        if isinstance(error, TimeoutError | exceptions.TimeoutError):
            late_s = self._loop.time() - (limit.when() or 0)
            self._silent += late_s < self._budget_s / 2
            if self._silent >= SILENT:
                self._down(f"no answer within {self._budget_s:g} s")
        elif not isinstance(error, exceptions.ResponseError):
            self._down(why)
        return Unavailable(why)

    def _forbidden(self, error: Unavailable) -> Unavailable:
        """Who may not read has no cache, until somebody grants it."""
        if isinstance(error.__cause__, exceptions.NoPermissionError):
            self._down(str(error))
        return error

    def _refused(self, error: Unavailable) -> Unavailable:
        """A server that is full, a replica, or forbids it takes no writes for a while."""
        if not isinstance(error.__cause__, exceptions.ResponseError):
            return error
        why = str(error)
        if not self._refusal:
            log.warning("cache.refuses_writes", because=why)
        self._refusal = why
        self._no_writes_until = self._clock.monotonic() + REFUSED_FOR
        return WritesRefused(why)

    def _down(self, why: str) -> None:
        if not self.up:
            return
        self.up, self._why, self._lost_at = False, why, self._clock.monotonic()
        log.warning("cache.lost", because=why)
        pending, self._pending = self._pending, []
        _give_up(pending, Unavailable(why))
        self._background(self._probe())

    async def _probe(self) -> None:
        """Ask until there is an answer. It is a read like any other: PING needs fewer rights."""
        wait = FIRST_PROBE
        while True:
            await self._clock.sleep(wait * (1 + self._random.random() / 4))
            try:
                async with asyncio.timeout(self._budget_s):
                    await self._client.execute_command("GET", self._probe_key)
            except LOST:
                wait = min(wait * 1.5, LONGEST_PROBE)
                continue
            break
        self.up, self._silent = True, 0
        span = self._clock.monotonic() - self._lost_at
        log.info("cache.back", after_s=round(span.total_seconds(), 2))
        self.back()

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wire in self._opened:
            await wire.disconnect(nowait=True)
        await self._client.aclose()


def _give_up(some: _Pending, error: Unavailable) -> None:
    for _, future in some:
        if not future.done():
            future.set_exception(error)


def opened(client: Client, **settings: Any) -> AbstractConnection:
    """A connection beside those of a client, as it makes them; not connected yet."""
    pool = client.connection_pool  # type: ignore[union-attr]
    made: AbstractConnection = pool.connection_class(**{**pool.connection_kwargs, **settings})
    return made


async def _asked(wire: AbstractConnection, words: Sequence[str]) -> Any:
    if not wire.is_connected:
        await wire.connect()  # type: ignore[no-untyped-call]  # by itself it does not ask Sentinel
    await wire.send_command(*words, check_health=False)
    return await wire.read_response()


def _sha1(script: str) -> str:
    """As the server names a script."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest()
