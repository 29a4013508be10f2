"""Whether somebody else decides on the count: then ours is not written, and a person hears why.

Two that set one count undo each other for ever, so what is known to be managed elsewhere is left
alone at once, and who keeps being set otherwise stops, to try again ever more seldom.
"""

from datetime import datetime, timedelta
from typing import Final

from scaler.core.model import Fleet, History, Step
from scaler.core.policy import Policy
from scaler.core.units import format_span

MOST_UNDONE: Final = 3  # changes of ours, before somebody else is believed to mean it
FIRST_PAUSE: Final = timedelta(minutes=5)
LONGEST_PAUSE: Final = timedelta(hours=1)
APART: Final = timedelta(minutes=30)  # changes of a person by hand are further apart than this
MOST_KEPT: Final = 8


def overruled(fleet: Fleet, history: History, now: datetime) -> tuple[datetime, ...]:
    """When the count was found to be another than we had set, once for each change of ours.

    It is all forgotten when none came for twice the pause that the last one was worth.
    """
    known = history.overruled
    if known and now - known[-1] > max(APART, 2 * _pause(known)):
        known = ()
    if not history.changes or history.changes[-1].after == fleet.wanted:
        return known
    if known and known[-1] > history.changes[-1].at:
        return known
    return (*known, now)[-MOST_KEPT:]


def _pause(undone: tuple[datetime, ...]) -> timedelta:
    if len(undone) < MOST_UNDONE:
        return timedelta()
    doubled: timedelta = FIRST_PAUSE * 2 ** (len(undone) - MOST_UNDONE)
    return min(LONGEST_PAUSE, doubled)


def reason(policy: Policy, fleet: Fleet, history: History, now: datetime) -> str:
    """Who else decides, and the two ways out; empty when nobody does or we only look on."""
    if policy.mode != "act":
        return ""
    if fleet.owner:
        return owned(fleet.owner, policy.name)
    undone = history.overruled
    if not undone or (left := undone[-1] + _pause(undone) - now) <= timedelta():
        return ""
    again = format_span(timedelta(seconds=max(1, round(left.total_seconds()))))
    return (
        f"{fleet.set_by or 'somebody'} has set the count otherwise {len(undone)} times, now to "
        f"{fleet.wanted}; trying again in {again}. Let one of them decide: take replicas out of "
        "what it applies, or set mode: observe"
    )


def owned(owner: str, name: str) -> str:
    """Who decides on the count of policy `name`, and the two ways out."""
    return (
        f"{owner} decides on the count; take it away (`scaler adopt {name}` takes its settings "
        "over), or set mode: observe"
    )


def step(policy: Policy, fleet: Fleet, history: History, asked: int, now: datetime) -> Step:
    """The count stays as somebody else has set it."""
    because = reason(policy, fleet, history, now)
    after = fleet.wanted if because else asked
    return Step(rule="elsewhere", before=asked, after=after, because=because)
