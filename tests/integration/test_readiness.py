"""Containers that are made unready by a command, as a router that follows health checks sees it."""

import asyncio
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler import policyfile
from scaler.balancers.readiness import PLUGIN, ReadinessBalancer, ReadinessRoutes
from scaler.clock import ManualClock, SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.core.policy import Policy
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.errors import Unavailable
from scaler.installed import Installed
from scaler.interfaces import Context, Platforms
from scaler.providers.docker import DockerTarget
from scaler.stores.memory import MemoryStore
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.haproxies import PATIENCE_S

pytestmark = pytest.mark.live
ONE, OTHER = InstanceId("web-1"), InstanceId("web-2")
HEALTH = ("--health-cmd=test ! -e /tmp/draining", "--health-interval=200ms", "--health-retries=1")


class Inside:
    """A platform that runs commands in containers, and counts them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ran: list[tuple[str, str]] = []

    async def execute(self, instance: Instance, command: Sequence[str]) -> tuple[int, str]:
        self.ran.append((instance.id, command[0]))
        words = ["docker", "--host", self.engine.url, "exec", instance.id, *command]
        ended = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr


def routes(inside: object, clock: ManualClock, tmp_path: Path, **rules: Any) -> ReadinessRoutes:
    touch, remove = ("touch", "/tmp/draining"), ("rm", "-f", "/tmp/draining")
    written = {"command": touch, "undo": remove, "settle": "2s", **rules}
    context = Context(clock=clock, state_dir=tmp_path, random=Random(1))
    if inside is not None:
        context.shared[Platforms] = Platforms(lambda _: inside)
    made = PLUGIN.open(
        ReadinessBalancer(kind="readiness", **written), Target(kind="docker", policy="web"), context
    )
    assert isinstance(made, ReadinessRoutes)
    return made


def fleet(*names: InstanceId, state: State = State.RUNNING, **more: Any) -> Fleet:
    instances = tuple(Instance(id=n, state=state, incarnation="1", **more) for n in names)
    return Fleet(target="web", at=ManualClock().now(), wanted=len(instances), instances=instances)


async def healthy(engine: Engine, names: set[str]) -> None:
    """Wait until a router would send requests to exactly these."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while set(engine.names("health=healthy")) != names:
        assert asyncio.get_running_loop().time() < deadline, engine.names("health=healthy")
        await asyncio.sleep(0.1)


async def test_who_is_to_go_turns_unhealthy_and_whoever_stays_healthy_again(
    engine: Engine, tmp_path: Path
) -> None:
    for name in (ONE, OTHER):
        engine.run(name, "--network=none", *HEALTH, BUSYBOX, "sleep", "600")
    engine.docker("exec", OTHER, "touch", "/tmp/draining")  # by a daemon that was killed
    clock, inside, there = ManualClock(), Inside(engine), fleet(ONE, OTHER)
    way = routes(inside, clock, tmp_path)
    assert await way.route(there, [ONE]) == {ONE: 1}
    await healthy(engine, {OTHER})
    inside.ran.clear()
    for _ in range(2):
        assert await way.route(there, [ONE]) == {ONE: 1}
        await clock.advance(timedelta(seconds=1))
    assert await way.route(there, [ONE]) == {}, "the router has had its time"
    assert inside.ran == [], "once is enough"
    assert await way.route(there, []) == {}
    await healthy(engine, {ONE, OTHER})
    inside.ran.clear()
    assert await way.route(there, []) == {}
    assert inside.ran == []


