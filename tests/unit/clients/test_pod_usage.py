"""Containers of a pod as the one among them sees them: groups where it may, else processes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scaler.clients.pod_usage import PodUsage
from tests.fakes.pod_tree import LOG, WEB, Pod
from tests.integration.running import until

BUSY = "while True: pass"


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path)


def test_a_container_is_read_as_it_sees_itself_and_once(pod: Pod) -> None:
    pod.runs(20, WEB)
    pod.runs(21, WEB)
    mount = pod.shows(20, members="20\n21\n")
    (mount / "cpu.stat").write_text("usage_usec 1500000\n")
    (mount / "memory.current").write_text("5000\n")
    (mount / "memory.stat").write_text("anon 1\ninactive_file 2000\nfile 1\n")
    assert pod.used() == [(1.5, 3000.0)]


def test_groups_of_version_1(pod: Pod) -> None:
    pod.runs(20, WEB)
    pod.shows(20, version=1)
    assert pod.used() == [(2.5, 8000.0)]


def test_who_does_not_let_us_in_is_summed_up(pod: Pod) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    pod.runs(20, WEB, ticks=2 * ticks)
    pod.runs(21, WEB, ticks=ticks)
    pod.runs(30, LOG, name="log (1) x", ticks=0)
    page = os.sysconf("SC_PAGE_SIZE")
    assert pod.used() == [(3.0, 50.0 * page), (0.0, 25.0 * page)]


def test_a_process_that_ends_takes_nothing_back(pod: Pod) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    pod.runs(20, WEB, ticks=ticks)
    pod.runs(21, WEB, ticks=5 * ticks)
    assert pod.used()[0][0] == 6.0
    shutil.rmtree(pod.proc / "21")
    assert pod.used()[0][0] == 6.0


def test_the_groups_of_a_whole_machine_are_not_taken_for_those_of_a_container(pod: Pod) -> None:
    pod.runs(20, WEB)
    pod.shows(20, members="4\n5\n")
    (life,) = pod.usage.look()
    assert life.startswith("processes")


def test_something_strange_in_place_of_a_file_makes_nobody_wait(pod: Pod) -> None:
    pod.runs(20, WEB)
    mount = pod.shows(20)
    (mount / "cpu.stat").unlink()
    os.mkfifo(mount / "cpu.stat")
    (life,) = pod.usage.look()
    assert life.startswith("processes")


def test_nobody_else_to_be_seen_is_a_reason(pod: Pod) -> None:
    with pytest.raises(LookupError, match="set shareProcessNamespace: true"):
        pod.usage.look()


def test_the_processes_of_a_node_are_a_reason(pod: Pod) -> None:
    pod.runs(2, "0::/\n", name="kthreadd")
    pod.runs(20, WEB)
    with pytest.raises(LookupError, match="hostPID"):
        pod.usage.look()


@pytest.fixture
def busy() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    yield process.pid
    process.kill()
    process.wait()


def test_a_real_process(busy: int) -> None:
    pod = PodUsage(pids=lambda: [busy], ours="another")
    first = next(iter(pod.look().values()))
    until(
        lambda: next(iter(pod.look().values())).cpu_s > first.cpu_s + 0.05,
        "its time is seen",
    )
    assert next(iter(pod.look().values())).memory_bytes > 2**20
