"""An event loop whose time passes only when nobody has anything to do, and skewed clocks on it."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

START = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`asyncio.sleep(3600)` and time-outs take no time at all, and happen in their order."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0

    def time(self) -> float:
        return self._passed

    def _run_once(self) -> None:
        waiting: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and waiting:  # type: ignore[attr-defined]
            self._passed = max(self._passed, waiting[0].when())
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def passed() -> float:
    """Seconds of true time since the beginning."""
    return asyncio.get_running_loop().time()


class SkewedClock:
    """A clock of one machine: ahead or behind, and fast or slow."""

    def __init__(self, offset: timedelta = timedelta(), rate: float = 1.0) -> None:
        self._offset = offset
        self._rate = rate

    def monotonic(self) -> timedelta:
        return self._offset + timedelta(seconds=passed() * self._rate)

    def now(self) -> datetime:
        return START + self.monotonic()

    async def sleep(self, span: timedelta) -> None:
        await asyncio.sleep(max(0.0, span.total_seconds() / self._rate))
