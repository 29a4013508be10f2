"""When requests are meant to be sent: a rate over time, and arrivals that follow it.

Arrivals are open: users do not wait for each other. The moments are fixed before anything is sent,
so a slow answer delays no later request, and latency is counted from the intended moment.
"""

import math
from collections.abc import Callable, Iterator
from random import Random

Rate = Callable[[float], float]  # requests per second at so many seconds after the start


def constant(rate: float) -> Rate:
    return lambda _: rate


def ramp(begin: float, end: float, span: float) -> Rate:
    """From `begin` to `end` over `span` seconds, then on at `end`."""
    return lambda t: begin + (end - begin) * min(1.0, t / span)


def wave(low: float, high: float, period: float) -> Rate:
    """One smooth rise and fall each `period` seconds, beginning low."""
    middle, swing = (low + high) / 2, (high - low) / 2
    return lambda t: middle - swing * math.cos(2 * math.pi * t / period)


def steps(levels: list[tuple[float, float]]) -> Rate:
    """`(begins at, rate)` pairs in order of time."""
    return lambda t: next((rate for begin, rate in reversed(levels) if t >= begin), 0.0)


def poisson(rate: Rate, span: float, random: Random, highest: float) -> Iterator[float]:
    """Seconds after the start at which requests arrive, as many independent users make them.

    `highest` is no less than the rate ever is. Source: thinning, Lewis and Shedler 1979.
    """
    now = 0.0
    while highest > 0:
        now += random.expovariate(highest)
        if now >= span:
            return
        if random.random() * highest < rate(now):
            yield now


def even(rate: float, span: float) -> Iterator[float]:
    """Equally spaced arrivals."""
    for number in range(int(rate * span)):
        yield number / rate
