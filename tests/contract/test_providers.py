"""What every provider has to keep, run against each: a new one adds a `Platform` to PLATFORMS."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients.docker import Engines
from scaler.clients.kubernetes import Clusters
from scaler.clock import SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.errors import ScalerError
from scaler.interfaces import Ability, Context, Provider, Watching
from scaler.providers import docker, kubernetes, local, swarm
from tests.fakes.kube_cluster import BROKEN, Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration import swarms
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import fleet_until as until

pytestmark = pytest.mark.live
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Platform:
    """A place where instances run, and ways to disturb it."""

    open: Callable[[], Provider[Any]]  # another connection to the same place
    target: Target  # instances that run until they are stopped
    broken: Target  # instances that cannot start
    end: Callable[[Instance], Awaitable[None]]  # behind the provider's back
    heals: bool = False  # it starts again by itself what ended
    waits: bool = False  # and goes on trying to start what cannot be


@asynccontextmanager
async def local_platform(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Platform]:
    command = (sys.executable, "-c", "import time; time.sleep(600)")

    async def end(instance: Instance) -> None:
        assert instance.pid
        os.kill(instance.pid, signal.SIGKILL)

    def connect() -> Provider[Any]:
        return local.PLUGIN.open(Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1)))

    platform = Platform(
        open=connect,
        target=local.LocalTarget(command=command, policy="web", kind="local"),
        broken=local.LocalTarget(command=("/no/such/program",), policy="bad", kind="local"),
        end=end,
    )
    try:
        yield platform
    finally:
        provider = connect()
        await provider.scale(platform.target, 0)
        await provider.scale(platform.broken, 0)
        await until(provider, platform.target, lambda fleet: not fleet.instances)
        await provider.aclose()


@asynccontextmanager
async def docker_platform(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Platform]:
    """Copies of two containers that are gone: their templates are all that is known of them."""
    engine: Engine = request.getfixturevalue("engine")
    opened: list[Context] = []

    async def end(instance: Instance) -> None:
        assert instance.pid
        os.kill(instance.pid, signal.SIGKILL)

    def connect() -> Provider[Any]:
        opened.append(Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1)))
        return docker.PLUGIN.open(opened[-1])

    def target(name: str, policy: str) -> Target:
        return docker.DockerTarget(
            container=name,
            engine=engine.url,
            remove="any",
            grace="1s",
            policy=policy,
            kind="docker",
        )

    platform = Platform(
        open=connect, target=target("web", "web"), broken=target("bad", "bad"), end=end
    )
    engine.run("web", "--network=none", BUSYBOX, "sleep", "600")
    engine.docker("create", "--name=bad", "--network=none", BUSYBOX, "/no/such/program")
    provider = connect()
    for gone in (platform.target, platform.broken):
        await provider.observe(gone)
        await provider.scale(gone, 0)
        await until(provider, gone, lambda fleet: not fleet.instances)
    await provider.aclose()
    try:
        yield platform
    finally:
        for context in opened:
            await context.shared[Engines].aclose()


@asynccontextmanager
async def swarm_platform(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Platform]:
    """Services of a swarm of one node. It starts again what ended, except what never could."""
    engine: Engine = request.getfixturevalue("engine")
    opened: list[Context] = []

    async def end(instance: Instance) -> None:
        assert instance.pid
        os.kill(instance.pid, signal.SIGKILL)

    def connect() -> Provider[Any]:
        opened.append(Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1)))
        return swarm.PLUGIN.open(opened[-1])

    def target(service: str) -> Target:
        return swarm.SwarmTarget(service=service, engine=engine.url, policy=service, kind="swarm")

    with swarms.started(engine) as one:
        one.create("web", "--replicas=0", "--restart-delay=1s")
        one.create("bad", "--replicas=0", "--restart-condition=none", run=("/no/such/program",))
        try:
            yield Platform(
                open=connect, target=target("web"), broken=target("bad"), end=end, heals=True
            )
        finally:
            for context in opened:
                await context.shared[Engines].aclose()


@asynccontextmanager
async def kubernetes_platform(
    tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Platform]:
    """Deployments of a simulated cluster; its pods come back under other names."""
    opened: list[Context] = []

    def connect() -> Provider[Any]:
        opened.append(Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1)))
        return kubernetes.PLUGIN.open(opened[-1])

    def target(name: str) -> Target:
        return kubernetes.KubernetesTarget(workload=name, policy=name, kind="kubernetes")

    async with Server() as server, Cluster(server) as cluster:
        cluster.again_after = 0.5
        cluster.deploy("web", 0)
        cluster.deploy("bad", 0, command=BROKEN)
        (tmp_path / "kubeconfig").write_text(kubeconfig(server))
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

        async def end(instance: Instance) -> None:
            cluster.crash(instance.id)

        try:
            yield Platform(
                open=connect,
                target=target("web"),
                broken=target("bad"),
                end=end,
                heals=True,
                waits=True,
            )
        finally:
            for context in opened:
                await context.shared[Clusters].aclose()


PLATFORMS = {
    "local": local_platform,
    "docker": docker_platform,
    "swarm": swarm_platform,
    "kubernetes": kubernetes_platform,
}


@pytest.fixture(params=PLATFORMS)
async def platform(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Platform]:
    async with PLATFORMS[request.param](tmp_path, request) as opened:
        yield opened


@pytest.fixture
async def connect(platform: Platform) -> AsyncIterator[Callable[[], Provider[Any]]]:
    async with AsyncExitStack() as stack:

        def connected() -> Provider[Any]:
            provider = platform.open()
            stack.push_async_callback(provider.aclose)
            return provider

        yield connected


Connect = Callable[[], Provider[Any]]


def running(count: int) -> Callable[[Fleet], bool]:
    def holds(fleet: Fleet) -> bool:
        states = [i.state for i in fleet.instances]
        return states == [State.RUNNING] * count

    return holds


def starts(fleet: Fleet) -> set[tuple[str, str]]:
    return {(i.id, i.incarnation) for i in fleet.instances}


async def test_a_target_nobody_scaled_has_nothing(platform: Platform, connect: Connect) -> None:
    fleet = await connect().observe(platform.target)
    assert (fleet.wanted, fleet.instances, fleet.target) == (0, (), "web")


async def test_scaling_up_and_down_arrives(platform: Platform, connect: Connect) -> None:
    provider = connect()
    for count in (3, 1, 2, 0):
        await provider.scale(platform.target, count)
        fleet = await until(provider, platform.target, running(count))
        assert fleet.wanted == count
        assert fleet.complete


async def test_repeating_changes_nothing(platform: Platform, connect: Connect) -> None:
    provider = connect()
    await provider.scale(platform.target, 2)
    before = await until(provider, platform.target, running(2))
    await asyncio.gather(*(provider.scale(platform.target, 2) for _ in range(5)))
    after = await until(provider, platform.target, running(2))
    assert starts(after) == starts(before)


async def test_the_named_ones_go(platform: Platform, connect: Connect) -> None:
    provider = connect()
    await provider.scale(platform.target, 3)
    before = await until(provider, platform.target, running(3))
    if Ability.CHOOSE_VICTIMS not in provider.abilities:
        return
    victim = before.instances[1].id
    for _ in range(3):  # saying it again takes nobody else
        await provider.scale(platform.target, 2, remove=(victim,))
    after = await until(provider, platform.target, running(2))
    assert starts(after) == {s for s in starts(before) if s[0] != victim}


async def test_what_is_told_to_go_is_stopping_and_counts_no_more(
    platform: Platform, connect: Connect
) -> None:
    provider = connect()
    await provider.scale(platform.target, 2)
    await until(provider, platform.target, running(2))
    await provider.scale(platform.target, 1)
    fleet = await provider.observe(platform.target)
    assert sum(i.state is not State.STOPPING for i in fleet.instances) == 1
    assert fleet.wanted == 1


async def test_what_ends_by_itself_is_reported_with_its_reason(
    platform: Platform, connect: Connect
) -> None:
    provider = connect()
    await provider.scale(platform.target, 2)
    fleet = await until(provider, platform.target, running(2))
    await platform.end(fleet.instances[0])
    down = State.PENDING if platform.heals else State.FAILED
    fleet = await until(
        provider, platform.target, lambda f: any(i.state is down for i in f.instances)
    )
    failed = next(i for i in fleet.instances if i.state is down)
    assert "SIGKILL" in failed.because
    if not platform.heals:
        assert failed.failed_at is not None
        assert failed.failed_at <= fleet.at
    assert (fleet.wanted, len(fleet.instances), fleet.complete) == (2, 2, True)


@pytest.mark.parametrize("dead", [False, True], ids=["a living one", "a dead one"])
async def test_restart_starts_one_again(platform: Platform, connect: Connect, dead: bool) -> None:
    provider = connect()
    await provider.scale(platform.target, 2)
    before = await until(provider, platform.target, running(2))
    one, other = before.instances
    if dead:
        await platform.end(one)
        down = State.PENDING if platform.heals else State.FAILED
        await until(provider, platform.target, lambda f: f.instances[0].state is down)
    await provider.restart(platform.target, one.id)
    after = await until(
        provider,
        platform.target,
        lambda f: running(2)(f) and one.incarnation not in {i.incarnation for i in f.instances},
    )
    new = next(i for i in after.instances if i.incarnation != other.incarnation)
    assert (new.id == one.id) is not after.renames
    assert new.because == ""
    assert other.incarnation in {i.incarnation for i in after.instances}


async def test_restarting_what_is_not_there_says_so(platform: Platform, connect: Connect) -> None:
    provider = connect()
    with pytest.raises(ScalerError, match="web-77"):
        await provider.restart(platform.target, InstanceId("web-77"))


async def test_what_cannot_start_is_failed_and_not_an_exception(
    platform: Platform, connect: Connect
) -> None:
    provider = connect()
    await provider.scale(platform.broken, 2)
    state = State.PENDING if platform.waits else State.FAILED
    fleet = await until(
        provider,
        platform.broken,
        lambda f: [(i.state, bool(i.because)) for i in f.instances] == [(state, True)] * 2,
    )
    assert all("/no/such/program" in i.because for i in fleet.instances)
    assert all(i.failed_at is not None for i in fleet.instances) is not platform.waits
    if platform.heals:
        return
    await provider.restart(platform.broken, fleet.instances[0].id)
    again = await provider.observe(platform.broken)
    assert again.instances[0].incarnation != fleet.instances[0].incarnation


async def test_closing_leaves_what_runs_and_the_next_finds_it(
    platform: Platform, connect: Connect
) -> None:
    first = platform.open()
    await first.scale(platform.target, 3)
    before = await until(first, platform.target, running(3))
    await first.aclose()
    after = await connect().observe(platform.target)
    assert starts(after) == starts(before)
    assert [i.pid for i in after.instances] == [i.pid for i in before.instances]
    assert (after.wanted, after.complete) == (3, True)


async def test_changes_are_noticed(platform: Platform, connect: Connect) -> None:
    provider = connect()
    if not isinstance(provider, Watching):
        return
    changes = provider.changes()
    await provider.scale(platform.target, 1)
    assert await asyncio.wait_for(anext(changes), PATIENCE_S) == "web"
    fleet = await until(provider, platform.target, running(1))
    await platform.end(fleet.instances[0])
    assert await asyncio.wait_for(anext(changes), PATIENCE_S) == "web"
    down = State.PENDING if platform.heals else State.FAILED
    await until(provider, platform.target, lambda f: f.instances[0].state is down)
    await changes.aclose()  # type: ignore[attr-defined]


async def test_bases_say_what_is_whole(platform: Platform, connect: Connect) -> None:
    provider = connect()
    await provider.scale(platform.target, 1)
    fleet = await until(provider, platform.target, running(1))
    assert fleet.instances[0].bases["cpu"] > 0
    assert fleet.instances[0].bases["memory"] > 1 << 20
    assert fleet.instances[0].current
