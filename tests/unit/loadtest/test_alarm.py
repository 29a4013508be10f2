import asyncio

import pytest

from scaler.clock import SystemClock, seconds
from scaler.loadtest import alarm
from scaler.loadtest.alarm import Alarm


@pytest.mark.parametrize("files", [True, False], ids=["timer files", "timers of the loop"])
async def test_it_rings_at_its_moment_and_not_before(
    files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not files:
        monkeypatch.setattr(alarm, "_library", lambda: None)
    clock = Alarm(SystemClock())
    try:
        for wait in (0.0003, 0.02, 0.0, -1.0):
            moment = seconds() + wait
            async with asyncio.timeout(10):
                await clock.until(moment)
            assert seconds() >= moment
    finally:
        clock.close()
        clock.close()
