"""One target under care: its policy, its adapters, and what was last seen of it."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from scaler.clock import Clock
from scaler.core.journal import Facts
from scaler.core.model import (
    Decision,
    Fleet,
    Health,
    History,
    InstanceId,
    Reading,
    State,
    altered,
    is_fit,
)
from scaler.core.policy import Metric, Policy
from scaler.errors import ScalerError, Unavailable
from scaler.interfaces import Adapters, Balancer, MetricSource, Provider

T = TypeVar("T")


class Condition(StrEnum):
    """How we stand with a target."""

    STARTING = "starting"  # not looked at yet
    OK = "ok"
    DEFERRED = "deferred"  # the platform did not answer; the next tick is the retry
    DEGRADED = "degraded"  # it has not answered several times in a row
    ELSEWHERE = "managed-elsewhere"  # somebody else decides on the count
    PARKED = "parked"  # a person must change something; tried again slowly
    BROKEN = "broken"  # a defect of ours


@dataclass(slots=True, kw_only=True)
class Watched:
    """What the manager keeps of one target. The only state in the engine that changes."""

    policy: Policy
    history: History
    provider: Provider[Any] | None = None
    sources: dict[str, MetricSource] = field(default_factory=dict)
    balancer: Balancer | None = None
    leaving: dict[InstanceId, timedelta] = field(default_factory=dict)  # since when, monotonic
    returned: dict[InstanceId, timedelta] = field(default_factory=dict)  # not to go any more, since
    was_fit: dict[InstanceId, str] = field(default_factory=dict)  # in which incarnation
    noticed: tuple[str, ...] = ()  # what the platform said last beside the fleet
    condition: Condition = Condition.STARTING
    trouble: str = ""
    failures: int = 0
    undone: int = 0  # changes of ours that somebody had undone when it was last said
    not_before: timedelta = timedelta()  # on the monotonic clock; a retry or a parked target waits
    decision: Decision | None = None
    facts: Facts | None = None  # without the policy, which stands above
    read_at: datetime | None = None
    told: tuple[object, ...] = ()  # what the journal last heard of it, and when
    told_at: datetime | None = None
    running: asyncio.Task[None] | None = None
    again: bool = False  # something happened while it ran
    alarm: asyncio.Task[None] | None = None  # a restart falls due before the next tick
    fresh: bool = True  # not looked at since the start of the process
    followed: int | None = None  # the count at the last look, if another daemon led then
    changed: int = 0  # times the platform took another count from us, since the process began
    restarted: int = 0  # times it took the order to start an instance again

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def fleet(self) -> Fleet | None:
        """As it was last seen."""
        return self.facts.fleet if self.facts else None

    async def close(self) -> None:
        for source in self.sources.values():
            await source.aclose()
        self.sources = {}
        await self.stop_routing()

    async def stop_routing(self) -> None:
        """Leave requests to others, who say who is to go; what was said here is true no more."""
        self.leaving = {}
        if self.balancer is not None:
            await self.balancer.aclose()
            self.balancer = None


def watch(policy: Policy, history: History, before: Watched | None = None) -> Watched:
    """A target as it is taken into care, with what was last seen of it under another policy."""
    it = Watched(policy=policy, history=history)
    if before is not None:
        it.facts, it.decision, it.fresh = before.facts, before.decision, before.fresh
        it.followed = before.followed
        it.changed, it.restarted = before.changed, before.restarted
    return it


async def in_time(call: Awaitable[T], deadline: timedelta, doing: str) -> T:
    """What `call` returns.

    Raises:
        Unavailable: it has not answered within `deadline`.
    """
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            return await call
    except TimeoutError as error:
        raise Unavailable(
            f"{doing}: no answer within {deadline.total_seconds():g} seconds"
        ) from error


async def look(it: Watched, adapters: Adapters, deadline: timedelta) -> Fleet:
    """What the platform reports, its connection and sources opened if they are not yet.

    Raises:
        ScalerError: nothing is known now.
    """
    if it.provider is None:
        it.provider = adapters.provider(it.policy.target.kind)
    for metric in it.policy.metrics:
        if metric.name not in it.sources:
            it.sources[metric.name] = adapters.source(metric, it.policy.target)
    return await in_time(
        it.provider.observe(it.policy.target), deadline, f"looking at {it.policy.target.kind}"
    )


async def read(it: Watched, fleet: Fleet, clock: Clock, deadline: timedelta) -> dict[str, Reading]:
    """Every metric's reading, asked side by side; one that is late or fails is missing.

    A look out of turn is not too early for a rate: what was measured within the interval counts.
    """
    now = clock.now()
    since = min(it.read_at or now, now - it.policy.every)
    it.read_at = now
    metrics = it.policy.metrics
    readings = await asyncio.gather(
        *(
            _read_one(metric, it.sources[metric.name], fleet, since, now, deadline)
            for metric in metrics
        )
    )
    return {reading.metric: reading for reading in readings}


async def _read_one(
    metric: Metric,
    source: MetricSource,
    fleet: Fleet,
    since: datetime,
    now: datetime,
    deadline: timedelta,
) -> Reading:
    try:
        return await in_time(source.read(fleet, since, now), deadline, f"reading {metric.name}")
    except ScalerError as error:
        return Reading(metric=metric.name, missing=str(error))


def with_lapsed(fleet: Fleet, was_fit: dict[InstanceId, str]) -> Fleet:
    """`fleet` with a mark on those that were fit in this life and are not any more.

    `was_fit` is the memory of that, brought up to date. A restart of the daemon forgets it: then
    who is not ready is taken for one that has not been yet.
    """
    running = [i for i in fleet.instances if i.state is State.RUNNING]
    known = {i.id: i.incarnation for i in running if was_fit.get(i.id) == i.incarnation}
    fit = {
        i.id: i.incarnation
        for i in running
        if is_fit(i) and (i.ready or i.health is Health.HEALTHY)
    }
    was_fit.clear()
    was_fit.update(known | fit)
    lapsed = {i.id for i in running if i.id in known and not is_fit(i)}
    return altered(fleet, lapsed, lapsed=True) if lapsed else fleet
