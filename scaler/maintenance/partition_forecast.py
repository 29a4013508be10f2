"""How far rows will come and how much room they will take, by what has come so far.

Counts and sizes are those of the last VACUUM or ANALYZE, so no table is read and no lock is waited
for. What cannot be known yet is None: a set whose first partition is younger than a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from scaler.maintenance.partition_facts import Facts
from scaler.maintenance.partition_ranges import Key, finite, upcoming
from scaler.maintenance.partition_rules import PartitionSet

DAYS: Final = 30  # that room is forecast for
SOON: Final = 7  # days in which somebody has to act
MOST_LOOKED_AT: Final = 3  # of the last partitions that are full
YOUNGEST: Final = timedelta(days=1)  # a partition that says how fast it fills


class _Filled(NamedTuple):
    begin: datetime
    end: datetime
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Room in bytes, of all partitions that are attached."""

    held: int = 0
    per_day: float | None = None
    next: int | None = None  # the next partition, when it will be full
    later: int | None = None  # all, in 30 days; what is dropped until then is left out
    reached: datetime | None = None  # when rows come to the end of what is ready

    @property
    def more(self) -> int:
        """What is needed in 30 days beside what is held; below zero when room becomes free."""
        return 0 if self.later is None else self.later - self.held


NOTHING_KNOWN: Final = Forecast()


def forecast(rules: PartitionSet, facts: Facts, key: Key, now: datetime) -> Forecast:
    """The room that a set takes; `reached` is for the plan to say."""
    filled = [
        _Filled(key.moment(one.bounds.lower), key.moment(one.bounds.upper), one.bytes)
        for one in facts.partitions
        if one.bytes and one.bounds is not None
        if finite(one.bounds.lower) and finite(one.bounds.upper)
    ]
    held, rate = sum(one.bytes for one in facts.partitions), _per_day(filled, now)
    if rate is None:
        return Forecast(held=held)
    following = upcoming(rules.every, rules.timezone, now, 1)[-1]
    return Forecast(
        held=held,
        per_day=rate,
        next=round(rate * ((following.end - following.begin) / timedelta(days=1))),
        later=round(held + rate * DAYS - _dropped(rules, filled, now)),
    )


def _dropped(rules: PartitionSet, filled: Sequence[_Filled], now: datetime) -> int:
    """The bytes of partitions that will have been dropped."""
    keep, grace = rules.keep, rules.expire.drop_after
    if keep is None or grace is None or rules.expire.how != "detach":
        return 0
    detached = grace.before(now + timedelta(days=DAYS), rules.timezone)
    edge = keep.before(detached, rules.timezone)
    return sum(one.bytes for one in filled if one.end <= edge)


def _per_day(filled: Sequence[_Filled], now: datetime) -> float | None:
    """By partitions that are full; else by the one of now, when it is old enough."""
    full = sorted((one for one in filled if one.end <= now), key=lambda one: one.end)
    begun = [one for one in filled if one.begin <= now - YOUNGEST and one.end > now]
    known = full[-MOST_LOOKED_AT:] or begun
    span = sum((min(one.end, now) - one.begin for one in known), timedelta())
    return sum(one.bytes for one in known) / (span / timedelta(days=1)) if known else None


def full_within(forecasts: Sequence[Forecast], free: int) -> int | None:
    """Within how many days these sets need more than what is free, 7 or 30; None: in none."""
    needed = sum(one.more for one in forecasts)
    if needed * SOON / DAYS > free:
        return SOON
    return DAYS if needed > free else None
