"""The usage of real containers, seen through the roots of their processes."""

from collections.abc import Iterable
from typing import Any

import pytest

from scaler.clients.pod_usage import PodUsage, Used
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import until

pytestmark = pytest.mark.live
BUSY = "while :; do :; done"


def pid_of(engine: Engine, name: str) -> int:
    seen: Any = engine.inspect(name)
    return int(seen["State"]["Pid"])


def groups_of(found: Iterable[str]) -> list[bool]:
    return [life.startswith("group") for life in found]


def test_the_groups_of_real_containers(engine: Engine) -> None:
    engine.run("web", BUSYBOX, "sh", "-c", BUSY)
    engine.run("log", BUSYBOX, "sleep", "600")
    pids = [pid_of(engine, "web"), pid_of(engine, "log")]
    pod = PodUsage(pids=lambda: pids)

    def busy() -> list[Used]:
        found = pod.look()
        assert groups_of(found) == [True, True]
        web, log = found.values()
        return [web, log] if web.cpu_s > log.cpu_s + 0.5 else []

    web, log = until(busy, "the busy one has used half a second more")
    assert 0 < web.memory_bytes < 64 * 2**20
    assert 0 < log.memory_bytes < 64 * 2**20


def test_a_container_started_anew_is_another_life(engine: Engine) -> None:
    engine.run("web", BUSYBOX, "sleep", "600")
    first = PodUsage(pids=lambda: [pid_of(engine, "web")]).look()
    engine.docker("restart", "--time", "0", "web")
    second = PodUsage(pids=lambda: [pid_of(engine, "web")]).look()
    assert groups_of([*first, *second]) == [True, True]
    assert first.keys() != second.keys()


def test_with_the_groups_of_the_machine_in_its_root_its_processes_are_summed_up(
    engine: Engine,
) -> None:
    engine.run("web", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro", BUSYBOX, "sleep", "600")
    found = PodUsage(pids=lambda: [pid_of(engine, "web")]).look()
    assert groups_of(found) == [False]
