"""Who belongs to a policy on an engine, who is to go, and what else can be said of a look.

Pure: containers as seen and the slots of the book in, values out.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from scaler.clients.docker_book import SPARES, Phase, Slot
from scaler.clients.docker_seen import CONFIG, INSTANCE, SERVICE, Seen

YOUNG: Final = timedelta(seconds=15)  # a container of another configuration: compose is at work
_RENAMED: Final = re.compile(r"[0-9a-f]{12}_.+")  # by compose, while it replaces a container


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One that belongs to the policy: a container, what is under way with its name, or both."""

    name: str
    number: int
    seen: Seen | None = None
    slot: Slot | None = None

    @property
    def ours(self) -> bool:
        """We made it, or are about to."""
        return self.seen is None or INSTANCE in self.seen.labels

    @property
    def leaving(self) -> bool:
        if self.slot is not None and self.slot.phase is Phase.STOPPING:
            return True
        return self.seen is not None and self.seen.status in ("dead", "removing")


def members(there: Iterable[Seen], slots: Mapping[str, Slot]) -> list[Member]:
    """All, in the order of their numbers; spares are nobody's business."""
    found: dict[str, Member] = {}
    for one in there:
        slot = slots.get(one.name)
        if slot is not None and not belongs(slot, one):
            slot = None
        found[one.name] = Member(name=one.name, number=one.number, seen=one, slot=slot)
    for name, slot in slots.items():
        if name not in found:
            found[name] = Member(name=name, number=slot.number, slot=slot)
    present = (m for m in found.values() if m.slot is None or m.slot.phase not in SPARES)
    return sorted(present, key=lambda m: (m.number, m.name))


def belongs(slot: Slot, one: Seen) -> bool:
    """Whether a slot speaks of this container, and not of an earlier one with its name."""
    if slot.container:
        return slot.container == one.id
    return one.labels.get(INSTANCE) == slot.instance


def victims(
    present: Sequence[Member],
    count: int,
    named: Collection[str],
    *,
    others: bool,
    held: Collection[str] = (),
) -> list[Member]:
    """Those that were named, then what has failed, then the newest; others' only if allowed.

    What a person has stopped (`held`, by incarnation) or paused goes last.
    """

    def by_hand(member: Member) -> bool:
        seen = member.seen
        return seen is not None and (seen.status == "paused" or seen.incarnation in held)

    def missed(member: Member) -> tuple[object, ...]:
        failed = member.seen is None or member.seen.status == "exited"
        born = member.seen.created_at if member.seen else None
        return (
            member.name not in named,
            by_hand(member),
            not member.ours,
            not failed,
            -(born.timestamp() if born else 0.0),
            -member.number,
        )

    able = [m for m in present if m.ours or others]
    return sorted(able, key=missed)[: max(0, count)]


def unused(taken: Collection[int], lowest: int) -> Iterator[int]:
    """Numbers that nobody has."""
    number = lowest
    while True:
        if number not in taken:
            yield number
        number += 1


def rollout(there: Sequence[Seen], now: datetime) -> str:
    """Why compose seems to be at work; empty when it does not."""
    if any(_RENAMED.fullmatch(one.name) and SERVICE in one.labels for one in there):
        return "compose is replacing a container"
    marks = {one.labels[CONFIG] for one in there if CONFIG in one.labels}
    others = (one for one in there if INSTANCE not in one.labels and one.created_at)
    if len(marks) > 1 and any(now - one.created_at < YOUNG for one in others if one.created_at):
        return "compose has just made a container with another configuration"
    return ""


def origin(there: Sequence[Seen]) -> Seen | None:
    """The container to copy: the newest that is not a copy itself, else the newest copy."""
    able = [one for one in there if one.status not in ("dead", "removing")]

    def youth(one: Seen) -> tuple[object, ...]:
        return INSTANCE not in one.labels, one.created_at.timestamp() if one.created_at else 0.0

    return max(able, key=youth, default=None)
