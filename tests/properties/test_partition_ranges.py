"""Ranges neither gap nor overlap, in every zone, for every interval and every kind of key."""

import os
import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance import partition_ranges
from scaler.maintenance.partition_ranges import (
    HIGHEST,
    LOWEST,
    Age,
    Bounds,
    Interval,
    Key,
    KeyKind,
    Unit,
)

ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Sao_Paulo",  # midnight was left out
        "America/Havana",  # midnight comes twice
        "Asia/Beirut",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",  # half an hour
        "Pacific/Apia",  # left out 2011-12-30
        "Africa/Casablanca",
    )
]
INTERVALS = [*(Interval(unit) for unit in Unit), Interval(Unit.DAY, 10), Interval(Unit.DAY, 366)]
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
intervals, zones = st.sampled_from(INTERVALS), st.sampled_from(ZONES)
kinds = st.sampled_from(list(KeyKind))
month, day = Interval(Unit.MONTH), Interval(Unit.DAY)


@given(intervals, zones, moments, st.integers(0, 40))
def test_ranges_neither_gap_nor_overlap(
    interval: Interval, zone: ZoneInfo, moment: datetime, ahead: int
) -> None:
    found = partition_ranges.upcoming(interval, zone, moment, ahead)
    assert found[0].begin <= moment < found[0].end
    assert len(found) == ahead + 1
    for one, other in pairwise(found):
        assert one.begin < one.end == other.begin
        assert one.since < one.until == other.since


@given(intervals, zones, kinds, moments, st.integers(0, 40))
def test_nor_do_their_bounds_on_any_scale(
    interval: Interval, zone: ZoneInfo, kind: KeyKind, moment: datetime, ahead: int
) -> None:
    key = Key(kind, zone)
    moment = max(moment, datetime(1971, 1, 1, tzinfo=UTC))  # UUIDs begin in 1970
    bounds = [key.bounds(one) for one in partition_ranges.upcoming(interval, zone, moment, ahead)]
    for one, other in pairwise(bounds):
        assert one.lower < one.upper == other.lower


@given(intervals, zones, moments, st.integers(0, 10**8))
def test_the_range_of_a_moment_is_the_same_from_wherever_it_is_counted(
    interval: Interval, zone: ZoneInfo, moment: datetime, later: int
) -> None:
    then = moment + timedelta(seconds=later)
    counted = partition_ranges.ranges(interval, zone, moment, then + timedelta(microseconds=1))
    assert counted[-1] == partition_ranges.containing(interval, zone, then)


@given(intervals, zones, kinds, moments)
def test_what_is_written_is_read_again(
    interval: Interval, zone: ZoneInfo, kind: KeyKind, moment: datetime
) -> None:
    key = Key(kind, zone)
    moment = max(moment, datetime(1971, 1, 1, tzinfo=UTC))
    bounds = key.bounds(partition_ranges.containing(interval, zone, moment))
    lower, upper = key.literal(bounds.lower), key.literal(bounds.upper)
    text = f"FOR VALUES FROM ('{lower}') TO ('{upper}')"
    assert partition_ranges.bounds_of(key, text) == bounds


@given(zones, kinds, moments)
def test_a_value_lies_in_the_bounds_of_its_moment(
    zone: ZoneInfo, kind: KeyKind, moment: datetime
) -> None:
    key = Key(kind, zone)
    moment = max(moment, datetime(1971, 1, 1, tzinfo=UTC))
    there = key.moment(key.at(moment))
    assert abs(there - moment) < timedelta(days=2)
    if kind is KeyKind.TIMESTAMPTZ:
        assert there == moment


@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 9)), max_size=6))
def test_what_is_covered_and_what_is_not_make_the_whole(parts: list[tuple[int, int]]) -> None:
    covered = [Bounds(lower, lower + length) for lower, length in parts]
    holes = partition_ranges.uncovered(Bounds(-15, 15), covered)
    for point in range(-15, 15):
        in_holes = sum(hole.lower <= point < hole.upper for hole in holes)
        in_others = any(other.lower <= point < other.upper for other in covered)
        assert in_holes == (not in_others)


