"""The Kubernetes 1.36 HorizontalPodAutoscaler (autoscaling/v2) to the number, faults included.

For policies with `compatibility: hpa`. It exists so that a team can move without a surprise and so
that our own way of deciding can be compared with it; what we do otherwise is in `docs/policies.md`.
Sources: `replica_calculator.go`, `horizontal.go` and `metrics/utilization.go` of
`pkg/controller/podautoscaler`. Numbers are kept as upstream keeps them: milli-units as integers,
utilisation in whole percent, counts cut or rounded up at the same places.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from scaler.core import limits
from scaler.core.model import (
    Fleet,
    History,
    Instance,
    InstanceId,
    Reading,
    Sample,
    State,
    Step,
    Wish,
)
from scaler.core.policy import Goal, Limits, Metric, Policy, Rate, RateRule
from scaler.core.schedule import Bounds
from scaler.core.units import Amount

CPU_INITIALIZATION: Final = timedelta(minutes=5)
READINESS_DELAY: Final = timedelta(seconds=30)
DOWNSCALE_WINDOW: Final = timedelta(minutes=5)
MOST: Final = 2**31 - 1
BEHAVIOR: Final = frozenset({"grow", "shrink", "settle_up", "settle_down"})
_PERIOD: Final = timedelta(seconds=15)
DEFAULT_GROW: Final = Rate(
    rules=(
        RateRule(at_most=Amount(count=4), per=_PERIOD),
        RateRule(at_most=Amount(share=1.0), per=_PERIOD),
    )
)
DEFAULT_SHRINK: Final = Rate(rules=(RateRule(at_most=Amount(share=1.0), per=_PERIOD),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    """The pods of a metric, as upstream groups them; figures in milli-units."""

    ready: int
    usage: dict[InstanceId, int]  # of the ready ones
    unready: tuple[InstanceId, ...]
    missing: tuple[InstanceId, ...]


class _Invalid(Exception):
    """The metric gives no count; the text says why."""


def steps(
    policy: Policy,
    fleet: Fleet,
    readings: Mapping[str, Reading],
    history: History,
    now: datetime,
) -> tuple[tuple[Wish, ...], list[Step], History]:
    """One pass of `reconcileAutoscaler`: every metric, stabilisation, rates, bounds."""
    rules, current = policy.limits, fleet.wanted
    wishes: tuple[Wish, ...] = ()
    off = _outside(policy, fleet, history)
    if off is not None:
        return wishes, [off], history
    wishes = tuple(_wish(metric, fleet, readings, rules, now) for metric in policy.metrics)
    counts = [(w.count, w.because) for w in wishes if w.count is not None]
    if not counts:
        because = "; ".join(w.because for w in wishes) or "no metric is given"
        return wishes, [_step("metrics", current, current, because)], history
    asked, because = max(counts, key=lambda c: c[0])
    found = [_step("metrics", current, asked, because)]
    if len(counts) < len(wishes) and asked < current:
        because = "; ".join(w.because for w in wishes if w.count is None)
        return wishes, [*found, _step("missing", asked, current, because)], history
    if policy.limits.model_fields_set & BEHAVIOR:
        found += _behavior(rules, asked, current, history, now)
    else:
        found += _default(rules, asked, current, history, now)
    remembered = limits.remembered(policy, history.asked, asked, now)
    return wishes, found, replace(history, asked=remembered)


def _step(rule: str, before: int, after: int, because: str) -> Step:
    return Step(rule=rule, before=before, after=after, because=because)


def _outside(policy: Policy, fleet: Fleet, history: History) -> Step | None:
    """At zero it is off, unless it went there itself and a metric of the whole can bring it back.

    Outside its bounds a target moves to them at once, without a look at metrics or rates.
    """
    current, rules = fleet.wanted, policy.limits
    if current == 0:
        by_us = bool(history.changes) and history.changes[-1].after == 0
        of_whole = any(m.keep and m.keep.utilization is None for m in policy.metrics)
        if rules.min > 0 or not (by_us and of_whole):
            return _step("hpa-off", 0, 0, "at zero the autoscaler is off")
    if current > rules.max:
        return _step("bound", current, rules.max, f"max is {rules.max}")
    if current < rules.min:
        return _step("bound", current, rules.min, f"min is {rules.min}")
    return None


def _wish(
    metric: Metric, fleet: Fleet, readings: Mapping[str, Reading], rules: Limits, now: datetime
) -> Wish:
    reading = readings.get(metric.name) or Reading(metric=metric.name, missing="not read")
    try:
        count, shown = _proposal(metric, reading, fleet, rules, now)
    except _Invalid as why:
        because = f"{metric.name} has no data ({why})"
        return Wish(source=metric.name, count=None, because=because, blocks=True)
    because = f"{metric.name} {shown} → {count}"
    return Wish(source=metric.name, count=count, raw=count, because=because)


def _proposal(
    metric: Metric, reading: Reading, fleet: Fleet, rules: Limits, now: datetime
) -> tuple[int, str]:
    goal = metric.keep
    if goal is None:
        raise _Invalid("plain thresholds are unknown to the HPA")
    if reading.missing is not None:
        raise _Invalid(reading.missing)
    whole = [_milli(s.value) for s in reading.samples if s.instance is None]
    target = round(goal.level * (100 if goal.utilization is not None else 1000))
    if whole:
        if goal.utilization is not None:
            raise _Invalid("a utilisation needs a sample of each instance")
        usage = sum(whole)
        shown = f"{usage / 1000:g} against {goal.level:g}"
        if goal.per_instance is not None:
            return _average_of_whole(usage, target, fleet, rules), shown
        return _value_of_whole(usage, target, fleet, rules), shown
    if goal.value is not None:
        raise _Invalid("a value needs one number for the target")
    return _of_pods(metric, goal, target, reading, fleet, rules, now)


def _value_of_whole(usage: int, target: int, fleet: Fleet, rules: Limits) -> int:
    """`getUsageRatioReplicaCount`: in proportion to the *ready* pods, not to all."""
    ratio = usage / target
    if fleet.wanted == 0:
        return min(MOST, math.ceil(ratio))
    if _within(ratio, rules):
        return fleet.wanted
    if not fleet.instances:
        raise _Invalid("no instance is there")
    running = (State.RUNNING, State.STOPPING)
    ready = sum(1 for i in fleet.instances if i.state in running and i.ready is True)
    return min(MOST, math.ceil(ratio * ready))


def _average_of_whole(usage: int, target: int, fleet: Fleet, rules: Limits) -> int:
    """`GetExternalPerPodMetricReplicas`: the whole shared out over the present ones."""
    present = len(fleet.instances)
    if present and _within(usage / (target * present), rules):
        return present
    return min(MOST, math.ceil(usage / target))


def _of_pods(
    metric: Metric,
    goal: Goal,
    target: int,
    reading: Reading,
    fleet: Fleet,
    rules: Limits,
    now: datetime,
) -> tuple[int, str]:
    """Both passes of `GetResourceReplicas` and `calcPlainMetricReplicas`."""
    if not fleet.instances:
        raise _Invalid("no instance is there")
    each = {s.instance: s for s in reading.samples if s.instance is not None}
    pods = _group(fleet, each, now, readiness=metric.name == "cpu")
    if not pods.usage:
        raise _Invalid("no ready instance has a sample")
    share = goal.utilization is not None
    requests = _requests(metric.name, fleet, each) if share else None
    ratio, shown = _ratio(pods.usage, requests, target)
    growing_unready = bool(pods.unready) and ratio > 1
    if not growing_unready and not pods.missing:
        count = fleet.wanted if _within(ratio, rules) else math.ceil(ratio * pods.ready)
        return min(MOST, count), shown
    usage = dict(pods.usage)
    for pod in pods.missing:
        if ratio < 1:
            usage[pod] = requests[pod] * max(100, target) // 100 if requests else target
        elif ratio > 1:
            usage[pod] = 0
    if growing_unready:
        usage.update(dict.fromkeys(pods.unready, 0))
    second, _ = _ratio(usage, requests, target)
    if _within(second, rules) or (ratio < 1 < second) or (second < 1 < ratio):
        return fleet.wanted, shown
    count = math.ceil(second * len(usage))
    if (second < 1 and count > fleet.wanted) or (second > 1 and count < fleet.wanted):
        return fleet.wanted, shown
    return min(MOST, count), shown


def _group(
    fleet: Fleet, each: Mapping[InstanceId, Sample], now: datetime, *, readiness: bool
) -> _Sorted:
    """`groupPods`: ignored, pending, missing, unready for its CPU, ready."""
    usage: dict[InstanceId, int] = {}
    unready: list[InstanceId] = []
    missing: list[InstanceId] = []
    for pod in fleet.instances:
        if pod.state in (State.STOPPING, State.FAILED, State.HELD):
            continue
        sample = each.get(pod.id)
        if pod.state is State.PENDING:
            unready.append(pod.id)
        elif sample is None:
            missing.append(pod.id)
        elif readiness and _unready(pod, sample, now):
            unready.append(pod.id)
        else:
            usage[pod.id] = _milli(sample.value)
    return _Sorted(ready=len(usage), usage=usage, unready=tuple(unready), missing=tuple(missing))


def _unready(pod: Instance, sample: Sample, now: datetime) -> bool:
    if pod.ready is None or pod.started_at is None or pod.ready_changed_at is None:
        return True
    if pod.started_at + CPU_INITIALIZATION > now:
        return not pod.ready or sample.at < pod.ready_changed_at + sample.window
    return not pod.ready and pod.started_at + READINESS_DELAY > pod.ready_changed_at


def _requests(
    metric: str, fleet: Fleet, each: Mapping[InstanceId, Sample]
) -> dict[InstanceId, int]:
    """What 100 % is for every pod; one that nobody says it of makes the metric invalid."""
    found: dict[InstanceId, int] = {}
    unknown: list[InstanceId] = []
    for pod in fleet.instances:
        sample = each.get(pod.id)
        base = sample.base if sample is not None else None
        base = base if base is not None else pod.bases.get(metric)
        if base is not None:
            found[pod.id] = _milli(base)
        elif sample is not None:
            raise _Invalid(f"nobody says what 100 % is for {pod.id}")
        else:
            unknown.append(pod.id)
    largest = max(found.values(), default=0)
    return found | dict.fromkeys(unknown, largest)


def _ratio(
    usage: Mapping[InstanceId, int], requests: Mapping[InstanceId, int] | None, target: int
) -> tuple[float, str]:
    total = sum(usage.values())
    if requests is None:
        mean = total // len(usage)
        return mean / target, f"{mean / 1000:g} against {target / 1000:g}"
    full = sum(requests[pod] for pod in usage)
    if full == 0:
        raise _Invalid("nobody says what 100 % is")
    percent = total * 100 // full
    return percent / target, f"{percent} % against {target} %"


def _within(ratio: float, rules: Limits) -> bool:
    low, high = rules.band
    return low <= ratio <= high


def _behavior(
    rules: Limits, asked: int, current: int, history: History, now: datetime
) -> list[Step]:
    """`normalizeDesiredReplicasWithBehaviors`; the half that is not given has its defaults."""
    given = rules.model_fields_set
    shaped = rules.model_copy(
        update={
            "grow": rules.grow if "grow" in given else DEFAULT_GROW,
            "shrink": rules.shrink if "shrink" in given else DEFAULT_SHRINK,
        }
    )
    settled = limits.settle(shaped, asked, current, history, now)
    rated = limits.rate(shaped, settled.after, current, history, now)
    return [settled, rated, _bounded(rules, rated.after)]


def _default(
    rules: Limits, asked: int, current: int, history: History, now: datetime
) -> list[Step]:
    """`normalizeDesiredReplicas`: without a behavior; here the far edge of the window counts."""
    cutoff = now - DOWNSCALE_WINDOW
    recent = max((ask.count for ask in history.asked if ask.at >= cutoff), default=asked)
    settled = max(asked, recent)
    most = max(2 * current, 4)
    rated = min(settled, most)
    return [
        _step("settle", asked, settled, f"highest count asked for in 5m is {recent}"),
        _step("rate", settled, rated, f"may grow to twice the count or 4, which is {most}"),
        _bounded(rules, rated),
    ]


def _bounded(rules: Limits, count: int) -> Step:
    return limits.bound(Bounds(min=rules.min, max=rules.max), count)


def _milli(value: float) -> int:
    return round(value * 1000)
