"""Policies, fleets, readings and whole lives of a target, as hypothesis draws them."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from scaler.core.document import Target
from scaler.core.model import (
    Fleet,
    Health,
    History,
    Hold,
    Instance,
    InstanceId,
    Pause,
    Reading,
    Sample,
    State,
)
from scaler.core.policy import Policy

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
SPANS = st.sampled_from(["0s", "5s", "30s", "1m", "5m", "20m"])
PERCENTS = st.integers(1, 150).map(lambda n: f"{n}%")
AMOUNTS = st.one_of(st.integers(1, 20), st.integers(1, 300).map(lambda n: f"{n}%"))


@st.composite
def rates(draw: st.DrawFn) -> dict[str, Any]:
    rate: dict[str, Any] = {"at_most": draw(AMOUNTS), "per": draw(st.sampled_from(["15s", "1m"]))}
    if draw(st.booleans()):
        rate["or"] = draw(AMOUNTS)
    rate["pick"] = draw(st.sampled_from(["larger", "smaller"]))
    return rate


@st.composite
def all_limits(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(0, 5))
    chosen: dict[str, Any] = {"min": low, "max": draw(st.integers(max(1, low), 30))}
    optional = {
        "tolerance": st.integers(0, 50).map(lambda n: f"{n}%"),
        "settle_down": SPANS,
        "settle_up": SPANS,
        "grow": rates(),
        "shrink": rates(),
        "cooldown": SPANS,
        "changes": st.sampled_from(["1 per 1m", "12 per 1h"]),
        "reversals": st.sampled_from(["1 per 10m", "6 per 1h"]),
    }
    for name, strategy in optional.items():
        if draw(st.booleans()):
            chosen[name] = draw(strategy)
    return chosen


@st.composite
def thresholds(draw: st.DrawFn) -> dict[str, Any]:
    rule: dict[str, Any] = {draw(st.sampled_from(["above", "below"])): draw(PERCENTS)}
    rule[draw(st.sampled_from(["add", "remove"]))] = draw(AMOUNTS)
    if draw(st.booleans()):
        rule["for"] = draw(st.sampled_from(["5s", "30s", "2m"]))
    return rule


@st.composite
def goals(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A metric with a goal."""
    metric: dict[str, Any] = {"name": name}
    kind = draw(st.sampled_from(["utilization", "per_instance", "value"]))
    metric["goal"] = {kind: draw(PERCENTS if kind == "utilization" else st.floats(0.1, 100))}
    metric["window"] = draw(st.sampled_from(["0s", "10s", "1m"]))
    metric["use"] = draw(st.sampled_from(["both", "both", "grow"]))
    if draw(st.booleans()):
        metric["last_known"] = draw(SPANS)
    if metric["window"] == "1m" and draw(st.booleans()):
        metric["burst"] = {}
    return metric


@st.composite
def policies(draw: st.DrawFn, *, only_goals: bool = False) -> Policy:
    metrics = []
    for name in draw(st.sampled_from([["cpu"], ["cpu", "queue"], []])):
        if only_goals or draw(st.integers(0, 3)):
            metrics.append(draw(goals(name)))
        else:
            metrics.append({"name": name, "when": draw(st.lists(thresholds(), min_size=1))})
    return Policy.model_validate(
        {
            "name": "web",
            "target": Target(kind="any", policy="web"),
            "every": "5s",
            "limits": draw(all_limits()),
            "metrics": metrics,
            "missing": draw(st.sampled_from([{}, {"do": "fallback", "count": 4, "after": "10s"}])),
        }
    )


