"""How long a target takes for one instance more, and for one less, measured by doing it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from scaler.clock import Clock
from scaler.core.document import Target
from scaler.core.model import Fleet
from scaler.errors import Unavailable
from scaler.interfaces import Provider

LOOK: Final = timedelta(milliseconds=200)  # between two looks, and how exact the figures are
MOST: Final = timedelta(minutes=10)  # for each of the two

T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """From asking until it was so."""

    ready: timedelta  # one instance more is ready
    drained: timedelta  # one instance less is left


async def delays(provider: Provider[T], target: T, clock: Clock) -> Delays:
    """Scale up by one and back. No policy may act on the target meanwhile: pause it.

    Raises:
        Unavailable: it took longer than MOST, or the platform does not answer. The count from
            before is asked for again in any case.
    """
    fleet = await provider.observe(target)
    before, ready = fleet.wanted, _ready(fleet)
    left = len(fleet.instances)
    try:
        up = await _until(
            provider, target, before + 1, clock, lambda seen: _ready(seen) > ready, "ready"
        )
    except BaseException:
        await provider.scale(target, before)
        raise
    down = await _until(
        provider, target, before, clock, lambda seen: len(seen.instances) <= left, "gone"
    )
    return Delays(ready=up, drained=down)


async def _until(
    provider: Provider[T],
    target: T,
    count: int,
    clock: Clock,
    done: Callable[[Fleet], bool],
    what: str,
) -> timedelta:
    begin = clock.monotonic()
    await provider.scale(target, count)
    while not done(await provider.observe(target)):
        if clock.monotonic() - begin > MOST:
            raise Unavailable(
                f"one instance was not {what} within {MOST}; look at `scaler status` and its log"
            )
        await clock.sleep(LOOK)
    return clock.monotonic() - begin


def _ready(fleet: Fleet) -> int:
    return sum(instance.ready is True for instance in fleet.instances)
