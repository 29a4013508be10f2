"""The search, on stations whose capacity is known and on answers made up for it."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.errors import ConfigError
from scaler.loadtest.capacity import MOST_TRIALS, Found, Limits, Refused, Search, Trial
from scaler.loadtest.evidence import (
    Batch,
    Counts,
    Evidence,
    Objective,
    Verdict,
    grouped,
    objective_of,
)
from scaler.loadtest.station import Station, capacity_exponential, exponential, fixed

WITHIN = Objective(within=timedelta(milliseconds=200), share=0.01)


def searched(
    station: Station, objective: Objective = WITHIN, limits: Limits | None = None
) -> Found | Refused:
    search = Search(objective, limits or Limits())
    within = objective.within.total_seconds()
    while isinstance(trial := search.next(), Trial):
        search.took(trial, station.take(trial.rate, trial.seconds, within))
    return trial


def station(seed: int) -> Station:
    return Station(workers=4, service=exponential(0.02), random=Random(seed))


def test_it_comes_near_the_formula_and_stays_in_time() -> None:
    truth = capacity_exponential(4, 0.02, WITHIN)
    errors = []
    for seed in range(8):
        found = searched(station(seed))
        assert isinstance(found, Found)
        assert found.seconds <= 400
        assert found.low <= found.rate <= found.high
        errors.append(found.rate / truth - 1)
    assert max(errors) <= 0.05
    assert sum(map(abs, errors)) / len(errors) <= 0.05


@pytest.mark.parametrize(
    ("made", "objective", "limits", "because"),
    [
        pytest.param(
            station(1), replace(WITHIN, within=timedelta(milliseconds=10)), Limits(),
            "does not hold at the lowest rate", id="slow without load",
        ),
        pytest.param(
            station(1), WITHIN, Limits(highest=50), "still holds at 50/s", id="never too much"
        ),
        pytest.param(
            Station(workers=1, service=fixed(0.5)), replace(WITHIN, within=timedelta(seconds=2)),
            Limits(lowest=0.2, seconds=1500), "too few", id="too few requests for a p99",
        ),
        pytest.param(
            station(1), WITHIN, Limits(seconds=30), "were not enough", id="no time",
        ),
    ],
)  # fmt: skip
def test_it_refuses_with_a_reason(
    made: Station, objective: Objective, limits: Limits, because: str
) -> None:
    found = searched(made, objective, limits)
    assert isinstance(found, Refused)
    assert because in found.because


def answered(late_from: float, doubts: tuple[str, ...] = ()) -> Found | Refused:
    """A server that is late for everything from a rate on, with doubts there."""
    search = Search(WITHIN)
    while isinstance(trial := search.next(), Trial):
        due, over = int(trial.rate), trial.rate >= late_from
        batches = (Batch(due, due if over else 0),) * trial.seconds
        search.took(trial, Counts(batches=batches, doubts=doubts if over else ()))
    return trial


def test_a_sharp_limit_is_found_within_the_nearness() -> None:
    found = answered(500)
    assert isinstance(found, Found)
    assert 500 / 1.05 <= found.rate < 500 <= found.high


def test_a_generator_that_was_the_limit_is_not_taken_for_the_server() -> None:
    found = answered(500, ("it used 97 % of a core",))
    assert isinstance(found, Refused)
    assert "not to be trusted" in found.because
    assert "97 % of a core" in found.because


def test_noise_that_no_long_trial_agrees_with_is_refused() -> None:
    search = Search(WITHIN)
    while isinstance(trial := search.next(), Trial):
        late = 0 if trial.why != "confirming" and trial.rate < 300 else 30
        search.took(trial, Counts(batches=(Batch(int(trial.rate), late),) * trial.seconds))
    assert isinstance(trial, Refused)
    assert "noise is too large" in trial.because


def test_a_server_that_does_not_answer_is_refused() -> None:
    search = Search(WITHIN)
    trial = search.next()
    assert isinstance(trial, Trial)
    search.took(trial, Counts(batches=(), broken="connection refused"))
    refused = search.next()
    assert isinstance(refused, Refused)
    assert "connection refused" in refused.because


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_whatever_comes_back_it_ends_within_its_limits(seed: int) -> None:
    random, search = Random(seed), Search(WITHIN)
    while isinstance(trial := search.next(), Trial):
        batches = tuple(
            Batch(due, random.choice((0, 0, due // 90, due)))
            for due in (random.randrange(0, 100) for _ in range(trial.seconds))
        )
        search.took(trial, Counts(batches=batches))
        assert search.trials <= MOST_TRIALS
    assert search.spent <= search.limits.seconds
    assert search.next() is trial


@pytest.mark.parametrize(
    ("batches", "verdict"),
    [
        pytest.param([Batch(100, 0)] * 10, Verdict.HELD, id="none late of many"),
        pytest.param([Batch(10, 0)] * 10, Verdict.OPEN, id="none late of few"),
        pytest.param([Batch(100, 50)], Verdict.BROKEN, id="far beyond, at once"),
        pytest.param([Batch(4, 2)], Verdict.OPEN, id="two late ones are no proof"),
        pytest.param([Batch(100, 3)] * 10, Verdict.BROKEN, id="evenly beyond"),
        pytest.param([Batch(100, 30), *[Batch(100, 0)] * 14], Verdict.OPEN, id="one clump"),
        pytest.param([], Verdict.OPEN, id="nothing"),
    ],
)
def test_what_evidence_says(batches: list[Batch], verdict: Verdict) -> None:
    assert Evidence(100, list(batches)).judge(WITHIN) is verdict


def test_stretches_grow_with_what_there_is() -> None:
    assert len(grouped([Batch(1, 0)] * 7)) == 7
    assert len(grouped([Batch(1, 0)] * 60)) == 12
    assert grouped([Batch(3, 1)] * 40)[0] == Batch(15, 5)


def test_objectives_are_read_from_text() -> None:
    objective = objective_of("p99<250ms")
    assert objective == Objective(within=timedelta(milliseconds=250), share=0.01)
    assert str(objective) == "p99<250ms"
    for wrong in ("p99", "p99>1s", "errors<1%", "p99<1s, p50<1s", "service_p99<1s", "rate>5/s"):
        with pytest.raises(ConfigError, match="no objective"):
            objective_of(wrong)


def disturbed(often: int) -> Found | Refused:
    """A sharp limit at 500/s, and a generator that spoils the first trials of every rate."""
    search, spoilt = Search(WITHIN), dict[float, int]()
    while isinstance(trial := search.next(), Trial):
        due, seen = int(trial.rate), spoilt.setdefault(trial.rate, 0)
        spoilt[trial.rate] += 1
        wrong = seen < often
        batches = (Batch(due, due if wrong or trial.rate >= 500 else 0),) * trial.seconds
        search.took(trial, Counts(batches=batches, doubts=("it was late",) if wrong else ()))
    assert search.spent <= search.limits.seconds
    assert search.disturbed <= search.limits.seconds / 2
    return trial


def test_a_trial_that_the_generator_disturbed_is_repeated_and_told() -> None:
    found = disturbed(1)
    assert isinstance(found, Found)
    assert 450 < found.rate < 500
    assert "disturbed by the load generator" in found.because


def test_a_generator_that_is_always_late_is_refused_in_the_end() -> None:
    refused = disturbed(1000)
    assert isinstance(refused, Refused)
    assert "disturbed by the load generator" in refused.because


def test_without_time_to_confirm_all_trials_together_tell() -> None:
    truth = capacity_exponential(4, 0.02, WITHIN)
    found = searched(station(3), limits=Limits(seconds=150))
    assert isinstance(found, Found)
    assert "no time to confirm" in found.because
    assert found.rate == pytest.approx(truth, rel=0.15)


def test_many_requests_a_second_need_less_time() -> None:
    quick = searched(Station(workers=16, service=fixed(0.02)), limits=Limits(lowest=250))
    assert isinstance(quick, Found)
    assert quick.seconds < 200