@pytest.mark.parametrize(
    ("zone", "first", "hours"),
    [
        pytest.param("Europe/Berlin", date(2026, 3, 29), 23, id="a spring day of 23 hours"),
        pytest.param("Europe/Berlin", date(2026, 10, 25), 25, id="an autumn day of 25 hours"),
        pytest.param("America/Sao_Paulo", date(2018, 11, 4), 23, id="midnight is left out"),
        pytest.param("America/Havana", date(2026, 11, 1), 25, id="midnight comes twice"),
        pytest.param("Australia/Lord_Howe", date(2026, 4, 5), 24.5, id="half an hour more"),
        pytest.param("UTC", date(2028, 2, 29), 24, id="a leap day"),
        pytest.param("UTC", date(2038, 1, 19), 24, id="32 bits end"),
        pytest.param("UTC", date(2100, 2, 28), 24, id="no leap year"),
    ],
)
def test_days(zone: str, first: date, hours: float) -> None:
    noon = datetime(first.year, first.month, first.day, 12, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = partition_ranges.containing(day, ZoneInfo(zone), noon)
    assert (found.since, found.until) == (first, first + timedelta(days=1))
    assert found.end - found.begin == timedelta(hours=hours)


def test_clocks_that_jump_over_midnight_begin_the_day_when_it_would_have_begun() -> None:
    zone = ZoneInfo("America/Toronto")  # from 23:30 to 00:30
    moment = datetime(1919, 3, 31, 4, 45, tzinfo=UTC)
    found = partition_ranges.containing(day, zone, moment)
    assert found.begin <= moment < found.end
    assert found.since == date(1919, 3, 30)


def test_a_day_that_a_zone_left_out_has_no_range() -> None:
    zone = ZoneInfo("Pacific/Apia")
    found = partition_ranges.upcoming(day, zone, datetime(2011, 12, 30, tzinfo=UTC), 1)
    assert [one.since for one in found] == [date(2011, 12, 29), date(2011, 12, 31)]
    dates = Key(KeyKind.DATE, zone)
    assert dates.bounds(found[0]).upper == dates.bounds(found[1]).lower


def test_the_zone_of_this_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=UTC)
    before = partition_ranges.upcoming(month, ZONES[1], noon, 5)
    monkeypatch.setitem(os.environ, "TZ", "America/New_York")
    time.tzset()
    try:
        assert partition_ranges.upcoming(month, ZONES[1], noon, 5) == before
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("interval", "name"),
    [
        (Interval(Unit.DAY), "t_2026_01_01"),
        (Interval(Unit.DAY, 10), "t_2026_01_01"),
        (Interval(Unit.WEEK), "t_2026_w01"),
        (Interval(Unit.MONTH), "t_2026_01"),
        (Interval(Unit.QUARTER), "t_2026_q1"),
        (Interval(Unit.YEAR), "t_2026"),
    ],
)
def test_names(interval: Interval, name: str) -> None:
    suffix = partition_ranges.suffix(interval, date(2026, 1, 1))
    assert partition_ranges.called("t", suffix) == name


def test_a_week_belongs_to_the_year_of_its_thursday() -> None:
    assert partition_ranges.suffix(Interval(Unit.WEEK), date(2024, 12, 30)) == "2025_w01"


def test_long_names_stay_different() -> None:
    names = {
        partition_ranges.called("ü" * 25 + "t" * 12 + end, "2026_03_01") for end in ("", "a", "b")
    }
    assert len(names) == 3
    assert all(len(name.encode()) <= 63 for name in names)


@pytest.mark.parametrize(
    ("age", "moment", "before"),
    [
        (Age(1, Unit.MONTH), datetime(2026, 3, 31, 8), datetime(2026, 2, 28, 8)),
        (Age(24, Unit.MONTH), datetime(2028, 2, 29), datetime(2026, 2, 28)),
        (Age(2, Unit.WEEK), datetime(2026, 1, 5), datetime(2025, 12, 22)),
        (Age(1, Unit.QUARTER), datetime(2026, 1, 31), datetime(2025, 10, 31)),
        (Age(9999, Unit.YEAR), datetime(2026, 1, 31), datetime(1, 1, 1)),
    ],
)
def test_ages(age: Age, moment: datetime, before: datetime) -> None:
    found = age.before(moment.replace(tzinfo=UTC), ZONES[0])
    assert found == before.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "kind", "lower", "upper"),
    [
        (
            "FROM (MINVALUE) TO ('2026-01-01 05:30:00+05:30')",
            "timestamptz",
            LOWEST,
            1767225600 * 10**6,
        ),
        ("FROM ('-infinity') TO ('infinity')", "date", LOWEST + 1, HIGHEST - 1),
        ("FROM ('0044-03-15 00:00:00 BC') TO (MAXVALUE)", "timestamp", LOWEST + 2, HIGHEST),
        ("FROM ('1') TO ('12026')", "epoch s", 1, 12026),
    ],
)
def test_bounds_of_the_catalogue(text: str, kind: str, lower: int, upper: int) -> None:
    key = Key(KeyKind(kind), ZONES[0])
    assert partition_ranges.bounds_of(key, f"FOR VALUES {text}") == Bounds(lower, upper)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("FOR VALUES IN ('a', 'b')", "timestamptz"),
        ("FOR VALUES FROM ('a', 'b') TO ('c', 'd')", "timestamptz"),
        ("FOR VALUES WITH (modulus 2, remainder 0)", "epoch s"),
        ("FOR VALUES FROM ('2026-01-01 00:00:00') TO (MAXVALUE)", "timestamptz"),
    ],
)
def test_other_bounds_are_no_range(text: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        partition_ranges.bounds_of(Key(KeyKind(kind), ZONES[0]), text)
