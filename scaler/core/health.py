"""Probe results to verdicts, and verdicts to restarts under back-off, budget and brake.

There is no giving up: an instance that keeps ending is started again at most every five minutes
for as long as it is wanted. Nor is there a mass restart: when many are sick together the cause
lies elsewhere, so one canary is restarted and the rest wait until that has helped.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from zlib import crc32

from scaler.core.healthpolicy import Probe, RestartRules
from scaler.core.model import (
    Fleet,
    Health,
    History,
    Instance,
    InstanceId,
    Restart,
    Restarts,
    State,
)
from scaler.core.units import format_span

OVERLOADED: Final = "it is overloaded and not sick, and more instances are on the way"
IN_VAIN: Final = "its restart has not helped, and others are sick too"
EPIDEMIC: Final = 3  # so many ailing at one time are no accident
JITTER: Final = 0.25  # of the back-off, added; see `backoff`


@dataclass(frozen=True, slots=True, kw_only=True)
class Streak:
    """The last results of one probe on one instance."""

    health: Health = Health.UNKNOWN
    successes: int = 0
    failures: int = 0
    because: str = ""
    since: datetime | None = None  # of `health`


def judged(streak: Streak, probe: Probe, seen: Health, because: str, now: datetime) -> Streak:
    """The streak after one more result; `health` changes when enough of them agree.

    A probe that could not be carried out counts as nothing, neither way: the kubelet does the same.
    """
    if seen is Health.UNKNOWN:
        return streak
    good = seen is Health.HEALTHY
    successes = streak.successes + 1 if good else 0
    failures = 0 if good else streak.failures + 1
    health = streak.health
    if successes >= probe.pass_after:
        health = Health.HEALTHY
    elif failures >= probe.fail_after:
        health = Health.UNHEALTHY
    return Streak(
        health=health,
        successes=min(successes, probe.pass_after),
        failures=min(failures, probe.fail_after),
        because=because,
        since=now if health is not streak.health else streak.since,
    )


def backoff(rules: RestartRules, instance: InstanceId, attempts: int) -> timedelta:
    """The least time between one start of an instance and the next, after so many restarts.

    Doubled each time up to the cap, plus up to a quarter that differs by instance and attempt, so
    that a fleet does not start in step. Jitter only adds: with 1s..5m an instance that ends at once
    starts 7 times in its first minute and at most 20 times in its first hour, which jitter that
    takes away (down to nothing in "full jitter") cannot promise. The jitter is a hash, not a draw:
    the same facts give the same decision.
    """
    if attempts <= 0:
        return timedelta()
    doubled: timedelta = rules.backoff.low * 2 ** min(attempts - 1, 20)
    share = crc32(f"{instance}/{attempts}".encode()) / 2**32
    return min(rules.backoff.high, doubled) * (1 + JITTER * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whom to restart now, who waits and for what, and what is to be remembered."""

    restarts: tuple[Restart, ...] = ()
    waiting: tuple[str, ...] = ()
    again_at: datetime | None = None
    remembered: Mapping[InstanceId, Restarts]
    brake_at: datetime | None = None


