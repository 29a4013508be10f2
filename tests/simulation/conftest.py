"""Policies and services of simulated worlds."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scaler.clock import ManualClock
from scaler.core.document import Target
from scaler.core.policy import Policy
from scaler.simulation.world import KIND

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def policy() -> Callable[..., Policy]:
    """A policy of the simulated platform, with whatever fields are given."""

    def make(name: str = "web", **fields: Any) -> Policy:
        target = Target(kind=KIND, policy=name)
        fields = {"metrics": [{"cpu": "70%"}], "limits": {"max": 10}, **fields}
        return Policy.model_validate({"name": name, "target": target, **fields})

    return make


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)
