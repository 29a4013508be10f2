"""How near a calibration comes to a capacity that is known, beside a ramp and a plain bisection.

The simulated station has four workers and lognormal times of service with a mean of 20 ms; the
truth is a long simulation at the same objective. All methods see stations with the same seeds.
Other kinds of stations follow, each with its own truth. The real server has a pool of workers that
sleep for a fixed time, so its capacity is that of the same station (M/D/c).
"""

import asyncio
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Final

from benchmarks.calibration import peers, waves
from benchmarks.calibration.server import pool
from benchmarks.outcome import Outcome
from scaler.clock import SystemClock
from scaler.loadtest import growth, station
from scaler.loadtest.calibrate import ServiceLoad, calibrate
from scaler.loadtest.capacity import Found, Limits, Refused, Search, Trial
from scaler.loadtest.evidence import Objective
from scaler.loadtest.growth import Headroom
from scaler.loadtest.plan import of_fields
from scaler.loadtest.station import Pauses, Station, capacity_simulated

SEEDS: Final = 40
OTHER_SEEDS: Final = 20
WITHIN: Final = Objective(within=timedelta(milliseconds=200), share=0.01)
LONG: Final = bool(os.environ.get("CALIBRATE_LONG"))  # ten runs on the real server, not three
ONLY: Final = os.environ.get("CALIBRATE_ONLY", "")  # one of PARTS; all when it is not given
REAL_WORKERS: Final = 16
REAL_SERVICE: Final = 0.02
REAL: Final = Limits(lowest=250, highest=2000, seconds=130)  # ten runs in 20 minutes
TOO_HIGH: Final = 0.05
GROWTH: Final = 0.4  # a minute, as `scaler calibrate` has it when nothing is given
BOOT: Final = 20.0  # seconds until an instance of the waves is ready
SPAN: Final = 4800.0  # seconds of each wave
HELD: Final = 0.995

