"""Where a restart brings another in its place, the newcomer takes over its back-off."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from scaler.core.health import plan_restarts, restarted
from scaler.core.healthpolicy import RestartRules
from scaler.core.model import (
    Fleet,
    Health,
    History,
    Instance,
    InstanceId,
    Restart,
    Restarts,
    State,
)

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
RULES = RestartRules()


def pod(name: str, born: datetime, state: State = State.RUNNING) -> Instance:
    return Instance(
        id=InstanceId(name),
        state=state,
        created_at=born,
        started_at=born,
        health=Health.UNHEALTHY if state is State.RUNNING else Health.UNKNOWN,
    )


def remembered(
    now: datetime, restarts: Mapping[InstanceId, Restarts], *pods: Instance, renames: bool = True
) -> Mapping[InstanceId, Restarts]:
    fleet = Fleet(target="web", at=now, wanted=1, instances=pods, renames=renames)
    return plan_restarts(RULES, fleet, History(restarts=restarts), now).remembered


OLD = {InstanceId("web-a"): Restarts(attempts=3, at=NOON)}


def test_it_is_kept_until_the_successor_comes_and_handed_on_then() -> None:
    going = pod("web-a", NOON - timedelta(hours=1), State.STOPPING)
    assert remembered(NOON + timedelta(seconds=2), OLD, going) == OLD
    assert remembered(NOON + timedelta(seconds=4), OLD) == OLD
    heir = pod("web-b", NOON + timedelta(seconds=5))
    after = remembered(NOON + timedelta(seconds=6), OLD, heir)
    assert after == {"web-b": Restarts(attempts=3, at=NOON)}


def test_who_was_there_before_takes_over_nothing() -> None:
    other = pod("web-c", NOON - timedelta(seconds=5))
    assert remembered(NOON + timedelta(seconds=2), OLD, other) == OLD


def test_without_a_successor_it_is_forgotten_after_the_longest_back_off() -> None:
    later = NOON + RULES.backoff.high
    assert remembered(later - timedelta(seconds=1), OLD) == OLD
    assert remembered(later, OLD) == {}


def test_where_names_stay_nobody_takes_over() -> None:
    heir = pod("web-b", NOON + timedelta(seconds=5))
    assert remembered(NOON + timedelta(seconds=6), OLD, heir, renames=False) == {}


def test_one_that_never_gets_well_is_replaced_ever_more_seldom() -> None:
    now, number, starts = NOON, 0, 0
    restarts: Mapping[InstanceId, Restarts] = {}
    alone = pod("web-0", now)
    while now < NOON + timedelta(hours=1):
        fleet = Fleet(target="web", at=now, wanted=1, instances=(alone,), renames=True)
        plan = plan_restarts(RULES, fleet, History(restarts=restarts), now)
        restarts = restarted(plan.remembered, plan.restarts, now)
        if plan.restarts:
            assert plan.restarts == (Restart(instance=alone.id, because="unhealthy"),)
            starts, number = starts + 1, number + 1
            alone = pod(f"web-{number}", now + timedelta(seconds=1))
        now += timedelta(seconds=2)
    assert 5 < starts <= 20
