"""A day in simulated time, with the engine and the store that run live."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from scaler.clock import ManualClock
from scaler.core.decide import decide
from scaler.core.journal import Entry, Kind, policy_of
from scaler.core.policy import Policy
from scaler.simulation.faults import Fault, Trouble
from scaler.simulation.run import Simulation
from scaler.simulation.world import Service, World
from scaler.stores.sqlite import SqliteStore
from tests.simulation.conftest import START

DAY = timedelta(days=1)


def daily(peak: float) -> Callable[[datetime], float]:
    """Little at night, much in the afternoon, with a spike at noon."""

    def load(now: datetime) -> float:
        hour = (now - START) / timedelta(hours=1)
        spike = 2.5 if 4 <= hour < 4.2 else 0.0
        return peak * (0.5 - 0.5 * math.cos(hour / 24 * 2 * math.pi)) + spike

    return load


async def test_every_decision_of_a_day_is_arrived_at_again_from_the_journal(
    clock: ManualClock, policy: Callable[..., Policy], tmp_path: Path
) -> None:
    services = {
        "web": Service(load=daily(5)),
        "api": Service(load=daily(2), boot=timedelta(seconds=40)),
        "batch": Service(load=daily(1)),
    }
    faults = [
        Fault(
            trouble=Trouble.METRICS_MISSING,
            name="web",
            begin=START + timedelta(hours=13),
            end=START + timedelta(hours=13.5),
        ),
        Fault(
            trouble=Trouble.PLATFORM_DOWN,
            name="api",
            begin=START + timedelta(hours=9),
            end=START + timedelta(hours=9.3),
        ),
        Fault(
            trouble=Trouble.CRASH,
            name="batch",
            begin=START + timedelta(hours=3),
            end=START + timedelta(hours=3.01),
        ),
    ]
    policies = {
        "web": policy("web", every="30s", health={"liveness": {"tcp": {}, "every": "1m"}}),
        "api": policy("api", every="30s", limits={"max": 6, "cooldown": "2m", "settle_down": "8m"}),
        "batch": policy("batch", every="1m"),
    }
    store = SqliteStore(tmp_path / "journal.db")
    world = World(clock, services, faults)
    daemon = Simulation(
        adapters=world, policies=policies, store=store, clock=clock, tell=lambda _: None
    )
    await daemon.start()
    await daemon.run(DAY)
    decided = list(await store.read(kinds=[Kind.DECIDED], limit=100_000))
    await daemon.stop()

    changed = [e for e in decided if e.decision and e.decision.desired != e.decision.current]
    assert len(changed) > 20, "the day asks for more changes than that"
    assert max(count for _, count in services["web"].calls) >= 6
    for entry in decided:
        assert_replays(entry)
    assert any("killed by SIGKILL" in entry.summary for entry in decided)


def assert_replays(entry: Entry) -> None:
    assert entry.facts is not None
    assert entry.decision is not None
    facts = entry.facts
    again, _ = decide(policy_of(facts), facts.fleet, facts.readings, facts.history, entry.at)
    assert again == entry.decision
