"""The rate at which just the allowed share is late, from counts made for a known one."""

import math
from datetime import timedelta

import pytest

from scaler.loadtest.boundary import boundary
from scaler.loadtest.evidence import Batch, Evidence, Objective

WITHIN = Objective(within=timedelta(milliseconds=200), share=0.01)
CAPACITY = 200.0


def counted(rate: float, seconds: int) -> Evidence:
    """Late as a service of CAPACITY would be, evenly."""
    due = round(rate)
    late = round(due * min(0.5, WITHIN.share * math.exp(30 * (rate / CAPACITY - 1))))
    return Evidence(rate, [Batch(due, late)] * seconds)


@pytest.mark.parametrize("about", [190.0, 200.0, 212.0])
def test_it_is_found_from_both_sides(about: float) -> None:
    points = [counted(rate, 60) for rate in (170, 190, 210, 230)]
    assert boundary(points, WITHIN, about).rate == pytest.approx(CAPACITY, rel=0.04)


def test_more_seconds_make_it_surer() -> None:
    short, long = ([counted(rate, n) for rate in (190, 210)] for n in (10, 200))
    assert boundary(long, WITHIN, 200).error < boundary(short, WITHIN, 200).error / 1.5


def test_clumps_make_it_less_sure() -> None:
    even = [counted(205, 60)]
    clumped = [Evidence(205, [Batch(205, 40), *[Batch(205, 0)] * 9] * 6)]
    assert boundary(clumped, WITHIN, 200).error > boundary(even, WITHIN, 200).error


def test_nothing_known_is_as_wide_as_it_looks() -> None:
    assert boundary([], WITHIN, 200).error > 0.1
