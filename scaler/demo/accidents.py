"""What goes wrong during the demo: a kill, a hang, a Redis that stands still, keys left behind."""

import os
import signal
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from scaler.clients.redis import Redis
from scaler.clock import Clock
from scaler.core.model import Instance
from scaler.demo.telling import Teller

LEFT_BEHIND: Final = 25  # keys
PATIENCE: Final = timedelta(seconds=20)  # for somebody to whom it can happen
LOOK: Final = timedelta(milliseconds=100)
_PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(slots=True)
class Accidents:
    """Each happens at its share of `span` seconds after it was called."""

    clock: Clock
    teller: Teller
    ready: Callable[[], Sequence[Instance]]
    span: float
    redis: str = ""  # unix:///path, or nothing
    outage: tuple[float, float] | None = None  # when Redis stood still

    async def kill(self) -> None:
        """One instance is killed."""
        victim = await self._victim(0.28, -1)
        if victim is not None and victim.pid:
            text = f"kill -9 of {victim.id}, process {victim.pid}"
            self.teller.accident("kill", text)
            os.kill(victim.pid, signal.SIGKILL)

    async def hang(self) -> None:
        """One instance is frozen: it takes connections and answers nobody."""
        victim = await self._victim(0.52, 0)
        if victim is not None and victim.pid:
            text = f"{victim.id} hangs and answers nobody any more"
            self.teller.accident("hang", text)
            os.kill(victim.pid, signal.SIGSTOP)

    async def _victim(self, share: float, which: int) -> Instance | None:
        """One of several, or after some patience the only one; None when none becomes ready."""
        await self._until(share)
        begin = self.clock.monotonic()
        while self.clock.monotonic() < begin + PATIENCE:
            waited = self.clock.monotonic() - begin
            found = self.ready()
            if len(found) > 1 or (found and waited > timedelta(seconds=0.2 * self.span)):
                return found[which]
            await self.clock.sleep(LOOK)
        return None

    async def freeze_redis(self) -> None:
        """Redis answers nobody for a tenth of the time."""
        if not self.redis:
            return
        await self._until(0.4)
        pid = listener(Path(self.redis.removeprefix("unix://")))
        lasts = max(2.0, 0.1 * self.span)
        self.teller.accident("Redis", f"Redis stands still for {lasts:.0f} s")
        begin = self.teller.at()
        os.kill(pid, signal.SIGSTOP)
        try:
            await self.clock.sleep(timedelta(seconds=lasts))
        finally:
            os.kill(pid, signal.SIGCONT)
        self.outage = (begin, self.teller.at())
        self.teller.say("Redis answers again")

    async def leave_keys(self) -> None:
        """Somebody's script writes keys into the cache that would stay for ever."""
        if not self.redis:
            return
        await self._until(0.12)
        redis = Redis(self.redis)
        try:
            for number in range(LEFT_BEHIND):
                await redis.ask("SET", f"ledger:export:{number}", "left behind by a script")
        finally:
            await redis.aclose()
        text = f"a script leaves {LEFT_BEHIND} keys in the cache that would stay for ever"
        self.teller.accident("keys", text)

    async def _until(self, share: float) -> None:
        await self.clock.sleep(timedelta(seconds=share * self.span))


def listener(path: Path) -> int:
    """The process that listens on a socket of this machine."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
        peer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid: int = _PEER.unpack(peer)[0]
    return pid
