"""What it costs to know CPU and memory of N containers, beside the usual ways of asking.

Ours is `DockerMetrics.read` for both metrics, from the files of the control groups. Beside it, in
turns: `docker stats --no-stream`; the SDK with a thread per container and `stats(stream=False)`;
the same with `one_shot=True`, the cheapest question that an engine has; and the floor: a bare loop
over open descriptors that reads and parses the same files. CPU is that of the client and of the
engine with all its shims. Accuracy is against `docker stats` under a steady load. It needs root,
docker.io and busybox-static.

SCALER_BENCH_SIZES says how many containers (10,50,100,200), SCALER_BENCH_ROUNDS how often the dear
ways are tried.
"""

import asyncio
import json
import os
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from docker.api.client import APIClient

from benchmarks.outcome import Outcome
from scaler.clients.cgroups import SHARED
from scaler.clock import SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.interfaces import Context
from scaler.sources import docker as source
from tests.integration.dockerd import BUSYBOX, Engine

SIZES = [int(size) for size in os.environ.get("SCALER_BENCH_SIZES", "10,50,100,200").split(",")]
ROUNDS = int(os.environ.get("SCALER_BENCH_ROUNDS", "3"))
QUICK_ROUNDS: Final = 15  # of ours and of the floor
REST_S: Final = SHARED.total_seconds() + 0.05  # else a read would share what was read before
STARTERS: Final = 4
LIMIT_CORES: Final = 0.3
IDLE: Final = ("sleep", "86400")
BUSY: Final = ("sh", "-c", "while :; do :; done")

Way = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Cost:
    """Milliseconds of one way, a number per round."""

    wall: list[float] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)

    @property
    def wall_ms(self) -> float:
        return round(statistics.median(self.wall), 2)

    @property
    def cpu_ms(self) -> float:
        return round(statistics.median(map(float.__add__, self.client, self.engine)), 2)


class EngineTarget(Target):
    """As the provider's, as far as the source looks at it."""

    engine: str = ""


