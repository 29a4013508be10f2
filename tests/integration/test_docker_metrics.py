"""What the kernel and the engine say of real containers, held against `docker stats`."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler import plugins
from scaler.clients import cgroups
from scaler.clients.docker import Engines
from scaler.clients.stats import IMMEDIATE, Stats
from scaler.clock import SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.interfaces import Context
from scaler.sources import docker as source
from tests.integration.dockerd import BUSYBOX, Engine

pytestmark = pytest.mark.live
PATIENCE_S = 30.0
# Holds so much memory that what the kernel counts in advance for each core is little beside it.
BUSY = "dd if=/dev/zero of=/dev/shm/held bs=1M count=8; while :; do :; done"
SERVE = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


class EngineTarget(Target):
    """What the source knows of a target of the provider."""

    engine: str = ""


def instance_of(engine: Engine, name: str) -> Instance:
    """As the provider reports it."""
    seen: Any = engine.inspect(name)
    limits = seen["HostConfig"]
    bases = {"cpu": limits["NanoCpus"] / 1e9, "memory": float(limits["Memory"])}
    return Instance(
        id=InstanceId(name),
        state=State.RUNNING if seen["State"]["Running"] else State.FAILED,
        incarnation=f"{seen['Id']}@{seen['State']['StartedAt']}",
        pid=seen["State"]["Pid"] or None,
        bases={key: value for key, value in bases.items() if value},
    )


class Asker:
    """Metrics of containers of one engine."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.clock = SystemClock()
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self._sources: dict[str, Any] = {}

    def blind(self) -> None:
        """The processes of the host cannot be seen."""
        self.context.shared[cgroups.Groups] = cgroups.Groups(proc=Path("/nowhere"))

    async def read(self, metric: str, *instances: Instance, **fields: str) -> Reading:
        rules = Metric(name=metric, goal={"value": 1}, **fields)
        if metric not in self._sources:
            target = EngineTarget(engine=self.engine.url)
            self._sources[metric] = source.PLUGIN.open(rules, target, self.context)
        now = self.clock.now()
        fleet = Fleet(target="web", at=now, wanted=len(instances), instances=instances)
        found: Reading = await self._sources[metric].read(fleet, now - timedelta(minutes=1), now)
        return found

    async def until(
        self, metric: str, *instances: Instance, good: Callable[[Sample], bool] = lambda _: True
    ) -> Sample:
        """The first sample that is good."""
        end = time.monotonic() + PATIENCE_S
        while True:
            reading = await self.read(metric, *instances)
            if reading.samples and good(reading.samples[0]):
                return reading.samples[0]
            assert time.monotonic() < end, reading
            await self.clock.sleep(timedelta(milliseconds=300))

    async def aclose(self) -> None:
        for each in self._sources.values():
            await each.aclose()
        if Stats in self.context.shared:
            await self.context.shared[Stats].aclose()
        if Engines in self.context.shared:
            await self.context.shared[Engines].aclose()
        if cgroups.Groups in self.context.shared:
            await self.context.shared[cgroups.Groups].aclose()


@pytest.fixture
async def asker(engine: Engine, tmp_path: Path) -> AsyncIterator[Asker]:
    made = Asker(engine, tmp_path)
    yield made
    await made.aclose()


def shown(engine: Engine, name: str) -> tuple[float, float]:
    """Cores and bytes as `docker stats` shows them."""
    printed = engine.docker("stats", "--no-stream", "--format", "{{json .}}", name).stdout
    found = json.loads(printed)
    used = found["MemUsage"].partition(" /")[0]
    units = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
    unit = next(unit for unit in units if used.endswith(unit))
    return float(found["CPUPerc"].rstrip("%")) / 100, float(used.removesuffix(unit)) * units[unit]


def limited(engine: Engine, name: str, script: str, *words: str) -> Instance:
    engine.run(
        name, "--network", "none", "--cpus", "0.3", "--memory", "64m", *words,
        BUSYBOX, "sh", "-c", script,
    )  # fmt: skip
    return instance_of(engine, name)


