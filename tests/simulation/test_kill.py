"""`kill -9` of the daemon at any moment of a scripted hour, between any two effects."""

import asyncio
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from scaler.clock import ManualClock
from scaler.core.policy import Policy
from scaler.simulation.faults import Fault, Trouble
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.sqlite import SqliteStore
from tests.simulation.conftest import START

HOUR = timedelta(hours=1)
EVERY = timedelta(seconds=5)


class Killed(BaseException):
    """The end of the process, without any goodbye."""


def scripted(now: datetime) -> float:
    """Steps up and down, some shorter than the settle window."""
    minute = (now - START) / timedelta(minutes=1)
    steps = [(0, 0.5), (5, 2.0), (12, 4.5), (20, 4.4), (22, 1.0), (23, 4.4), (35, 1.0), (50, 3.0)]
    return [load for begin, load in steps if begin <= minute][-1]


def hour(clock: ManualClock, passing: Callable[[str], None]) -> World:
    crash = Fault(
        trouble=Trouble.CRASH,
        name="web",
        begin=START + timedelta(minutes=28),
        end=START + timedelta(minutes=28, seconds=5),
    )
    return World(clock, {"web": Service(load=scripted)}, [crash], passing)


async def die(store: SqliteStore) -> None:
    """What is left of a process that was killed: nothing under way, nothing half written."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await store.aclose()


async def live(world: World, policies: dict[str, Policy], clock: ManualClock, path: Path) -> int:
    """The whole hour, started again after every end; how often that was."""
    deaths = 0
    end = START + HOUR
    while clock.now() < end:
        store = SqliteStore(path)
        daemon = Simulation(adapters=world, policies=policies, store=store, clock=clock)
        try:
            await daemon.start()
            await daemon.run(end - clock.now())
        except Killed:
            deaths += 1
        await die(store)
        into = (clock.now() - START) % EVERY
        if into or deaths:
            clock.set(clock.now() + EVERY - into)  # systemd starts it again for the next tick
    return deaths


@pytest.mark.parametrize("seed", range(6))
async def test_an_hour_with_kills_ends_as_the_hour_without(
    seed: int, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    policies = {"web": policy(every="5s", limits={"max": 10, "cooldown": "40s"})}
    calm = hour(ManualClock(START), lambda _: None)
    await live(calm, policies, calm.clock, tmp_path / "calm.db")

    draw = random.Random(seed)
    left = draw.randint(1, 60)

    def passing(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            left = draw.randint(1, 60)
            raise Killed

    rough = hour(ManualClock(START), passing)
    deaths = await live(rough, policies, rough.clock, tmp_path / "rough.db")

    expected, web = calm.services["web"], rough.services["web"]
    assert deaths >= 20
    counts = [count for _, count in web.calls]
    assert counts == [count for _, count in expected.calls], "no action is doubled or forgotten"
    for (at, _), (at_rough, _) in zip(expected.calls, web.calls, strict=True):
        assert abs(at_rough - at) <= 3 * EVERY, "windows and cooldowns go on as if never stopped"
    assert len(web.units) == web.wanted == expected.wanted
    assert len(web.starts) == len(expected.starts), "nothing starts twice"
