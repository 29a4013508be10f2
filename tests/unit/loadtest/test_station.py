"""Stations against the formulas for them."""

from datetime import timedelta
from random import Random

import pytest

from scaler.loadtest import station
from scaler.loadtest.evidence import Counts, Objective
from scaler.loadtest.station import Draw, Pauses, Station

WITHIN = Objective(within=timedelta(milliseconds=200), share=0.01)


def share(counts: Counts) -> float:
    batches = counts.batches
    return sum(b.late for b in batches) / sum(b.due for b in batches)


@pytest.mark.parametrize(("workers", "rate"), [(1, 40.0), (4, 185.0), (16, 760.0)])
def test_late_requests_are_as_many_as_the_formula_says(workers: int, rate: float) -> None:
    made = Station(workers=workers, service=station.exponential(0.02), random=Random(3))
    found = share(made.take(rate, 900, 0.1))
    said = station.late_exponential(rate, workers, 0.02, 0.1)
    assert found == pytest.approx(said, rel=0.3)


def test_one_worker_is_the_simple_formula() -> None:
    """M/M/1: the time in the system is exponential with rate mu - lambda."""
    assert station.late_exponential(40, 1, 0.02, 0.1) == pytest.approx(2.718281828**-1)
    assert station.late_exponential(50, 1, 0.02, 0.1) == 1.0


def test_capacity_by_formula_and_by_simulation_agree() -> None:
    said = station.capacity_exponential(4, 0.02, WITHIN)
    found = station.capacity_simulated(
        lambda: Station(workers=4, service=station.exponential(0.02), random=Random(5)),
        WITHIN, most=200, seconds=600,
    )  # fmt: skip
    assert found == pytest.approx(said, rel=0.03)


@pytest.mark.parametrize(
    "draw", [station.exponential(0.02), station.fixed(0.02), station.lognormal(0.02, 1.0)]
)
def test_services_have_their_mean(draw: Draw) -> None:
    random = Random(7)
    assert sum(draw(random) for _ in range(50_000)) / 50_000 == pytest.approx(0.02, rel=0.05)


def test_pauses_and_a_cold_start_make_requests_late() -> None:
    def made(**more: object) -> Station:
        return Station(workers=4, service=station.fixed(0.02), random=Random(1), **more)  # type: ignore[arg-type]

    calm = share(made().take(100, 60, 0.2))
    assert calm == 0
    assert share(made(pauses=Pauses(every=5, last=0.5)).take(100, 60, 0.2)) > 0.02
    cold = made(cold=10)
    assert share(cold.take(100, 10, 0.2)) > 0.5
    assert share(cold.take(100, 10, 0.2)) == 0


def test_a_trial_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        Station(workers=1, service=station.fixed(0.1)).take(1e9, 10, 1)
