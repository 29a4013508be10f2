"""The sentence: look at the facts, ask every metric, apply every limit, say why.

Pure: the same facts give the same decision, which is how `scaler explain` and the replay tests can
take a journal entry and arrive at the same count. Nothing raises for bad data; a missing or broken
number is a value with a reason, and never shrinks a target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from scaler.core import elsewhere, health, hpa, limits, recommend, roster, schedule, victims
from scaler.core.model import (
    Asked,
    Change,
    Decision,
    Fleet,
    History,
    Hold,
    InstanceId,
    Pause,
    Reading,
    Restart,
    State,
    Step,
    Wish,
)
from scaler.core.policy import Policy
from scaler.core.units import format_span

MOST_STARTUPS: Final = 20  # starts that the start-up allowance is learned from
LONGEST_STARTUP: Final = timedelta(hours=1)


def decide(
    policy: Policy,
    fleet: Fleet,
    readings: Mapping[str, Reading],
    history: History,
    now: datetime,
) -> tuple[Decision, History]:
    """How many instances there should be, which go, which restart, and every step on the way.

    The history returned has this tick in it, and the change as if it had been carried out: who
    fails to carry it out keeps the old changes (`History.changes`) instead.
    """
    history = _brought_up_to(policy, fleet, history, now)
    current = fleet.wanted
    if policy.compatibility == "hpa":
        wishes, steps, history = hpa.steps(policy, fleet, readings, history, now)
        steps.append(limits.hold(history, steps[-1].after))
    else:
        bounds = schedule.bounds(policy.limits, policy.schedule, now)
        wishes, history = recommend.wishes(policy, fleet, readings, history, now)
        steps, history = _asked(policy, wishes, current, bounds, history, now)
        steps += _limited(policy, fleet, steps[-1].after, history, now)
        steps.append(limits.hold(history, steps[-1].after))
        steps.append(limits.bound(bounds, steps[-1].after))
    steps.append(limits.pause(history, steps[-1].after, current))
    steps.append(elsewhere.step(policy, fleet, history, steps[-1].after, now))
    if policy.mode == "heal":
        steps.append(limits.heal(steps[-1].after, current))
    return _decision(policy, fleet, readings, history, now, wishes, steps)


def _brought_up_to(policy: Policy, fleet: Fleet, history: History, now: datetime) -> History:
    """The history as this tick finds it.

    On a first look, or after a gap longer than the window, nothing is known of what was asked
    meanwhile, so the present count stands for it: lost history never shrinks a target. Expired
    words of people end.
    """
    asked, changes, startups = history.asked, history.changes, history.startups
    if history.at is None:
        asked = asked or (Asked(now, fleet.wanted),)
    else:
        startups = _learned(fleet, startups, history.at)
        gap = now - history.at > max(policy.limits.settle_down, 3 * policy.every)
        if gap and policy.compatibility != "hpa":
            asked = (Asked(now, fleet.wanted),)
    word, by_hand = history.pause, history.hold
    return replace(
        history,
        asked=asked,
        changes=limits.changes_since(changes, now),
        startups=startups,
        overruled=elsewhere.overruled(fleet, history, now),
        pause=None if _over(word, now) else word,
        hold=None if _over(by_hand, now) else by_hand,
        at=now,
    )


def _over(word: Pause | Hold | None, now: datetime) -> bool:
    return word is not None and word.until is not None and word.until < now


def _learned(fleet: Fleet, startups: tuple[float, ...], since: datetime) -> tuple[float, ...]:
    """The start-up times known, with those that ended since the last look."""
    for instance in fleet.instances:
        ready_at, born = instance.ready_changed_at, instance.started_at or instance.created_at
        if instance.ready and ready_at is not None and born is not None and ready_at > since:
            took = ready_at - born
            if timedelta() <= took <= LONGEST_STARTUP:
                startups = (*startups, took.total_seconds())[-MOST_STARTUPS:]
    return startups


def _asked(
    policy: Policy,
    wishes: Sequence[Wish],
    current: int,
    bounds: schedule.Bounds,
    history: History,
    now: datetime,
) -> tuple[list[Step], History]:
    """The highest wish, the tolerance, and what missing data forbid; remembered for `settle`."""
    heard = [wish for wish in wishes if wish.count is not None]
    if not policy.metrics:
        because = f"no metric is given, so the count is min{bounds.min_because}"
        steps = [Step(rule="metrics", before=current, after=bounds.min, because=because)]
    elif not heard:
        because = "; ".join(wish.because for wish in wishes)
        steps = [Step(rule="metrics", before=current, after=current, because=because)]
    else:
        steps = _highest(heard, current)
    asked = steps[-1].after
    blocking = [wish.because for wish in wishes if wish.blocks]
    if blocking and asked < current:
        because = f"{'; '.join(blocking)}; nothing shrinks"
        steps.append(Step(rule="missing", before=asked, after=current, because=because))
    since = None
    if policy.metrics and not any(w for w in wishes if not w.blocks):
        since = history.missing_since or now
        steps.extend(_fallback(policy, steps[-1].after, since, now))
    asked = steps[-1].after
    remembered = limits.remembered(policy, history.asked, asked, now)
    return steps, replace(history, asked=remembered, missing_since=since)


def _highest(heard: Sequence[Wish], current: int) -> list[Step]:
    """The highest wish, before and after the tolerance; those that may only grow never lower it."""

    def wanted(count: int | None, wish: Wish) -> int:
        known = current if count is None else count
        return max(known, current) if wish.grow_only else known

    winner = max(heard, key=lambda wish: (wanted(wish.count, wish), wanted(wish.raw, wish)))
    count = wanted(winner.count, winner)
    raw = wanted(winner.raw, winner)
    steps = [Step(rule="metrics", before=current, after=raw, because=winner.because)]
    if raw != count:
        because = f"{winner.source} is close enough to its goal"
        steps.append(Step(rule="tolerance", before=raw, after=count, because=because))
    elif winner.grow_only and winner.count is not None and winner.count < current:
        because = f"{winner.source} may only make it grow"
        steps[0] = Step(rule="metrics", before=current, after=current, because=because)
    return steps


def _fallback(policy: Policy, asked: int, since: datetime, now: datetime) -> list[Step]:
    """Nothing answers: up to the fallback count once that has lasted, never down."""
    rule = policy.missing
    if rule.count is None or now - since < rule.after or rule.count <= asked:
        return []
    because = f"no metric has answered for {format_span(now - since)}"
    return [Step(rule="fallback", before=asked, after=rule.count, because=because)]


def _limited(
    policy: Policy, fleet: Fleet, asked: int, history: History, now: datetime
) -> list[Step]:
    rules, current = policy.limits, fleet.wanted
    first = limits.settle(rules, asked, current, history, now)
    second = limits.rate(rules, first.after, current, history, now)
    third = limits.budget(rules, second.after, current, history, now)
    return [first, second, third, limits.rollout(fleet, third.after, current)]


def _decision(
    policy: Policy,
    fleet: Fleet,
    readings: Mapping[str, Reading],
    history: History,
    now: datetime,
    wishes: Sequence[Wish],
    steps: list[Step],
) -> tuple[Decision, History]:
    """Whom it concerns: victims when shrinking, restarts when not."""
    current = fleet.wanted
    desired = steps[-1].after
    remove: tuple[InstanceId, ...] = ()
    surplus = victims.present(fleet.instances) - desired
    ours = not steps[-1].because  # else somebody else decides, of whom the last two steps tell
    if desired < current or (desired == current and surplus > 0 and ours and not fleet.rollout):
        chosen = victims.choose(fleet, surplus, readings)
        spared = surplus - len(chosen)
        if spared > 0 and desired < current:
            kept = min(current, desired + spared)
            because = f"{spared} of them are protected"
            steps.append(Step(rule="protected", before=desired, after=kept, because=because))
            desired = kept
        remove = chosen
    plan = health.plan_restarts(
        policy.health.restart,
        fleet,
        history,
        now,
        start=timedelta() if policy.health.startup else roster.allowance(history),
        spared=_spared(policy, fleet, readings, history, now, growing=desired > current),
    )
    restarts: Sequence[Restart] = plan.restarts
    waiting = plan.waiting
    if history.pause is not None and history.pause.scale_in and history.pause.scale_out:
        waiting = tuple(f"{r.instance}: {r.because}; paused" for r in restarts)
        restarts = ()
    going = _not_leaving(restarts, remove, fleet, shrinking=desired < current)
    decision = Decision(
        target=fleet.target,
        at=now,
        current=current,
        desired=desired,
        wishes=tuple(wishes),
        steps=tuple(step for step in steps if step.before != step.after) or (steps[0],),
        remove=remove,
        restarts=going,
        waiting=waiting,
        again_at=plan.again_at,
    )
    changes = history.changes
    if desired != current:
        changes = (*changes, Change(now, current, desired))
    return decision, replace(
        history,
        changes=changes,
        restarts=health.restarted(plan.remembered, going, now),
        brake_at=plan.brake_at,
    )


def _spared(
    policy: Policy,
    fleet: Fleet,
    readings: Mapping[str, Reading],
    history: History,
    now: datetime,
    *,
    growing: bool,
) -> frozenset[InstanceId]:
    """The overloaded, as long as help is on the way."""
    lapsed = any(i.lapsed for i in fleet.instances)
    if not lapsed or not (growing or roster.arriving(fleet, history, now)):
        return frozenset()
    return roster.overloaded(policy, fleet, readings)


def _not_leaving(
    restarts: Sequence[Restart], remove: Sequence[InstanceId], fleet: Fleet, *, shrinking: bool
) -> tuple[Restart, ...]:
    """What leaves is not restarted, and no sick one is while the target shrinks."""
    ended = {i.id for i in fleet.instances if i.state is State.FAILED}
    return tuple(
        r for r in restarts if r.instance not in remove and (r.instance in ended or not shrinking)
    )
