"""The only module that reads time or sleeps.

`SystemClock` is anchored: wall time at start plus monotonic time since. A wall clock that is
stepped by an operator or by NTP neither stalls a job nor releases a cooldown; the daemon compares
both now and then and says so (`SystemClock.step`).
"""

import asyncio
import heapq
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Protocol

seconds = time.monotonic
"""Monotonic seconds as a bare float, for code that measures thousands of times in a second; on
Linux the same in all processes of a machine. Whatever decides is given a `Clock`."""


class Clock(Protocol):
    """What everything else knows of time."""

    def now(self) -> datetime:
        """An aware UTC moment that never runs backwards."""
        ...

    def monotonic(self) -> timedelta:
        """Time since some moment in the past; for durations and deadlines."""
        ...

    async def sleep(self, span: timedelta) -> None: ...


class SystemClock:
    """Anchored wall time."""

    def __init__(self) -> None:
        self._wall = datetime.now(UTC)
        self._started = time.monotonic()

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=time.monotonic() - self._started)

    def monotonic(self) -> timedelta:
        return timedelta(seconds=time.monotonic())

    async def sleep(self, span: timedelta) -> None:
        await asyncio.sleep(span.total_seconds())

    def wall(self) -> datetime:
        """The wall clock as it is set now, for a library that follows it."""
        return datetime.now(UTC)

    def step(self) -> timedelta:
        """How far the wall clock has been moved against this clock since the start."""
        return self.wall() - self.now()


class ManualClock:
    """Time that stands still until it is advanced; for tests and simulation.

    Sleepers wake in the order of their moments while `advance` runs.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = timedelta()
        self._sleepers: list[tuple[timedelta, int, asyncio.Future[None]]] = []
        self._order = count()

    def now(self) -> datetime:
        return self._start + self._elapsed

    def monotonic(self) -> timedelta:
        return self._elapsed

    async def sleep(self, span: timedelta) -> None:
        if span <= timedelta():
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + span, next(self._order), future))
        await future

    def set(self, moment: datetime) -> None:
        """Jump forward to `moment` without waking anybody; the simulation steps its own jobs."""
        self._elapsed = max(self._elapsed, moment - self._start)

    def upcoming(self) -> timedelta | None:
        """When the next sleeper wakes, as `monotonic` will say; None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def advance(self, span: timedelta) -> None:
        """Let `span` pass, waking each sleeper at its own moment."""
        until = self._elapsed + span
        while self._sleepers and self._sleepers[0][0] <= until:
            self._elapsed, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            for _ in range(5):  # let the sleeper run and perhaps sleep again
                await asyncio.sleep(0)
        self._elapsed = until
        await asyncio.sleep(0)
