"""What is written down: one Entry for every fact, from which logs, `explain` and `status` derive.

An entry about a decision carries the facts it was made from, so replaying them through `decide`
gives the same count again. The JSON form leaves defaults out; no `version` in it means 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter

from scaler.core.model import (
    Asked,
    Change,
    Decision,
    Fleet,
    History,
    Point,
    Reading,
    Sample,
    Wish,
)
from scaler.core.policy import Policy

VERSION: Final = 1


class Kind(StrEnum):
    """What an entry is about."""

    DECIDED = "decided"  # a decision that changes something, or a heartbeat
    ACTED = "acted"  # how an action ended
    DEFERRED = "deferred"  # the platform did not answer; the next tick is the retry
    PARKED = "parked"  # a person must change something
    COMMANDED = "commanded"  # pause, resume, hold, restart: by a person
    RELOADED = "reloaded"  # policies were read again
    STARTED = "started"
    STOPPED = "stopped"
    NOTICED = "noticed"  # degraded, recovered, clock stepped, late: about the daemon itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that `decide` was given."""

    policy: Mapping[str, Any]  # as `policy_to_facts` wrote it
    fleet: Fleet
    readings: Mapping[str, Reading]
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal."""

    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")  # a source may say NaN

    at: datetime
    kind: Kind
    target: str = ""  # empty: the daemon itself
    summary: str  # for the person on call: one line, no abbreviations
    ok: bool = True
    by: str = ""  # the person or rule behind it
    decision: Decision | None = None
    facts: Facts | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION


def _keep_odd_numbers(*types: Any) -> None:
    """Sources answer NaN and infinity, which as `null` would make an entry unreadable."""
    for each in types:
        each.__pydantic_config__ = {"ser_json_inf_nan": "strings"}


_keep_odd_numbers(Sample, Point, Wish, History)
_ENTRY: Final = TypeAdapter(Entry)
_HISTORY: Final = TypeAdapter(History)
_DECISION: Final = TypeAdapter(Decision)


def entry_to_json(entry: Entry) -> bytes:
    return _ENTRY.dump_json(entry, exclude_defaults=True)


def entry_to_dict(entry: Entry, *, facts: bool = False) -> dict[str, Any]:
    """As plain values; without the facts, which are long, unless they are asked for."""
    left_out = None if facts else {"facts"}
    plain: dict[str, Any] = _ENTRY.dump_python(entry, mode="json", exclude=left_out)
    return plain


def decision_to_dict(decision: Decision) -> dict[str, Any]:
    plain: dict[str, Any] = _DECISION.dump_python(decision, mode="json")
    return plain


def entry_from_json(text: bytes | str) -> Entry:
    """The entry that `text` holds.

    Raises:
        ValueError: it is not one, or of an unknown version.
    """
    return _ENTRY.validate_json(text)


def history_to_json(history: History) -> bytes:
    return _HISTORY.dump_json(history, exclude_defaults=True)


def history_from_json(text: bytes | str) -> History:
    return _HISTORY.validate_json(text)


def policy_to_facts(policy: Policy) -> dict[str, Any]:
    """All of a policy that `decide` looks at; of target and sources only their kind."""
    written = policy.model_dump(mode="json", by_alias=True)
    written["name"] = policy.name
    written["target"] = {"kind": policy.target.kind, "policy": policy.target.policy}
    written.pop("balancer")
    for metric, document in zip(policy.metrics, written["metrics"], strict=True):
        document["source"] = {"kind": metric.source.kind}
    return written


def policy_of(facts: Facts) -> Policy:
    """The policy as `decide` saw it, for a replay."""
    return Policy.model_validate(facts.policy)


def clamped(history: History, now: datetime) -> History:
    """`history` without moments from the future, left by a clock that ran ahead.

    They become `now`: whatever they hold back is held back for its full span once more.
    """

    def before(moment: datetime | None) -> datetime | None:
        return None if moment is None else min(moment, now)

    return replace(
        history,
        asked=tuple(Asked(min(a.at, now), a.count) for a in history.asked),
        changes=tuple(Change(min(c.at, now), c.before, c.after) for c in history.changes),
        points={
            name: tuple(Point(min(p.at, now), p.value, p.load) for p in points)
            for name, points in history.points.items()
        },
        bursts={
            name: replace(burst, over_at=min(burst.over_at, now))
            for name, burst in history.bursts.items()
        },
        restarts={
            instance: replace(r, at=before(r.at), healthy_since=before(r.healthy_since))
            for instance, r in history.restarts.items()
        },
        missing_since=before(history.missing_since),
        brake_at=before(history.brake_at),
        overruled=tuple(min(moment, now) for moment in history.overruled),
        at=before(history.at),
    )
