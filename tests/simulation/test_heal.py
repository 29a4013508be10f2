"""`mode: heal`: the count belongs to somebody else, health is looked after."""

from collections.abc import Callable
from datetime import timedelta

from scaler.clock import ManualClock
from scaler.core.model import InstanceId
from scaler.core.policy import Policy
from scaler.simulation.faults import Fault, Trouble
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.memory import MemoryStore
from tests.simulation.conftest import START, seconds

MINUTE = timedelta(minutes=1)


async def test_what_dies_is_started_again_and_the_count_is_left_alone(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    web = Service(load=lambda _: 9.0, wanted=3)
    crash = Fault(
        trouble=Trouble.CRASH, name="web", begin=START + MINUTE, end=START + MINUTE + seconds(1)
    )
    world = World(clock, {"web": web}, [crash])
    for number in range(3):
        world.start("web", InstanceId(f"web-{number}"))
    heal = policy(mode="heal", limits={"min": 1, "max": 1})
    daemon = Simulation(adapters=world, policies={"web": heal}, store=MemoryStore(), clock=clock)
    await daemon.start()
    await daemon.run(MINUTE / 2)
    world.start("web", InstanceId("web-3"))  # the operator scales; nobody undoes it
    await daemon.run(2 * MINUTE)
    await daemon.stop()

    assert web.calls == []
    assert len(web.units) == 4
    assert sum(at >= START + MINUTE for at, _ in web.starts) == 4
    decision = daemon.manager.watched["web"].decision
    assert decision is not None
    assert decision.desired == decision.current
    assert decision.steps[-1].rule == "heal"
