"""From when on a source is asked for samples."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from scaler.clock import ManualClock
from scaler.core.document import Target
from scaler.core.model import Fleet, History, Reading
from scaler.core.policy import Policy
from scaler.engine.watched import read, watch

EVERY = timedelta(seconds=5)
POLICY = Policy.model_validate(
    {
        "name": "web",
        "target": Target(kind="world", policy="web"),
        "every": "5s",
        "metrics": [{"cpu": "70%"}],
    }
)


class Recording:
    """A source that remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[datetime, datetime]] = []

    async def read(self, _: Fleet, since: datetime, now: datetime) -> Reading:
        self.asked.append((since, now))
        return Reading(metric="cpu", missing="nothing is measured here")

    async def aclose(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("wait", "covers"),
    [
        pytest.param(timedelta(milliseconds=100), lambda _, now: now - EVERY, id="out of turn"),
        pytest.param(EVERY, lambda before, _: before, id="in its turn"),
        pytest.param(4 * EVERY, lambda before, _: before, id="late: nothing in between is lost"),
    ],
)
async def test_what_was_measured_within_the_interval_counts(
    wait: timedelta, covers: Callable[[datetime, datetime], datetime]
) -> None:
    clock, source = ManualClock(), Recording()
    it = watch(POLICY, History())
    it.sources["cpu"] = source
    fleet = Fleet(target="web", at=clock.now(), wanted=0)
    before = clock.now()
    await read(it, fleet, clock, EVERY)
    await clock.advance(wait)
    await read(it, fleet, clock, EVERY)
    assert source.asked[-1] == (covers(before, clock.now()), clock.now())
