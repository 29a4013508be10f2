"""The brake in ten minutes of an outage, when checks find the sick one after the other."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scaler.core import health
from scaler.core.healthpolicy import RestartRules
from scaler.core.model import Fleet, Health, History, Instance, InstanceId, State

START = datetime(2026, 1, 1, tzinfo=UTC)
FOUND_AFTER = timedelta(seconds=6)  # of a start that does not help, as a health check takes


def outage(*, apart_s: int, dependency: str) -> Counter[str]:
    """How often each of ten is restarted; nothing is known of its health until it is sick."""
    sick_at = {f"web-{n}": START + n * timedelta(seconds=apart_s) for n in range(10)}
    history, count = History(), Counter[str]()
    for second in range(600):
        now = START + timedelta(seconds=second)

        def seen(name: str, now: datetime = now) -> Health:
            if now >= sick_at[name]:
                return Health.UNHEALTHY
            return Health.UNKNOWN if count[name] else Health.HEALTHY

        fleet = Fleet(
            target="web",
            at=now,
            wanted=10,
            instances=tuple(
                Instance(id=InstanceId(name), state=State.RUNNING, health=seen(name))
                for name in sick_at
            ),
            dependency_down=dependency,
        )
        plan = health.plan_restarts(RestartRules(), fleet, history, now)
        for restart in plan.restarts:
            count[restart.instance] += 1
            sick_at[restart.instance] = now + FOUND_AFTER
        restarts = health.restarted(plan.remembered, plan.restarts, now)
        history = replace(history, restarts=restarts, brake_at=plan.brake_at)
    return count


@pytest.mark.parametrize("apart_s", [0, 1, 3, 10])
def test_while_a_dependency_is_known_to_be_down_there_is_one_canary(apart_s: int) -> None:
    assert outage(apart_s=apart_s, dependency="database").total() == 1


@pytest.mark.parametrize("apart_s", [0, 1, 3])
def test_without_a_known_cause_nobody_is_restarted_twice(apart_s: int) -> None:
    count = outage(apart_s=apart_s, dependency="")
    assert max(count.values()) == 1
    assert count.total() <= 4, "the budget, until half of them are known to be sick"


@pytest.mark.parametrize(
    ("age_s", "lapsed", "restarted"),
    [
        pytest.param(5, False, 0, id="it still starts"),
        pytest.param(60, False, 1, id="no start takes so long"),
        pytest.param(5, True, 1, id="it was fit and is no more"),
    ],
)
def test_who_has_not_been_fit_yet_is_left_as_long_as_a_start_takes(
    age_s: int, lapsed: bool, restarted: int
) -> None:
    sick = Instance(
        id=InstanceId("web-1"),
        state=State.RUNNING,
        started_at=START - timedelta(seconds=age_s),
        health=Health.UNHEALTHY,
        lapsed=lapsed,
    )
    fleet = Fleet(target="web", at=START, wanted=1, instances=(sick,))
    start = timedelta(seconds=30)
    plan = health.plan_restarts(RestartRules(), fleet, History(), START, start=start)
    assert len(plan.restarts) == restarted
    if not restarted:
        assert plan.again_at == START + timedelta(seconds=25)
        assert "25s left to start" in plan.waiting[0]
