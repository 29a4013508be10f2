"""What an engine says of a container, read from recorded words."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scaler.clients import docker_plan, docker_seen
from scaler.clients.docker_book import Phase, Slot
from scaler.clients.docker_seen import CONFIG, INSTANCE, SERVICE, Seen

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "span"),
    [
        ("Up Less than a second", timedelta()),
        ("Up 5 seconds (health: starting)", timedelta(seconds=5)),
        ("Up About a minute (healthy)", timedelta(minutes=1)),
        ("Exited (137) 3 hours ago", timedelta(hours=3)),
        ("Up 2 weeks (Paused)", timedelta(weeks=2)),
        ("Created", None),
    ],
)
def test_the_age_that_a_list_shows(status: str, span: timedelta | None) -> None:
    assert docker_seen.age(status) == span


@pytest.mark.parametrize(
    ("status", "is_younger"),
    [
        pytest.param("Up 59 minutes", False, id="as old as is known"),
        pytest.param("Up About an hour", False, id="rounded"),
        pytest.param("Up 3 seconds", True, id="started again"),
    ],
)
def test_a_list_shows_a_start_that_was_missed(status: str, is_younger: bool) -> None:
    one = seen("web", started_at=NOON - timedelta(hours=1))
    assert docker_seen.restarted(one, status, NOON) is is_younger


@pytest.mark.parametrize(
    ("host", "cores"),
    [
        ({"NanoCpus": 1_500_000_000, "CpusetCpus": "0"}, 1.5),
        ({"CpuQuota": 50_000}, 0.5),
        ({"CpuQuota": 50_000, "CpuPeriod": 25_000}, 2.0),
        ({"CpuQuota": -1, "CpusetCpus": "0-2,7"}, 4.0),
        ({}, None),
    ],
)
def test_cores(host: dict[str, Any], cores: float | None) -> None:
    assert docker_seen.cores(host) == cores


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("0001-01-01T00:00:00Z", None),
        ("2026-01-01T12:00:00Z", NOON),
        ("2026-01-01T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("2026-01-01T14:00:00.5+02:00", NOON.replace(microsecond=500_000)),
        (None, None),
    ],
)
def test_moments(written: str | None, read: datetime | None) -> None:
    assert docker_seen.moment(written) == read


@pytest.mark.parametrize(
    ("code", "more", "words"),
    [
        (0, {}, "ended with 0"),
        (3, {}, "ended with 3"),
        (137, {}, "killed by SIGKILL"),
        (137, {"oom": True}, "out of memory: killed by the kernel; raise its memory limit"),
        (255, {}, "ended with 255"),
        (127, {"error": "no such program"}, "could not start: no such program"),
    ],
)
def test_why_it_ended(code: int, more: dict[str, Any], words: str) -> None:
    assert docker_seen.ended(code, **more) == words


# --- plans ---


def seen(name: str, **more: Any) -> Seen:
    given: dict[str, Any] = {"id": name, "name": name, "labels": {}, "status": "running"}
    return Seen(**{**given, **more})


OURS = {INSTANCE: "1"}


def names(*who: str, count: int, named: tuple[str, ...] = (), others: bool = False) -> list[str]:
    """Victims among an original and copies; `!` failed, `|` paused."""
    there = []
    for number, written in enumerate(who, start=1):
        name = written.strip("!|")
        status = {"!": "exited", "|": "paused"}.get(written[-1], "running")
        labels = {} if name == "web" else OURS
        born = NOON + timedelta(seconds=number)
        there.append(seen(name, status=status, labels=labels, created_at=born))
    present = docker_plan.members(there, {})
    return [m.name for m in docker_plan.victims(present, count, named, others=others)]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        pytest.param(names("web", "web-2", "web-3", count=1), ["web-3"], id="the newest"),
        pytest.param(
            names("web", "web-2", "web-3", count=1, named=("web-2",)), ["web-2"], id="the named"
        ),
        pytest.param(names("web", "web-2!", "web-3", count=1), ["web-2"], id="the failed"),
        pytest.param(names("web", "web-2", "web-3|", count=1), ["web-2"], id="not the paused"),
        pytest.param(names("web", "web-2", count=2), ["web-2"], id="not the original"),
        pytest.param(
            names("web", "web-2", count=2, others=True), ["web-2", "web"], id="unless allowed, last"
        ),
        pytest.param(names("web", "web-2", count=-1), [], id="nobody"),
    ],
)
def test_victims(chosen: list[str], expected: list[str]) -> None:
    assert chosen == expected


def test_a_slot_speaks_of_its_own_container_only() -> None:
    slot = Slot(
        name="web-2", number=2, phase=Phase.STOPPING, since=NOON, instance="x", container="old"
    )
    (member,) = docker_plan.members([seen("web-2", id="new")], {"web-2": slot})
    assert member.slot is None
    assert not member.leaving
    (member,) = docker_plan.members([seen("web-2", id="old")], {"web-2": slot})
    assert member.leaving


def test_spares_are_no_members() -> None:
    slot = Slot(
        name="web-2", number=2, phase=Phase.SPARE, since=NOON, instance="x", container="web-2"
    )
    assert docker_plan.members([seen("web-2", status="paused")], {"web-2": slot}) == []


def compose(name: str, config: str, *, age_s: int, ours: bool = False) -> Seen:
    labels = {SERVICE: "web", CONFIG: config, **(OURS if ours else {})}
    return seen(name, labels=labels, created_at=NOON - timedelta(seconds=age_s))


@pytest.mark.parametrize(
    ("there", "is_rollout"),
    [
        pytest.param([compose("web-1", "a", age_s=5)], False, id="a first start"),
        pytest.param(
            [compose("web-1", "b", age_s=5), compose("web-2", "a", age_s=900, ours=True)],
            True,
            id="a young one of another configuration",
        ),
        pytest.param(
            [compose("web-1", "b", age_s=20), compose("web-2", "a", age_s=900, ours=True)],
            False,
            id="it has ended",
        ),
        pytest.param(
            [compose("web-1", "b", age_s=900), compose("web-2", "a", age_s=1, ours=True)],
            False,
            id="a young copy is ours",
        ),
        pytest.param(
            [compose("0123456789ab_web-1", "a", age_s=900)], True, id="renamed by compose"
        ),
    ],
)
def test_rollout(there: list[Seen], is_rollout: bool) -> None:
    assert bool(docker_plan.rollout(there, NOON)) is is_rollout
