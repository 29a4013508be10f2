"""The law of scalability, on points made from it."""

from random import Random

import pytest

from scaler.loadtest.usl import Law, NotIdentified, fit


def curve(n: int, contention: float, coherency: float) -> float:
    return 100 * n / (1 + contention * (n - 1) + coherency * n * (n - 1))


@pytest.mark.parametrize(
    ("contention", "coherency"), [(0.0, 0.0), (0.05, 0.0), (0.05, 0.002), (0.0, 0.01)]
)
def test_it_finds_what_the_points_were_made_with(contention: float, coherency: float) -> None:
    law = fit([(n, curve(n, contention, coherency)) for n in (1, 2, 4, 8, 16)])
    assert isinstance(law, Law)
    assert law.one == pytest.approx(100)
    assert law.contention == pytest.approx(contention, abs=1e-6)
    assert law.coherency == pytest.approx(coherency, abs=1e-6)
    assert law.capacity(8) == pytest.approx(curve(8, contention, coherency))
    assert law.unsure is None


def test_its_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        random = Random(seed)
        noisy = [
            (n, curve(n, 0.05, 0.002) * random.gauss(1, 0.02)) for n in (1, 2, 3, 4, 6, 8, 12, 16)
        ]
        law = fit(noisy)
        assert isinstance(law, Law)
        inside += abs(law.contention - 0.05) <= law.contention_half
    assert 175 <= inside <= 199


def test_the_peak_is_where_more_instances_carry_less() -> None:
    law = fit([(n, curve(n, 0.04, 0.006)) for n in (1, 2, 4, 8, 16, 24)])
    assert isinstance(law, Law)
    assert law.peak == pytest.approx((0.96 / 0.006) ** 0.5, rel=0.01)
    assert law.capacity(law.peak) > law.capacity(law.peak + 2)


@pytest.mark.parametrize(
    ("points", "because"),
    [
        ([(1, 100.0), (2, 190.0), (2, 192.0)], "2 different counts"),
        ([(1, 100.0), (2, 0.0), (3, 290.0)], "above zero"),
        ([(1, 100.0), (2, float("nan")), (3, 290.0)], "above zero"),
        ([(1, 100.0)] * 1001, "more than"),
        ([], "0 different counts"),
    ],
)
def test_what_cannot_be_told_is_refused(points: list[tuple[int, float]], because: str) -> None:
    refused = fit(points)
    assert isinstance(refused, NotIdentified)
    assert because in refused.because


def test_three_points_and_far_ones_are_called_unsure() -> None:
    law = fit([(1, 100.0), (2, 190.0), (3, 270.0)])
    assert isinstance(law, Law)
    assert law.unsure is not None
    assert "any three" in law.unsure
    wild = fit([(1, 100.0), (2, 300.0), (3, 100.0), (4, 350.0)])
    assert isinstance(wild, Law)
    assert wild.unsure is not None
