"""Requests before instances: who gets some, who gets no more, and who may go.

An instance that is to go gets no new requests first, and goes when those it has are answered. That
is asked anew at every look: when the decision is taken back meanwhile, requests go to it again. No
memory of it is needed over a restart, since the next look decides and routes again.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from scaler.clock import Clock
from scaler.core.model import Decision, Fleet, Health, InstanceId, State, altered, is_fit
from scaler.engine.watched import Watched, in_time
from scaler.interfaces import Adapters

LOOK: Final = timedelta(milliseconds=250)  # between two looks at who is still busy
FORGIVEN: Final = timedelta(minutes=1)  # Docker's default interval and time-out of a check
PANIC: Final = 0.5  # of those that were ready; Envoy's panic threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Which of those that are to go may do so now."""

    free: tuple[InstanceId, ...] = ()
    busy: tuple[InstanceId, ...] = ()
    known: bool = True  # False: nobody says who is busy
    said: tuple[str, ...] = ()  # what has changed, in words


async def routed(
    it: Watched,
    fleet: Fleet,
    decision: Decision,
    adapters: Adapters,
    clock: Clock,
    deadline: timedelta,
) -> Leave:
    """Send requests where they belong, and say who may go.

    Raises:
        ScalerError: the balancer does not answer, so nobody may.
    """
    rules = it.policy.balancer
    if rules is None:
        return Leave(free=decision.remove)
    if it.balancer is None:
        it.balancer = adapters.balancer(rules, it.policy.target)
    route = it.balancer.route(opened(fleet), decision.remove)
    open_ = await in_time(route, deadline, f"routing by {rules.kind}")
    now, before = clock.monotonic(), it.leaving
    it.leaving = {instance: before.get(instance, now) for instance in decision.remove}
    late = {i for i in decision.remove if now - it.leaving[i] >= rules.drain}
    busy = tuple(i for i in decision.remove if open_.get(i) and i not in late)
    said = [f"{i} gets no new requests, {open_[i]} are open" for i in busy if i not in before]
    said += [
        f"{i} goes with {open_[i]} requests open, as drain is over" for i in late if open_.get(i)
    ]
    there = {i.id for i in fleet.instances if i.state is State.RUNNING}
    back = [i for i in before if i not in it.leaving and i in there]
    it.returned |= dict.fromkeys(back, now)
    said += [f"{i} stays and gets requests again" for i in back]
    free = tuple(i for i in decision.remove if i not in busy)
    return Leave(free=free, busy=busy, said=tuple(said))


def unblamed(it: Watched, fleet: Fleet, now: timedelta) -> Fleet:
    """`fleet` without sickness that comes of a drain, where a balancer drains by causing it.

    It is held against nobody who is leaving, for `FORGIVEN` against nobody who stays after all,
    and after a start of the daemon against nobody, since an earlier one may have drained anybody.
    """
    rules = it.policy.balancer
    if rules is None or not rules.sickens:
        return fleet
    if it.balancer is None:
        it.returned = {i.id: now for i in fleet.instances}
    it.returned = {i: at for i, at in it.returned.items() if now - at < FORGIVEN}
    sick = {i.id for i in fleet.instances if i.health is Health.UNHEALTHY}
    spared = sick & (it.leaving.keys() | it.returned.keys())
    return altered(fleet, spared, health=Health.UNKNOWN)


def opened(fleet: Fleet) -> Fleet:
    """`fleet` with everybody in rotation who was fit once, when most of them are fit no more.

    Probes that time out under overload take instances out, the rest carry more and go out too,
    until nobody is left to serve. Who is slow is better than nobody. Those that were never ready
    stay out. Source: Envoy, "Panic threshold", 50 %.
    """
    lapsed = {i.id for i in fleet.instances if i.lapsed}
    fit = sum(map(is_fit, fleet.instances))
    if not lapsed or fit >= PANIC * (fit + len(lapsed)):
        return fleet
    return altered(fleet, lapsed, ready=True, health=Health.UNKNOWN)
