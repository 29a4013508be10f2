"""Whether copies are the same as what they were copied from: counts, and a hash without an order.

The hash of a set of rows is the sum of `hashtextextended` over the text of each. Old and new are
read by one statement, so by one snapshot, and are equal at every moment while the trigger keeps
them in step: it can be compared while all write on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from scaler.clients.postgres import Part, Row, Statement, given, listed, name, phrase, value
from scaler.maintenance.partition_shape import Piece, Shape
from scaler.maintenance.partition_table import Facts


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
    column = facts.key_column
    edges = phrase(
        "ARRAY[{}]::{}[]",
        listed([value(piece.upper) for piece in form.pieces]),
        given(column.type if column else "text"),
    )
    key = name(facts.key)
    bounds = phrase("x.{} < {}", key, value(pieces[-1].upper))
    if pieces[0].lower is not None:
        bounds = phrase("{} AND x.{} >= {}", bounds, key, value(pieces[0].lower))
    old = phrase(
        "SELECT width_bucket(x.{}, {}), 'old', count(*), sum({}) FROM ONLY {} x WHERE {}"
        " GROUP BY 1",
        key,
        edges,
        _hash(facts),
        name(facts.schema, form.history),
        bounds,
    )
    copies = [
        phrase(
            "SELECT {}::int, 'copy', count(*), coalesce(sum({}), 0) FROM ONLY {} x",
            value(form.pieces.index(piece)),
            _hash(facts),
            name(facts.schema, piece.name),
        )
        for piece in pieces
    ]
    return listed([old, *copies], " UNION ALL ")


def _hash(facts: Facts) -> Part:
    fields = listed([phrase("x.{}", name(column.name)) for column in facts.columns])
    return phrase("hashtextextended(ROW({})::text, 0)::numeric", fields)


def answered(form: Shape, pieces: Sequence[Piece], rows: Sequence[Row]) -> tuple[Compared, ...]:
    """What the statement of `comparison` found, per range."""
    found = {(place, side): (count, hashed) for place, side, count, hashed in rows}
    nothing = (0, Decimal(0))

    def one(piece: Piece) -> Compared:
        place = form.pieces.index(piece)
        old, copy = found.get((place, "old"), nothing), found.get((place, "copy"), nothing)
        return Compared(
            piece=piece.name, rows=old[0], copied=copy[0], hash=old[1], copied_hash=copy[1]
        )

    return tuple(one(piece) for piece in pieces)


def together(facts: Facts, form: Shape) -> tuple[tuple[Piece, ...], ...]:
    """Which ranges are compared by one statement: each alone with an index on the key, else all."""
    indexed = any(i.columns[:1] == (facts.key,) and not i.partial for i in facts.indexes)
    return tuple((piece,) for piece in form.pieces) if indexed else (form.pieces,)
