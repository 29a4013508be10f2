"""The sick and the dead in simulated time: back-off, budget, brake and canary."""

from collections.abc import Callable
from datetime import timedelta

from scaler.clock import ManualClock
from scaler.core.policy import Policy
from scaler.engine import status
from scaler.errors import Unsupported
from scaler.simulation.faults import Fault, Trouble
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.memory import MemoryStore
from tests.simulation.conftest import START

MINUTE = timedelta(minutes=1)


async def test_a_command_that_ends_at_once_is_started_with_back_off_and_never_given_up(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    services = {"web": Service(lives=timedelta(milliseconds=10))}
    daemon = Simulation(
        adapters=World(clock, services),
        policies={"web": policy(every="1s", metrics=[])},
        store=MemoryStore(),
        clock=clock,
    )
    await daemon.start()
    await daemon.run(5 * timedelta(hours=1))
    await daemon.stop()

    starts = [at for at, _ in services["web"].starts]
    assert sum(at < START + MINUTE for at in starts) <= 10
    assert sum(at < START + 60 * MINUTE for at in starts) <= 20
    assert starts[-1] > START + timedelta(hours=4.8), "it is tried for as long as it is wanted"
    shown = status.of(daemon.manager.watched["web"], clock.now())
    assert shown["instances"][0]["state"] == "failed"
    assert "exit code 1; started" in shown["waiting"][0]


async def test_an_outage_of_a_dependency_restarts_one_canary_at_most(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    begin, end = START + 5 * MINUTE, START + 45 * MINUTE
    faults = [
        Fault(trouble=Trouble.PROBES_FAIL, name="web", begin=begin, end=end),
        Fault(trouble=Trouble.DEPENDENCY_DOWN, name="database", begin=begin, end=end),
    ]
    services = {"web": Service(load=lambda _: 7.0, wanted=0)}
    health = {
        "liveness": {"tcp": {}, "every": "5s"},
        "depends_on": {"database": {"tcp": {"port": 5432}, "every": "5s"}},
    }
    daemon = Simulation(
        adapters=World(clock, services, faults),
        policies={"web": policy(limits={"min": 10, "max": 10}, health=health)},
        store=MemoryStore(),
        clock=clock,
    )
    await daemon.start()
    await daemon.run(60 * MINUTE)
    await daemon.stop()

    in_outage = [unit for at, unit in services["web"].starts if begin <= at < end]
    assert len(in_outage) <= 1
    assert len(services["web"].units) == 10


async def test_ten_sick_together_without_a_known_cause_restart_one_canary_at_a_time(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    begin, end = START + 5 * MINUTE, START + 15 * MINUTE
    services = {"web": Service(load=lambda _: 7.0)}
    health = {"liveness": {"tcp": {}, "every": "5s"}}
    daemon = Simulation(
        adapters=World(
            clock, services, [Fault(trouble=Trouble.PROBES_FAIL, name="web", begin=begin, end=end)]
        ),
        policies={"web": policy(limits={"min": 10, "max": 10}, health=health)},
        store=MemoryStore(),
        clock=clock,
    )
    await daemon.start()
    await daemon.run(30 * MINUTE)
    await daemon.stop()

    assert len([unit for at, unit in services["web"].starts if begin <= at < end]) == 1


async def test_a_restart_that_the_platform_cannot_do_does_not_keep_the_target_from_growing(
    clock: ManualClock, policy: Callable[..., Policy]
) -> None:
    def passing(what: str) -> None:
        if what == "restart":
            raise Unsupported("it runs on another node")

    crash = Fault(
        trouble=Trouble.CRASH,
        name="web",
        begin=START + 2 * MINUTE,
        end=START + 2 * MINUTE + timedelta(seconds=1),
    )
    web = Service(load=lambda now: 1.0 if now < START + 2 * MINUTE else 6.0)
    daemon = Simulation(
        adapters=World(clock, {"web": web}, [crash], passing),
        policies={"web": policy(limits={"min": 4, "max": 10})},
        store=MemoryStore(),
        clock=clock,
    )
    await daemon.start()
    await daemon.run(2 * MINUTE + timedelta(seconds=1))
    for unit in [*web.units.values()][1:]:
        unit.failed_at = None  # all but one live, and have too much to do
    await daemon.run(timedelta(seconds=40))
    await daemon.stop()
    assert web.wanted > 4
    assert "another node" in daemon.manager.watched["web"].trouble
