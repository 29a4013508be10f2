"""`scaler loadtest` as one of several processes on several machines, which meet in Redis."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from scaler.clients.redis import Redis
from scaler.clock import SystemClock
from scaler.errors import ConfigError
from scaler.loadtest.meeting import Meeting
from scaler.loadtest.part import Part, share_of
from scaler.loadtest.parts import Parts
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress

NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")  # what objects of Kubernetes allow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What was typed about it; None where nothing was."""

    through: str | None
    name: str
    parts: int | None
    part: str | None
    manifest: str | None

    def check(self) -> None:
        """Whether these belong together.

        Raises:
            ConfigError: they do not.
        """
        if self.parts and self.part:
            raise ConfigError("--parts gathers the figures, --part makes them; give one of the two")
        if self.manifest and not self.parts:
            raise ConfigError("a manifest needs --parts, how many there are to be")
        if (self.parts or self.part) and not self.through:
            raise ConfigError("several machines share a load through Redis; add --through URL")
        if not NAME.fullmatch(self.name):
            raise ConfigError(f'"{self.name}" is no name; write --run with small letters and -')


@asynccontextmanager
async def gathering(
    plan: Plan, sharing: Sharing, tell: Callable[[Progress], None]
) -> AsyncIterator[Parts]:
    """What gathers the figures of all parts."""
    redis = Redis(sharing.through or "")
    try:
        meeting = Meeting(redis, sharing.name)
        yield Parts(plan, meeting, sharing.parts or 1, clock=SystemClock(), tell=tell)
    finally:
        await redis.aclose()


async def be_part(plan: Plan, sharing: Sharing, *, allow_host: bool) -> str:
    """Do one part; what came of it in one line. SIGINT and SIGTERM end it early."""
    share = share_of(sharing.part or "")
    redis = Redis(sharing.through or "")
    try:
        meeting = Meeting(redis, sharing.name)
        part = Part(plan, meeting, share, clock=SystemClock(), allow_host=allow_host)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, part.stop)
        record = await part.run()
    finally:
        await redis.aclose()
    return f"{record.due} due, {record.answered} answered well, {record.errors} errors"
