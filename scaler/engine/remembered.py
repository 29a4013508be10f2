"""What a history keeps when a decision was not carried out here, or not at all.

A daemon that follows another one sees the changes of that one in the count. It remembers them as if
they were its own, so cooldowns and budgets go on when it takes over.
"""

from dataclasses import replace
from datetime import datetime

from scaler.core.model import Change, Fleet, History


def unchanged(history: History, before: History) -> History:
    """`history` as it stands when the decision is not carried out."""
    return replace(
        history, changes=before.changes, restarts=before.restarts, brake_at=before.brake_at
    )


def without_phantom(history: History, fleet: Fleet) -> History:
    """`history` without a last change that was intended and, after a crash, never carried out."""
    if history.changes:
        last = history.changes[-1]
        if last.after != fleet.wanted == last.before:
            return replace(history, changes=history.changes[:-1])
    return history


def with_leaders(history: History, fleet: Fleet, before: int, now: datetime) -> History:
    """`history` with the change that the leader has made since the count was `before`.

    What somebody else has set is no change of ours, if the platform says so.
    """
    if fleet.wanted == before or fleet.set_by:
        return history
    return replace(history, changes=(*history.changes, Change(now, before, fleet.wanted)))
