"""CPU of a tree, whoever comes and goes."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.clients import usage
from scaler.clients.processes import Process


def process(pid: int, parent: int = 1, own: int = 0, children: int = 0) -> Process:
    return Process(
        pid=pid,
        parent=parent,
        session=1,
        state="S",
        start_ticks=pid,
        own_ticks=own,
        child_ticks=children,
        rss_bytes=pid,
    )


@pytest.mark.parametrize(
    ("looks", "ticks"),
    [
        pytest.param([[process(2, own=5)], [process(2, own=9)]], 9, id="its own time"),
        pytest.param(
            [[process(2)], [process(2, children=7)]], 7, id="children that came and went unseen"
        ),
        pytest.param(
            [[process(2), process(3, 2, own=5)], [process(2, children=6)]],
            6,
            id="a child that was seen counts once",
        ),
        pytest.param(
            [
                [process(2), process(3, 2, own=5), process(4, 3, own=2)],
                [process(2, children=9)],
            ],
            9,
            id="so do a child and its child together",
        ),
        pytest.param(
            [[process(2), process(3, 2, own=5)], [process(2)], [process(2, children=6)]],
            6,
            id="also when its parent was read before it ended",
        ),
        pytest.param(
            [
                [process(2), process(3, 2, own=5)],
                [process(2)],
                [process(2)],
                [process(2, children=5)],
            ],
            10,
            id="a child that nobody waited for stays counted and owes nothing for long",
        ),
        pytest.param(
            [[process(2), process(3, 1, own=5)], [process(2, own=1)]],
            6,
            id="an orphan that is gone stays counted",
        ),
        pytest.param([[process(2, own=9)], [process(2, own=3)]], 9, id="it never falls"),
    ],
)
def test_measured(looks: list[list[Process]], ticks: int) -> None:
    seen: usage.Usage | None = None
    for tree in looks:
        seen = usage.measured(seen, tree)
    assert seen is not None
    assert seen.cpu_ticks == ticks


events = st.lists(
    st.tuples(st.sampled_from(["burn", "fork", "exit", "look"]), st.integers(0, 99)), max_size=60
)


@given(events)
def test_what_is_measured_is_what_was_burnt(story: list[tuple[str, int]]) -> None:
    alive = {2: process(2)}
    burnt, born = 0, 3
    seen = usage.measured(None, alive.values())
    for event, number in [*story, ("look", 0)]:
        pid = sorted(alive)[number % len(alive)]
        one = alive[pid]
        if event == "burn":
            alive[pid] = process(pid, one.parent, one.own_ticks + number, one.child_ticks)
            burnt += number
        elif event == "fork":
            alive[born] = process(born, pid)
            born += 1
        elif event == "exit" and pid != 2 and all(p.parent != pid for p in alive.values()):
            parent = alive[one.parent]
            total = parent.child_ticks + one.own_ticks + one.child_ticks
            alive[one.parent] = process(parent.pid, parent.parent, parent.own_ticks, total)
            del alive[pid]
        elif event == "look":
            before, seen = seen, usage.measured(seen, alive.values())
            assert seen.cpu_ticks >= before.cpu_ticks
            assert seen.cpu_ticks == burnt


def test_memory_is_the_sum() -> None:
    assert usage.memory_bytes([process(2), process(3)]) == 5


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        pytest.param("0::/a/b\n", {"a/b/memory.max": "5000"}, 5000, id="its own group"),
        pytest.param(
            "0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "4000"}, 4000, id="one above"
        ),
        pytest.param("0::/\n", {"memory.max": "3000"}, 3000, id="the root as containers see it"),
        pytest.param(
            "3:cpu:/x\n7:memory:/c\n",
            {"memory/c/memory.limit_in_bytes": "2000"},
            2000,
            id="version 1",
        ),
        pytest.param("0::/a\n", {"a/memory.max": "max"}, None, id="no limit but the machine's"),
        pytest.param("", {}, None, id="no groups at all"),
    ],
)
def test_memory_limit(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert usage.memory_limit(tmp_path / "cgroup", tmp_path / "fs") == (limit or whole)
