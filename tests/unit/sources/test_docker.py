"""Counters of the kernel to samples. Real ones: `tests/integration/test_docker_metrics.py`."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients import cgroups
from scaler.clients.docker import Engines
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError
from scaler.interfaces import Context
from scaler.sources import docker as source
from tests.fakes.cgroup_tree import LIFE, PID, Tree

ONE = Instance(
    id=InstanceId("web-1"),
    state=State.RUNNING,
    incarnation=LIFE,
    pid=PID,
    bases={"cpu": 0.5, "memory": 2.0**26},
)


class Asker:
    """Metrics of containers in a tree of files."""

    def __init__(self, folder: Path) -> None:
        self.tree = Tree(folder)
        self.context = Context(clock=self.tree.clock, state_dir=folder, random=Random(1))
        self.context.shared[cgroups.Groups] = self.tree.groups
        self._sources: dict[str, Any] = {}

    def read(self, metric: str, *instances: Instance, after_s: float = 0) -> Reading:
        """What is read when so much time has passed since the last look."""
        clock = self.tree.clock
        clock.set(clock.now() + timedelta(seconds=after_s))
        if metric not in self._sources:
            rules = Metric(name=metric, goal={"value": 1})
            target = EngineTarget(engine="unix:///no/such/engine")
            self._sources[metric] = source.PLUGIN.open(rules, target, self.context)
        since = clock.now() - timedelta(minutes=1)
        shown = instances or (ONE,)
        fleet = Fleet(target="web", at=clock.now(), wanted=len(shown), instances=shown)
        found: Reading = asyncio.run(self._sources[metric].read(fleet, since, clock.now()))
        return found

    def value(self, metric: str, *, after_s: float) -> float:
        (sample,) = self.read(metric, after_s=after_s).samples
        return sample.value

    def write(self, name: str, text: str) -> None:
        (self.tree.group / name).write_text(text)


class EngineTarget(Target):
    engine: str = ""


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Asker]:
    made = Asker(tmp_path)
    yield made
    asyncio.run(made.tree.groups.aclose())
    if Engines in made.context.shared:
        asyncio.run(made.context.shared[Engines].aclose())


def cpu(used_us: int, periods: int = 0, held: int = 0) -> str:
    return f"usage_usec {used_us}\nnr_periods {periods}\nnr_throttled {held}\n"


def test_cpu_is_the_mean_since_the_last_look(asker: Asker) -> None:
    asker.write("cpu.stat", cpu(1_000_000))
    assert "next look has a number" in (asker.read("cpu").missing or "")
    asker.write("cpu.stat", cpu(1_500_000))
    (sample,) = asker.read("cpu", after_s=2).samples
    assert sample.value == pytest.approx(0.25)
    assert (sample.base, sample.window) == (0.5, timedelta(seconds=2))
    asker.write("cpu.stat", cpu(9_000_000))
    assert asker.read("cpu", after_s=0.1).samples == (sample,), "too soon for another"
    assert asker.value("cpu", after_s=0.4) == pytest.approx(15)


def test_counters_that_go_back_are_a_new_beginning(asker: Asker) -> None:
    asker.read("cpu")
    asker.write("cpu.stat", cpu(5))
    assert asker.read("cpu", after_s=1).samples == ()
    asker.write("cpu.stat", cpu(100_005))
    assert asker.value("cpu", after_s=1) == pytest.approx(0.1)


def test_a_new_life_is_not_compared_with_the_old_one(asker: Asker) -> None:
    asker.read("cpu")
    asker.write("cpu.stat", cpu(900_000_000))
    again = Instance(
        id=ONE.id, state=State.RUNNING, incarnation=LIFE.replace("2026", "2027"), pid=PID
    )
    assert asker.read("cpu", again, after_s=1).samples == ()
    assert [s.value for s in asker.read("cpu", again, after_s=1).samples] == [0]


def test_throttled_is_the_share_of_the_periods_since(asker: Asker) -> None:
    asker.write("cpu.stat", cpu(0, 1000, 300))
    asker.read("throttled")
    asker.write("cpu.stat", cpu(0, 1020, 305))
    assert asker.value("throttled", after_s=1) == pytest.approx(0.25)
    assert asker.value("throttled", after_s=1) == 0, "it did not run"


@pytest.mark.parametrize(("metric", "rate"), [("io_read", 2048), ("io_write", 4096)])
def test_devices_are_counted_per_second(asker: Asker, metric: str, rate: float) -> None:
    asker.write("io.stat", "8:0 rbytes=0 wbytes=0\n8:16 rbytes=8 wbytes=8\n")
    asker.read(metric)
    asker.write("io.stat", "8:0 rbytes=4096 wbytes=0\n8:16 rbytes=8 wbytes=8200\n")
    (sample,) = asker.read(metric, after_s=2).samples
    assert sample.value == rate
    assert sample.base == 1.0


def test_levels_need_no_second_look(asker: Asker) -> None:
    (memory,) = asker.read("memory").samples
    assert (memory.value, memory.base) == (40 * 2**20, 2.0**26)
    (pressure,) = asker.read("pressure_cpu").samples
    assert (pressure.value, pressure.base) == (0.125, 1.0)
    assert asker.value("pids", after_s=0) == 17


def many(asker: Asker, count: int) -> list[Instance]:
    """Each with as many processes as its number."""
    made = []
    for number in range(count):
        container, pid = f"{number:064x}", 10_000 + number
        folder = asker.tree.sys / "docker" / container
        folder.mkdir(parents=True)
        (folder / "pids.current").write_text(f"{number}\n")
        asker.tree.belongs_to(f"/docker/{container}", pid)
        name = InstanceId(f"web-{number}")
        life = f"{container}@1"
        made.append(Instance(id=name, state=State.RUNNING, incarnation=life, pid=pid))
    return made


def test_everyone_has_their_own_number_whoever_else_has_none(asker: Asker) -> None:
    instances = many(asker, 230)
    expected = {instance.id: number for number, instance in enumerate(instances)}
    for _ in range(2):
        found = asker.read("pids", *instances, after_s=1)
        assert {s.instance: s.value for s in found.samples} == expected
    foreign = [instances[40], instances[105]]
    for instance in foreign:
        asker.tree.belongs_to("/system.slice/sshd.service", instance.pid or 0)
        asker.tree.groups.drop(instance.incarnation)
        del expected[instance.id]
    del instances[7]
    del expected[InstanceId("web-7")]
    found = asker.read("pids", *instances, after_s=1)
    assert {s.instance: s.value for s in found.samples} == expected
    assert found.missing is None
    none = asker.read("pids", *foreign, after_s=1).missing or ""
    assert "web-40 (and 1 others)" in none
    assert "another one here" in none


def test_who_was_never_seen_is_asked_of_the_engine(asker: Asker) -> None:
    remote = Instance(id=InstanceId("far"), state=State.RUNNING, incarnation=LIFE)
    missing = asker.read("cpu", remote).missing or ""
    assert "nobody says which process it is, and the engine: " in missing
    assert "is the engine running" in missing


def test_only_those_that_run_count(asker: Asker) -> None:
    held = Instance(id=ONE.id, state=State.HELD, incarnation=LIFE, pid=PID)
    assert asker.read("pids", held).missing == "no instance is running"


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"name": "memry", "goal": {"value": 1}}, 'did you mean "memory"'),
        ({"name": "queue", "goal": {"value": 1}}, "known are cpu, io_read"),
        ({"cpu": "70%", "of": "request"}, "have no request"),
        ({"name": "pids", "of": "host", "goal": {"value": 1}}, "only cpu and memory"),
        ({"name": "net_in", "goal": {"utilization": "70%"}}, "nothing is 100 % of it"),
    ],
)
def test_what_cannot_be_measured_is_a_mistake(
    asker: Asker, fields: dict[str, Any], because: str
) -> None:
    with pytest.raises(ConfigError, match=because):
        source.PLUGIN.open(Metric(**fields), EngineTarget(), asker.context)