def plan_restarts(
    rules: RestartRules,
    fleet: Fleet,
    history: History,
    now: datetime,
    *,
    start: timedelta = timedelta(),
    spared: frozenset[InstanceId] = frozenset(),
) -> Plan:
    """Restart what ended or is sick, as far as back-off, budget, brake and dependencies allow.

    What ended by itself is started again under its own back-off alone, since that takes nothing
    away. What is sick still serves somebody, perhaps: budget and brake protect that. Who
    is `spared` is too busy to answer its probes and waits for those that are on the way, since a
    restart would only move its load to the others. What has not been fit in this life is left alone
    for `start`, as long as a start may take.
    """
    live = [i for i in fleet.instances if i.state is not State.STOPPING]
    known, gone = _handed_on(rules, fleet, live, history.restarts, now)
    memory = {i.id: _remembered(i, known.get(i.id), rules, now) for i in live}
    ended = [i for i in live if i.state is State.FAILED]
    sick = [i for i in live if i.state is State.RUNNING and i.health is Health.UNHEALTHY]
    tried = _tried(live, memory) if sick else frozenset()
    ailing = {i.id for i in sick} | tried
    brake_at = _brake(rules, live, ailing, history, now)
    vain = tried if len(ailing) >= EPIDEMIC else frozenset()
    restarts: list[Restart] = []
    waiting: list[str] = []
    due: list[datetime] = []
    room = _room(rules, live, sick, memory)
    canary_out = bool(tried) and (brake_at is not None or bool(fleet.dependency_down))
    for instance in [*ended, *sorted(sick, key=lambda i: (memory[i.id].at or now, i.id))]:
        is_sick = instance.state is State.RUNNING
        at = _due(rules, instance.id, memory[instance.id])
        if at is not None and at > now:
            due.append(at)
            waiting.append(
                f"{instance.id}: {_words(instance)}; started {memory[instance.id].attempts + 1} "
                f"times, next start in {_in(at - now)}"
            )
        elif is_sick and (left := _starting(instance, start, now)):
            waiting.append(f"{instance.id}: {_words(instance)}; it has {_in(left)} left to start")
            due.append(now + left)
        elif is_sick and instance.id in spared:
            waiting.append(f"{instance.id}: {_words(instance)}; {OVERLOADED}")
        elif is_sick and instance.id in vain and _recent(memory[instance.id], rules, now):
            waiting.append(f"{instance.id}: {_words(instance)}; {IN_VAIN}")
        elif why := _held(fleet, brake_at, room, canary_out=canary_out, is_sick=is_sick):
            waiting.append(f"{instance.id}: {_words(instance)}; {why}")
        else:
            restarts.append(Restart(instance=instance.id, because=_words(instance)))
            canary_out = canary_out or is_sick or bool(fleet.dependency_down)
            room -= is_sick
    return Plan(
        restarts=tuple(restarts),
        waiting=tuple(waiting),
        again_at=min(due, default=None),
        remembered={**gone, **{id_: kept for id_, kept in memory.items() if kept.attempts}},
        brake_at=brake_at,
    )


def refusal(
    rules: RestartRules, fleet: Fleet, history: History, instance: InstanceId, now: datetime
) -> str:
    """Why a person may not restart `instance` now; empty when nothing speaks against it.

    Back-off does not bind a person; the share that may be down does, unless it is down already.
    """
    live = [i for i in fleet.instances if i.state is not State.STOPPING]
    if any(i.id == instance and i.state is not State.RUNNING for i in live):
        return ""
    memory = {i.id: _remembered(i, history.restarts.get(i.id), rules, now) for i in live}
    return _held(fleet, None, _room(rules, live, (), memory), canary_out=False, is_sick=True)


def restarted(
    remembered: Mapping[InstanceId, Restarts], done: Sequence[Restart], now: datetime
) -> Mapping[InstanceId, Restarts]:
    """What to remember once `done` are ordered."""
    if not done:
        return remembered
    after = dict(remembered)
    for restart in done:
        attempts = after.get(restart.instance, Restarts()).attempts
        after[restart.instance] = Restarts(attempts=attempts + 1, at=now)
    return after


def _handed_on(
    rules: RestartRules,
    fleet: Fleet,
    live: Sequence[Instance],
    known: Mapping[InstanceId, Restarts],
    now: datetime,
) -> tuple[Mapping[InstanceId, Restarts], Mapping[InstanceId, Restarts]]:
    """Who was restarted how often, of the living, and of those whose successor is still to come.

    Where a restart brings another in its place, the oldest that came after it stands for it: else
    each would begin with no back-off, and one that never gets well would be replaced for ever.
    """
    if not fleet.renames or not known:
        return known, {}
    here = {i.id for i in live}
    gone = {id_: r for id_, r in known.items() if id_ not in here and r.at is not None}
    after = {id_: r for id_, r in known.items() if id_ in here}
    newcomers = sorted(
        (i for i in live if i.id not in known and i.created_at is not None),
        key=lambda i: (i.created_at, i.id),
    )
    for id_, memory in sorted(gone.items(), key=lambda one: (one[1].at, one[0])):
        heir = next((i for i in newcomers if _came_after(i, memory)), None)
        if heir is not None:
            newcomers.remove(heir)
            after[heir.id] = gone.pop(id_)
        elif not _recent(memory, rules, now):
            del gone[id_]
    return after, gone