async def test_cpu_memory_and_throttling_are_those_of_docker_stats(
    engine: Engine, asker: Asker
) -> None:
    busy = limited(engine, "busy", BUSY)
    first = await asker.read("cpu", busy)
    assert "next look has a number" in (first.missing or "")
    assert not (await asker.read("throttled", busy)).samples
    for _ in range(5):  # others on this machine may take a share meanwhile
        await asker.until("cpu", busy)
        theirs, memory = shown(engine, "busy")
        cpu = (await asker.read("cpu", busy)).samples[0]
        assert cpu.base == pytest.approx(0.3)
        assert cpu.window > timedelta(milliseconds=200)
        if abs(cpu.value - theirs) < 0.03:
            break
    assert cpu.value == pytest.approx(theirs, abs=0.03)
    assert 0.05 < cpu.value < 0.36
    used = (await asker.read("memory", busy)).samples[0]
    assert used.base == 64 * 2**20
    assert memory > 2**23
    assert used.value == pytest.approx(memory, rel=0.1)
    throttled = await asker.until("throttled", busy)
    assert 0 <= throttled.value <= 1
    assert (await asker.read("pids", busy)).samples[0].value >= 1


async def test_a_restart_is_a_new_beginning(engine: Engine, asker: Asker) -> None:
    old = limited(engine, "phoenix", BUSY, "--stop-timeout", "0")
    await asker.read("cpu", old)
    await asker.until("cpu", old)
    engine.docker("restart", "phoenix")
    while (gone := await asker.read("cpu", old)).samples:
        await asyncio.sleep(0.01)  # the kernel lets go of the group of the old life a little later
    assert "it has ended just now" in (gone.missing or "")
    again = await asker.read("cpu", old)  # the process of the old life is nobody's now
    assert again.samples == ()
    new = instance_of(engine, "phoenix")
    assert new.incarnation != old.incarnation
    assert "next look has a number" in ((await asker.read("cpu", new)).missing or "")
    for _ in range(3):
        assert 0 <= (await asker.until("cpu", new)).value < 0.5


async def test_traffic_is_counted_per_second(engine: Engine, asker: Asker) -> None:
    engine.run(
        "web", "--publish", "127.0.0.1::80", BUSYBOX, "httpd", "-f", "-p", "80", "-h", "/etc"
    )
    web = instance_of(engine, "web")
    for metric in ("net_in", "net_out", "io_read", "io_write"):
        await asker.read(metric, web)
    inside = "for i in 1 2 3; do wget -q -O /dev/null http://$(hostname -i)/passwd; done"
    port = engine.docker("port", "web", "80").stdout.strip().rpartition(":")[2]
    engine.docker("exec", "web", "sh", "-c", inside)
    body = await fetched(int(port))
    assert b"root" in body
    assert (await asker.until("net_in", web)).value > 0
    assert (await asker.until("net_out", web)).value > 0
    assert (await asker.until("io_read", web)).value >= 0
    assert (await asker.until("io_write", web)).value >= 0


