"""A timer that rings within a tenth of a millisecond, for moments that matter.

The timers of event loops have steps of a millisecond, so that a request due in between is up to one
late, or the loop spins. Linux has timers that are files (timerfd_create(2)), which any loop waits
for without spinning. Elsewhere the loop's own timers have to do.
"""

import asyncio
import ctypes
import os
import sys
from datetime import timedelta
from typing import Final

from scaler.clock import Clock, seconds

MONOTONIC: Final = 1  # CLOCK_MONOTONIC, which `seconds` reads too
FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
COARSE_S: Final = 0.001  # the least that a timer of a loop can wait


class _Timer(ctypes.Structure):
    """struct itimerspec: the interval, then the moment, each in seconds and nanoseconds."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """Wakes one waiter at a time; `close` it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None
        self._library = _library()
        self._file = self._library.timerfd_create(MONOTONIC, FLAGS) if self._library else -1
        if self._file >= 0:
            asyncio.get_running_loop().add_reader(self._file, self._ring)

    async def until(self, moment: float) -> None:
        """Wait for that moment of `scaler.clock.seconds`."""
        if self._file < 0 or self._library is None:
            wait = max(moment - seconds(), COARSE_S)
            await self._clock.sleep(timedelta(seconds=wait))
            return
        whole = int(moment)
        timer = _Timer(0, 0, whole, int((moment - whole) * 1e9) + 1)  # zero would disarm it
        self._waiter = asyncio.get_running_loop().create_future()
        self._library.timerfd_settime(self._file, ABSOLUTE, ctypes.byref(timer), None)
        await self._waiter

    def _ring(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # it was set anew in the meantime
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        if self._file >= 0:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = -1


def _library() -> ctypes.CDLL | None:
    """The C library, where it has such timers."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
        _ = (library.timerfd_create, library.timerfd_settime)
    except (OSError, AttributeError):
        return None
    return library
