"""Services on a real swarm of one node: what is seen, what is changed, and who else changes it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler import plugins, policyfile
from scaler.clients import swarm as calls
from scaler.clients.docker import Engines
from scaler.clock import SystemClock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Fleet, InstanceId, State
from scaler.core.policy import Metric, Policy
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.errors import Conflict, NotFound, PermanentError, Unsupported
from scaler.installed import Installed
from scaler.interfaces import Context, Executing
from scaler.providers.swarm import PLUGIN, SwarmProvider, SwarmTarget
from scaler.stores.memory import MemoryStore
from tests.integration.dockerd import Engine
from tests.integration.running import fleet_until as until
from tests.integration.socket_proxy import SocketProxy
from tests.integration.swarms import Swarm, started

pytestmark = pytest.mark.live
PATIENCE_S = 30.0


@pytest.fixture
def swarm(engine: Engine) -> Iterator[Swarm]:
    with started(engine) as one:
        yield one


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Callable[[], SwarmProvider]]:
    contexts: list[Context] = []

    def opened() -> SwarmProvider:
        contexts.append(Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1)))
        return PLUGIN.open(contexts[-1])

    yield opened
    for context in contexts:
        await context.shared[Engines].aclose()


Connect = Callable[[], SwarmProvider]


def web(engine: Engine, **fields: str) -> SwarmTarget:
    named = fields or {"service": "web"}
    return SwarmTarget(kind="swarm", policy="web", engine=engine.url, **named)


def states(fleet: Fleet) -> list[State]:
    return [i.state for i in fleet.instances]


def all_run(fleet: Fleet) -> bool:
    return states(fleet) == [State.RUNNING] * fleet.wanted


async def test_tasks_are_instances_by_slot(swarm: Swarm, connect: Connect) -> None:
    swarm.create("web", "--replicas=2", "--limit-cpu=0.5", "--limit-memory=64M")
    provider, target = connect(), web(swarm.engine)
    fleet = await until(provider, target, all_run)
    one = fleet.instances[0]
    assert [i.id for i in fleet.instances] == ["web.1", "web.2"]
    assert dict(one.bases) == {"cpu": 0.5, "memory": 64 * 1024**2}
    assert one.pid
    assert Path(f"/proc/{one.pid}/cmdline").read_bytes() == b"sleep\x00600\x00"
    assert (one.ready, one.because, fleet.rollout, fleet.notices) == (None, "", "", ())
    assert one.created_at
    assert one.started_at
    assert one.created_at <= one.started_at <= fleet.at


async def test_a_task_runs_once_its_health_check_has_succeeded(
    swarm: Swarm, connect: Connect
) -> None:
    check = ("--health-cmd=test -e /tmp/go", "--health-interval=200ms", "--health-retries=500")
    swarm.create("web", *check)
    provider, target = connect(), web(swarm.engine)
    await until(provider, target, lambda f: f.instances and "Up" in up(swarm))
    assert states(await provider.observe(target)) == [State.PENDING]
    swarm.engine.docker("exec", swarm.engine.names()[0], "touch", "/tmp/go")
    fleet = await until(provider, target, all_run)
    assert fleet.instances[0].ready is True
    assert fleet.instances[0].ready_changed_at


def up(swarm: Swarm) -> str:
    return swarm.engine.docker("ps", "--format", "{{.Status}}").stdout


async def test_what_no_node_can_take_is_pending_once_and_says_why(
    swarm: Swarm, connect: Connect
) -> None:
    swarm.create("web", "--replicas=2", "--constraint=node.labels.disk==ssd")
    provider, target = connect(), web(swarm.engine)
    fleet = await until(
        provider,
        target,
        lambda f: (
            len(f.instances) == 2 and all("no suitable node" in i.because for i in f.instances)
        ),
    )
    assert states(fleet) == [State.PENDING] * 2
    swarm.update("web", "--force")  # each slot has another task now, and counts once all the same
    for _ in range(10):
        assert len((await provider.observe(target)).instances) == 2
        await asyncio.sleep(0.1)


async def test_a_rejected_task_says_what_is_wrong(swarm: Swarm, connect: Connect) -> None:
    swarm.create("web", "--restart-condition=none", "--mount=type=bind,src=/no/such,dst=/data")
    provider, target = connect(), web(swarm.engine)
    fleet = await until(provider, target, lambda f: states(f) == [State.FAILED])
    assert "/no/such" in fleet.instances[0].because
    with pytest.raises(Unsupported, match="restart-condition any web"):
        await provider.restart(target, InstanceId("web.1"))


async def test_an_update_in_progress_is_a_rollout(swarm: Swarm, connect: Connect) -> None:
    swarm.create("web", "--replicas=2", "--update-monitor=1s")
    provider, target = connect(), web(swarm.engine)
    await until(provider, target, all_run)
    swarm.update("web", "--env-add=A=1", "--constraint-add=node.labels.disk==ssd")
    fleet = await until(provider, target, lambda f: f.rollout)
    assert fleet.rollout == "update in progress"
    swarm.update("web", "--constraint-rm=node.labels.disk==ssd")
    fleet = await until(provider, target, lambda f: not f.rollout and all_run(f))
    assert [i.id for i in fleet.instances] == ["web.1", "web.2"]


async def test_only_the_count_changes_and_only_when_it_differs(
    swarm: Swarm, connect: Connect
) -> None:
    full = ("--env=A=1", "--limit-cpu=0.3", "--update-order=start-first", "--label=x=y", "--init")
    more = (
        "--host=a:10.0.0.1",
        "--cap-add=NET_ADMIN",
        "--ulimit=nofile=99:99",
        "--restart-delay=3s",
    )
    swarm.create("web", *full, *more, "--health-cmd=true", "--rollback-parallelism=3")
    provider, target = connect(), web(swarm.engine)
    before = swarm.inspect("web")
    await provider.scale(target, 3)
    after = swarm.inspect("web")
    assert after["Spec"].pop("Mode") == {"Replicated": {"Replicas": 3}}
    del before["Spec"]["Mode"]
    assert after["Spec"] == before["Spec"]
    for _ in range(3):
        await provider.scale(target, 3)
    assert swarm.inspect("web")["Version"] == after["Version"], "nothing was written"


async def test_a_writer_in_between_is_no_error_and_its_change_stays(
    swarm: Swarm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.create("web", "--replicas=0")
    provider, target, tries = connect(), web(swarm.engine), 0
    update = calls._update

    async def raced(engine: Any, service: str, version: int, spec: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            swarm.update("web", "--env-add", f"N={tries}")
        await update(engine, service, version, spec)

    monkeypatch.setattr(calls, "_update", raced)
    await provider.scale(target, 2)
    spec = swarm.inspect("web")["Spec"]
    assert tries == 4
    assert spec["Mode"]["Replicated"]["Replicas"] == 2
    assert spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["N=3"]
    tries = -9
    with pytest.raises(Conflict, match="each of the 5 times"):
        await provider.scale(target, 3)


async def test_who_else_sets_the_count_is_noticed_until_it_is_as_asked(
    swarm: Swarm, connect: Connect
) -> None:
    swarm.create("web", "--replicas=0")
    provider, target = connect(), web(swarm.engine)
    assert (await provider.observe(target)).notices == (), "nothing has been asked yet"
    await provider.scale(target, 3)
    assert (await provider.observe(target)).notices == ()
    swarm.engine.docker("service", "scale", "--detach", "web=2")
    for looking in (provider, connect()):  # another process remembers it too
        fleet = await looking.observe(target)
        assert fleet.wanted == 2
        assert fleet.notices == ("somebody set web to 2; 3 were asked for before",)
    await provider.scale(target, 3)
    fleet = await provider.observe(target)
    assert (fleet.wanted, fleet.notices) == (3, ())
    swarm.engine.docker("service", "rm", "web")
    swarm.create("web", "--replicas=1")
    assert (await provider.observe(target)).notices == (), "another service of the same name"


async def test_cpu_and_memory_of_tasks_of_this_node_are_read(
    swarm: Swarm, connect: Connect
) -> None:
    swarm.create("web", "--limit-memory=64m", run=("sh", "-c", "while :; do :; done"))
    provider = connect()
    target = web(swarm.engine)
    fleet = await until(
        provider, target, lambda f: [i.state for i in f.instances] == [State.RUNNING]
    )
    context = Context(clock=SystemClock(), state_dir=Path(), random=Random(1))
    cpu, memory = (
        plugins.source("swarm").open(Metric.model_validate({name: "50%"}), target, context)
        for name in ("cpu", "memory")
    )
    before = datetime.now(UTC) - timedelta(minutes=1)
    await cpu.read(fleet, before, datetime.now(UTC))
    await asyncio.sleep(0.5)
    [sample] = (await cpu.read(fleet, before, datetime.now(UTC))).samples
    assert 0.05 < sample.value < 1.5
    [sample] = (await memory.read(fleet, before, datetime.now(UTC))).samples
    assert 0 < sample.value < 64 << 20
    assert sample.base == 64 << 20
    await context.shared[Engines].aclose()


async def test_restart_lets_swarm_replace_the_task(swarm: Swarm, connect: Connect) -> None:
    swarm.create("web", "--replicas=2", "--restart-delay=1s")
    provider, target = connect(), web(swarm.engine)
    before = await until(provider, target, all_run)
    await provider.restart(target, InstanceId("web.2"))
    fleet = await until(provider, target, lambda f: State.PENDING in states(f))
    assert fleet.instances[1].because == "starts again: killed by SIGKILL: non-zero exit (137)"
    await provider.restart(target, InstanceId("web.2"))  # it starts already
    after = await until(provider, target, all_run)
    assert after.instances[0].incarnation == before.instances[0].incarnation
    assert after.instances[1].incarnation != before.instances[1].incarnation


async def test_commands_run_inside_tasks_of_this_node(swarm: Swarm, connect: Connect) -> None:
    swarm.create("web", "--replicas=2", "--hostname={{.Task.Slot}}")
    provider, target = connect(), web(swarm.engine)
    one, two = (await until(provider, target, all_run)).instances
    assert isinstance(provider, Executing)
    assert await provider.execute(one, ["hostname"]) == (0, "1\n")
    assert await provider.execute(two, ["sh", "-c", "hostname; exit 3"]) == (3, "2\n")
    with pytest.raises(NotFound, match="nosuch"):
        await provider.execute(one, ["nosuch"])
    elsewhere = replace(one, incarnation=f"0123456789ab@{one.incarnation.partition('@')[2]}")
    provider._seen["web"] = swarm.engine.url, frozenset([elsewhere.incarnation])
    with pytest.raises(Unsupported, match="runs on another node"):
        await provider.execute(elsewhere, ["true"])


async def test_a_quiet_look_asks_only_for_what_runs(
    swarm: Swarm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm.create("web", "--replicas=2", "--restart-delay=100ms")
    provider, target, asked = connect(), web(swarm.engine), []
    await until(provider, target, all_run)
    tasks = calls.tasks

    async def listened(engine: Any, service: str, *, live: bool) -> list[calls.Json]:
        asked.append(live)
        return await tasks(engine, service, live=live)

    monkeypatch.setattr(calls, "tasks", listened)
    assert all_run(await provider.observe(target))
    assert asked == [True]
    asked.clear()
    swarm.engine.docker("kill", swarm.engine.names()[0])
    await until(provider, target, lambda f: not all_run(f))
    assert False in asked
    await until(provider, target, all_run)
    await provider.observe(target)
    asked.clear()
    await provider.observe(target)
    assert asked == [True]


async def test_a_label_chooses_exactly_one(swarm: Swarm, connect: Connect) -> None:
    provider = connect()
    with pytest.raises(NotFound, match='no service has the label "tier=web"'):
        await provider.observe(web(swarm.engine, label="tier=web"))
    swarm.create("one", "--label=tier=web", "--replicas=0")
    await provider.scale(web(swarm.engine, label="tier=web"), 1)
    fleet = await until(provider, web(swarm.engine, label="tier=web"), all_run)
    assert [i.id for i in fleet.instances] == ["one.1"]
    swarm.create("two", "--label=tier=web", "--replicas=0")
    with pytest.raises(PermanentError, match=r"is on 2 services \(one, two\)"):
        await provider.observe(web(swarm.engine, label="tier=web"))


async def test_what_cannot_be_scaled_is_said_with_a_remedy(swarm: Swarm, connect: Connect) -> None:
    provider = connect()
    with pytest.raises(NotFound, match="web not found"):
        await provider.observe(web(swarm.engine))
    swarm.create("web", "--mode=global")
    for doing in (provider.observe(web(swarm.engine)), provider.scale(web(swarm.engine), 2)):
        with pytest.raises(Unsupported, match=r"has mode global; .* --mode replicated"):
            await doing


async def test_an_engine_that_is_no_manager_says_what_to_do(
    engine: Engine, connect: Connect
) -> None:
    with pytest.raises(PermanentError, match="docker swarm init"):
        await connect().observe(web(engine))


async def test_behind_a_proxy_that_shows_services_only_tasks_are_seen_and_scaled(
    swarm: Swarm, connect: Connect
) -> None:
    proxy = SocketProxy(swarm.engine.socket, {"SERVICES": True, "TASKS": True, "POST": True})
    proxy.start()
    try:
        swarm.create("web", "--replicas=1")
        provider = connect()
        target = SwarmTarget(kind="swarm", policy="web", service="web", engine=proxy.url)
        await provider.scale(target, 2)
        fleet = await until(provider, target, all_run)
        assert [(i.pid, dict(i.bases)) for i in fleet.instances] == [(None, {})] * 2
    finally:
        proxy.stop()


async def test_the_engine_brings_back_a_count_that_somebody_changed(
    swarm: Swarm, tmp_path: Path
) -> None:
    swarm.create("web", "--replicas=0")
    clock = SystemClock()
    told: list[Entry] = []
    context = Context(clock=clock, state_dir=tmp_path, random=Random(1))
    adapters = Installed(context)
    recorder = Recorder(store=MemoryStore(), clock=clock, tell=told.append)
    manager = ScalingManager(adapters=adapters, recorder=recorder, clock=clock, tell=told.append)
    limits = {"min": 2, "max": 4}
    fields = {"name": "web", "target": web(swarm.engine), "limits": limits, "every": "1s"}
    await manager.apply({"web": Policy.model_validate(fields)})

    async def tick_until(holds: Callable[[Fleet], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            await asyncio.gather(*manager.tick())
            fleet = manager.watched["web"].fleet
            if fleet is not None and fleet.wanted == 2 and holds(fleet):
                return
            assert asyncio.get_running_loop().time() < deadline, manager.watched["web"].trouble
            await asyncio.sleep(0.1)

    try:
        await tick_until(all_run)
        swarm.engine.docker("service", "scale", "--detach", "web=1")
        await asyncio.gather(*manager.tick())
        assert swarm.inspect("web")["Spec"]["Mode"]["Replicated"]["Replicas"] == 2
        await tick_until(all_run)
        said = [entry.summary for entry in told if entry.kind is Kind.NOTICED]
        assert said == ["web: somebody set web to 1; 2 were asked for before"]
    finally:
        await manager.drain(timedelta(seconds=5))
        await adapters.aclose()
        await context.shared[Engines].aclose()


async def test_services_with_a_label_are_found(
    swarm: Swarm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", swarm.engine.url)
    swarm.create("web", "--label=scaler.enable=true", "--label=scaler.max=4", "--replicas=0")
    swarm.create("other", "--replicas=0")
    (found,) = await connect().labelled("scaler.enable")
    assert (found.name, found.target) == ("web", {"swarm": {"service": "web"}})
    assert found.labels["scaler.max"] == "4"


def test_a_balancer_on_swarm_is_refused_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(
        "policies:\n  web:\n    target: {swarm: web}\n    balancer: {haproxy: {backend: web}}\n"
    )
    (problem,) = policyfile.load([file]).problems
    assert "swarm chooses by itself which instances go" in problem.text()
    assert f"{file}:4:5" in problem.text()