async def fetched(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /passwd HTTP/1.0\r\n\r\n")
    body = await reader.read()
    writer.close()
    return body


async def test_a_container_without_a_network_has_no_traffic_rather_than_none(
    engine: Engine, asker: Asker
) -> None:
    alone = limited(engine, "alone", SERVE)
    assert "no network of its own" in ((await asker.read("net_in", alone)).missing or "")
    engine.run("hosted", "--network", "host", BUSYBOX, "sh", "-c", SERVE)
    hosted = instance_of(engine, "hosted")
    assert "network of the host" in ((await asker.read("net_in", hosted)).missing or "")


async def test_the_host_is_the_measure_when_it_is_asked_for(engine: Engine, asker: Asker) -> None:
    one = limited(engine, "one", SERVE)
    sample = (await asker.read("memory", one, of="host")).samples[0]
    assert sample.base is not None
    assert sample.base > 2**29


async def test_where_the_kernel_cannot_be_asked_the_engine_is(engine: Engine, asker: Asker) -> None:
    asker.blind()
    busy = limited(engine, "busy", BUSY)
    first = await asker.read("cpu", busy)
    assert first.samples == ()
    assert first.missing
    cpu = await asker.until("cpu", busy)
    theirs, memory = shown(engine, "busy")
    for _ in range(5):
        if abs(cpu.value - theirs) < 0.05:
            break
        theirs, memory = shown(engine, "busy")
        cpu = await asker.until("cpu", busy, good=lambda s: s.window > timedelta(seconds=0.5))
    assert cpu.value == pytest.approx(theirs, abs=0.05)
    used = await asker.until("memory", busy)
    assert used.value == pytest.approx(memory, rel=0.1)
    assert used.base == 64 * 2**20
    assert (await asker.until("pids", busy)).value >= 1
    assert 0 <= (await asker.until("throttled", busy)).value <= 1
    engine.docker("kill", "busy")
    await stopped(asker, busy)


async def stopped(asker: Asker, instance: Instance) -> None:
    """An engine answers with zeros about what does not run; they are never believed."""
    end = time.monotonic() + PATIENCE_S
    while (reading := await asker.read("memory", instance)).samples:
        assert all(sample.value > 0 for sample in reading.samples)
        assert time.monotonic() < end
        await asker.clock.sleep(timedelta(milliseconds=200))
    assert "cannot be seen from here" in (reading.missing or "")


async def test_nobody_to_ask_is_a_reason(engine: Engine, asker: Asker) -> None:
    asker.blind()
    one = limited(engine, "one", SERVE)
    asker.engine = Engine()
    asker.engine.folder.rmdir()
    reading = await asker.read("cpu", one)
    assert "is the engine running" in (reading.missing or "")


async def test_streams_are_bounded(
    engine: Engine, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaler.clients.stats.STREAMS", 1)
    asker.blind()
    first, second = limited(engine, "first", SERVE), limited(engine, "second", SERVE)
    await asker.until("memory", first)
    if asker.context.shared[Engines].at(engine.url).version >= IMMEDIATE:
        pytest.skip("this engine answers at once and needs no streams")
    both = await asker.read("memory", first, second)
    assert {sample.instance for sample in both.samples} == {first.id}
    told = await asker.context.shared[Stats].read(engine.url, "memory", [second.incarnation])
    assert "more than 1 containers" in str(told[second.incarnation])
    assert (await asker.until("memory", second)).value > 0  # nobody asks for the first any more


async def test_an_engine_that_comes_back_is_listened_to_again(engine: Engine, asker: Asker) -> None:
    asker.blind()
    one = limited(engine, "one", SERVE, "--restart", "no")
    await asker.until("memory", one)
    engine.suspend()
    try:
        end = time.monotonic() + PATIENCE_S
        while (reading := await asker.read("memory", one)).samples:
            assert time.monotonic() < end
            await asker.clock.sleep(timedelta(milliseconds=200))
        assert "the engine: " in (reading.missing or "")
    finally:
        engine.resume()
    engine.docker("start", "one")
    assert (await asker.until("memory", instance_of(engine, "one"))).value > 0


async def test_a_container_that_is_not_there_is_not_asked_for_at_every_look(
    engine: Engine, asker: Asker
) -> None:
    asker.blind()
    await asker.read("memory", limited(engine, "one", SERVE))
    asked: Stats = asker.context.shared[Stats]
    if asker.context.shared[Engines].at(engine.url).version >= IMMEDIATE:
        pytest.skip("this engine answers at once and needs no streams")
    life = "0123456789ab@another-node"
    end = time.monotonic() + PATIENCE_S
    while "No such container" not in (await asked.read(engine.url, "cpu", [life]))[life]:
        assert time.monotonic() < end
        await asker.clock.sleep(timedelta(milliseconds=50))
    stream = asked._streams[engine.url, life]
    for _ in range(3):
        assert "No such container" in (await asked.read(engine.url, "cpu", [life]))[life]
    assert asked._streams[engine.url, life] is stream


async def test_what_the_provider_reports_is_what_the_kernel_is_asked_for(
    engine: Engine, asker: Asker
) -> None:
    limited(engine, "web", BUSY)
    kind = plugins.provider("docker")
    target = kind.target.model_validate(
        {"kind": "docker", "policy": "web", "container": "web", "engine": engine.url}
    )
    provider = kind.open(asker.context)
    try:
        (seen,) = (await provider.observe(target)).instances
        await asker.read("cpu", seen)
        kernel: cgroups.Groups = asker.context.shared[cgroups.Groups]
        kernel.reader("cpu", seen.incarnation, seen.pid)  # raises if it was not the kernel
        sample = await asker.until("cpu", seen)
    finally:
        await provider.aclose()
    assert sample.base == pytest.approx(0.3)
    assert 0 < sample.value < 0.5
