"""What a table is to become, decided once, and the words of SQL that follow from it.

Pure: a `Shape` says where the ranges lie and what everything is called, a `Step` what is done
together and why.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Final

from scaler.clients.postgres import Part, Statement, given, listed, name, phrase, value
from scaler.maintenance.partition_ranges import (
    Key,
    KeyKind,
    Range,
    called,
    containing,
    ranges,
    starting,
    suffix,
)
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_table import Facts, Index, Span

LEEWAY: Final = timedelta(days=1)  # before the end of a range the next one still goes to the old


class Way(StrEnum):
    """How the statements of a step run."""

    TOGETHER = "together"  # one transaction with short waits for locks
    ALONE = "alone"  # each by itself, as CONCURRENTLY insists on
    SWAP = "swap"  # together, and the plans of declared queries are compared before it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What belongs together, and why it is done."""

    name: str
    statements: tuple[Statement, ...]
    because: str
    way: Way = Way.TOGETHER
    unless: Statement | None = None  # asks whether it is done already


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A partition to be; edges are literals of the key, None where it is open.

    Without an upper edge it takes what none before takes, rows without a key as well.
    """

    name: str
    lower: str | None
    upper: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is decided once, when a conversion begins, and kept with its notes."""

    kind: KeyKind
    upto: str  # the old table takes the keys below this
    history: str  # what it is called afterwards
    beside: str  # what the partitioned table is called until then, and after an undo
    check: str
    unique: str  # the index over `identity`; empty when the primary key holds the key already
    identity: tuple[str, ...]  # what tells a row from others in the partitioned table
    upcoming: tuple[Piece, ...]
    pieces: tuple[Piece, ...]  # what the history is split into, without a gap; names may repeat

    def tables(self) -> tuple[str, ...]:
        """What the pieces are, each once."""
        return tuple(dict.fromkeys(piece.name for piece in self.pieces))

    def edges(self) -> Part:
        """Where the next piece begins: an array, for `width_bucket`."""
        return listed([value(piece.upper) for piece in self.pieces if piece.upper is not None])

    def names(self) -> tuple[str, ...]:
        """What must not exist yet."""
        made = (*self.upcoming, *self.pieces)
        return (self.history, self.beside, *(p.name for p in made), *filter(None, (self.unique,)))


def shape(wish: PartitionSet, kind: KeyKind, facts: Facts, span: Span, now: datetime) -> Shape:
    """Where the ranges lie. A row without a key, or beyond a year ahead, is the preflight's.

    Raises:
        ValueError: the rows lie too far apart for such ranges.
    """
    key = Key(kind, wish.timezone)
    newest = now + LEEWAY if span.highest is None else max(now + LEEWAY, key.moment(span.highest))
    last = containing(wish.every, wish.timezone, newest)
    oldest = now if span.lowest is None else min(now, key.moment(span.lowest))
    old = ranges(wish.every, wish.timezone, oldest, last.end)
    coming = tuple(islice(starting(wish.every, wish.timezone, last.end), wish.ahead))
    table = facts.table
    first = key.literal(key.bounds(old[0]).lower)

    def piece(one: Range) -> Piece:
        bounds = key.bounds(one)
        return Piece(
            name=called(table, suffix(wish.every, one.since)),
            lower=key.literal(bounds.lower),
            upper=key.literal(bounds.upper),
        )

    identity = facts.identity
    extra = bool(identity) and facts.key not in identity
    return Shape(
        kind=kind,
        upto=key.literal(key.bounds(last).upper),
        history=called(table, "history"),
        beside=called(table, "scaler_new"),
        check=called(table, "scaler_range"),
        unique=called(table, "scaler_key") if extra else "",
        identity=(*identity, facts.key) if extra else identity,
        upcoming=tuple(piece(one) for one in coming),
        pieces=(
            Piece(name=called(table, "before"), lower=None, upper=first),
            *(piece(one) for one in old),
        ),
    )


def within(column: Part, lower: str | None, upper: str | None) -> Part:
    """The condition that holds for every row of a range."""
    if upper is None:
        return phrase("({k} < {l}) IS NOT TRUE", k=column, l=value(lower))
    below = phrase("{k} IS NOT NULL AND {k} < {u}", k=column, u=value(upper))
    if lower is None:
        return below
    return phrase(
        "{k} IS NOT NULL AND {k} >= {l} AND {k} < {u}", k=column, l=value(lower), u=value(upper)
    )


def bounded(lower: str | None, upper: str | None) -> Part:
    """FOR VALUES ..."""
    begin = phrase("MINVALUE") if lower is None else value(lower)
    return phrase("FOR VALUES FROM ({}) TO ({})", begin, value(upper))


def with_options(facts: Facts) -> Part:
    """The storage options of the old table; the partitioned one cannot have any."""
    if not facts.options:
        return phrase("")
    return phrase(" WITH ({})", listed([given(option) for option in facts.options]))


def columns(names: tuple[str, ...]) -> Part:
    return listed([name(one) for one in names])


def written_columns(facts: Facts) -> tuple[str, ...]:
    """Those that an INSERT names: not the generated ones."""
    return tuple(c.name for c in facts.columns if not c.generated)


def valid_index(schema: str, index: str) -> Statement:
    """Asks whether there is such an index and it can be used."""
    return phrase(
        "SELECT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass({})),"
        " false)",
        value(name(schema, index).as_string(None)),
    )


def over_all(index: Index, table: Part, named: str) -> Statement:
    """The same index on another table."""
    if index.promise:
        return phrase(
            "ALTER TABLE {} ADD CONSTRAINT {} {}", table, name(named), given(index.promise)
        )
    unique = phrase("UNIQUE ") if index.unique else phrase("")
    return phrase(
        "CREATE {}INDEX {} ON {} USING {}", unique, name(named), table, given(index.using)
    )
