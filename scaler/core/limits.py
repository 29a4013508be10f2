"""Rules that stand between a recommendation and a decision.

Each takes the count asked for so far and returns a Step: the count it leaves, and why, in words
for the person on call. `decide.decide` shows their order.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from scaler.core import window
from scaler.core.model import Asked, Change, Fleet, History, Step
from scaler.core.policy import LONGEST_WINDOW, Limits, Policy, Rate
from scaler.core.schedule import Bounds
from scaler.core.units import format_span

MOST_CHANGES: Final = 1000  # of one target in the longest window
MOST_ASKED: Final = 720


def settle(limits: Limits, asked: int, current: int, history: History, now: datetime) -> Step:
    """Shrink only to the highest count asked for within `settle_down`, grow to the lowest.

    A dip shorter than the window removes nothing, and an old peak never makes a target grow. The
    result is the count nearest to the current one between the lowest ask in `settle_up` and the
    highest in `settle_down`. A window of zero turns its half off.

    Source: Kubernetes `stabilizeRecommendationWithBehaviors`, which also leaves the far edge out.
    """
    up = window.since(history.asked, now - limits.settle_up)
    down = window.since(history.asked, now - limits.settle_down)
    lowest = min(asked, min((ask.count for ask in up), default=asked))
    highest = max(asked, max((ask.count for ask in down), default=asked))
    after = min(max(current, lowest), highest)
    because = ""
    if after > asked:
        because = f"highest count asked for in {format_span(limits.settle_down)} is {highest}"
    elif after < asked:
        because = f"lowest count asked for in {format_span(limits.settle_up)} is {lowest}"
    return Step(rule="settle", before=asked, after=after, because=because)


def rate(limits: Limits, asked: int, current: int, history: History, now: datetime) -> Step:
    """Move no further than the rate of the direction allows, counting the changes of its span.

    Source: Kubernetes `calculateScaleUpLimitWithScalingRules` and its twin for shrinking; a share
    is rounded up when growing and its rest cut when shrinking, so small counts are not stuck.
    """
    after, because = asked, ""
    if asked > current:
        after = min(asked, max(current, _furthest(limits.grow, current, history.changes, now, 1)))
        because = _rate_words("grow", limits.grow) if after < asked else ""
    elif asked < current:
        after = max(
            asked, min(current, _furthest(limits.shrink, current, history.changes, now, -1))
        )
        because = _rate_words("shrink", limits.shrink) if after > asked else ""
    return Step(rule="rate", before=asked, after=after, because=because)


def _furthest(rate: Rate, current: int, changes: Sequence[Change], now: datetime, sign: int) -> int:
    if rate.pick == "none":
        return current
    ends = []
    for rule in rate.all_rules:
        made = window.since(changes, now - rule.per)
        start = current - sum(change.after - change.before for change in made)
        if rule.at_most.share is None:
            ends.append(start + sign * rule.at_most.count)
        elif sign > 0:
            ends.append(math.ceil(start * (1 + rule.at_most.share)))
        else:
            ends.append(int(start * (1 - rule.at_most.share)))
    largest_move = max if sign > 0 else min
    smallest_move = min if sign > 0 else max
    return (largest_move if rate.pick == "larger" else smallest_move)(ends)


def _rate_words(verb: str, rate: Rate) -> str:
    if rate.pick == "none":
        return f"the policy forbids to {verb}"
    rules = " or ".join(f"{rule.at_most} per {format_span(rule.per)}" for rule in rate.all_rules)
    picked = f", the {rate.pick}" if len(rate.all_rules) > 1 else ""
    return f"may {verb} by at most {rules}{picked}"


def budget(limits: Limits, asked: int, current: int, history: History, now: datetime) -> Step:
    """Hold back shrinking after a change, when the changes are spent, or when it flaps.

    Growing is never held back: an urgent increase must not wait for a budget.
    """
    because = ""
    if asked < current and history.changes:
        because = (
            _cooling(limits, history.changes[-1], now)
            or _spent(limits, history.changes, now)
            or _flapping(limits, history.changes, now)
        )
    return Step(rule="budget", before=asked, after=current if because else asked, because=because)


def _cooling(limits: Limits, last: Change, now: datetime) -> str:
    left = limits.cooldown - (now - last.at)
    if left <= timedelta():
        return ""
    return f"cooldown of {format_span(limits.cooldown)} after the last change, {_left(left)} left"


def _spent(limits: Limits, changes: Sequence[Change], now: datetime) -> str:
    if limits.changes is None:
        return ""
    made = len(window.since(changes, now - limits.changes.span))
    if made < limits.changes.count:
        return ""
    return f"the budget of {limits.changes} changes is spent; nothing shrinks until it recovers"


def _flapping(limits: Limits, changes: Sequence[Change], now: datetime) -> str:
    recent = window.since(changes, now - limits.reversals.span)
    turns = sum(
        (first.after > first.before) != (second.after > second.before)
        for first, second in pairwise(recent)
    )
    if turns < limits.reversals.count:
        return ""
    span = format_span(limits.reversals.span)
    return f"flap guard: {turns} changes of direction in {span}; nothing shrinks until some age"


def rollout(fleet: Fleet, asked: int, current: int) -> Step:
    """Remove nothing while a deployment is in progress."""
    held = bool(fleet.rollout) and asked < current
    because = f"a deployment is in progress ({fleet.rollout})" if held else ""
    return Step(rule="rollout", before=asked, after=current if held else asked, because=because)


def hold(history: History, asked: int) -> Step:
    """A count set by hand stands in place of what the metrics ask for."""
    by_hand = history.hold
    if by_hand is None:
        return Step(rule="hold", before=asked, after=asked, because="")
    until = f" until {by_hand.until:%Y-%m-%d %H:%M:%S} UTC" if by_hand.until else ""
    who = f" by {by_hand.by}" if by_hand.by else ""
    why = f": {by_hand.reason}" if by_hand.reason else ""
    because = f"set by hand{who}{until}{why}"
    return Step(rule="hold", before=asked, after=by_hand.count, because=because)


def bound(bounds: Bounds, asked: int) -> Step:
    """Never fewer than `min`, never more than `max`, whatever anybody asks for."""
    after = min(max(asked, bounds.min), bounds.max)
    because = ""
    if after > asked:
        because = f"min is {bounds.min}{bounds.min_because}"
    elif after < asked:
        because = f"max is {bounds.max}{bounds.max_because}"
    return Step(rule="bound", before=asked, after=after, because=because)


def pause(history: History, asked: int, current: int) -> Step:
    """A paused direction is closed, even to the bounds."""
    word = history.pause
    closed = word is not None and (
        (asked < current and word.scale_in) or (asked > current and word.scale_out)
    )
    if word is None or not closed:
        return Step(rule="pause", before=asked, after=asked, because="")
    until = f" until {word.until:%Y-%m-%d %H:%M:%S} UTC" if word.until else ""
    who = f" by {word.by}" if word.by else ""
    why = f": {word.reason}" if word.reason else ""
    return Step(rule="pause", before=asked, after=current, because=f"paused{who}{until}{why}")


def heal(asked: int, current: int) -> Step:
    """Somebody else decides on the count; only health is looked after."""
    because = "mode is heal: instances are restarted, their count is left alone"
    return Step(rule="heal", before=asked, after=current, because=because)


def remembered(
    policy: Policy, asked: Sequence[Asked], count: int, now: datetime
) -> tuple[Asked, ...]:
    """`asked` with `count` added; runs of one count are one entry, and old ones fall off.

    A run needs only its last moment: it stays in a window for as long as that does. When more than
    `MOST_ASKED` are left the two oldest fold into the higher, which never shrinks a target more.
    """
    span = max(policy.limits.settle_down, policy.limits.settle_up, policy.every)
    kept = list(window.since(asked, now - span))
    while kept and kept[-1].count == count:
        kept.pop()
    kept.append(Asked(now, count))
    while len(kept) > MOST_ASKED:
        kept[:2] = [Asked(kept[1].at, max(kept[0].count, kept[1].count))]
    return tuple(kept)


def changes_since(changes: tuple[Change, ...], now: datetime) -> tuple[Change, ...]:
    """The changes that some rule may still ask for, and the last one always."""
    begin = now - LONGEST_WINDOW  # no rule may look further back
    if not changes or (changes[0].at > begin and len(changes) <= MOST_CHANGES):
        return changes
    return (*window.since(changes[-MOST_CHANGES:-1], begin), changes[-1])


def _left(span: timedelta) -> str:
    return format_span(timedelta(seconds=max(1, math.ceil(span.total_seconds()))))
