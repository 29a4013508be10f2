"""Hearing of every change to a cache: server-assisted invalidation on a connection of its own.

The server tells us of all keys under a prefix (`CLIENT TRACKING ... BCAST`), whoever changes them.
What has been read is only kept while this is known to work: an end of the connection is noticed at
once, and every few seconds we change a key ourselves and have to hear of it, which also finds a
connection that is silently dead or leads to a server that has been replaced.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from scaler.clients.cache_link import LOST, Client, Link, opened
from scaler.clock import Clock
from scaler.errors import Unavailable

BEAT: Final = timedelta(seconds=5)
PATIENCE: Final = timedelta(seconds=1)  # for the connection, and to hear of our own change
FIRST_WAIT: Final = timedelta(milliseconds=100)
LONGEST_WAIT: Final = timedelta(seconds=5)
BEAT_KEPT_MS: Final = 60_000

log = structlog.get_logger(__name__)


class Ears:
    """One connection that only listens; opened again when it is lost."""

    def __init__(
        self,
        client: Client,
        link: Link,
        *,
        prefix: str,
        name: str,
        changed: Callable[[Sequence[bytes] | None], None],
        turned: Callable[[], None],
        clock: Clock,
        random: Random,
    ) -> None:
        """`changed` is told of keys (None: of all), `turned` that this is on or off now."""
        self.on = False
        self.why = "not connected yet"  # it is off
        self._client = client
        self._link = link
        self._prefix = prefix
        self._beat_key = f"{prefix}beat:{name}"
        self._changed = changed
        self._turned = turned
        self._clock = clock
        self._random = random
        self._heard_beat = asyncio.Event()
        self._ready = asyncio.Event()

    async def ready(self) -> None:
        """Returns when changes are heard of."""
        await self._ready.wait()

    async def run(self) -> None:
        """Until cancelled."""
        if not isinstance(self._client, Redis):
            self.why = "a cluster tells of changes on each node; nothing is kept locally"
            return
        wait = FIRST_WAIT
        while True:
            connection = opened(self._client, protocol=3, socket_timeout=None)
            try:
                await self._tracked(connection)
                beats = asyncio.create_task(self._beats())
                listening = asyncio.create_task(self._listen(connection))
                wait = await self._until_lost(beats, listening, wait)
            except LOST as error:
                self._off(str(error) or "no answer in time")
            finally:
                await connection.disconnect(nowait=True)
            await self._clock.sleep(wait * (1 + self._random.random() / 4))
            wait = min(wait * 2, LONGEST_WAIT)

    async def _tracked(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(PATIENCE.total_seconds()):
            await connection.connect()  # type: ignore[no-untyped-call]
            parser: Any = connection._parser  # noqa: SLF001 - there is no other way in
            parser.set_invalidation_push_handler(_handed_on)
            words = ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
            await connection.send_command(*words)
            await connection.read_response()

    async def _until_lost(
        self, beats: "asyncio.Task[str]", listening: "asyncio.Task[None]", wait: timedelta
    ) -> timedelta:
        """How long to wait before the next connection."""
        both = {beats, listening}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        was_on = self.on
        ended = listening if not listening.cancelled() else beats
        self._off(str(ended.exception() or ended.result()))
        return FIRST_WAIT if was_on else wait

    async def _listen(self, connection: AbstractConnection) -> None:
        while True:
            message = await connection.read_response(timeout=math.inf, push_request=True)
            keys = message[1]
            if keys is not None and self._beat_key.encode() in keys:
                self._heard_beat.set()
            self._changed(keys)

    async def _beats(self) -> str:
        """Prove again and again that we would hear of a change; why that has failed."""
        while True:
            self._heard_beat.clear()
            try:
                await self._link.ask("SET", self._beat_key, b"", "PX", BEAT_KEPT_MS)
                async with asyncio.timeout(PATIENCE.total_seconds()):
                    await self._heard_beat.wait()
            except Unavailable as error:
                return str(error)
            except TimeoutError:
                return "a change of our own was not heard of"
            if not self.on:
                self.on, self.why = True, ""
                self._turned()
                self._ready.set()
            await self._clock.sleep(BEAT)

    def _off(self, why: str) -> None:
        was_on, self.on, self.why = self.on, False, why
        self._ready.clear()
        if was_on:
            self._turned()
            if self._link.up:
                log.warning("cache.deaf", because=why)


async def _handed_on(message: Any) -> Any:
    """To whoever reads: what fails in a handler the library only logs, and we would not know."""
    return message