class Rig:
    """A private engine, its containers, and every way to ask about them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.clock = SystemClock()
        self.api = APIClient(base_url=engine.url, version="auto", timeout=120, max_pool_size=256)
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        target = EngineTarget(engine=engine.url)
        self.sources = [
            source.PLUGIN.open(Metric(name=name, goal={"utilization": "70%"}), target, self.context)
            for name in ("cpu", "memory")
        ]
        self.instances: tuple[Instance, ...] = ()
        self.files: list[tuple[int, int, int]] = []
        self._pool = ThreadPoolExecutor(256)

    def grow(self, size: int) -> None:
        """Until there are so many idle containers."""

        def start(number: int) -> None:
            host = self.api.create_host_config(
                network_mode="none", nano_cpus=10**9, mem_limit="64m"
            )
            name = f"idle-{number}"
            made = self.api.create_container(BUSYBOX, list(IDLE), name=name, host_config=host)
            self.api.start(made["Id"])

        with ThreadPoolExecutor(STARTERS) as pool:
            list(pool.map(start, range(len(self.instances), size)))
        self.instances = tuple(self.instance(f"idle-{number}") for number in range(size))
        self.close_files()
        self.files = [opened(instance) for instance in self.instances]

    def instance(self, name: str) -> Instance:
        """As the provider reports it."""
        seen = self.api.inspect_container(name)
        limits, state = seen["HostConfig"], seen["State"]
        return Instance(
            id=InstanceId(name),
            state=State.RUNNING,
            incarnation=f"{seen['Id']}@{state['StartedAt']}",
            pid=state["Pid"],
            bases={"cpu": limits["NanoCpus"] / 1e9, "memory": float(limits["Memory"])},
        )

    async def read(self, *instances: Instance) -> list[Reading]:
        now = self.clock.now()
        fleet = Fleet(target="bench", at=now, wanted=len(instances), instances=instances)
        since = now - timedelta(minutes=1)
        return list(await asyncio.gather(*(s.read(fleet, since, now) for s in self.sources)))

    # --- the ways ---

    async def ours(self) -> None:
        readings = await self.read(*self.instances)
        assert all(len(reading.samples) == len(self.instances) for reading in readings), readings

    async def floor(self) -> None:
        bare(self.files)

    async def docker_stats(self) -> None:
        await asyncio.to_thread(self.engine.docker, "stats", "--no-stream")

    async def sdk(self) -> None:
        await self._ask(lambda life: self.api.stats(life, stream=False))

    async def one_shot(self) -> None:
        await self._ask(lambda life: self.api.stats(life, stream=False, one_shot=True))

    async def _ask(self, ask: Callable[[str], Any]) -> None:
        loop = asyncio.get_running_loop()
        ids = [instance.incarnation.partition("@")[0] for instance in self.instances]
        await asyncio.gather(*(loop.run_in_executor(self._pool, ask, life) for life in ids))

    async def timed(self, way: Way, cost: Cost) -> None:
        await asyncio.sleep(REST_S)
        engine, client, begun = engine_cpu_ms(self.engine), client_cpu_ms(), time.perf_counter()
        await way()
        cost.wall.append((time.perf_counter() - begun) * 1000)
        cost.client.append(client_cpu_ms() - client)
        cost.engine.append(engine_cpu_ms(self.engine) - engine)

    async def timed_quick(self, way: Way, cost: Cost) -> None:
        """The engine has no part in it, and looking at its CPU would warm and cool our caches."""
        await asyncio.sleep(REST_S)
        client, begun = client_cpu_ms(), time.perf_counter()
        await way()
        cost.wall.append((time.perf_counter() - begun) * 1000)
        cost.client.append(client_cpu_ms() - client)
        cost.engine.append(0.0)

    def close_files(self) -> None:
        for file in (file for files in self.files for file in files):
            os.close(file)
        self.files = []

    async def aclose(self) -> None:
        for each in self.sources:
            await each.aclose()
        self.close_files()
        self._pool.shutdown()
        self.api.close()


def opened(instance: Instance) -> tuple[int, int, int]:
    """The files behind CPU and memory of a container, version 1 or 2."""
    lines = Path(f"/proc/{instance.pid}/cgroup").read_text().splitlines()
    groups = {
        name: line.split(":", 2)[2] for line in lines for name in line.split(":")[1].split(",")
    }
    root = Path("/sys/fs/cgroup")
    if "cpuacct" in groups:
        cpu, memory = (
            root / "cpuacct" / groups["cpuacct"][1:],
            root / "memory" / groups["memory"][1:],
        )
        files = cpu / "cpuacct.usage", memory / "memory.usage_in_bytes", memory / "memory.stat"
    else:
        group = root / groups[""][1:]
        files = group / "cpu.stat", group / "memory.current", group / "memory.stat"
    first, second, third = (os.open(file, os.O_RDONLY) for file in files)
    return first, second, third


def bare(files: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The least that Python can do: three reads, three numbers."""
    pread, found = os.pread, []
    for usage, used, stat in files:
        cpu = pread(usage, 1024, 0)
        cpu_ns = int(cpu) if cpu[0] < 58 else int(cpu[11 : cpu.index(b"\n")])
        whole = int(pread(used, 64, 0))
        text = pread(stat, 4096, 0)
        start = text.index(b"inactive_file ", text.find(b"\ntotal_") + 1) + 14
        found.append((cpu_ns, whole - int(text[start : text.index(b"\n", start)])))
    return found


