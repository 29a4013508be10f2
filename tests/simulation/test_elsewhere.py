"""Somebody else sets the count again and again: the daemon stops, says so, and tries later."""

from collections.abc import Callable
from datetime import timedelta

from scaler.clock import ManualClock
from scaler.core.journal import Entry, Kind
from scaler.core.policy import Policy
from scaler.engine.watched import Condition
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.memory import MemoryStore
from tests.simulation.conftest import seconds


class Quarrel:
    """A busy service, a daemon on it, and a foreign writer that sets two every five seconds."""

    def __init__(self, clock: ManualClock, policy: Policy) -> None:
        self.web = Service(load=lambda _: 4.0, wanted=2)
        self.told: list[Entry] = []
        world = World(clock, {"web": self.web})
        self.daemon = Simulation(
            adapters=world,
            policies={"web": policy},
            store=MemoryStore(),
            clock=clock,
            tell=self.told.append,
        )

    async def run(self, span: timedelta) -> int:
        """How many writes of ours came meanwhile."""
        before = self.writes
        for _ in range(int(span / seconds(5))):
            self.web.wanted = 2
            await self.daemon.run(seconds(5))
        return self.writes - before

    @property
    def writes(self) -> int:
        return sum(count != 2 for _, count in self.web.calls)

    def condition(self) -> Condition:
        return self.daemon.manager.watched["web"].condition

    @property
    def said(self) -> list[str]:
        return [e.summary for e in self.told if e.kind is Kind.PARKED]


async def test_it_stops_after_three_writes_and_says_so(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    quarrel = Quarrel(clock, policy(every="2s"))
    await quarrel.daemon.start()
    assert await quarrel.run(seconds(290)) == 3
    assert quarrel.condition() is Condition.ELSEWHERE
    assert len(quarrel.said) == 1
    assert "somebody has set the count otherwise 3 times, now to 2" in quarrel.said[0]
    assert await quarrel.run(timedelta(minutes=10)) <= 2  # one more try after five minutes
    assert await quarrel.run(timedelta(hours=3)) <= 6
    await quarrel.daemon.stop()


async def test_when_the_other_gives_up_it_goes_on(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    quarrel = Quarrel(clock, policy(every="2s"))
    await quarrel.daemon.start()
    await quarrel.run(timedelta(minutes=1))
    assert quarrel.condition() is Condition.ELSEWHERE
    await quarrel.daemon.run(timedelta(minutes=6))
    assert quarrel.condition() is Condition.OK
    assert quarrel.web.wanted > 2
    await quarrel.daemon.stop()
