"""The last few seconds of what the application in this pod used, from a look twice a second."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from scaler.clients.pod_usage import PodUsage, Used
from scaler.clock import Clock

MOST: Final = 10  # looks that are kept
KEPT: Final = timedelta(seconds=5)
SHORTEST: Final = timedelta(milliseconds=200)  # of a rate; shorter spans are mostly noise
NOT_YET: Final = "seen for the first time just now; the next look has a number"

Found = Mapping[str, Used]  # by life of a container


@dataclass(frozen=True, slots=True)
class Point:
    """One look, compared with the one before it."""

    number: int  # grows with each
    at: timedelta  # monotonic
    window: timedelta
    cpu: float  # cores
    memory: float  # bytes
    containers: int


class PodSamples:
    """Looks when it is told to; `missing` says why there is nothing new."""

    def __init__(self, clock: Clock, usage: PodUsage) -> None:
        self.missing = NOT_YET
        self._clock = clock
        self._usage = usage
        self._points: deque[Point] = deque(maxlen=MOST)
        self._before: tuple[timedelta, Found] | None = None
        self._looking: asyncio.Task[None] | None = None

    def points(self) -> list[Point]:
        """Those of the last seconds, oldest first."""
        begin = self._clock.monotonic() - KEPT
        return [point for point in self._points if point.at >= begin]

    def look_soon(self) -> None:
        """Left out while the last one is still under way: a pod short of CPU is not pressed."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.look(), name="usage of this pod")

    async def look(self) -> None:
        """A container that has come or gone since the last look leaves its sum without meaning."""
        at = self._clock.monotonic()
        try:
            found = await asyncio.to_thread(self._usage.look)
        except (LookupError, OSError) as error:
            self.missing, self._before = str(error), None
            return
        before = self._before
        if before is None or before[1].keys() != found.keys():
            self.missing, self._before = NOT_YET, (at, found)
            return
        window = at - before[0]
        if window < SHORTEST:
            return
        self._before = at, found
        gained = [used.cpu_s - before[1][life].cpu_s for life, used in found.items()]
        if min(gained) < 0:
            self.missing = NOT_YET
            return
        self.missing = ""
        self._points.append(
            Point(
                number=self._points[-1].number + 1 if self._points else 1,
                at=at,
                window=window,
                cpu=sum(gained) / window.total_seconds(),
                memory=sum(used.memory_bytes for used in found.values()),
                containers=len(found),
            )
        )

    async def aclose(self) -> None:
        if self._looking is not None:
            await asyncio.gather(self._looking, return_exceptions=True)
