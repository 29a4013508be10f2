"""A lease in memory, behind a network that loses, delays and cuts."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

from scaler.clock import Clock
from scaler.errors import Unavailable
from scaler.interfaces import Grant

POLL = timedelta(milliseconds=250)


@dataclass
class Record:
    """What the server keeps. It has no clock: who waits measures a term alone."""

    holder: str = ""
    fence: int = 0
    version: int = 0

    def write(self, holder: str, fence: int) -> None:
        self.holder, self.fence, self.version = holder, fence, self.version + 1


@dataclass
class Network:
    """How the way to the server is now; spans are of true time."""

    random: Random
    cut: bool = False
    loss: float = 0.0  # of requests, and of answers
    delay_s: float = 0.0  # at most, each way

    async def way(self) -> None:
        """What is sent while it is cut arrives when it is whole again, wanted or not."""
        await asyncio.sleep(self.random.random() * self.delay_s)
        while self.cut:
            await asyncio.sleep(0.1)
        if self.random.random() < self.loss:
            raise Unavailable("the connection was lost")


class MemoryLease:
    """The contract of `Lease` by compare and swap, as on Kubernetes."""

    def __init__(self, record: Record, network: Network, clock: Clock) -> None:
        self.holder = ""
        self._record = record
        self._network = network
        self._clock = clock
        self._seen = -1
        self._seen_at = timedelta()
        self._ttl = timedelta()
        self._sent: set[asyncio.Task[bool]] = set()

    async def acquire(self, holder: str, ttl: timedelta) -> Grant | None:
        self._ttl = ttl
        asked_at = self._clock.monotonic()
        found = await self._look()
        if found.holder not in ("", holder) and not self._over():
            return None
        fence = found.fence if found.holder == holder else found.fence + 1
        return await self._swap(found, Grant(holder=holder, fence=fence, until=asked_at), ttl)

    async def renew(self, grant: Grant, ttl: timedelta) -> Grant | None:
        asked_at = self._clock.monotonic()
        found = await self._look()
        if (found.holder, found.fence) != (grant.holder, grant.fence):
            return None
        return await self._swap(found, replace(grant, until=asked_at), ttl)

    async def release(self, grant: Grant) -> None:
        found = await self._look()
        if (found.holder, found.fence) == (grant.holder, grant.fence):
            await self._swap(found, replace(grant, holder=""), timedelta())

    async def freed(self, patience: timedelta) -> None:
        end = self._clock.monotonic() + patience
        while self._clock.monotonic() < end:
            if not (await self._look()).holder or self._over():
                return
            await self._clock.sleep(POLL)

    async def _look(self) -> Record:
        await self._network.way()
        found = replace(self._record)
        await self._network.way()
        if found.version != self._seen:
            self._seen, self._seen_at = found.version, self._clock.monotonic()
        self.holder = found.holder
        return found

    def _over(self) -> bool:
        return self._clock.monotonic() - self._seen_at >= self._ttl

    async def _swap(self, found: Record, grant: Grant, ttl: timedelta) -> Grant | None:
        """Write if nobody has written since, and say until when it stands."""
        sent = asyncio.create_task(self._send(found.version, grant))
        self._sent.add(sent)
        sent.add_done_callback(self._sent.discard)
        swapped = await asyncio.shield(sent)  # what was sent is not taken back by impatience
        return replace(grant, until=grant.until + ttl * 0.9) if swapped else None

    async def _send(self, version: int, grant: Grant) -> bool:
        await self._network.way()
        swapped = self._record.version == version
        if swapped:
            self._record.write(grant.holder, grant.fence)
        await self._network.way()
        return swapped

    async def aclose(self) -> None:
        return