async def test_a_drain_of_containers_that_is_taken_back_restarts_nobody(
    engine: Engine, tmp_path: Path
) -> None:
    engine.run("web", "--network=none", *HEALTH, BUSYBOX, "sleep", "600")
    clock = SystemClock()
    context = Context(clock=clock, state_dir=tmp_path, random=Random(1))
    adapters = Installed(context)
    recorder = Recorder(store=MemoryStore(), clock=clock, tell=lambda _: None)
    manager = ScalingManager(adapters=adapters, recorder=recorder, clock=clock)

    def policy(count: int) -> dict[str, Policy]:
        fields = {
            "name": "web",
            "every": "1s",
            "target": DockerTarget(container="web", engine=engine.url, kind="docker", policy="web"),
            "balancer": ReadinessBalancer(
                kind="readiness",
                command=("touch", "/tmp/draining"),
                undo=("rm", "-f", "/tmp/draining"),
                settle=timedelta(seconds=25),
            ),
            "limits": {"min": count, "max": count},
        }
        return {"web": Policy.model_validate(fields)}

    async def tick_until(count: int, fit: int) -> set[str]:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            await asyncio.gather(*manager.tick())
            seen, decision = manager.watched["web"].fleet, manager.watched["web"].decision
            assert not (decision and decision.restarts)
            lives = {i.incarnation for i in seen.instances} if seen else set()
            if len(lives) == count and len(engine.names("health=healthy")) == fit:
                return lives
            assert asyncio.get_running_loop().time() < deadline, manager.watched["web"].trouble
            await asyncio.sleep(0.1)

    try:
        await manager.apply(policy(4))
        lives = await tick_until(4, 4)
        await manager.apply(policy(3))
        assert await tick_until(4, 3) == lives
        assert len(engine.names("health=unhealthy")) == 1
        await manager.apply(policy(4))
        assert await tick_until(4, 4) == lives
    finally:
        await manager.drain(timedelta(seconds=5))
        await adapters.aclose()


async def test_a_command_that_fails_keeps_everybody(engine: Engine, tmp_path: Path) -> None:
    engine.run(ONE, "--network=none", BUSYBOX, "sleep", "600")
    way = routes(Inside(engine), ManualClock(), tmp_path, command=["ls", "/no/such/file"])
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"ls in web-1 ended with 1: .*No such file"):
            await way.route(fleet(ONE), [ONE])


async def test_a_command_that_nobody_waited_for_is_undone(tmp_path: Path) -> None:
    class Slow:
        def __init__(self) -> None:
            self.ran: list[str] = []

        async def execute(self, instance: Instance, command: Sequence[str]) -> tuple[int, str]:
            self.ran.append(command[0])
            if command[0] == "touch":
                await asyncio.sleep(3600)
            return 0, ""

    slow = Slow()
    way = routes(slow, ManualClock(), tmp_path)
    await way.route(fleet(ONE), [])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(way.route(fleet(ONE), [ONE]), 0.1)
    await way.route(fleet(ONE), [])
    await way.route(fleet(ONE), [])
    assert slow.ran == ["rm", "touch", "rm"]


async def test_local_processes_are_told_from_outside(tmp_path: Path) -> None:
    mark = str(tmp_path / "draining-{port}")
    way = routes(None, ManualClock(), tmp_path, command=["touch", mark], undo=["rm", "-f", mark])
    there = fleet(ONE, port=9000)
    assert await way.route(there, [ONE]) == {ONE: 1}
    assert (tmp_path / "draining-9000").exists()
    assert await way.route(there, []) == {}
    assert not (tmp_path / "draining-9000").exists()
    with pytest.raises(Unavailable, match="cannot run /no/such"):
        await routes(None, ManualClock(), tmp_path, command=["/no/such"]).route(there, [ONE])


async def test_the_dead_are_told_nothing(tmp_path: Path) -> None:
    way = routes(None, ManualClock(), tmp_path, command=["/no/such"], undo=["/no/such"])
    assert await way.route(fleet(ONE, state=State.FAILED), [ONE]) == {}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("{command: [touch, x]}", "undo"),
        ("{command: [], undo: [rm]}", "command"),
        ("{command: [touch], undo: [rm], settle: 2h}", "0s to 1h"),
    ],
)
def test_a_mistake_in_the_rules_is_shown(tmp_path: Path, rules: str, said: str) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(
        "policies:\n  web:\n    target: {local: {command: [sleep, '9']}}\n"
        f"    balancer: {{readiness: {rules}}}\n"
    )
    (problem,) = policyfile.load([file]).problems
    assert said in problem.text()
