"""When the copy of a live table waits, when it stops, and what is compared together."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from scaler.maintenance import partition_split as split
from scaler.maintenance import partition_verify as verify
from scaler.maintenance.partition_ranges import KeyKind
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_shape import Piece, Shape, shape
from scaler.maintenance.partition_split import Strain
from scaler.maintenance.partition_table import FACTS, Facts, Span

SECOND = timedelta(seconds=1)
EMPTY = ("indexes", "checks", "references", "referenced_by", "triggers", "sequences", "views",
         "dependants", "policies", "grants", "publications", "options")  # fmt: skip


def facts() -> Facts:
    column = {"type": "timestamp with time zone", "notnull": True, "identity": ""}
    return FACTS.validate_python(
        {
            **{key: [] for key in EMPTY},
            **dict.fromkeys(("inherits", "rules", "row_security", "force_row_security"), False),
            **dict.fromkeys(("mine", "creates_here", "creates_schema"), True),
            "oid": 1,
            "schema": "public",
            "table": "t",
            "kind": "r",
            "persistence": "p",
            "owner": "me",
            "key": "at",
            "replica_identity": "d",
            "tablespace": None,
            "comment": None,
            "bytes": 8192,
            "rows": 1.0,
            "dead": 0.0,
            "version": 15,
            "longest": None,
            "longest_by": None,
            "columns": [{"name": "at", "generated": False, **column}],
        }
    )


def made(now: datetime, highest: datetime | None = None) -> Shape:
    wish = PartitionSet.model_validate({"table": "t", "by": "at", "every": "1 month"})
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    micro = timedelta(microseconds=1)
    low = (datetime(2026, 3, 31, tzinfo=UTC) - epoch) // micro
    span = Span(lowest=low, highest=None if highest is None else (highest - epoch) // micro)
    return shape(wish, KeyKind.TIMESTAMPTZ, facts(), span, now)


def test_the_old_table_takes_what_is_before_the_next_range() -> None:
    form = made(datetime(2026, 5, 20, tzinfo=UTC))
    assert form.upto == "2026-06-01 00:00:00+00"
    assert [piece.name for piece in form.pieces] == [
        "t_before", "t_2026_03", "t_2026_04", "t_2026_05",
    ]  # fmt: skip
    assert [piece.name for piece in form.upcoming] == ["t_2026_06", "t_2026_07", "t_2026_08"]
    assert form.pieces[0].lower is None
    assert form.pieces[0].upper == form.pieces[1].lower


@pytest.mark.parametrize(
    ("now", "highest"),
    [
        pytest.param(datetime(2026, 5, 31, 12, tzinfo=UTC), None, id="the range ends today"),
        pytest.param(
            datetime(2026, 5, 2, tzinfo=UTC), datetime(2026, 6, 9, tzinfo=UTC), id="rows ahead"
        ),
    ],
)
def test_no_writer_of_today_meets_the_end_of_the_old_table(
    now: datetime, highest: datetime | None
) -> None:
    assert made(now, highest).upto == "2026-07-01 00:00:00+00"


@pytest.mark.parametrize(
    ("strain", "pause"),
    [
        pytest.param(Strain(), timedelta(), id="nothing is known, nothing waits"),
        pytest.param(Strain(wal_per_s=20e6), timedelta(), id="just as much as is allowed"),
        pytest.param(Strain(wal_per_s=40e6), SECOND, id="twice as much rests as long as it ran"),
        pytest.param(Strain(wal_per_s=1e12), split.LONGEST_BREATH, id="a rest has an end"),
        pytest.param(Strain(replica_lag=6 * SECOND), split.BREATHER, id="a replica is behind"),
        pytest.param(Strain(busy="web is above its goal"), split.BREATHER, id="a service suffers"),
    ],
)
def test_breather(strain: Strain, pause: timedelta) -> None:
    found, why = split.breather(strain, SECOND, wal_per_s=20e6, replica_lag=5 * SECOND)
    assert found == pause
    assert bool(why) == bool(pause)


def test_the_disk_has_to_hold_the_second_copy() -> None:
    assert split.room(Strain(needed_bytes=100), 2.0) == ""
    assert split.room(Strain(free_bytes=100, needed_bytes=100), 2.0) == ""
    assert "are needed" in split.room(Strain(free_bytes=99, needed_bytes=100), 2.0)


def test_a_range_that_neither_side_has_is_the_same_and_a_missing_copy_is_not() -> None:
    form = made(datetime(2026, 5, 20, tzinfo=UTC))
    rows = [(1, "old", 2, Decimal(7)), (1, "copy", 2, Decimal(7)), (2, "old", 1, Decimal(3))]
    found = verify.answered(form, form.pieces, rows)
    assert [one.same for one in found] == [True, True, False, True]


def test_without_an_index_on_the_key_the_old_table_is_read_once() -> None:
    form = made(datetime(2026, 5, 20, tzinfo=UTC))
    assert verify.together(facts(), form) == (form.pieces,)
    assert isinstance(form.pieces[0], Piece)


def test_rows_of_several_pieces_of_one_table_are_counted_together() -> None:
    """As those that stay in DEFAULT before, between and after the ranges that get their own."""
    pieces = (
        Piece(name="rest", lower=None, upper="2026-03-01"),
        Piece(name="march", lower="2026-03-01", upper="2026-04-01"),
        Piece(name="rest", lower="2026-04-01", upper=None),
    )
    form = replace(made(datetime(2026, 5, 20, tzinfo=UTC)), pieces=pieces)
    assert form.tables() == ("rest", "march")
    rows = [(0, "old", 2, Decimal(5)), (2, "old", 1, Decimal(-9)), (1, "old", 4, Decimal(7)),
            (0, "copy", 3, Decimal(-4)), (1, "copy", 4, Decimal(8))]  # fmt: skip
    rest, march = verify.answered(form, pieces, rows)
    assert (rest.piece, rest.rows, rest.copied, rest.same) == ("rest", 3, 3, True)
    assert (march.piece, march.rows, march.same) == ("march", 4, False)
    assert verify.together(facts(), form) == (pieces,)