def client_cpu_ms() -> float:
    """Of this process and of those it has started and waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (time.process_time() + ended.ru_utime + ended.ru_stime) * 1000


def engine_cpu_ms(engine: Engine) -> float:
    """Of the engine, its containerd and all shims: every thread of what names its folder."""
    return sum(thread_ns(task) for task in threads_of(str(engine.folder).encode())) / 1e6


def threads_of(folder: bytes) -> Iterator[Path]:
    own = os.getpid()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes()
            program = words.partition(b"\0")[0].rpartition(b"/")[2]
            known = program in (b"dockerd", b"containerd") or program.startswith(b"containerd-shim")
            if known and folder in words and int(process.name) != own:
                yield from (process / "task").iterdir()


def thread_ns(task: Path) -> int:
    with suppress(OSError):
        return int((task / "schedstat").read_text().split()[0])
    return 0


# --- accuracy ---


def shown_cores(engine: Engine, name: str) -> float:
    """What `docker stats` shows."""
    printed = engine.docker("stats", "--no-stream", "--format", "{{json .}}", name).stdout
    return float(json.loads(printed)["CPUPerc"].rstrip("%")) / 100


async def accuracy(rig: Rig) -> dict[str, float]:
    """Points of a core between `docker stats` and ours, over the same seconds."""
    rig.engine.run("busy", "--network", "none", "--cpus", str(LIMIT_CORES), "--memory", "64m",
                   BUSYBOX, *BUSY)  # fmt: skip
    busy = rig.instance("busy")
    away, ours, theirs = [], [], []
    for _ in range(5):
        await asyncio.sleep(1)
        await rig.read(busy)
        shown = await asyncio.to_thread(shown_cores, rig.engine, "busy")
        measured = (await rig.read(busy))[0].samples[0].value
        ours.append(measured * 100)
        theirs.append(shown * 100)
        away.append(abs(measured - shown) * 100)
    mixed = 0
    for _ in range(3):
        await asyncio.to_thread(rig.engine.docker, "restart", "--time", "0", "busy")
        old, busy = busy, rig.instance("busy")
        mixed += len((await rig.read(old))[0].samples)  # its group is gone
        mixed += len((await rig.read(busy))[0].samples)  # nothing to subtract from yet
        await asyncio.sleep(1)
        value = (await rig.read(busy))[0].samples[0].value
        mixed += not 0 <= value <= 2 * LIMIT_CORES
    return {
        "busy_ours_percent": round(statistics.median(ours), 2),
        "busy_docker_stats_percent": round(statistics.median(theirs), 2),
        "busy_points_away": round(statistics.median(away), 2),
        "restarts_mixed": mixed,
    }


async def measure(rig: Rig) -> dict[str, Cost]:
    """All ways in turns."""
    costs: defaultdict[str, Cost] = defaultdict(Cost)
    await rig.read(*rig.instances)
    for _ in range(QUICK_ROUNDS):
        await rig.timed_quick(rig.ours, costs["ours"])
        await rig.timed_quick(rig.floor, costs["floor"])
    for _ in range(ROUNDS):
        await rig.timed(rig.docker_stats, costs["docker_stats"])
        await rig.timed(rig.sdk, costs["sdk_threads"])
        await rig.timed(rig.one_shot, costs["sdk_one_shot"])
        await rig.timed_quick(rig.ours, costs["ours"])
        await rig.timed_quick(rig.floor, costs["floor"])
    return costs


async def whole(rig: Rig, outcome: Outcome) -> None:
    for size in SIZES:
        rig.grow(size)
        costs = await measure(rig)
        for name, cost in costs.items():
            outcome.figures[f"{size}_{name}_wall_ms"] = cost.wall_ms
            outcome.figures[f"{size}_{name}_cpu_ms"] = cost.cpu_ms
    ours, floor = costs["ours"], costs["floor"]
    found = await accuracy(rig)
    outcome.figures |= found
    at = f"{SIZES[-1]} containers"
    outcome.goal(f"wall of one look at {at} in ms", ours.wall_ms, most=25)
    outcome.goal(f"CPU of one look at {at} in ms", ours.cpu_ms, most=12)
    for name, said in (("docker_stats", "`docker stats`"), ("sdk_threads", "the SDK")):
        times = round(costs[name].cpu_ms / ours.cpu_ms)
        outcome.figures[f"times_less_cpu_than_{name}"] = times
        outcome.goal(f"times less CPU than {said} at {at}", times, least=200)
    times = round(costs["sdk_one_shot"].cpu_ms / ours.cpu_ms)
    outcome.figures["times_less_cpu_than_sdk_one_shot"] = times
    ratio = round(ours.cpu_ms / floor.cpu_ms, 2)
    outcome.goal(f"CPU as a multiple of the bare reads at {at}", ratio, most=1.5)
    outcome.goal("points between ours and `docker stats`", found["busy_points_away"], most=2)
    outcome.goal("samples of two lives mixed", found["restarts_mixed"], most=0)


async def _run(outcome: Outcome) -> None:
    engine = Engine()
    try:
        await asyncio.to_thread(engine.start)
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(engine, Path(folder))
            try:
                await whole(rig, outcome)
            finally:
                await rig.aclose()
    finally:
        await asyncio.to_thread(engine.stop)


def run() -> Outcome:
    outcome = Outcome()
    asyncio.run(_run(outcome))
    return outcome
