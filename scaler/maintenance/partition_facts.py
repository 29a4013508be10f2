"""What is known of a partition set when its plan is made, and the mark that remembers the rest.

A mark is the first line of the comment of a table that we detach, so that what a run began is
known to the next one, wherever that runs. What a person wrote in the comment stays below it.
"""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from scaler.maintenance.partition_ranges import Bounds, Range

PREFIX: Final = "scaler "
_MOMENTS: Final = ("retired", "detached", "archived", "drained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What we have done with a table, in its own comment."""

    of: str  # the partitioned table, as in public.transactions
    bound: str = ""  # what it covered, in the words of the catalogue
    retired: datetime | None = None  # when we began to detach it
    detached: datetime | None = None  # when it was seen detached
    archived: datetime | None = None  # when the archive command had succeeded
    drained: datetime | None = None  # a DEFAULT partition whose rows have all been copied out
    ours: bool = False  # made by us with bounds that are on no boundary

    def written(self, comment: str | None) -> str:
        """The comment with this mark in place of the one it has."""
        plain: dict[str, Any] = {"of": self.of}
        if self.bound:
            plain["bound"] = self.bound
        if self.ours:
            plain["ours"] = True
        for field in _MOMENTS:
            if (moment := getattr(self, field)) is not None:
                plain[field] = moment.astimezone(UTC).isoformat(timespec="seconds")
        rest = unmarked(comment)
        return PREFIX + json.dumps(plain) + (f"\n{rest}" if rest else "")

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)


def mark_in(comment: str | None) -> Mark | None:
    """The mark in a comment; None when there is none that can be read."""
    line = (comment or "").partition("\n")[0]
    if not line.startswith(PREFIX):
        return None
    try:
        plain = json.loads(line.removeprefix(PREFIX))
        moments = {f: datetime.fromisoformat(plain[f]) for f in _MOMENTS if f in plain}
        return Mark(
            of=str(plain["of"]),
            bound=str(plain.get("bound", "")),
            ours=plain.get("ours") is True,
            **moments,
        )
    except (ValueError, KeyError, TypeError):
        return None


def unmarked(comment: str | None) -> str:
    """What a person wrote in the comment."""
    if not (comment or "").startswith(PREFIX):
        return comment or ""
    return (comment or "").partition("\n")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One attached partition; the DEFAULT one has no bounds."""

    schema: str
    name: str
    bound: str  # as the catalogue writes it
    bounds: Bounds | None = None
    odd: str = ""  # why it is none of the ranges we know: "sub-partitioned", "a foreign table"
    owned: bool = True
    pending: bool = False  # a DETACH CONCURRENTLY has not been finished
    rows: int = 0  # as statistics have it
    bytes: int = 0  # with indexes, as the last VACUUM or ANALYZE saw it
    comment: str | None = None

    @property
    def mark(self) -> Mark | None:
        return mark_in(self.comment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached:
    """A table that carries our mark and is no partition any more."""

    schema: str
    name: str
    mark: Mark
    comment: str | None = None
    owned: bool = True
    views: tuple[str, ...] = ()  # and whatever else is built on it
    foreign_keys: tuple[str, ...] = ()  # tables that refer to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Astray:
    """Rows in the DEFAULT partition that belong into one range."""

    range: Range
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A table as it is. `missing` says why nothing else is known."""

    table: str
    missing: str = ""
    type: str = ""  # of the key column, as in `timestamp with time zone`
    owner: str = ""
    user: str = ""  # who we are
    owned: bool = True  # by us, or by a role that we are a member of
    may_create: bool = True  # in its schema
    partitions: tuple[Partition, ...] = ()
    detached: tuple[Detached, ...] = ()
    names: frozenset[str] = frozenset()  # taken in the schema, with the same beginning
    identity: str = "d"  # what of a row replication sends: default, full, nothing, by an index
    concurrently: bool = True  # whether the server can detach without holding others up
    unique: bool = True  # whether a unique key tells one row from another
    referrers: tuple[str, ...] = ()  # tables with foreign keys to this one
    publications: tuple[str, ...] = ()  # that send changes under the names of partitions
    astray: tuple[Astray, ...] = ()
    strays: int = 0  # rows of the DEFAULT partition that belong into no range we would create
    free: int | None = None  # bytes on the disk of the server, when that is this machine's

    @property
    def default(self) -> Partition | None:
        return next((p for p in self.partitions if p.bound == "DEFAULT"), None)
