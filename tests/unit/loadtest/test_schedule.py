import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.errors import ConfigError
from scaler.loadtest import schedule
from scaler.loadtest.schedule import Piece, Schedule

RATES = st.one_of(st.just(0.0), st.floats(0.01, 400))
PIECES = st.lists(
    st.builds(Piece, seconds=st.floats(0.01, 8), first=RATES, last=RATES), min_size=1, max_size=6
)


@given(PIECES)
def test_there_are_as_many_requests_as_the_integral_of_the_rate(pieces: list[Piece]) -> None:
    made = Schedule(tuple(pieces))
    moments = list(made.moments())
    assert abs(len(moments) - made.requests) <= 1
    assert all(0 <= moment <= made.seconds + 1e-9 for moment in moments)
    assert all(before <= after + 1e-9 for before, after in pairwise(moments))


@given(PIECES, st.floats(0, 1))
def test_it_is_so_at_every_moment(pieces: list[Piece], share: float) -> None:
    made = Schedule(tuple(pieces))
    until = share * made.seconds
    due, begin = 0.0, 0.0
    for piece in pieces:
        inside = min(max(0.0, until - begin), piece.seconds)
        slope = (piece.last - piece.first) / piece.seconds
        due += piece.first * inside + slope * inside**2 / 2
        begin += piece.seconds
    assert abs(sum(moment <= until for moment in made.moments()) - due) <= 1 + 1e-6 * due


@given(PIECES, st.integers(1, 5), st.sampled_from([None, 1, 2]))
def test_workers_share_the_requests(pieces: list[Piece], workers: int, seed: int | None) -> None:
    made = Schedule(tuple(pieces), seed)
    shares = [list(made.moments(worker, workers)) for worker in range(workers)]
    assert sorted(sum(shares, [])) == sorted(made.moments())  # noqa: RUF017 - a few hundred
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_constant_arrivals_are_evenly_spaced() -> None:
    moments = list(Schedule(schedule.constant(4, 2)).moments())
    assert moments == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75])


def test_poisson_arrivals_have_the_mean_and_the_variance_of_their_rate() -> None:
    made = Schedule(schedule.constant(100, 1000), seed=3)
    per_second = [0] * 1000
    for moment in made.moments():
        per_second[int(moment)] += 1
    mean = sum(per_second) / 1000
    variance = sum((count - mean) ** 2 for count in per_second) / 1000
    assert mean == pytest.approx(100, rel=0.02)
    assert variance == pytest.approx(100, rel=0.2)


def test_stages_jump_where_they_take_no_time() -> None:
    made = Schedule(schedule.stages(0, [(100, 10), (100, 20), (500, 0), (500, 5)]))
    assert made.requests == 500 + 2000 + 2500
    assert [made.rate(at) for at in (-1, 0, 5, 10, 29.9, 30, 34.9, 35)] == [
        0, 0, 50, 100, 100, 500, 500, 0,
    ]  # fmt: skip


def test_a_wave_is_near_the_cosine() -> None:
    made = Schedule(schedule.wave(10, 110, 60, 90))
    assert made.requests == pytest.approx(60 * 60 + 30 * 60, rel=1e-3)
    for at in range(90):
        wanted = 60 - 50 * math.cos(2 * math.pi * at / 60)
        assert made.rate(at) == pytest.approx(wanted, abs=0.0013 * 100)


def test_a_trace_is_replayed_faster_and_larger() -> None:
    rows = schedule.read_trace(
        "timestamp,value\n2026-01-01T00:00:00Z,60\n2026-01-01T00:01Z,120\n", "t"
    )
    assert rows == [(0, 60), (60, 120)]
    made = Schedule(schedule.replay(rows, speed=60, scale=10))
    assert made.seconds == pytest.approx(2)
    assert [made.rate(0.5), made.rate(1.5)] == pytest.approx([10, 20])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "fewer than two rows", id="nothing"),
        pytest.param("1,2\n2,x\n", "t:2: is not a row", id="no number"),
        pytest.param("1,2\n2\n", "t:2: is not a row", id="no value"),
        pytest.param("1,2\n2,-1\n", "t:2: -1 is no number of requests", id="below zero"),
        pytest.param("1,2\n2,nan\n", "t:2: nan is no number of requests", id="not a number"),
        pytest.param("2,2\n1,1\n", "t:2: is not later", id="backwards"),
    ],
)
def test_a_broken_trace_is_refused_by_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule.read_trace(text, "t")


def test_too_many_waves_are_refused() -> None:
    with pytest.raises(ConfigError, match="waves are too many"):
        schedule.wave(1, 2, 0.001, 3600)
