"""Rates from one look a second, and when there is none to be had."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from scaler.clients.pod_samples import PodSamples
from scaler.clock import ManualClock
from tests.fakes.pod_tree import LOG, WEB, Pod

SECOND = timedelta(seconds=1)


class Looked:
    """A pod with one container, looked at from time to time."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.pod = Pod(folder)
        self.pod.runs(20, WEB)
        self.pod.shows(20)
        self.samples = PodSamples(self.clock, self.pod.usage)

    async def look(self, *, cpu_s: float, memory_bytes: int = 1000) -> list[float]:
        """A second later; the cores of all that is known then."""
        self.pod.uses(20, cpu_s=cpu_s, memory_bytes=memory_bytes)
        await self.clock.advance(SECOND)
        await self.samples.look()
        return [point.cpu for point in self.samples.points()]


@pytest.fixture
def looked(tmp_path: Path) -> Looked:
    return Looked(tmp_path)


async def test_a_rate_takes_two_looks(looked: Looked) -> None:
    assert await looked.look(cpu_s=100) == []
    assert "the next look has a number" in looked.samples.missing
    assert await looked.look(cpu_s=100.5, memory_bytes=3000) == [0.5]
    (point,) = looked.samples.points()
    assert (point.window, point.memory, point.containers) == (SECOND, 3000, 1)
    assert looked.samples.missing == ""


async def test_only_the_last_seconds_are_kept(looked: Looked) -> None:
    for n in range(20):
        await looked.look(cpu_s=n)
    assert [point.number for point in looked.samples.points()] == [14, 15, 16, 17, 18, 19]
    await looked.clock.advance(timedelta(seconds=6))
    assert looked.samples.points() == []


async def test_a_container_started_anew_is_not_less_than_nothing(looked: Looked) -> None:
    await looked.look(cpu_s=100)
    await looked.look(cpu_s=101)
    shutil.rmtree(looked.pod.proc / "20")
    looked.pod.runs(20, WEB)
    looked.pod.shows(20)
    assert await looked.look(cpu_s=0.1) == [1.0]
    assert await looked.look(cpu_s=0.3) == pytest.approx([1.0, 0.2])


async def test_a_container_that_joins_is_no_leap(looked: Looked) -> None:
    await looked.look(cpu_s=100)
    looked.pod.runs(30, LOG, ticks=1_000_000)
    assert await looked.look(cpu_s=101) == []
    assert await looked.look(cpu_s=102) == [1.0]
    assert looked.samples.points()[0].containers == 2


async def test_without_anybody_to_be_seen_there_is_a_reason(looked: Looked) -> None:
    await looked.look(cpu_s=100)
    shutil.rmtree(looked.pod.proc / "20")
    await looked.clock.advance(SECOND)
    await looked.samples.look()
    assert "shareProcessNamespace" in looked.samples.missing
