"""How fast a walk over keys may go, and what it keeps of what it sees."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.clients.redis_scan import Chunk, Sum
from scaler.core.units import Per
from scaler.maintenance.cache_lap import (
    FEWEST,
    MOST_BIG,
    MOST_COUNT,
    MOST_EXAMPLES,
    MOST_GROUPS,
    Bucket,
    Lap,
    Pace,
)

MS = timedelta(milliseconds=1)


def chunk(cursor: int = 7, *, groups: tuple[Sum, ...] = (), **of: object) -> Chunk:
    plain = {"seen": 10, "outside": 1, "idle_known": True, "big": (), "no_ttl": (), "idle": (),
             "dead": (), "busy": None}  # fmt: skip
    return Chunk(cursor=cursor, groups=groups, **{**plain, **of})  # type: ignore[arg-type]


def part(name: str, keys: int = 1) -> Sum:
    return Sum(prefix="a:", name=name, version="", keys=keys, bytes=9, no_ttl=1, idle=0)


def test_what_takes_longer_than_a_step_is_halved_at_once_and_grows_slowly() -> None:
    pace = Pace(MS, share=0.5, empty=timedelta())
    start = pace.count
    assert pace.took(5 * MS, 2 * MS) == 2 * MS  # as long as the server has worked
    assert pace.count == start // 2
    pace.took(MS, 0.1 * MS)
    assert start // 2 < pace.count < start
    pace.took(MS, 0.8 * MS)
    assert pace.busy == 2.9 * MS


def test_without_a_word_of_the_server_the_time_beyond_an_empty_call_counts() -> None:
    pace = Pace(MS, share=0.05, empty=2 * MS)
    assert pace.took(3 * MS, None) == 19 * MS
    assert pace.took(MS, None) == timedelta()


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0.01, 1))
def test_a_pace_keeps_within_its_limits(taken_ms: list[float], share: float) -> None:
    pace = Pace(MS, share=share, empty=timedelta())
    paused = timedelta()
    for ms in taken_ms:
        paused += pace.took(ms * MS, ms * MS)
        assert FEWEST <= pace.count <= MOST_COUNT
    spent = pace.busy + paused
    assert pace.busy <= share * spent + timedelta(microseconds=len(taken_ms) + 1)


@pytest.mark.parametrize("keys", [1, 7, 50])
def test_a_bucket_keeps_its_rate(keys: int) -> None:
    bucket = Bucket(Per(500, timedelta(seconds=1)), most=100)
    now, changed = timedelta(), 0
    while now < timedelta(seconds=10):
        now += bucket.take(now, keys)
        changed += keys
    assert changed == pytest.approx(5_000, rel=0.02)


def test_a_bucket_saves_up_one_batch_at_most() -> None:
    bucket = Bucket(Per(500, timedelta(seconds=1)), most=100)
    assert bucket.batch == 50
    bucket.take(timedelta(), 50)
    hour = timedelta(hours=1)
    waits = [bucket.take(hour, 50) for _ in range(3)]
    assert waits == [timedelta(), timedelta(), timedelta(seconds=0.1)]


def test_a_lap_is_whole_when_it_has_begun_where_it_ends() -> None:
    whole, half = Lap(), Lap(cursor=5)
    for lap in (whole, half):
        lap.add(chunk(7), ("a:",))
        assert not lap.ended
        lap.add(chunk(0, idle_known=False), ("a:",))
    assert (whole.whole, half.whole, half.ended) == (True, False, True)
    assert (whole.seen, whole.outside, whole.idle_known) == (20, 2, False)


def test_what_a_lap_keeps_is_bounded() -> None:
    lap = Lap()
    for i in range(MOST_GROUPS + 50):
        big = ((f"a:{i}", "string", i),)
        names = (b"a:%d" % i,)
        lap.add(chunk(groups=(part(f"a:{i}:"),), big=big, no_ttl=names, idle=names), ("a:",))
    assert len(lap.groups) == MOST_GROUPS + 1
    assert sum(group.keys for group in lap.groups) == MOST_GROUPS + 50
    assert {g.keys for g in lap.groups if g.name == "a:(others)"} == {50}
    assert len(lap.big) == MOST_BIG
    assert lap.big[0].bytes == MOST_GROUPS + 49
    assert {len(names) for names in lap.examples.values()} == {MOST_EXAMPLES}
