"""The turns of an instance that is slowed down, and how much was asked of it."""

import asyncio
from datetime import UTC, datetime, timedelta

from scaler.clock import ManualClock
from scaler.demo.ledger.pace import Pace

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_take_their_turn_one_after_the_other() -> None:
    clock = ManualClock(NOON)
    pace = Pace(clock, 10)
    begin = clock.monotonic()
    done: list[float] = []

    async def one() -> None:
        await pace.turn()
        done.append((clock.monotonic() - begin).total_seconds())

    tasks = [asyncio.create_task(one()) for _ in range(3)]
    for _ in range(8):
        await settled()
        await clock.advance(timedelta(milliseconds=50))
    await asyncio.gather(*tasks)
    assert [round(at, 2) for at in done] == [0.1, 0.2, 0.3]


async def test_without_a_limit_nobody_waits() -> None:
    clock = ManualClock(NOON)
    pace = Pace(clock)
    for _ in range(100):
        await pace.turn()
    assert pace.asked_per_second() == round(100 / 3, 2)


async def test_what_was_asked_is_forgotten_after_its_span() -> None:
    clock = ManualClock(NOON)
    pace = Pace(clock)
    await pace.turn()
    await clock.advance(timedelta(seconds=2))
    await pace.turn()
    assert pace.asked_per_second() == 0.67
    await clock.advance(timedelta(seconds=2))
    assert pace.asked_per_second() == 0.33
    await clock.advance(timedelta(seconds=2))
    assert pace.asked_per_second() == 0
