"""Start-up and drain time, measured on simulated services."""

from datetime import timedelta

import pytest

from scaler.clock import ManualClock
from scaler.core.document import Target
from scaler.core.model import Fleet
from scaler.errors import Unavailable
from scaler.loadtest.delays import LOOK, MOST, delays
from scaler.simulation.world import KIND, Service, World, WorldProvider

WEB = Target(kind=KIND, policy="web")


class Passing(ManualClock):
    """Time passes by sleeping."""

    async def sleep(self, span: timedelta) -> None:
        await self.advance(span)


class Slow(WorldProvider):
    """Who has to go is seen for a while longer."""

    def __init__(self, world: World, stays: timedelta) -> None:
        super().__init__(world)
        self.world, self.stays = world, stays
        self.last: Fleet | None = None
        self.until = timedelta()

    async def observe(self, target: Target) -> Fleet:
        fleet, now = await super().observe(target), self.world.clock.monotonic()
        if self.last and len(fleet.instances) < len(self.last.instances):
            self.until = self.until or now + self.stays
            if now < self.until:
                return self.last
        self.last = fleet
        return fleet


async def started(boot: timedelta) -> tuple[Service, World, Passing]:
    clock = Passing()
    service = Service(boot=boot)
    world = World(clock, {"web": service})
    await WorldProvider(world).scale(WEB, 2)
    await clock.advance(timedelta(seconds=30))
    return service, world, clock


async def test_both_are_measured_and_the_count_is_as_before() -> None:
    service, world, clock = await started(timedelta(seconds=7))
    found = await delays(Slow(world, timedelta(seconds=3)), WEB, clock)
    assert timedelta(seconds=7) <= found.ready <= timedelta(seconds=7) + 2 * LOOK
    assert timedelta(seconds=3) <= found.drained <= timedelta(seconds=3) + 2 * LOOK
    assert service.wanted == 2


async def test_one_that_never_is_ready_ends_with_the_count_from_before() -> None:
    service, world, clock = await started(timedelta(seconds=7))
    service.boot = 2 * MOST
    with pytest.raises(Unavailable, match="not ready within"):
        await delays(WorldProvider(world), WEB, clock)
    assert service.wanted == 2
