"""What happens to the containers of an engine, as it happens.

An engine keeps its last 256 events only, drops those that a slow reader does not take, and a
connection may be half open and silent for ever. So events are hints that come fast, and a `Resync`
now and then says: list everything anew. Whoever heeds both misses nothing for more than a minute.
"""

import asyncio
import contextlib
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from scaler.clients.docker import Engine, errors
from scaler.clock import Clock
from scaler.errors import ScalerError

ACTIONS: Final = (  # the engine leaves the others out: each health check makes three exec_* events
    "create", "destroy", "die", "health_status", "kill", "oom", "pause", "rename", "restart",
    "start", "stop", "unpause", "update",
)  # fmt: skip
WAITING_MOST: Final = 1024  # events that nobody has taken yet; then all are dropped for a Resync
REMEMBERED: Final = 1024  # events that are not told twice; four times what an engine repeats
LINE_BYTES_MOST: Final = 1 << 20  # of one event, all labels included
RESYNC_EVERY: Final = timedelta(minutes=1)
QUIET_MOST: Final = timedelta(seconds=90)  # then the connection is taken for dead, and made anew
BACK_OFF: Final = timedelta(seconds=0.5)
BACK_OFF_MOST: Final = timedelta(seconds=30)
OVERLAP_NS: Final = 1_000_000_000  # asked for again after a new connection
CLOSING_MOST: Final = timedelta(seconds=5)  # a thread without an answer to its request is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a container."""

    action: str  # as in ACTIONS
    id: str
    name: str
    at: datetime  # by the clock of the engine
    attributes: Mapping[str, str]  # exitCode, signal, labels; `health` beside `health_status`


@dataclass(frozen=True, slots=True)
class Resync:
    """Something may have been missed: list everything anew."""


