"""Requests and scale-in in simulated time: none is lost, whoever dies and whoever comes back."""

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from scaler.clock import ManualClock
from scaler.core.document import Balancer
from scaler.core.journal import Entry
from scaler.core.policy import Policy
from scaler.engine.leader import Leadership
from scaler.engine.routes import LOOK
from scaler.simulation.faults import Fault, Trouble
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.memory import MemoryStore
from tests.fakes.lease import MemoryLease, Network, Record
from tests.simulation.conftest import START, seconds

Make = Callable[..., Policy]
LIMITS: dict[str, Any] = {
    "max": 8,
    "settle_down": "20s",
    "grow": {"at_most": "100%", "or": 4, "per": "5s"},
    "shrink": {"at_most": "100%", "per": "5s"},
}


def busy_until(minutes: float, then: float = 0.1) -> Callable[[datetime], float]:
    """Five cores of load for so long, little afterwards."""
    return lambda now: 5.0 if now < START + timedelta(minutes=minutes) else then


def balanced(make: Make, drain: float = 30, every: str = "2s") -> dict[str, Policy]:
    rules = Balancer(kind="world", drain=seconds(drain))
    metrics = [{"cpu": "70%", "window": "4s"}]
    return {"web": make(every=every, limits=LIMITS, metrics=metrics, balancer=rules)}


class Told:
    """Hears of all entries."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def __call__(self, entry: Entry) -> None:
        self.entries.append(entry)

    def at(self, words: str) -> list[datetime]:
        return [entry.at for entry in self.entries if words in entry.summary]


def simulated(
    clock: ManualClock, world: World, policies: dict[str, Policy], told: Told
) -> Simulation:
    return Simulation(
        adapters=world, policies=policies, store=MemoryStore(), clock=clock, tell=told
    )


async def test_who_is_to_go_answers_its_requests_first(clock: ManualClock, policy: Make) -> None:
    web, told = Service(load=busy_until(2), request=seconds(7)), Told()
    daemon = simulated(clock, World(clock, {"web": web}), balanced(policy), told)
    await daemon.start()
    await daemon.run(timedelta(minutes=2))
    assert len(web.units) >= 7
    await daemon.run(timedelta(minutes=2))
    await daemon.stop()

    assert (len(web.units), web.wanted, web.broken) == (1, 1, 0)
    quiet, gone = told.at("gets no new requests"), told.at("to scale to 1")
    assert gone[-1] - quiet[-1] >= seconds(7)
    assert gone[-1] - quiet[-1] < seconds(7) + 2 * LOOK, "it goes as soon as it has answered"
    entries = [e for e in told.entries if e.decision and e.decision.remove]
    assert len(entries) <= 3, "a drain is one decision, however often it is looked at"


async def test_load_that_comes_back_takes_the_drain_back_within_one_tick(
    clock: ManualClock, policy: Make
) -> None:
    back = START + timedelta(minutes=2) + seconds(40)

    def load(now: datetime) -> float:
        return 5.0 if now < START + timedelta(minutes=2) or now >= back else 0.1

    web, told = Service(load=load, request=timedelta(minutes=5)), Told()
    daemon = simulated(clock, World(clock, {"web": web}), balanced(policy, drain=600), told)
    await daemon.start()
    await daemon.run(timedelta(minutes=4))
    await daemon.stop()

    most = max(count for _, count in web.calls)
    assert web.calls[-1][1] == most, "nobody has gone"
    assert told.at("gets no new requests")
    assert back <= min(told.at("gets requests again")) <= back + seconds(2)
    assert len(web.routed) == len(web.units) == most


async def test_a_balancer_that_does_not_answer_keeps_everybody_and_stops_no_growth(
    clock: ManualClock, policy: Make
) -> None:
    down = Fault(
        trouble=Trouble.BALANCER_DOWN, name="web", begin=START, end=START + timedelta(minutes=6)
    )
    web, told = Service(load=busy_until(3)), Told()
    daemon = simulated(clock, World(clock, {"web": web}, [down]), balanced(policy), told)
    await daemon.start()
    await daemon.run(timedelta(minutes=6))
    assert len(web.units) >= 7
    assert daemon.manager.watched["web"].condition == "degraded"
    await daemon.run(timedelta(minutes=2))
    await daemon.stop()
    assert (len(web.units), web.broken) == (1, 0)
    assert daemon.manager.watched["web"].condition == "ok"


async def test_after_its_drain_an_instance_goes_whatever_is_open(
    clock: ManualClock, policy: Make
) -> None:
    web, told = Service(load=busy_until(2), request=timedelta(hours=1)), Told()
    daemon = simulated(clock, World(clock, {"web": web}), balanced(policy, drain=10), told)
    await daemon.start()
    await daemon.run(timedelta(minutes=4))
    await daemon.stop()
    assert len(web.units) == 1
    assert web.broken == max(count for _, count in web.calls) - 1
    assert told.at("requests open, as drain is over")


class Killed(BaseException):
    """The end of the process, without any goodbye."""


async def test_a_daemon_that_is_killed_while_it_drains_loses_no_request(
    clock: ManualClock, policy: Make
) -> None:
    left = 0

    def passing(what: str) -> None:
        nonlocal left
        if what in ("route", "scale", "scaled") and clock.now() > START + timedelta(minutes=2):
            left += 1
            if left % 5 == 0:
                raise Killed

    web = Service(load=busy_until(2), request=seconds(3))
    world, store, deaths = World(clock, {"web": web}, (), passing), MemoryStore(), 0
    while clock.now() < START + timedelta(minutes=6):
        daemon = Simulation(adapters=world, policies=balanced(policy), store=store, clock=clock)
        try:
            await daemon.start()
            await daemon.run(START + timedelta(minutes=6) - clock.now())
        except Killed:
            deaths += 1
            clock.set(clock.now() + seconds(1))
    assert deaths >= 5
    assert (len(web.units), web.wanted, web.broken) == (1, 1, 0)


class Appointed(Leadership):
    """Leads for as long as the test says so."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(
            MemoryLease(Record(), Network(Random(1)), clock),
            holder="a",
            ttl=seconds(15),
            clock=clock,
            random=Random(1),
            gained=lambda: None,
            lost=lambda _: None,
        )
        self.appointed = True

    def may_act(self, span: timedelta = timedelta()) -> bool:
        return self.appointed


async def test_who_loses_the_lead_while_it_drains_begins_anew_when_it_leads_again(
    clock: ManualClock, policy: Make
) -> None:
    seen: list[str] = []
    web, leadership = Service(load=busy_until(2), request=timedelta(minutes=5)), Appointed(clock)
    daemon = Simulation(
        adapters=World(clock, {"web": web}, (), seen.append),
        policies=balanced(policy, drain=60),
        store=MemoryStore(),
        clock=clock,
        leadership=leadership,
    )
    await daemon.start()
    await daemon.run(timedelta(minutes=2) + seconds(40))
    assert daemon.manager.watched["web"].leaving

    leadership.appointed = False
    seen.clear()
    await daemon.run(timedelta(minutes=2))
    assert seen.count("observe") <= 62, "one who follows looks as often as the policy says"
    assert seen.count("route") == 0

    leadership.appointed = True
    await daemon.run(seconds(50))
    assert web.broken == 0, "another one may have sent them requests meanwhile"
    assert daemon.manager.watched["web"].leaving
    await daemon.stop()
