"""What `status` shows of a target: plain values for people and for JSON."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from scaler.core import explain, schedule
from scaler.core.model import Decision, Instance
from scaler.engine.watched import Watched


def of(it: Watched, now: datetime) -> dict[str, Any]:
    """One target as it stands. Moments are ISO 8601 in UTC; null is what is not known."""
    bounds = schedule.bounds(it.policy.limits, it.policy.schedule, now)
    history = it.history
    last = history.changes[-1] if history.changes else None
    return {
        "name": it.name,
        "platform": it.policy.target.kind,
        "mode": it.policy.mode,
        "condition": it.condition.value,
        "trouble": it.trouble,
        "wanted": it.fleet.wanted if it.fleet else None,
        "desired": it.decision.desired if it.decision else None,
        "ready": _ready(it),
        "min": bounds.min,
        "max": bounds.max,
        "metrics": _metrics(it.decision),
        "because": explain.summary(it.decision) if it.decision else "not looked at yet",
        "waiting": list(it.decision.waiting) if it.decision else [],
        "last_change": None
        if last is None
        else {"at": last.at.isoformat(), "before": last.before, "after": last.after},
        "paused": None if history.pause is None else _word(history.pause),
        "held": None if history.hold is None else _word(history.hold),
        "unsettled": _unsettled(it),
        "looked_at": history.at.isoformat() if history.at else None,
        "instances": [_instance(i, it) for i in it.fleet.instances] if it.fleet else [],
    }


def unsettled(watched: Mapping[str, Watched], names: Collection[str]) -> str:
    """Why what is heavy waits for these policies; empty when they are at ease.

    A policy that is not there holds nothing up.
    """
    found = (_unsettled(watched[name]) for name in names if name in watched)
    return next((why for why in found if why), "")


def _unsettled(it: Watched) -> str:
    if it.decision is None or it.fleet is None:
        return f"{it.name} has not been looked at yet"
    if it.decision.desired != it.fleet.wanted or _ready(it) != it.decision.desired:
        return f"{it.name} is being scaled"
    if any(w.value is not None and w.goal and w.value > w.goal for w in it.decision.wishes):
        return f"{it.name} is above its goal"
    return ""


def _ready(it: Watched) -> int | None:
    if it.fleet is None:
        return None
    return sum(i.state.value == "running" and i.ready is not False for i in it.fleet.instances)


def _metrics(decision: Decision | None) -> list[dict[str, Any]]:
    return [
        {
            "name": wish.source,
            "value": wish.value,
            "goal": wish.goal,
            "asks_for": wish.count,
            "because": wish.because,
        }
        for wish in (decision.wishes if decision else ())
    ]


def _word(word: object) -> dict[str, Any]:
    fields = ("count", "scale_in", "scale_out", "until", "reason", "by")
    found = {name: getattr(word, name) for name in fields if hasattr(word, name)}
    until = found["until"]
    return {**found, "until": None if until is None else until.isoformat()}


def _instance(instance: Instance, it: Watched) -> dict[str, Any]:
    memory = it.history.restarts.get(instance.id)
    return {
        "id": instance.id,
        "state": instance.state.value,
        "ready": instance.ready,
        "health": instance.health.value,
        "because": instance.because,
        "restarts": memory.attempts if memory else 0,
        "since": instance.started_at.isoformat() if instance.started_at else None,
        "pid": instance.pid,
        "port": instance.port,
    }


def overview(watched: Mapping[str, Watched]) -> str:
    """One line for systemd and the log: how many targets in which condition."""
    counts = Counter(it.condition.value for it in watched.values())
    parts = ", ".join(f"{count} {condition}" for condition, count in sorted(counts.items()))
    instances = sum(it.fleet.wanted for it in watched.values() if it.fleet)
    noun = "target" if len(watched) == 1 else "targets"
    return f"{len(watched)} {noun} ({parts or 'none'}), {instances} instances wanted"
