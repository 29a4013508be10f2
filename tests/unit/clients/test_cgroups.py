"""Control groups of version 2 from a recorded tree, and what happens when they go.

Version 1 is read live in `tests/integration/test_docker_metrics.py`.
"""

import asyncio
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from scaler.clients import cgroups
from scaler.clients.cgroups import Absent
from tests.fakes.cgroup_tree import ID, LIFE, PID, SCOPE, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    asyncio.run(made.groups.aclose())


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("cpu", (184.46744,)),
        ("throttle", (1200, 300)),
        ("memory", (50 * 2**20 - 10 * 2**20,)),
        ("pids", (17,)),
        ("io", (5096, 8216)),
        ("net", (1550, 707)),
        ("pressure_cpu", (0.125,)),
        ("pressure_memory", (0,)),
        ("pressure_io", (0,)),
    ],
)
def test_every_kind_of_number(tree: Tree, kind: str, counts: cgroups.Counts) -> None:
    assert tree.counts(kind) == pytest.approx(counts)


def test_idle_cache_above_the_usage_is_not_taken_off(tree: Tree) -> None:
    (tree.group / "memory.current").write_text("4096\n")
    assert tree.counts("memory") == (4096,)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"/docker/{ID}", id="cgroupfs"),
        pytest.param(f"/{SCOPE}", id="systemd"),
        pytest.param(f"/user.slice/user-1000.slice/user@1000.service/x/{ID}", id="rootless"),
        pytest.param(f"/docker/{ID}/init.scope", id="the container made groups inside"),
        pytest.param(f"/../{ID}", id="seen from inside a container"),
    ],
)
def test_the_path_is_what_the_kernel_says(tree: Tree, path: str) -> None:
    tree.belongs_to(path)
    parent = path.partition(ID)[0].replace("/../", "/docker/").strip("/")
    folder = tree.sys / (f"{parent}/{ID}" if not parent.endswith("docker-") else SCOPE)
    if folder != tree.group:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tree.group.rename(folder)
    assert tree.counts("pids") == (17,)


def test_a_process_of_somebody_else_is_never_measured(tree: Tree) -> None:
    tree.belongs_to("/system.slice/sshd.service")
    other = tree.counts("cpu")
    assert other == Absent("cpu cannot be read: process 4242 is another one here", elsewhere=True)
    assert tree.counts("cpu", pid=None) == Absent(
        "cpu cannot be read: nobody says which process it is", elsewhere=True
    )
    assert tree.counts("pids", ID[:12]) == Absent(
        "pids cannot be read: process 4242 is another one here", elsewhere=True
    )
    tree.belongs_to(f"/{SCOPE}")
    assert tree.counts("pids", ID[:12]) == (17,)
    for nameless in ("", "@2026", ID[:11]):
        assert isinstance(tree.counts("cpu", nameless), Absent)
    unseen = tree.counts("cpu", "another-container@1", pid=77)
    assert isinstance(unseen, Absent)
    assert unseen.elsewhere


def test_reads_of_one_tick_are_shared_and_those_of_the_next_are_not(tree: Tree) -> None:
    assert tree.counts("throttle") == (1200, 300)
    (tree.group / "cpu.stat").write_text("usage_usec 1\nnr_periods 1300\nnr_throttled 300\n")
    assert tree.counts("cpu") == pytest.approx((184.46744,)), "the same file, the same moment"
    tree.clock.set(tree.clock.now() + timedelta(milliseconds=251))
    assert tree.counts("throttle") == (1300, 300)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_bounded(tree: Tree) -> None:
    tree.groups = tree.made(most_files=4)
    before = open_files()
    for number in range(20):
        container = f"{number:064x}"
        folder = tree.sys / "docker" / container
        folder.mkdir(parents=True)
        (folder / "pids.current").write_text(f"{number}\n")
        (folder / "io.stat").write_text("")
        tree.belongs_to(f"/docker/{container}", 100 + number)
    for _ in range(2):
        for number in range(20):
            assert tree.counts("pids", f"{number:064x}@1", 100 + number) == (number,)
            assert tree.counts("io", f"{number:064x}@1", 100 + number) == (0, 0)
    assert open_files() - before <= 4
    asyncio.run(tree.groups.aclose())
    assert open_files() == before


def test_a_reader_outlives_the_closing_of_its_files(tree: Tree) -> None:
    reader = tree.groups.reader("pids", LIFE, PID)
    assert reader.read(tree.clock.monotonic())[1] == (17,)
    tree.groups.drop(LIFE)
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]  # the numbers of other files now
    (tree.group / "pids.current").write_text("18\n")
    assert reader.read(timedelta(seconds=1))[1] == (18,)
    for other in others:
        os.close(other)


def test_what_is_dropped_is_found_again(tree: Tree) -> None:
    assert tree.counts("pids") == (17,)
    tree.groups.drop(LIFE)
    tree.groups.drop(LIFE)
    (tree.group / "pids.current").write_text("18\n")
    assert tree.counts("pids") == (18,)


def test_one_number_that_is_kept_from_us_does_not_cost_the_others(tree: Tree) -> None:
    reader = tree.groups.reader("pids", LIFE, PID)
    assert reader.read(timedelta(0))[1] == (17,)
    before = open_files()
    (tree.proc / "4242/ns/net").unlink()
    refused = tree.counts("net")
    assert isinstance(refused, Absent)
    assert refused.elsewhere
    assert open_files() == before


def test_a_network_that_is_the_hosts_is_not_the_containers(tree: Tree) -> None:
    (tree.proc / "1/ns/net").unlink()
    (tree.proc / "1/ns/net").symlink_to("net:[4026532001]")
    assert tree.counts("net") == Absent(
        "net cannot be read: it shares the network of the host", elsewhere=True
    )


def test_a_file_that_is_no_more_what_it_was_is_a_reason(tree: Tree) -> None:
    (tree.group / "cpu.stat").write_text("what is this\n")
    found = tree.counts("cpu")
    assert isinstance(found, Absent)
    assert found.because.startswith("cpu cannot be read")
    (tree.group / "pids.current").unlink()
    (tree.group / "memory.stat").unlink()
    before = open_files()
    for kind in ("pids", "memory", "pids", "memory"):
        found = tree.counts(kind)
        assert isinstance(found, Absent)
        assert "No such file" in found.because
    assert open_files() == before
