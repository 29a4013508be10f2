"""How requests are sent and answers come back: a small interface, and HTTP/1.1 behind it.

Nothing here awaits per request: a call is handed over, bytes go out, and `done` is called once
when it is clear what came of it. That is worth a factor of four against a task per request.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from scaler.clock import seconds
from scaler.loadtest import failures
from scaler.loadtest.failures import Failure
from scaler.loadtest.hosts import Origin
from scaler.loadtest.response import Head, Malformed, Parser

Done = Callable[["Call"], None]

MOST_IDLE_S: Final = 4.0  # Node and uvicorn close after 5 s; a request must not meet that moment


class Call:
    """One request on its way, and what came of it. Moments are of `scaler.clock.seconds`."""

    __slots__ = ("body", "done", "due", "ended", "failure", "first", "kind", "no_body", "sent",
                 "status", "wanted", "wire")  # fmt: skip

    def __init__(
        self,
        wire: bytes,
        due: float,
        done: Done,
        kind: int = 0,
        *,
        no_body: bool = False,
        wanted: bool = False,
    ) -> None:
        self.wire = wire  # the whole request
        self.due = due  # when it was meant to be sent
        self.done = done
        self.kind = kind  # which request of the scenario
        self.no_body = no_body  # the answer has none whatever its head says: HEAD
        self.wanted = wanted  # keep the body
        self.sent = 0.0
        self.first = 0.0
        self.ended = 0.0
        self.status = 0
        self.body = b""
        self.failure: Failure | None = None

    def end(self, failure: Failure | None = None) -> None:
        self.failure = failure
        self.ended = seconds()
        self.done(self)


class Transport(Protocol):
    """Sends calls. Not safe for threads."""

    def send(self, call: Call) -> None:
        """Take a call; never waits and never raises. `call.done` is called exactly once."""
        ...

    def expire(self, now: float) -> None:
        """Give up what has waited for too long; call it every few hundredths of a second."""
        ...

    def cut_off(self) -> None:
        """Give up everything."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In seconds, and of one origin."""

    connect: float = 5.0
    first_byte: float = 30.0
    whole: float = 60.0
    connections: int = 256
    response: int = 2**26
    keep_alive: bool = True


class HttpTransport:
    """HTTP/1.1 to one origin over at most so many connections; the last used is used first."""

    def __init__(self, origin: Origin, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._origin = origin
        self._addresses = list(origin.addresses)
        self.limits = limits
        self._tls = tls
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._queue: deque[Call] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closing = False
        self.heads: dict[bytes, Head] = {}
        self.opened = 0  # connections, ever

    def send(self, call: Call) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._busy.add(connection)
                connection.carry(call)
                return
        self._queue.append(call)
        self._connect()

    def _connect(self) -> None:
        """As many attempts as calls wait, within the limit."""
        room = self.limits.connections - len(self._busy) - len(self._idle)
        wanted = min(len(self._queue), room) - len(self._connecting)
        for _ in range(wanted if not self._closing else 0):
            task = asyncio.get_running_loop().create_task(self._open())
            self._connecting.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if not task.cancelled():
            task.result()
        if self._queue:
            self._connect()

    async def _open(self) -> None:
        failure = Failure.DNS
        for address in list(self._addresses):
            try:
                connection = await self._open_to(address)
            except OSError as error:
                failure = failures.of_connecting(error)
                continue
            if self._addresses[0] != address:  # the next attempt begins with what has worked
                self._addresses.remove(address)
                self._addresses.insert(0, address)
            self.opened += 1
            self.free(connection)
            return
        if self._queue:
            self._queue.popleft().end(failure)

    async def _open_to(self, address: str) -> "_Connection":
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.limits.connect):
            _, connection = await loop.create_connection(
                lambda: _Connection(self),
                address,
                self._origin.port,
                ssl=self._tls,
                server_hostname=self._origin.host if self._tls else None,
            )
        return connection

    def free(self, connection: "_Connection") -> None:
        """A connection that can carry the next call, or none."""
        self._busy.discard(connection)
        if self._queue:
            self._busy.add(connection)
            connection.carry(self._queue.popleft())
        elif self._closing:
            connection.abort()
        else:
            connection.idle_since = seconds()
            self._idle.append(connection)

    def gone(self, connection: "_Connection") -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if self._queue:
            self._connect()

    def expire(self, now: float) -> None:
        limits = self.limits
        for connection in [c for c in self._busy if c.call is not None]:
            call = connection.call
            if call is None:
                continue
            whole = now - call.due > limits.whole
            if not call.first and (whole or now - call.sent > limits.first_byte):
                connection.give_up(Failure.FIRST_BYTE_TIMEOUT)
            elif whole:
                connection.give_up(Failure.BODY_TIMEOUT)
        while self._queue and now - self._queue[0].due > limits.whole:
            self._queue.popleft().end(Failure.NOT_SENT)
        while self._idle and now - self._idle[0].idle_since > MOST_IDLE_S:
            self._idle.pop(0).abort()

    def cut_off(self) -> None:
        while self._queue:
            self._queue.popleft().end(Failure.CUT_OFF)
        for connection in list(self._busy):
            connection.give_up(Failure.CUT_OFF)

    async def aclose(self) -> None:
        self._closing = True
        self.cut_off()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in self._idle:
            connection.abort()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """One connection, which carries one call at a time.

    An answer counts from the moment its last byte was read, before anything else is done.
    """

    __slots__ = ("_parser", "_pool", "_transport", "call", "idle_since", "usable")

    def __init__(self, pool: HttpTransport) -> None:
        self._pool = pool
        self._parser = Parser(pool.limits.response, pool.heads)
        self._transport: asyncio.Transport | None = None
        self.call: Call | None = None
        self.usable = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own do not inherit it
        self.usable = True

    def carry(self, call: Call) -> None:
        self.call = call
        self._parser.begin(no_body=call.no_body, wanted=call.wanted)
        call.sent = seconds()
        if self._transport is not None and self.usable:
            self._transport.write(call.wire)
        else:
            self._over(Failure.RESET)

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:  # nobody asked: the server is out of step, or says that it closes
            self.abort()
            return
        if not call.first:
            call.first = seconds()
        try:
            whole = self._parser.feed(data)
        except Malformed:
            self._over(Failure.MALFORMED)
            return
        if whole:
            self._answered(call)

    def _answered(self, call: Call) -> None:
        self.call = None
        call.status = self._parser.status
        call.body = self._parser.body
        call.ended = seconds()
        keep = self._parser.keep and self._pool.limits.keep_alive
        if keep and self.usable:
            self._pool.free(self)
        else:
            self.abort()
        call.done(call)  # last, so that a call it leads to finds this connection free

    def eof_received(self) -> None:
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)

    def _ended(self, error: Exception | None) -> None:
        self.usable = False
        call = self.call
        if call is None:
            self._pool.gone(self)
        elif error is None and self._parser.end():
            self._answered(call)
        elif error is None and self._parser.started:
            self._over(Failure.INCOMPLETE)
        else:
            self._over(Failure.RESET)

    def give_up(self, failure: Failure) -> None:
        self._over(failure)

    def _over(self, failure: Failure) -> None:
        call, self.call = self.call, None
        self.abort()
        if call is not None:
            call.end(failure)

    def abort(self) -> None:
        """Close at once; the pool forgets it."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()
        self._pool.gone(self)
