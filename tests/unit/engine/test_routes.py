"""Who gets requests when many are not ready."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from scaler.balancers.readiness import ReadinessBalancer
from scaler.clock import ManualClock
from scaler.core.document import Balancer, Target
from scaler.core.model import (
    Decision,
    Fleet,
    Health,
    History,
    Instance,
    InstanceId,
    State,
    is_fit,
)
from scaler.core.policy import Policy
from scaler.engine.routes import FORGIVEN, opened, routed, unblamed
from scaler.engine.watched import watch, with_lapsed
from scaler.simulation.world import World
from tests.simulation.conftest import START


def fleet(*readiness: bool | None, state: State = State.RUNNING) -> Fleet:
    return Fleet(
        target="web",
        at=START,
        wanted=len(readiness),
        instances=tuple(
            Instance(id=InstanceId(f"web-{n}"), state=state, incarnation="1", ready=ready)
            for n, ready in enumerate(readiness)
        ),
    )


def readiness(of: Fleet) -> list[bool | None]:
    return [instance.ready for instance in of.instances]


@pytest.mark.parametrize(
    ("before", "after", "routed"),
    [
        pytest.param([True] * 4, [True] * 2 + [False] * 2, [True] * 2 + [False] * 2, id="half"),
        pytest.param([True] * 4, [True] + [False] * 3, [True] * 4, id="fewer than half"),
        pytest.param([True] * 2, [False] * 2, [True] * 2, id="nobody is left"),
        pytest.param(
            [True] + [False] * 3, [True] + [False] * 3, [True] + [False] * 3, id="they still start"
        ),
        pytest.param([None] * 2, [None, False], [None, False], id="nobody has said before"),
    ],
)
def test_most_were_ready_and_are_no_more(
    before: list[bool | None], after: list[bool | None], routed: list[bool | None]
) -> None:
    memory: dict[InstanceId, str] = {}
    with_lapsed(fleet(*before), memory)
    assert readiness(opened(with_lapsed(fleet(*after), memory))) == routed


def test_a_new_life_begins_with_no_past() -> None:
    memory: dict[InstanceId, str] = {}
    with_lapsed(fleet(True, True), memory)
    with_lapsed(fleet(True, True, state=State.FAILED), memory)
    seen = with_lapsed(fleet(False, False), memory)
    assert not any(instance.lapsed for instance in seen.instances)


def test_liveness_alone_may_take_most_of_them_out_too() -> None:
    def seen(*health: Health) -> Fleet:
        there = fleet(*[None] * len(health)).instances
        sick = zip(there, health, strict=True)
        return replace(
            fleet(), instances=tuple(replace(one, health=health) for one, health in sick)
        )

    memory: dict[InstanceId, str] = {}
    with_lapsed(seen(*[Health.HEALTHY] * 3), memory)
    after = seen(Health.HEALTHY, Health.UNHEALTHY, Health.UNHEALTHY)
    assert all(map(is_fit, opened(with_lapsed(after, memory)).instances))


class Drains:
    """A balancer that nobody keeps busy."""

    async def route(
        self, fleet: Fleet, leaving: Collection[InstanceId]
    ) -> Mapping[InstanceId, int]:
        return {}

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(
    "rules", [Balancer(kind="x"), ReadinessBalancer(command=("a",), undo=("b",))]
)
async def test_only_sickness_that_comes_of_a_drain_is_forgiven(rules: Balancer) -> None:
    clock = ManualClock(START)
    target = Target(kind="x", policy="web")
    it = watch(Policy(name="web", target=target, balancer=rules), History())
    one = InstanceId("web-0")
    there = replace(
        fleet(), instances=tuple(replace(i, health=Health.UNHEALTHY) for i in fleet(None).instances)
    )

    async def sick_after(leaving: Collection[InstanceId]) -> bool:
        seen = unblamed(it, there, clock.monotonic())
        decision = Decision(
            target="web", at=clock.now(), current=1, desired=1, remove=tuple(leaving)
        )
        it.balancer = Drains()
        await routed(it, seen, decision, World(clock, {}), clock, timedelta(seconds=1))
        return seen.instances[0].health is Health.UNHEALTHY

    blamed = not rules.sickens
    assert await sick_after([]) == blamed, "an earlier daemon may have drained it"
    await clock.advance(FORGIVEN)
    assert await sick_after([one]), "it is sick by itself"
    await clock.advance(FORGIVEN)
    assert await sick_after([one]) == blamed, "it is drained"
    assert await sick_after([]) == blamed, "it is taken back now"
    await clock.advance(FORGIVEN / 2)
    assert await sick_after([]) == blamed
    await clock.advance(FORGIVEN / 2)
    assert await sick_after([]), "it had time to be well again"