def _came_after(instance: Instance, memory: Restarts) -> bool:
    """A platform may round moments down to whole seconds."""
    born, at = instance.created_at, memory.at
    return born is not None and at is not None and born >= at.replace(microsecond=0)


def _remembered(
    instance: Instance, old: Restarts | None, rules: RestartRules, now: datetime
) -> Restarts:
    """The back-off goes back to its start only after so much healthy time."""
    if old is None or not old.attempts:
        return Restarts()
    well = (
        instance.state is State.RUNNING
        and instance.health is not Health.UNHEALTHY
        and instance.ready is not False
    )
    if not well:
        return old if old.healthy_since is None else replace(old, healthy_since=None)
    if old.healthy_since is None:
        return replace(old, healthy_since=now)
    return Restarts() if now - old.healthy_since >= rules.reset_after else old


def _tried(
    live: Sequence[Instance], memory: Mapping[InstanceId, Restarts]
) -> frozenset[InstanceId]:
    """Those that were restarted because they were sick, and are not known to be well since."""
    return frozenset(
        i.id
        for i in live
        if memory[i.id].attempts
        and i.state in (State.RUNNING, State.PENDING)
        and i.health is not Health.HEALTHY
    )


def _starting(instance: Instance, start: timedelta, now: datetime) -> timedelta:
    """How much longer one that has not been fit in this life may take; zero for all others."""
    if instance.lapsed or instance.started_at is None:
        return timedelta()
    return max(timedelta(), instance.started_at + start - now)


def _recent(memory: Restarts, rules: RestartRules, now: datetime) -> bool:
    """Whether it was restarted within the longest back-off; nothing is held for longer."""
    return memory.at is not None and now - memory.at < rules.backoff.high


def _brake(
    rules: RestartRules,
    live: Sequence[Instance],
    ailing: Collection[InstanceId],
    history: History,
    now: datetime,
) -> datetime | None:
    """Since when the brake holds: many are ailing together, and no canary has come back well.

    Checks find the sick one after the other, so those whose restart has not helped so far are
    `ailing` too: else each restart would loosen the brake.
    """
    if len(ailing) < 2 or len(ailing) < rules.brake * len(live):
        return None
    since = history.brake_at or now
    for instance in live:
        memory = history.restarts.get(instance.id)
        if (
            memory is not None
            and memory.at is not None
            and memory.at >= since
            and instance.state is State.RUNNING
            and instance.health is Health.HEALTHY
        ):
            return None  # a restart does help
    return since


def _room(
    rules: RestartRules,
    live: Sequence[Instance],
    sick: Sequence[Instance],
    memory: Mapping[InstanceId, Restarts],
) -> int:
    """How many sick ones may go down now: the share of the target, never all of it."""
    most = max(1, math.floor(rules.at_once * len(live)))
    if len(live) > 1:
        most = min(most, len(live) - 1)
    sick_ids = {instance.id for instance in sick}
    away = sum(
        1
        for i in live
        if i.id not in sick_ids
        and memory[i.id].attempts
        and (i.state is not State.RUNNING or i.ready is False)
    )
    return most - away


def _due(rules: RestartRules, instance: InstanceId, memory: Restarts) -> datetime | None:
    return None if memory.at is None else memory.at + backoff(rules, instance, memory.attempts)


def _held(
    fleet: Fleet, brake_at: datetime | None, room: int, *, canary_out: bool, is_sick: bool
) -> str:
    if fleet.rollout and is_sick:
        return f"a deployment is in progress ({fleet.rollout})"
    if fleet.dependency_down and canary_out:
        return f"dependency {fleet.dependency_down} is down; one canary was restarted"
    if not is_sick:
        return ""
    if brake_at is not None and canary_out:
        return "many are sick together, so the cause lies elsewhere; one canary was restarted"
    if room <= 0:
        return "others are being restarted"
    return ""


def _words(instance: Instance) -> str:
    if instance.state is State.FAILED:
        return instance.because or "it ended"
    return f"unhealthy: {instance.because}" if instance.because else "unhealthy"


def _in(span: timedelta) -> str:
    return format_span(timedelta(seconds=max(1, math.ceil(span.total_seconds()))))
