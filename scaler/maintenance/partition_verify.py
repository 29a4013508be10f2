"""Whether copies are the same as what they were copied from: counts, and a hash without an order.

The hash of a set of rows is the sum of `hashtextextended` over the text of each. Old and new are
read by one statement, so by one snapshot, and are equal at every moment while the trigger keeps
them in step: it can be compared while all write on.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from scaler.clients.postgres import Part, Row, Statement, listed, name, phrase, value
from scaler.maintenance.partition_shape import Piece, Shape
from scaler.maintenance.partition_split import piece_of
from scaler.maintenance.partition_table import Facts

NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One range of the old table and its copy."""

    piece: str
    rows: int
    copied: int
    hash: Decimal
    copied_hash: Decimal

    @property
    def same(self) -> bool:
        return self.rows == self.copied and self.hash == self.copied_hash


def comparison(facts: Facts, form: Shape, pieces: Sequence[Piece]) -> Statement:
    """One statement for neighbouring ranges; answers which, whether old or copied, count, hash."""
    key, first, last = name(facts.key), pieces[0].lower, pieces[-1].upper
    bounds = [phrase("true")]
    if first is not None:
        bounds.append(phrase("x.{} >= {}", key, value(first)))
    if last is not None:
        bounds.append(phrase("x.{} < {}", key, value(last)))
    old = phrase(
        "SELECT {}, 'old', count(*), sum({}) FROM ONLY {} x WHERE {} GROUP BY 1",
        piece_of(facts, form, phrase("x")),
        _hash(facts),
        name(facts.schema, form.history),
        listed(bounds, " AND "),
    )
    copies = {
        piece.name: phrase(
            "SELECT {}::int, 'copy', count(*), coalesce(sum({}), 0) FROM ONLY {} x",
            value(form.pieces.index(piece)),
            _hash(facts),
            name(facts.schema, piece.name),
        )
        for piece in pieces
    }
    return listed([old, *copies.values()], " UNION ALL ")


def _hash(facts: Facts) -> Part:
    fields = listed([phrase("x.{}", name(column.name)) for column in facts.columns])
    return phrase("hashtextextended(ROW({})::text, 0)::numeric", fields)


def answered(form: Shape, pieces: Sequence[Piece], rows: Sequence[Row]) -> tuple[Compared, ...]:
    """What the statement of `comparison` found, per table."""
    counts: Counter[tuple[str, str]] = Counter()
    hashes: dict[tuple[str, str], Decimal] = {}
    for place, side, count, hashed in rows:
        where = (form.pieces[place].name, side)
        counts[where] += count
        hashes[where] = hashes.get(where, NOTHING) + hashed

    def one(table: str) -> Compared:
        old, copy = (table, "old"), (table, "copy")
        return Compared(
            piece=table,
            rows=counts[old],
            copied=counts[copy],
            hash=hashes.get(old, NOTHING),
            copied_hash=hashes.get(copy, NOTHING),
        )

    return tuple(one(table) for table in dict.fromkeys(piece.name for piece in pieces))


def together(facts: Facts, form: Shape) -> tuple[tuple[Piece, ...], ...]:
    """Which ranges are compared by one statement: each alone with an index on the key, else all."""
    indexed = any(i.columns[:1] == (facts.key,) and not i.partial for i in facts.indexes)
    alone = indexed and form.pieces[-1].upper is not None
    return tuple((piece,) for piece in form.pieces) if alone else (form.pieces,)