class Events:
    """The events of one engine, for one follower at a time."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        *,
        quiet_most: timedelta = QUIET_MOST,
        random: Random | None = None,
    ) -> None:
        self.alive = False  # connected now
        self.trouble = ""  # why not; empty before the first try and while it is
        self._engine = engine
        self._clock = clock
        self._quiet_most = quiet_most
        self._random = random or Random()
        self._seen: dict[tuple[str, str, int], None] = {}  # the oldest first
        self._last_ns = 0
        self._stream: _Stream | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._inbox = _Inbox()

    async def follow(self) -> AsyncIterator[Event | Resync]:
        """Events for ever; a `Resync` first, with each new connection, and once a minute.

        Ends only by `aclose`. Connections that fail are tried again, 0.5 to 30 seconds later.
        """
        await self.aclose()
        inbox = self._inbox = _Inbox()
        inbox.put(Resync())
        self._tasks = (asyncio.create_task(self._connect()), asyncio.create_task(self._remind()))
        try:
            while (item := await inbox.take()) is not None:
                if isinstance(item, Resync) or self._is_new(item):
                    yield item
        finally:
            if inbox is self._inbox:
                await self.aclose()

    async def aclose(self) -> None:
        """End the connection and whoever follows."""
        tasks, self._tasks = self._tasks, ()
        self._inbox.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_new(self, event: Event) -> bool:
        moment = int(event.attributes["timeNano"])
        self._last_ns = max(self._last_ns, moment)
        key = (event.id, event.action, moment)
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True

    async def _remind(self) -> None:
        while True:
            await self._clock.sleep(RESYNC_EVERY)
            self._inbox.put(Resync())

    async def _connect(self) -> None:
        """Keep one connection after the other."""
        span = BACK_OFF
        while True:
            began = self._clock.monotonic()
            await self._read()
            if self._clock.monotonic() - began > BACK_OFF_MOST:  # it was a good one
                span = BACK_OFF
            await self._clock.sleep(min(span * self._random.uniform(1, 1.5), BACK_OFF_MOST))
            span = min(span * 2, BACK_OFF_MOST)

    async def _read(self) -> None:
        """One connection, from its opening to its end."""
        loop, inbox, since = asyncio.get_running_loop(), self._inbox, self._since()
        ended: asyncio.Future[str] = loop.create_future()
        stream = _Stream(self._engine, self._quiet_most)

        def opened() -> None:
            self.alive, self.trouble = True, ""

        def run() -> None:
            said = "the engine ended the stream of events"
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
                try:
                    for item in stream.read(since):
                        if isinstance(item, Resync):
                            loop.call_soon_threadsafe(opened)
                        inbox.put(item)
                except ScalerError as error:
                    said = str(error)
                loop.call_soon_threadsafe(ended.set_result, said)

        threading.Thread(target=run, name="docker-events", daemon=True).start()
        try:
            self.trouble = await asyncio.shield(ended)
        except asyncio.CancelledError:
            stream.stop()
            await asyncio.wait([ended], timeout=CLOSING_MOST.total_seconds())
            raise
        finally:
            self.alive = False

    def _since(self) -> str:
        """From when the engine repeats what it still knows; empty for from now on."""
        if not self._last_ns:
            return ""
        seconds, rest = divmod(self._last_ns - OVERLAP_NS, 1_000_000_000)
        return f"{seconds}.{rest:09d}"


class _Inbox:
    """What the thread has read and the loop has not taken; bounded."""

    def __init__(self) -> None:
        self._items: deque[Event | Resync] = deque()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, item: Event | Resync) -> None:
        """From any thread. When there are too many, one Resync stands for all."""
        with self._lock:
            if len(self._items) >= WAITING_MOST:
                self._items.clear()
                self._items.append(Resync())
            if isinstance(item, Resync) and self._items and self._items[-1] == item:
                return
            self._items.append(item)
            if len(self._items) == 1 and self._loop is not None:
                self._wake(self._loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            loop.call_soon_threadsafe(self._filled.set)

    async def take(self) -> Event | Resync | None:
        """The next one; None once it is closed."""
        while not self._closed:
            with self._lock:
                self._loop = asyncio.get_running_loop()
                if self._items:
                    return self._items.popleft()
                self._filled.clear()
            await self._filled.wait()
        return None

    def close(self) -> None:
        """In the loop."""
        self._closed = True
        self._filled.set()


class _Stream:
    """One connection, read in a thread of its own."""

    def __init__(self, engine: Engine, quiet_most: timedelta) -> None:
        self._engine = engine
        self._quiet_most = quiet_most
        self._lock = threading.Lock()
        self._shutdown: Callable[[], None] | None = None
        self._stopped = False

    def read(self, since: str) -> Iterator[Event | Resync]:
        """A Resync once the engine listens to us, then its events, until it ends or is stopped.

        Raises:
            ScalerError: there is no connection, or no longer.
        """
        doing = "following the events of the Docker engine"
        asked = {"type": ["container"], "event": list(ACTIONS)}
        parameters = {"filters": json.dumps(asked), **({"since": since} if since else {})}
        with errors(doing), contextlib.closing(self._engine.dial(self._quiet_most)) as api:
            # Not `api.events`: it waits for ever, even for the first byte.
            url = f"{api.base_url}/v{api.api_version}/events"
            quiet_s = self._quiet_most.total_seconds()
            with api.get(url, params=parameters, stream=True, timeout=quiet_s) as response:
                response.raise_for_status()
                with self._lock:
                    self._shutdown = response.raw.shutdown
                    if self._stopped:
                        return
                try:
                    yield Resync()
                    for line in _lines(response.iter_content(chunk_size=None)):
                        if (event := _event(line)) is not None:
                            yield event
                finally:
                    with self._lock:
                        self._shutdown = None

    def stop(self) -> None:
        """End the reading, whatever it waits for; from another thread."""
        with self._lock:
            self._stopped = True
            if self._shutdown is not None:
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has just ended
                    self._shutdown()


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LINE_BYTES_MOST:
            raise OSError(f"an event is longer than {LINE_BYTES_MOST} bytes")


def _event(line: bytes) -> Event | None:
    """None for what is not an event of a container."""
    try:
        seen: dict[str, Any] = json.loads(line)
        actor = seen["Actor"]
        moment = int(seen["timeNano"])
        attributes = dict(actor.get("Attributes") or {})
        action, _, health = str(seen["Action"]).partition(": ")
        attributes["timeNano"] = str(moment)
        if action == "health_status":
            attributes["health"] = health
        return Event(
            action=action,
            id=str(actor["ID"]),
            name=str(attributes.get("name", "")),
            at=datetime.fromtimestamp(moment / 1e9, UTC),
            attributes=attributes,
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
