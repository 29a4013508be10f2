"""How much is asked of one instance, and a limit to what it carries.

The limit is for demos and benchmarks: an instance that does slow work for each request, one after
the other, without the processors that this would take. So a small machine can show many of them.
"""

from collections import deque
from datetime import timedelta
from typing import Final

from scaler.clock import Clock

SPAN: Final = timedelta(seconds=3)  # over which requests are counted


class Pace:
    """The turns of one instance."""

    def __init__(self, clock: Clock, most: float | None = None) -> None:
        """`most` in requests per second; without it nobody waits."""
        self._clock = clock
        self._each = timedelta(seconds=1 / most) if most else None
        self._free_at = clock.monotonic()
        self._asked: deque[timedelta] = deque()

    async def turn(self) -> None:
        """Count a request, and let it wait until those before it and its own work are done."""
        now = self._clock.monotonic()
        self._asked.append(now)
        self._forget(now)
        if self._each is not None:
            self._free_at = max(self._free_at, now) + self._each
            await self._clock.sleep(self._free_at - now)

    def asked_per_second(self) -> float:
        """How many have come, answered or not; the mean of the last three seconds."""
        self._forget(self._clock.monotonic())
        return round(len(self._asked) / SPAN.total_seconds(), 2)

    def _forget(self, now: timedelta) -> None:
        while self._asked and now - self._asked[0] > SPAN:
            self._asked.popleft()
