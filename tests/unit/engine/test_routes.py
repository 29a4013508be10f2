"""Who gets requests when many are not ready."""

from dataclasses import replace

import pytest

from scaler.core.model import Fleet, Health, Instance, InstanceId, State, is_fit
from scaler.engine.routes import opened
from scaler.engine.watched import with_lapsed
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
