"""When the next request to a server in trouble may be made, for all that want to make one."""

import asyncio
from datetime import timedelta
from random import Random
from typing import Final

from scaler.clock import Clock
from scaler.errors import TransientError

FIRST_PAUSE: Final = timedelta(milliseconds=200)
LONGEST_PAUSE: Final = timedelta(seconds=3)


class Gate:
    """Open while all is well. After a failure one at a time may try, the others wait for it.

    The pause doubles with each failure, up to three seconds, of which up to half is left out at
    random: daemons that lost a server together do not come back together. An answer opens it for
    all at once.
    """

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._pause = timedelta()
        self._not_before = timedelta()
        self._open = asyncio.Event()
        self._open.set()

    @property
    def closed(self) -> bool:
        """Whether the server is in trouble; then whoever waits here is let in when it is not."""
        return not self._open.is_set()

    async def enter(self) -> None:
        """Return when it is time to ask."""
        while not self._open.is_set():
            if (wait := self._not_before - self._clock.monotonic()) <= timedelta():
                self._hold(self._pause)
                return
            try:
                async with asyncio.timeout(wait.total_seconds()):
                    await self._open.wait()
            except TimeoutError:
                pass

    def failed(self, error: TransientError) -> None:
        """The server did not answer, or asked to be left alone for a while."""
        self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
        self._open.clear()
        self._hold(max(self._pause, error.retry_after or timedelta()))

    def answered(self) -> None:
        if not self._open.is_set():
            self._pause = self._not_before = timedelta()
            self._open.set()

    def _hold(self, pause: timedelta) -> None:
        until = self._clock.monotonic() + pause * (1 - self._random.random() / 2)
        self._not_before = max(self._not_before, until)
