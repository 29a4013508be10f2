"""A short calibration: what one instance carries, and the goal that follows, written down."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from scaler.clock import Clock
from scaler.core.units import format_rate
from scaler.demo.scene import GUESS, METRIC, NAME, PACE
from scaler.errors import ConfigError
from scaler.loadtest import growth
from scaler.loadtest.calibrate import ServiceLoad, calibrate
from scaler.loadtest.capacity import Found, Limits, Refused
from scaler.loadtest.evidence import objective_of
from scaler.loadtest.growth import Headroom
from scaler.loadtest.plan import Plan

OBJECTIVE: Final = objective_of("p95<250ms")
# 40 s at most in place of the 400 s that a trustworthy answer takes.
LIMITS: Final = Limits(
    lowest=PACE * 0.6, highest=4.0 * PACE, seconds=40, warm=2, settle=1, probe=2, longest=4,
    confirm=10, factor=1.3, near=1.35, step=0.1, fewest=50,
)  # fmt: skip
SHORT: Final = Limits(
    lowest=PACE * 0.6, highest=4.0 * PACE, seconds=14, warm=1, settle=1, probe=1, longest=2,
    confirm=2, factor=1.5, near=1.6, step=0.1, fewest=20,
)  # fmt: skip
# A day in a minute grows by a ninth in a second where it is steepest. What an instance says of its
# load is a mean of three seconds, so half of these pass before it is known.
HEADROOM: Final = Headroom(
    growth=7.0,
    ready=timedelta(seconds=3),
    window=timedelta(seconds=3),
    every=timedelta(seconds=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of it."""

    capacity: float  # requests per second of one instance; a guess when it could not be measured
    goal: float  # what the policy keeps each instance at
    words: str


async def measure(plan: Plan, clock: Clock, policy: Path, limits: Limits) -> Measured:
    """Load on the one instance behind the target of `plan`, up to what it carries.

    Raises:
        ConfigError: the policy cannot be read or written.
    """
    found = await calibrate(ServiceLoad(plan, OBJECTIVE, clock), OBJECTIVE, limits, clock=clock)
    if isinstance(found, Refused):
        words = f"none in {found.seconds:.0f} s: {found.because}; the goal stays a guess"
        return Measured(capacity=float(GUESS), goal=float(GUESS), words=words)
    goal = growth.goal(found, HEADROOM)
    said = growth.remark(found, OBJECTIVE, HEADROOM, plan.target, clock.now())
    _write(policy, goal, said)
    return Measured(capacity=found.rate, goal=goal, words=_words(found, goal))


def _write(policy: Path, goal: float, said: str) -> None:
    try:
        text = growth.updated(policy, policy.read_text(), NAME, METRIC, goal, said)
        policy.write_text(text.replace("a guess, until it is measured", "measured, see above"))
    except OSError as error:
        raise ConfigError(f"cannot write {policy}: {error.strerror}") from error


def _words(found: Found, goal: float) -> str:
    low, high = format_rate(round(found.low)), format_rate(round(found.high))
    return (
        f"one instance carries about {format_rate(round(found.rate))} within {OBJECTIVE} "
        f"(between {low} and {high}, from only {found.seconds:.0f} s of load), so the goal is "
        f"{format_rate(round(goal))}"
    )
