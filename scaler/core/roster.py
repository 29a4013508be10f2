"""Who of a fleet works, who is on the way, who is stuck, and who is overloaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from scaler.core import window
from scaler.core.model import Fleet, History, InstanceId, Reading, State
from scaler.core.policy import Metric, Policy

NOT_LEARNED: Final = timedelta(minutes=2)  # start-up allowance before a start was seen
LEAST_ALLOWANCE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """The instances of a fleet, sorted by what they can do."""

    working: frozenset[InstanceId]  # ready, or nobody says otherwise
    coming: int  # asked for and within the time that a start takes
    stuck: int  # not ready for longer: no capacity and none on its way


def allowance(history: History) -> timedelta:
    """How long a start may take: twice the 90th percentile of those seen."""
    if not history.startups:
        return NOT_LEARNED
    usual = window.reduce(history.startups, "p90")
    return max(LEAST_ALLOWANCE, timedelta(seconds=2 * usual))


def muster(
    fleet: Fleet, history: History, now: datetime, loaded: frozenset[InstanceId] = frozenset()
) -> Crew:
    """Who works, who is on the way, and who is stuck.

    `loaded` are those that carry load although they are not ready.
    """
    working: list[InstanceId] = []
    coming = stuck = seen = 0
    patience = allowance(history)
    for instance in fleet.instances:
        state = instance.state
        if state is State.STOPPING:
            continue
        seen += 1
        if state is State.HELD:
            continue
        if state is State.RUNNING and (instance.ready is not False or instance.id in loaded):
            working.append(instance.id)
            continue
        since = instance.failed_at or instance.ready_changed_at or instance.started_at
        since = since or instance.created_at
        if since is None or now - since < patience:
            coming += 1
        else:
            stuck += 1
    unseen = max(0, fleet.wanted - seen)  # asked for, not even listed yet
    if stuck >= len(working):  # then the fault is not theirs, and more of the same would not help
        coming, stuck = coming + stuck, 0
    return Crew(working=frozenset(working), coming=coming + unseen, stuck=stuck)


def arriving(fleet: Fleet, history: History, now: datetime) -> bool:
    """Whether help is on the way: one that has never been fit, within the time a start takes."""
    patience = allowance(history)
    for instance in fleet.instances:
        starts = instance.state is State.PENDING or (
            instance.state is State.RUNNING and instance.ready is False and not instance.lapsed
        )
        born = instance.started_at or instance.created_at
        if starts and (born is None or now - born < patience):
            return True
    return False


def loaded(metric: Metric, reading: Reading, fleet: Fleet) -> frozenset[InstanceId]:
    """Those that were ready, are not any more, and do as much as the goal asks or more.

    They are overloaded and not dead: to leave out what they carry would let the worst overload
    look like too little load. Who hangs does nothing, and stays out.
    """
    goal = metric.keep
    if goal is None or goal.utilization is None:
        return frozenset()
    full = {i.id: i.bases.get(metric.name) for i in fleet.instances if i.lapsed}
    if not full:
        return frozenset()
    return frozenset(
        s.instance
        for s in reading.samples
        if s.instance in full
        and window.is_load(s.value)
        and (base := s.base or full[s.instance])
        and s.value >= goal.level * base
    )


def overloaded(
    policy: Policy, fleet: Fleet, readings: Mapping[str, Reading]
) -> frozenset[InstanceId]:
    """Those that fell out of rotation with more to do than any goal asks, by some metric."""
    found: frozenset[InstanceId] = frozenset()
    for metric in policy.metrics:
        if metric.name in readings:
            found |= loaded(metric, readings[metric.name], fleet)
    return found
