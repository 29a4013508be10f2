"""Whoever asks a server in trouble does so in turn, and all go on when it answers."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from scaler.clients import kube_gate
from scaler.clients.kube_gate import Gate
from scaler.clock import SystemClock
from scaler.errors import Unavailable

PAUSE = timedelta(milliseconds=40)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(kube_gate, "FIRST_PAUSE", PAUSE)
    return Gate(SystemClock(), Random(1))


async def entered(gate: Gate, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(gate.enter()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_while_all_is_well_nobody_waits(gate: Gate) -> None:
    tasks = await entered(gate, 20)
    await asyncio.sleep(0)
    assert all(task.done() for task in tasks)


async def test_after_a_failure_one_at_a_time_tries(gate: Gate) -> None:
    gate.failed(Unavailable("down"))
    tasks = await entered(gate, 20)
    assert not any(task.done() for task in tasks)
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    gate.answered()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)


async def test_an_answer_lets_all_go_on_at_once(gate: Gate) -> None:
    gate.failed(Unavailable("overloaded", retry_after=timedelta(hours=1)))
    tasks = await entered(gate, 20)
    gate.answered()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_the_pause_grows_up_to_its_end() -> None:
    clock = SystemClock()
    gate = Gate(clock, Random(1))
    pauses = []
    for _ in range(9):
        gate.failed(Unavailable("down"))
        pauses.append(gate._pause)
    assert pauses == sorted(pauses)
    assert pauses[0] == kube_gate.FIRST_PAUSE
    assert pauses[-1] == kube_gate.LONGEST_PAUSE
