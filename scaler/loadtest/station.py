"""A service whose capacity is known: some workers, one queue, times of service from a seed.

It answers a trial as a load generator does, in microseconds per request and without a clock, so
that a search can be tried hundreds of times and held against the truth.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapreplace
from random import Random
from typing import Final

from scaler.loadtest.evidence import Batch, Counts, Objective

MOST_REQUESTS: Final = 20_000_000  # of one trial

Draw = Callable[[Random], float]  # a time of service in seconds


def exponential(mean: float) -> Draw:
    return lambda random: random.expovariate(1 / mean)


def fixed(mean: float) -> Draw:
    return lambda _: mean


def lognormal(mean: float, sigma: float = 0.5) -> Draw:
    """`sigma` of the logarithm; 1.5 is a heavy tail."""
    mu = math.log(mean) - sigma**2 / 2
    return lambda random: random.lognormvariate(mu, sigma)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Stops of all workers, as of a garbage collector."""

    every: float  # seconds between two, on average
    last: float  # seconds


@dataclass(slots=True, kw_only=True)
class Station:
    """`workers` that serve who came first. Each trial begins with an empty queue."""

    workers: int
    service: Draw
    random: Random = field(default_factory=lambda: Random(1))
    pauses: Pauses | None = None
    noise: float = 0.0  # sigma of a factor on the speed of each trial: neighbours on the machine
    cold: float = 0.0  # seconds of load until it is warm
    slower: float = 3.0  # times, while it is cold
    _ran: float = 0.0

    def take(self, rate: float, seconds: float, within: float, *, slope: float = 0.0) -> Counts:
        """Serve Poisson arrivals, and count by the second those later than `within` seconds.

        `slope` is what the rate rises by in a second.
        """
        due = [0] * math.ceil(seconds)
        late = [0] * len(due)
        for at, response in self._responses(rate, seconds, slope):
            second = int(at)
            due[second] += 1
            if response > within:
                late[second] += 1
        return Counts(batches=tuple(map(Batch, due, late)))

    def _responses(self, rate: float, seconds: float, slope: float) -> list[tuple[float, float]]:
        if (rate + slope * seconds / 2) * seconds > MOST_REQUESTS:
            raise ValueError(f"{rate:g}/s for {seconds:g} s are too many requests")
        random, draw = self.random, self.service
        factor = math.exp(random.gauss(0, self.noise)) if self.noise else 1.0
        free = [0.0] * self.workers
        pause = random.expovariate(1 / self.pauses.every) if self.pauses else math.inf
        found: list[tuple[float, float]] = []
        now = random.expovariate(rate)
        while now < seconds:
            if self.pauses and now >= pause:
                free = [max(at, pause) + self.pauses.last for at in free]
                pause += self.pauses.last + random.expovariate(1 / self.pauses.every)
            takes = draw(random) * factor
            if self._ran + now < self.cold:
                takes *= self.slower
            end = max(free[0], now) + takes
            heapreplace(free, end)
            found.append((now, end - now))
            now += random.expovariate(rate + slope * now)
        self._ran += seconds
        return found


def late_exponential(rate: float, workers: int, mean: float, within: float) -> float:
    """The share later than `within` of M/M/c; 1 beyond saturation.

    Source: Erlang C, and the time in the system as a sum of waiting and service (Gross and Harris,
    Fundamentals of Queueing Theory, section 2.3).
    """
    load = rate * mean
    if load >= workers:
        return 1.0
    block = 1.0
    for number in range(1, workers + 1):
        block = load * block / (number + load * block)
    wait = block / (1 - load / workers * (1 - block))
    gone, mu = workers / mean - rate, 1 / mean  # rates at which waiting and service end
    if math.isclose(gone, mu):
        gone *= 1 + 1e-6
    alone = math.exp(-mu * within)
    queued = (gone * alone - mu * math.exp(-gone * within)) / (gone - mu)
    return (1 - wait) * alone + wait * queued


def capacity_exponential(workers: int, mean: float, objective: Objective) -> float:
    """The highest rate within the objective, by the formula; 0 when there is none."""
    within = objective.within.total_seconds()
    return _highest(
        workers / mean, lambda rate: late_exponential(rate, workers, mean, within), objective.share
    )


def capacity_simulated(
    station: Callable[[], Station], objective: Objective, *, most: float, seconds: float = 4000.0
) -> float:
    """The same by long runs with the same arrivals at every rate; `station` makes a new one."""
    within = objective.within.total_seconds()

    def late(rate: float) -> float:
        batches = station().take(rate, seconds, within).batches[10:]
        return sum(b.late for b in batches) / max(1, sum(b.due for b in batches))

    return _highest(most, late, objective.share)


def _highest(most: float, late: Callable[[float], float], share: float) -> float:
    low, high = 0.0, most
    for _ in range(14):  # to a 16,000th
        middle = (low + high) / 2
        if late(max(middle, 1e-9)) <= share:
            low = middle
        else:
            high = middle
    return low
