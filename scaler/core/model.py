"""The values that the rules read and return.

Frozen and compared by content. Absence is a value with a reason, never an exception and never a
zero. Moments are aware UTC, spans are `timedelta`, ratios are 0 to 1.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NewType

InstanceId = NewType("InstanceId", str)


class State(StrEnum):
    """What the platform says of an instance."""

    PENDING = "pending"  # asked for, nothing runs yet
    RUNNING = "running"
    HELD = "held"  # stopped or paused by a person: counts, does not work, is left alone
    STOPPING = "stopping"  # told to go; counts no more
    FAILED = "failed"  # ended by itself and waits for a restart


class Health(StrEnum):
    """What our probes say of an instance."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One process, container or pod."""

    id: InstanceId  # stays the same over restarts where the platform allows it
    state: State
    incarnation: str = ""  # changes with every start of the same instance
    created_at: datetime | None = None  # asked for
    started_at: datetime | None = None  # began to run
    ready: bool | None = None  # None: nobody says
    ready_changed_at: datetime | None = None
    lapsed: bool = False  # was fit in this life and is not any more: sick, or overloaded
    health: Health = Health.UNKNOWN
    because: str = ""  # why it failed, or what the probe saw
    failed_at: datetime | None = None
    current: bool = True  # made from the newest template
    cordoned: bool = False  # chosen by hand to go first
    protected: bool = False  # never chosen to go
    rank: int | None = None  # the platform takes the highest first, whoever is chosen
    bases: Mapping[str, float] = field(default_factory=dict)  # what 100 % is, by metric
    pid: int | None = None
    host: str = ""
    port: int | None = None


def is_fit(instance: Instance) -> bool:
    """Whether requests may go to it, as far as anybody says."""
    return (
        instance.state is State.RUNNING
        and instance.ready is not False
        and instance.health is not Health.UNHEALTHY
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All instances of one target, as the platform reported them."""

    target: str
    at: datetime
    wanted: int  # what the platform was last asked for
    instances: tuple[Instance, ...] = ()
    complete: bool = True  # False: the platform needs to be asked again to reach `wanted`
    rollout: str = ""  # why a deployment is in progress; empty when none is
    owner: str = ""  # who else decides on the count: "HorizontalPodAutoscaler web"
    renames: bool = False  # who is restarted comes back under another name
    set_by: str = ""  # who set `wanted` last, as far as the platform says; empty when we did
    dependency_down: str = ""  # which declared dependency does not answer
    notices: tuple[str, ...] = ()  # what a person should hear of, once each


def altered(fleet: Fleet, chosen: Container[InstanceId], **fields: Any) -> Fleet:
    """`fleet` with these fields of the `chosen` instances set."""
    return replace(
        fleet,
        instances=tuple(replace(i, **fields) if i.id in chosen else i for i in fleet.instances),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measured number."""

    at: datetime  # end of the measured span
    value: float
    instance: InstanceId | None = None  # None: the number speaks for the whole target
    base: float | None = None  # what 100 % is, in the unit of `value`
    window: timedelta = timedelta()  # length of the measured span


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a source answered about one metric."""

    metric: str
    samples: tuple[Sample, ...] = ()
    missing: str | None = None  # why there are no samples: "connection refused", "no series"


@dataclass(frozen=True, slots=True)
class Asked:
    """A count that the metrics asked for, and the last moment at which they did."""

    at: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the count that we made."""

    at: datetime
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Point:
    """What one metric said at one tick."""

    at: datetime
    value: float  # as the goal is written: mean ratio, mean per instance, or the total
    load: float  # `value` times the instances it speaks for: does not fall because we grow


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A metric in burst mode: nothing shrinks until it has been calm for a whole window."""

    over_at: datetime  # last moment above the threshold
    peak: int  # most instances asked for since it began


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """How often an instance was started again, for its back-off."""

    attempts: int = 0
    at: datetime | None = None
    healthy_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A person's word that a target is to be left alone."""

    scale_in: bool = True
    scale_out: bool = True
    until: datetime | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A count set by hand; the rules take over again when it ends."""

    count: int
    until: datetime | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All that is remembered of one target between ticks. Bounded by the policy."""

    asked: tuple[Asked, ...] = ()  # oldest first
    changes: tuple[Change, ...] = ()
    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    bursts: Mapping[str, Burst] = field(default_factory=dict)
    restarts: Mapping[InstanceId, Restarts] = field(default_factory=dict)
    startups: tuple[float, ...] = ()  # seconds from asked for to ready, of the last starts
    missing_since: datetime | None = None  # no metric has answered since
    brake_at: datetime | None = None  # many are sick together since; one canary restarts
    overruled: tuple[datetime, ...] = ()  # when somebody had set the count otherwise than we
    pause: Pause | None = None
    hold: Hold | None = None
    at: datetime | None = None  # of the last decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule at work: the count before it, the count it leaves, and why."""

    rule: str
    before: int
    after: int
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many instances one metric or schedule asks for."""

    source: str  # name of the metric
    count: int | None  # None: it has no say now
    because: str
    raw: int | None = None  # the count before the tolerance was applied
    value: float | None = None
    goal: float | None = None
    grow_only: bool = False  # may raise the count, never lower it
    blocks: bool = False  # its data are missing: nothing may shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """One instance to start again, and why."""

    instance: InstanceId
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one tick decided for one target, with every rule that had a part in it."""

    target: str
    at: datetime
    current: int
    desired: int
    wishes: tuple[Wish, ...] = ()
    steps: tuple[Step, ...] = ()
    remove: tuple[InstanceId, ...] = ()
    restarts: tuple[Restart, ...] = ()
    waiting: tuple[str, ...] = ()  # restarts that a back-off, budget or brake holds back
    again_at: datetime | None = None  # something falls due before the next tick
