"""A scenario of the reference autoscaler in the terms of `scaler.core`."""

from datetime import UTC, datetime, timedelta
from typing import Any

from scaler.core.document import Source, Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Policy
from tests.fakes.hpa import Autoscaler, MetricSpec, Pod, Rules

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def policy(hpa: Autoscaler) -> Policy:
    limits: dict[str, Any] = {
        "min": hpa.min,
        "max": hpa.max,
        "tolerance_up": f"{hpa.tolerance_up * 100:g}%",
        "tolerance_down": f"{hpa.tolerance_down * 100:g}%",
    }
    if hpa.behavior:
        up, down = hpa.up or Rules([]), hpa.down or Rules([], window=300.0)
        limits["settle_up"] = f"{up.window:g}s"
        limits["settle_down"] = f"{down.window:g}s"
        if hpa.up:
            limits["grow"] = _rate(hpa.up)
        if hpa.down:
            limits["shrink"] = _rate(hpa.down)
    return Policy.model_validate(
        {
            "name": "web",
            "target": Target(kind="kubernetes", policy="web"),
            "every": "15s",
            "limits": limits,
            "metrics": [_metric(metric) for metric in hpa.metrics],
            "compatibility": "hpa",
        }
    )


def _rate(rules: Rules) -> dict[str, Any]:
    pick = {"Max": "larger", "Min": "smaller", "Disabled": "none"}[rules.select]
    return {
        "pick": pick,
        "rules": [
            {
                "at_most": p.value if p.kind == "Pods" else f"{p.value}%",
                "per": f"{p.period:g}s",
            }
            for p in rules.policies
        ],
    }


def _metric(metric: MetricSpec) -> dict[str, Any]:
    goals = {
        "utilization": {"utilization": f"{metric.target}%"},
        "pods": {"per_instance": metric.target / 1000},
        "object": {"value": metric.target / 1000},
        "object-average": {"per_instance": metric.target / 1000},
    }
    platform = metric.kind == "utilization" or metric.name in ("cpu", "memory")
    source = Source() if platform else Source(kind="other")
    return {"name": metric.name, "source": source, "goal": goals[metric.kind]}


def fleet(spec: int, pods: list[Pod], now: float) -> Fleet:
    return Fleet(
        target="web",
        at=moment(now),
        wanted=spec,
        instances=tuple(_instance(pod) for pod in pods),
    )


def _instance(pod: Pod) -> Instance:
    states = {"Pending": State.PENDING, "Running": State.RUNNING, "Failed": State.FAILED}
    return Instance(
        id=InstanceId(pod.name),
        state=State.STOPPING if pod.deleted else states[pod.phase],
        started_at=None if pod.start is None else moment(pod.start),
        ready=pod.ready,
        ready_changed_at=moment(pod.ready_changed),
        bases={name: value / 1000 for name, value in pod.requests.items()},
    )


def readings(hpa: Autoscaler, pods: list[Pod], now: float) -> dict[str, Reading]:
    return {metric.name: _reading(metric, pods, now) for metric in hpa.metrics}


def _reading(metric: MetricSpec, pods: list[Pod], now: float) -> Reading:
    if metric.error:
        return Reading(metric=metric.name, missing="no metrics returned")
    if metric.kind.startswith("object"):
        samples = [Sample(at=moment(now), value=value / 1000) for value in metric.whole]
    else:
        requests = {pod.name: pod.requests.get(metric.name) for pod in pods}
        samples = [
            Sample(
                at=moment(sample.at),
                value=sample.value / 1000,
                instance=InstanceId(name),
                base=None if requests.get(name) is None else (requests[name] or 0) / 1000,
                window=timedelta(seconds=sample.window),
            )
            for name, sample in metric.samples.items()
        ]
    return Reading(metric=metric.name, samples=tuple(samples))
