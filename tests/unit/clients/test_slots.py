"""What becomes of the slots when a daemon starts, and the file they are kept in."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scaler.clients import durable, processes, slots
from scaler.clients.processes import Identity, Marker, Process
from scaler.clients.slots import Book, Phase, Slot

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOOT = processes.boot_id()


def slot(index: int, phase: Phase, *, boot: str = BOOT, pid: int | None = 77) -> Slot:
    return Slot(
        index=index,
        instance=f"u{index}",
        phase=phase,
        template="t",
        created_at=NOON,
        process=Identity(boot, pid, 5) if pid else None,
        kill_at=NOON if phase in (Phase.STOPPING, Phase.RESTARTING) else None,
    )


def book(*kept: Slot, wanted: int = 1) -> Book:
    return Book(wanted=wanted, slots={s.index: s for s in kept})


def found(instance: str, index: int | None) -> dict[str, Process]:
    marker = Marker(instance=instance, owner="/s/web", slot=index, template="t", port=9000)
    return {
        instance: Process(
            pid=88,
            parent=1,
            session=88,
            state="S",
            start_ticks=6,
            own_ticks=0,
            child_ticks=0,
            rss_bytes=0,
            marker=marker,
        )
    }


@pytest.mark.parametrize(
    ("kept", "seen", "wanted", "after"),
    [
        pytest.param(None, {}, 0, {}, id="nothing was there"),
        pytest.param(
            None,
            found("x", 4),
            1,
            {4: ("x", Phase.RUNNING, 88)},
            id="without a file what runs is wanted",
        ),
        pytest.param(
            None,
            found("x", None),
            1,
            {0: ("x", Phase.RUNNING, 88)},
            id="without a number it gets one",
        ),
        pytest.param(
            book(slot(1, Phase.RUNNING)),
            {},
            1,
            {1: ("u1", Phase.RUNNING, 77)},
            id="what runs by its identity is kept",
        ),
        pytest.param(
            book(slot(1, Phase.STARTING, pid=None)),
            found("u1", 1),
            1,
            {1: ("u1", Phase.RUNNING, 88)},
            id="what had started unwritten is taken over",
        ),
        pytest.param(
            book(slot(1, Phase.STARTING, pid=None)),
            {},
            1,
            {},
            id="what had not started is asked for again",
        ),
        pytest.param(
            book(slot(1, Phase.RUNNING, boot="earlier"), slot(2, Phase.FAILED, boot="earlier")),
            {},
            1,
            {},
            id="after a restart of the machine all is asked for again",
        ),
        pytest.param(
            book(slot(1, Phase.STOPPING), slot(2, Phase.RESTARTING)),
            {},
            1,
            {1: ("u1", Phase.STOPPING, 77), 2: ("u2", Phase.RESTARTING, 77)},
            id="what was being stopped goes on",
        ),
        pytest.param(
            book(slot(1, Phase.RUNNING)),
            found("x", 1),
            1,
            {1: ("u1", Phase.RUNNING, 77), 0: ("x", Phase.RUNNING, 88)},
            id="one that an old file does not know gets another number",
        ),
    ],
)
def test_plan_adoption(
    kept: Book | None,
    seen: dict[str, Process],
    wanted: int,
    after: dict[int, tuple[str, Phase, int]],
) -> None:
    plan = slots.plan_adoption(kept, seen, boot=BOOT, now=NOON)
    assert plan.wanted == wanted
    assert {
        i: (s.instance, s.phase, s.process.pid if s.process else None)
        for i, s in plan.slots.items()
    } == after


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "web.json"
    full = book(*(slot(index, phase) for index, phase in enumerate(Phase)), wanted=3)
    slots.write(path, full)
    assert slots.read(path) == full
    assert [p.name for p in tmp_path.iterdir()] == ["web.json"]
    assert slots.read(tmp_path / "other.json") is None


GOOD = (
    b'{"index":1,"instance":"u","phase":"running","template":"","created_at":"2026-01-01T12:00:00Z"'
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="an empty file"),
        pytest.param(b'{"wanted": 3, "slo', id="half a file"),
        pytest.param(b"\xff\x00", id="not text"),
        pytest.param(b'{"version": 2}', id="another version"),
        pytest.param(b'{"wanted": -1}', id="a negative count"),
        pytest.param(b'{"slots": {"0": ' + GOOD + b"}}}", id="a slot under another number"),
        pytest.param(
            b'{"slots": {"1": '
            + GOOD
            + b', "process": {"boot_id": "b", "pid": -1, "start_ticks": 0}}}}',
            id="a pid that means everybody",
        ),
    ],
)
def test_a_damaged_file_is_broken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "web.json").write_bytes(content)
    with pytest.raises(durable.Broken, match=r"web\.json"):
        slots.read(tmp_path / "web.json")


@pytest.mark.parametrize(
    ("named", "count", "gone"),
    [
        pytest.param({1}, 1, [1], id="the named one first"),
        pytest.param(set(), 1, [3], id="then what has failed"),
        pytest.param(set(), 2, [3, 2], id="then the newest"),
        pytest.param({1, 2}, 1, [2], id="no more than is too many"),
        pytest.param({1}, 0, [], id="nobody when there are not too many"),
        pytest.param({1}, -3, [], id="nobody when there are too few"),
    ],
)
def test_victims(named: set[int], count: int, gone: list[int]) -> None:
    phases = {0: Phase.RUNNING, 1: Phase.RUNNING, 2: Phase.RUNNING, 3: Phase.FAILED}
    present = [slot(index, phase) for index, phase in phases.items()]
    aged = [
        Slot(
            index=s.index,
            instance=s.instance,
            phase=s.phase,
            template="",
            created_at=NOON + timedelta(seconds=0 if s.index == 3 else s.index),
        )
        for s in present
    ]
    assert [s.index for s in slots.victims(aged, count, named)] == gone
