"""The same facts give the same record of a decision, wherever the instances run."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scaler.core.decide import decide
from scaler.core.document import Target
from scaler.core.journal import decision_to_dict
from scaler.core.model import Fleet, History, Instance, InstanceId, Reading, Sample, State, is_fit
from scaler.core.policy import Policy
from tests.contract.test_providers import PLATFORMS, Platform
from tests.integration.running import fleet_until as until

pytestmark = pytest.mark.live

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LOADS = {
    "busy": (0.9, 0.8, 0.95),
    "idle": (0.1, 0.3, 0.2),
    "as it should be": (0.5, 0.5, 0.5),
    "one says nothing": (0.9, None, 0.8),
    "nobody says anything": (None, None, None),
}


@pytest.fixture(params=PLATFORMS)
async def platform(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Platform]:
    async with PLATFORMS[request.param](tmp_path, request) as opened:
        yield opened


def policy(target: Target) -> Policy:
    rules = {"metrics": [{"cpu": "50%"}], "limits": {"max": 10, "settle_down": "0s"}}
    return Policy.model_validate({"name": "web", "target": target, **rules})


def record(fleet: Fleet, target: Target, loads: tuple[float | None, ...]) -> Mapping[str, Any]:
    """What is decided, with instances called by their place and all of them an hour old."""
    hour_ago = NOON - timedelta(hours=1)
    names = {i.id: InstanceId(f"web-{n}") for n, i in enumerate(fleet.instances)}
    instances = tuple(
        replace(
            i,
            id=names[i.id],
            created_at=hour_ago + timedelta(seconds=n),
            started_at=hour_ago + timedelta(seconds=n),
            ready_changed_at=hour_ago if i.ready_changed_at else None,
        )
        for n, i in enumerate(fleet.instances)
    )
    samples = tuple(
        Sample(at=NOON, value=load, instance=i.id, base=1.0, window=timedelta(seconds=5))
        for i, load in zip(instances, loads, strict=True)
        if load is not None
    )
    missing = None if samples else "connection refused"
    reading = Reading(metric="cpu", samples=samples, missing=missing)
    seen = replace(fleet, at=NOON, instances=instances)
    decision, _ = decide(policy(target), seen, {"cpu": reading}, History(), NOON)
    return decision_to_dict(decision)


async def test_the_record_is_the_one_of_an_ideal_platform(platform: Platform) -> None:
    provider = platform.open()
    await provider.scale(platform.target, 3)
    fleet = await until(provider, platform.target, _all_run)
    await provider.aclose()
    instances = tuple(
        Instance(id=InstanceId(f"web-{n}"), state=State.RUNNING, ready=True) for n in range(3)
    )
    ideal = Fleet(target="web", at=NOON, wanted=3, instances=instances)
    for loads in LOADS.values():
        expected = record(ideal, platform.target, loads)
        assert record(fleet, platform.target, loads) == expected
    assert record(ideal, platform.target, LOADS["busy"])["desired"] == 6
    assert record(ideal, platform.target, LOADS["idle"])["remove"] == ["web-0"]


def _all_run(fleet: Fleet) -> bool:
    return [is_fit(i) for i in fleet.instances] == [True] * 3