@st.composite
def instances(draw: st.DrawFn, number: int, now: datetime) -> Instance:
    age = timedelta(seconds=draw(st.integers(0, 4000)))
    state = draw(st.sampled_from([State.RUNNING] * 6 + [State.PENDING, State.FAILED]))
    ready = (
        draw(st.sampled_from([True, True, True, None, False])) if state is State.RUNNING else None
    )
    since = now - timedelta(seconds=draw(st.integers(0, max(1, int(age.total_seconds())))))
    return Instance(
        id=InstanceId(f"web-{number}"),
        state=state,
        created_at=now - age,
        started_at=now - age,
        ready=ready,
        ready_changed_at=since if ready is not None else None,
        lapsed=ready is False and draw(st.booleans()),
        health=draw(st.sampled_from([Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY])),
        failed_at=since if state is State.FAILED else None,
        current=draw(st.integers(0, 9)) > 0,
        cordoned=draw(st.integers(0, 9)) == 0,
        protected=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def fleets(draw: st.DrawFn, now: datetime, most: int = 12) -> Fleet:
    there = tuple(draw(instances(number, now)) for number in range(draw(st.integers(0, most))))
    return Fleet(
        target="web",
        at=now,
        wanted=draw(st.one_of(st.just(len(there)), st.integers(0, most))),
        instances=there,
        rollout=draw(st.sampled_from(["", "", "", "2 of 5 replaced"])),
    )


NUMBERS = st.one_of(
    st.floats(0, 3),
    st.floats(0, 3),
    st.floats(0, 1e6),
    st.sampled_from([float("nan"), float("inf"), -1.0, 0.0]),
)


@st.composite
def readings(
    draw: st.DrawFn, policy: Policy, fleet: Fleet, now: datetime, values: Any = NUMBERS
) -> dict[str, Reading]:
    """For every metric samples of instances, one for the target, old ones, or none."""
    found = {}
    for metric in policy.metrics:
        way = draw(st.sampled_from(["each", "each", "each", "whole", "none", "old", "absent"]))
        at = now - timedelta(seconds=draw(st.integers(0, 4)))
        if way == "old":
            at = now - timedelta(minutes=10)
        if way == "absent":
            continue
        if way == "none":
            found[metric.name] = Reading(metric=metric.name, missing="connection refused")
        elif way == "whole":
            whole = Sample(at=at, value=draw(values), base=1.0)
            found[metric.name] = Reading(metric=metric.name, samples=(whole,))
        else:
            samples = tuple(
                Sample(at=at, value=draw(values), base=1.0, instance=i.id)
                for i in fleet.instances
                if draw(st.integers(0, 9))
            )
            found[metric.name] = Reading(metric=metric.name, samples=samples)
    return found


@dataclass(frozen=True)
class Moment:
    """All that one call of `decide` is given."""

    policy: Policy
    fleet: Fleet
    readings: dict[str, Reading]
    history: History
    now: datetime


@st.composite
def lives(
    draw: st.DrawFn, *, only_goals: bool = False, ticks: int = 6, values: Any = NUMBERS
) -> Moment:
    """A moment in the life of a target, with the history that its earlier moments have left.

    Its counts come from nowhere, which the rules must not take for somebody else's decisions.
    """
    from scaler.core.decide import decide  # noqa: PLC0415 - what is tested, only here

    policy = draw(policies(only_goals=only_goals))
    history, now = History(), START
    for _ in range(draw(st.integers(0, ticks))):
        now += timedelta(seconds=draw(st.sampled_from([1, 5, 5, 5, 60, 1200])))
        fleet = draw(fleets(now))
        seen = draw(readings(policy, fleet, now, values))
        _, history = decide(policy, fleet, seen, history, now)
        history = replace(history, overruled=())
    now += timedelta(seconds=5)
    fleet = draw(fleets(now))
    seen = draw(readings(policy, fleet, now, values))
    return Moment(policy, fleet, seen, history, now)


def held(moment: Moment, count: int) -> Moment:
    """The same with a count set by hand."""
    return replace(moment, history=replace(moment.history, hold=Hold(count=count)))


def paused(moment: Moment) -> Moment:
    return replace(moment, history=replace(moment.history, pause=Pause()))
