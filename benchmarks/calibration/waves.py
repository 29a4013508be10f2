"""A written policy on loads it has not seen, with the engine that runs live in simulated time."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from scaler.clock import ManualClock
from scaler.core.document import Target
from scaler.core.policy import Policy
from scaler.loadtest.growth import Rules
from scaler.simulation.run import Simulation
from scaler.simulation.world import KIND, Service, World
from scaler.stores.memory import MemoryStore

START: Final = datetime(2026, 3, 2, tzinfo=UTC)
EASE: Final = timedelta(minutes=5)  # at the begin, not counted: it starts with one instance
MOST: Final = 40  # instances

Wave = Callable[[float], float]  # requests per second at so many seconds


def sine(period: float, low: float, high: float) -> Wave:
    return lambda at: low + (high - low) * (0.5 - 0.5 * math.cos(2 * math.pi * at / period))


def triangle(period: float, low: float, high: float) -> Wave:
    return lambda at: low + (high - low) * (1 - abs(2 * (at / period % 1) - 1))


def two(first: Wave, second: Wave) -> Wave:
    return lambda at: first(at) + second(at)


def shaken(wave: Wave, sigma: float, seed: int) -> Wave:
    """With a factor for each half a minute, joined by straight lines."""
    random = Random(seed)
    factors = [math.exp(random.gauss(0, sigma)) for _ in range(2000)]

    def load(at: float) -> float:
        place, part = divmod(at / 30, 1)
        before, after = factors[int(place)], factors[int(place) + 1]
        return wave(at) * (before + (after - before) * part)

    return load


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a policy made of a wave."""

    seconds: int
    held: int  # seconds in which what was ready could carry the load
    paid: int  # instance-seconds

    @property
    def share(self) -> float:
        return self.held / self.seconds


def ran(goal: float, rules: Rules, wave: Wave, capacity: float, boot: float, span: float) -> Ran:
    """`capacity` is the truth, in requests per second of one instance."""
    return asyncio.run(_ran(_policy(goal, rules), wave, capacity, boot, span))


def _policy(goal: float, rules: Rules) -> Policy:
    return Policy.model_validate(
        {
            "name": "web",
            "target": Target(kind=KIND, policy="web"),
            "limits": {"max": MOST, **rules.limits()},
            "metrics": [{"name": "requests", "goal": {"per_instance": goal}, **rules.metric()}],
        }
    )


async def _ran(policy: Policy, wave: Wave, capacity: float, boot: float, span: float) -> Ran:
    clock = ManualClock(START)

    def load(now: datetime) -> float:
        return wave((now - START).total_seconds())

    service = Service(load=load, cores=1.15 * capacity, boot=timedelta(seconds=boot))
    seen: list[tuple[datetime, list[datetime]]] = []

    def passing(what: str) -> None:
        if what in ("observe", "scaled"):
            seen.append((clock.now(), [unit.started_at for unit in service.units.values()]))

    world = World(clock, {"web": service}, passing=passing)
    life = Simulation(adapters=world, policies={"web": policy}, store=MemoryStore(), clock=clock)
    await life.start()
    await life.run(timedelta(seconds=span))
    await life.stop()
    return _counted(seen, load, capacity, service.boot, START + timedelta(seconds=span))


def _counted(
    seen: list[tuple[datetime, list[datetime]]],
    load: Callable[[datetime], float],
    capacity: float,
    boot: timedelta,
    end: datetime,
) -> Ran:
    held = paid = seconds = place = 0
    now = START + EASE
    while now < end:
        while place + 1 < len(seen) and seen[place + 1][0] <= now:
            place += 1
        started = seen[place][1]
        ready = sum(at + boot <= now for at in started)
        seconds += 1
        held += load(now) <= capacity * ready
        paid += len(started)
        now += timedelta(seconds=1)
    return Ran(seconds=seconds, held=held, paid=paid)
