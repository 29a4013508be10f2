"""Instances that are too busy to answer their probes carry load, and are counted with it."""

from datetime import UTC, datetime, timedelta

import pytest

from scaler.core.decide import decide
from scaler.core.document import Target
from scaler.core.model import (
    Decision,
    Fleet,
    Health,
    History,
    Instance,
    InstanceId,
    Reading,
    Sample,
    State,
)
from scaler.core.policy import Policy

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = Policy.model_validate(
    {
        "name": "web",
        "target": Target(kind="world", policy="web"),
        "metrics": [{"cpu": "70%"}],
        "limits": {"max": 20, "settle_down": "0s"},
    }
)


def instance(
    number: int, *, ready: bool, lapsed: bool = False, health: Health = Health.UNKNOWN
) -> Instance:
    return Instance(
        id=InstanceId(f"web-{number}"),
        state=State.RUNNING,
        started_at=NOON - timedelta(hours=1),
        ready=ready,
        ready_changed_at=NOON - timedelta(seconds=2 if not ready else 3000),
        lapsed=lapsed,
        health=health,
        bases={"cpu": 1.0},
    )


def decided(instances: list[Instance], loads: list[float]) -> Decision:
    samples = tuple(
        Sample(at=NOON, value=load, instance=i.id, window=timedelta(seconds=5))
        for i, load in zip(instances, loads, strict=True)
    )
    fleet = Fleet(target="web", at=NOON, wanted=len(instances), instances=tuple(instances))
    reading = Reading(metric="cpu", samples=samples)
    return decide(POLICY, fleet, {"cpu": reading}, History(), NOON)[0]


def test_an_overload_that_takes_instances_out_still_makes_the_target_grow() -> None:
    crowd = [instance(n, ready=n == 0, lapsed=n > 0) for n in range(4)]
    assert decided(crowd, [1.0] * 4).desired == 6


@pytest.mark.parametrize(
    ("lapsed", "load"),
    [
        pytest.param(True, 0.0, id="who hangs does nothing, and its nothing is no sign of calm"),
        pytest.param(False, 1.0, id="who has never been ready burns its start-up, not load"),
    ],
)
def test_who_is_not_ready_otherwise_has_no_say(lapsed: bool, load: float) -> None:
    crowd = [instance(0, ready=True), *(instance(n, ready=False, lapsed=lapsed) for n in (1, 2, 3))]
    decision = decided(crowd, [1.0, load, load, load])
    assert decision.desired == 4
    assert "100 % against 70 %" in decision.wishes[0].because


@pytest.mark.parametrize(
    ("loads", "restarted"),
    [
        pytest.param([1.0, 1.0], 0, id="too busy to answer, while help is on the way"),
        pytest.param([1.0, 0.0], 1, id="who hangs does nothing and is restarted"),
        pytest.param([0.1, 1.0], 1, id="who spins alone, while nothing grows, is restarted"),
    ],
)
def test_the_overloaded_are_not_restarted_while_more_are_coming(
    loads: list[float], restarted: int
) -> None:
    crowd = [
        instance(0, ready=True, health=Health.HEALTHY),
        instance(1, ready=False, lapsed=True, health=Health.UNHEALTHY),
    ]
    decision = decided(crowd, loads)
    assert len(decision.restarts) == restarted
    if not restarted:
        assert "overloaded and not sick" in decision.waiting[0]


def test_at_its_goal_a_silent_one_makes_nobody_grow() -> None:
    """The pass for silent ones is for a wish to shrink; exactly at the goal there is none."""
    crowd = [instance(n, ready=True) for n in range(5)]
    samples = tuple(Sample(at=NOON, value=0.7, instance=i.id) for i in crowd[:4])
    fleet = Fleet(target="web", at=NOON, wanted=4, instances=tuple(crowd))
    reading = {"cpu": Reading(metric="cpu", samples=samples)}
    assert decide(POLICY, fleet, reading, History(), NOON)[0].desired == 4