Made = Callable[[Random], Station]
KINDS: Final[dict[str, tuple[Made, float]]] = {
    "lognormal": (
        lambda r: Station(workers=4, service=station.lognormal(0.02), random=r), 200,
    ),
    "exponential": (
        lambda r: Station(workers=4, service=station.exponential(0.02), random=r), 200,
    ),
    "fixed": (lambda r: Station(workers=8, service=station.fixed(0.04), random=r), 200),
    "heavy_tail": (
        lambda r: Station(workers=8, service=station.lognormal(0.02, 1.0), random=r), 400,
    ),
    "pauses": (
        lambda r: Station(
            workers=4, service=station.lognormal(0.02), random=r,
            pauses=Pauses(every=10, last=0.1),
        ), 200,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tried:
    """What one method has found over all seeds: errors relative to the truth, and seconds."""

    errors: list[float]
    seconds: list[float]
    refused: int = 0

    def figures(self) -> dict[str, object]:
        return {
            "mean_absolute_error": round(statistics.mean(map(abs, self.errors)), 4),
            "bias": round(statistics.mean(self.errors), 4),
            "lowest": round(min(self.errors), 3),
            "highest": round(max(self.errors), 3),
            "too_high_share": sum(e > TOO_HIGH for e in self.errors) / len(self.errors),
            "seconds_mean": round(statistics.mean(self.seconds)),
            "seconds_most": round(max(self.seconds)),
            "refused": self.refused,
        }


def searched(made: Station, objective: Objective, limits: Limits | None = None) -> Found | Refused:
    search, within = Search(objective, limits or Limits()), objective.within.total_seconds()
    while isinstance(trial := search.next(), Trial):
        search.took(trial, made.take(trial.rate, trial.seconds, within))
    return trial


def ours(make: Made, truth: float, seeds: int) -> Tried:
    found = [searched(make(Random(seed)), WITHIN) for seed in range(seeds)]
    good = [one for one in found if isinstance(one, Found)]
    return Tried(
        [one.rate / truth - 1 for one in good],
        [one.seconds for one in found],
        len(found) - len(good),
    )


def theirs(method: peers.Method, make: Made, truth: float, seeds: int) -> Tried:
    found = [method(make(Random(seed)), WITHIN) for seed in range(seeds)]
    return Tried([rate / truth - 1 for rate, _ in found], [seconds for _, seconds in found])


def truth_of(make: Made, most: float, seconds: float = 1500) -> float:
    return statistics.mean(
        capacity_simulated(lambda seed=seed: make(Random(seed)), WITHIN, most=most, seconds=seconds)  # type: ignore[misc]
        for seed in (9001, 9002)
    )


def refusals() -> dict[str, str]:
    """What is said where there is nothing to find."""
    make, _ = KINDS["lognormal"]
    narrow = Objective(within=timedelta(milliseconds=20), share=0.01)
    asked = {
        "slow_without_load": (narrow, Limits()),
        "never_too_much": (WITHIN, Limits(highest=60)),
        "no_time": (WITHIN, Limits(seconds=40)),
    }
    said = {}
    for name, (objective, limits) in asked.items():
        found = searched(make(Random(1)), objective, limits)
        said[name] = found.because if isinstance(found, Refused) else f"FOUND {found.rate}"
    return said


async def real(runs: int) -> Tried:
    """A server of our own in another process, behind real sockets."""
    truth = truth_of(
        lambda r: Station(workers=REAL_WORKERS, service=station.fixed(REAL_SERVICE), random=r),
        REAL_WORKERS / REAL_SERVICE,
    )
    errors, seconds, refused = [], [], 0
    async with pool(REAL_WORKERS, REAL_SERVICE) as url:
        for number in range(runs):
            plan = of_fields({"target": url, "load": {"rate": "1/s"}})
            clock = SystemClock()
            load = ServiceLoad(plan, WITHIN, clock, trials=1000 * number)  # arrivals of its own
            found = await calibrate(load, WITHIN, REAL, clock=clock)
            rate = f"{found.rate / truth - 1:+.1%}" if isinstance(found, Found) else "refused"
            print(f"real server, run {number}: {rate}, {found.because}", file=sys.stderr)
            seconds.append(found.seconds)
            if isinstance(found, Found):
                errors.append(found.rate / truth - 1)
            else:
                refused += 1
    return Tried(errors, seconds, refused)


def on_stations(outcome: Outcome) -> None:
    make, most = KINDS["lognormal"]
    truth = truth_of(make, most, 3000)
    mine = ours(make, truth, SEEDS)
    outcome.figures["truth_per_second"] = round(truth, 1)
    outcome.figures["search"] = mine.figures()
    for name, method in peers.METHODS.items():
        outcome.figures[name] = theirs(method, make, truth, SEEDS).figures()
    for name, (other, highest) in KINDS.items():
        if name != "lognormal":
            found = ours(other, truth_of(other, highest), OTHER_SEEDS)
            outcome.figures[f"search_{name}"] = found.figures()
    said = refusals()
    outcome.figures["refusals"] = said
    outcome.goal("mean_absolute_error", statistics.mean(map(abs, mine.errors)), most=0.03)
    outcome.goal("highest_error", max(mine.errors), most=TOO_HIGH)
    outcome.goal("seconds_most", max(mine.seconds), most=400)
    outcome.goal("found", len(mine.errors), least=SEEDS)
    refused = sum(not text.startswith("FOUND") for text in said.values())
    outcome.goal("refused_with_a_reason", refused, least=len(said))


def on_a_server(outcome: Outcome) -> None:
    runs = 10 if LONG else 3
    on_real = asyncio.run(real(runs))
    outcome.figures["real_server"] = on_real.figures() if on_real.errors else "refused"
    within = sum(abs(error) <= 0.1 for error in on_real.errors)
    outcome.goal("real_server_within_a_tenth", within, least=runs)


def on_waves(outcome: Outcome) -> None:
    """A policy as `calibrate` writes it, beside the best that a search afterwards finds."""
    make, most = KINDS["exponential"]
    truth = truth_of(make, most)
    found = searched(make(Random(7)), WITHIN)
    if isinstance(found, Refused):
        raise TypeError(found.because)
    headroom = Headroom(growth=GROWTH, ready=timedelta(seconds=BOOT))
    written, rules = growth.goal(found, headroom), growth.rules(headroom)
    outcome.figures["goal_over_truth"] = round(written / truth, 3)
    held, costs = [], []
    for name, wave in waves_of(truth).items():
        mine = waves.ran(written, rules, wave, truth, BOOT, SPAN)
        tried = [
            waves.ran(part * truth, replace(rules, settle_down=settle), wave, truth, BOOT, SPAN)
            for part in (0.8, 0.85, 0.875, 0.9, 0.925, 0.95)
            for settle in (timedelta(minutes=1), timedelta(minutes=2))
        ]
        best = min(one.paid for one in (mine, *tried) if one.share >= HELD)
        peak = max(wave(at) for at in range(int(SPAN))) / truth
        held.append(mine.share)
        costs.append(mine.paid / best)
        outcome.figures[f"wave_{name}"] = {
            "held_share": round(mine.share, 4),
            "instance_seconds": mine.paid,
            "over_best_fixed_policy": round(mine.paid / best, 3),
            "best_constant_over_best_fixed": round(math.ceil(peak) * mine.seconds / best, 3),
        }
    outcome.goal("waves_held_least", min(held), least=HELD)
    outcome.goal("waves_cost_over_best_fixed_most", max(costs), most=1.25)


def waves_of(one: float) -> dict[str, waves.Wave]:
    """Loads that no calibration has seen, for instances that carry `one` each."""
    return {
        "40_minutes": waves.sine(2400, one, 9 * one),
        "20_minutes": waves.sine(1200, 2 * one, 8 * one),
        "two": waves.two(waves.sine(4500, 0.5 * one, 6 * one), waves.sine(900, 0.2 * one, 2 * one)),
        "shaken": waves.shaken(waves.sine(3000, one, 8 * one), 0.05, 3),
        "triangle": waves.triangle(1500, one, 8 * one),
        "two_shaken": waves.shaken(
            waves.two(waves.sine(4800, one, 6 * one), waves.sine(720, 0, 1.5 * one)), 0.03, 11
        ),
    }


PARTS: Final[dict[str, Callable[[Outcome], None]]] = {
    "stations": on_stations,
    "waves": on_waves,
    "server": on_a_server,
}


def run() -> Outcome:
    outcome = Outcome()
    for name, part in PARTS.items():
        if ONLY in ("", name):
            part(outcome)
    return outcome
