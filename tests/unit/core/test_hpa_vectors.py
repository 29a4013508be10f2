"""`compatibility: hpa` on single passes whose counts are known.

`upstream.json` holds the tables of upstream's `replica_calculator_test.go` with the counts stated
there; `derived.json` further ones with counts of the second writing in `tests/fakes/hpa.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from scaler.core.decide import decide
from scaler.core.model import History
from tests.fakes import hpa_bridge
from tests.fakes.hpa import Autoscaler, MetricError, MetricSpec, Pod, PodSample

VECTORS: list[dict[str, Any]] = [
    vector
    for name in ("upstream", "derived")
    for vector in json.loads(Path(f"tests/data/hpa/{name}.json").read_text())
]


def scenario(vector: dict[str, Any]) -> tuple[Autoscaler, list[Pod]]:
    given = dict(vector["metric"])
    samples = {name: PodSample(value) for name, value in given.pop("samples", {}).items()}
    metric = MetricSpec(samples=samples, **given)
    return Autoscaler(min=1, max=100, metrics=[metric]), [Pod(**pod) for pod in vector["pods"]]


def test_there_are_more_than_a_hundred() -> None:
    assert len(VECTORS) > 100


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_proposal_is_that_of_upstream(vector: dict[str, Any]) -> None:
    hpa, pods = scenario(vector)
    decision, _ = decide(
        hpa_bridge.policy(hpa),
        hpa_bridge.fleet(vector["replicas"], pods, 0.0),
        hpa_bridge.readings(hpa, pods, 0.0),
        History(),
        hpa_bridge.moment(0.0),
    )
    assert decision.wishes[0].count == vector["expect"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_reference_says_the_same(vector: dict[str, Any]) -> None:
    hpa, pods = scenario(vector)
    try:
        count = hpa.proposal(hpa.metrics[0], vector["replicas"], pods, 0.0)
    except MetricError:
        count = None
    assert count == vector["expect"]
