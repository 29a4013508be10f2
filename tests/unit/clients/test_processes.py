"""Reading `/proc`, and which processes make up an instance."""

from datetime import UTC, datetime, timedelta

import pytest

from scaler.clients import processes
from scaler.clients.processes import Identity, Marker, Process, Snapshot

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STAT = b"42 (%s) S 7 42 42 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 1 0 5555 1024 300 999"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"sleep", id="a plain name"),
        pytest.param(b"my prog", id="a name with a blank"),
        pytest.param(b"a) R 1 (b", id="a name that looks like the rest of the line"),
        pytest.param(b"\xff\xfe", id="a name that is no text"),
    ],
)
def test_a_line_of_stat_is_read(name: bytes) -> None:
    process = processes.parse_stat(STAT % name)
    assert process == Process(
        pid=42,
        parent=7,
        session=42,
        state="S",
        start_ticks=5555,
        own_ticks=33,
        child_ticks=77,
        rss_bytes=300 * processes.PAGE_BYTES,
    )


@pytest.mark.parametrize("line", [b"", b"42 (x", b"42 (x) S 1"], ids=["none", "cut", "short"])
def test_half_a_line_of_stat_is_no_process(line: bytes) -> None:
    assert processes.parse_stat(line) is None


@pytest.mark.parametrize(
    ("block", "marker"),
    [
        pytest.param(b"", None, id="an empty environment has none"),
        pytest.param(b"A=1\0B=SCALER_INSTANCE\0", None, id="the name as a value is none"),
        pytest.param(b"SCALER_INSTANCE=\0", None, id="an empty one is none"),
        pytest.param(
            b"A=1\0SCALER_INSTANCE=u\0SCALER_OWNER=/s/web\0SCALER_SLOT=3\0PORT=9000\0",
            Marker(instance="u", owner="/s/web", slot=3, port=9000),
            id="all of it is read",
        ),
        pytest.param(
            b"SCALER_INSTANCE=u\0SCALER_SLOT=-3\0PORT=http\0\xff\0",
            Marker(instance="u"),
            id="what cannot be a number is left out",
        ),
    ],
)
def test_the_marker_is_read(block: bytes, marker: Marker | None) -> None:
    assert processes.parse_environ(block) == marker


def process(
    pid: int, parent: int = 1, *, session: int = 0, state: str = "S", instance: str = ""
) -> Process:
    return Process(
        pid=pid,
        parent=parent,
        session=session or pid,
        state=state,
        start_ticks=pid * 10,
        own_ticks=0,
        child_ticks=0,
        rss_bytes=0,
        marker=Marker(instance=instance, owner="/s/web") if instance else None,
    )


def snapshot(*found: Process, root: int | None = None, start_ticks: int = 0) -> Snapshot:
    roots = {"u": Identity("boot", root, start_ticks)} if root else {}
    return Snapshot(found, at=NOON, monotonic=timedelta(), roots=roots)


@pytest.mark.parametrize(
    ("seen", "pids"),
    [
        pytest.param(snapshot(process(10, instance="u"), process(11)), {10}, id="by its marker"),
        pytest.param(
            snapshot(process(10, instance="u"), process(11, 10), process(12, 11)),
            {10, 11, 12},
            id="with all descendants",
        ),
        pytest.param(
            snapshot(process(10, instance="u"), process(12, instance="u")),
            {10, 12},
            id="with an orphan in a session of its own",
        ),
        pytest.param(
            snapshot(process(10), process(11, session=10), root=10, start_ticks=100),
            {10, 11},
            id="without a marker by its identity and session",
        ),
        pytest.param(
            snapshot(process(10), process(11, 10), root=10, start_ticks=99),
            set(),
            id="not by a pid that is another process now",
        ),
        pytest.param(
            snapshot(process(10, 11, instance="u"), process(11, 10)), {10, 11}, id="even in a ring"
        ),
        pytest.param(snapshot(process(1, instance="u")), set(), id="never the first process"),
    ],
)
def test_the_tree_of_an_instance(seen: Snapshot, pids: set[int]) -> None:
    assert {p.pid for p in seen.tree("u")} == pids


def test_the_first_process_of_an_instance_leads_its_session() -> None:
    helper = process(9, session=8, instance="u")
    dead = process(7, instance="u", state="Z")
    seen = snapshot(helper, dead, process(10, instance="u"), process(11, instance="v"))
    assert {u: p.pid for u, p in seen.owned("/s/web").items()} == {"u": 10, "v": 11}
    assert seen.owned("/s/other") == {}


def test_another_boot_is_another_process() -> None:
    seen = processes.read_process(1)
    assert seen
    assert processes.hold(Identity("another", 1, seen.start_ticks)) is None
