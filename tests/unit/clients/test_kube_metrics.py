"""When the metrics-server is asked, and what is made of its answers."""

import itertools
from datetime import timedelta

import pytest

from scaler.clients import kube_quantity
from scaler.clients.kube_metrics import PERIOD, SELDOM, SHORTEST, STEP, Rhythm, _usage


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("0", 0.0),
        ("250m", 0.25),
        ("123456789n", 0.123456789),
        ("1500u", 0.0015),
        ("1.5", 1.5),
        (".5", 0.5),
        ("2.", 2.0),
        ("64Mi", 64 * 2**20),
        ("65536Ki", 2.0**26),
        ("128974848", 128974848.0),
        ("129e6", 129e6),
        ("129M", 129e6),
        ("1Gi", 2.0**30),
        ("2k", 2000.0),
        ("1e3m", 1.0),
        ("+1", 1.0),
        ("1E", 1e18),
        ("1Ei", 2.0**60),
    ],
)
def test_a_quantity(written: str, number: float) -> None:
    assert kube_quantity.parse(written) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "written", ["", "m", "1 Mi", "1K", "0x10", "1mi", "1i", "NaN", "1e", "1e9999"]
)
def test_no_quantity(written: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        kube_quantity.parse(written)


def asked(period: float, span: float, phase: float = 3.3) -> tuple[list[float], list[float]]:
    """How late each of the server's answers was seen, and when it was asked."""
    rhythm, now, known = Rhythm(), 0.0, -1
    late, questions = [], []
    while now < span:
        questions.append(now)
        number = int((now - phase) // period)
        news = number > known
        if news:
            late.append(now - (phase + number * period))
            known = number
        now += rhythm.next(seconds(now), news=news).total_seconds()
    return late, questions


@pytest.mark.parametrize("period", [10.0, 15.0, 30.0, 60.0])
def test_what_is_new_is_seen_within_a_step_and_little_is_asked(period: float) -> None:
    late, questions = asked(period, 40 * period)
    settled = sorted(late[15:])
    assert settled[int(0.9 * len(settled))] <= STEP.total_seconds() + 0.05
    assert settled[-1] <= 2 * STEP.total_seconds()
    recent = [q for q in questions if q > 20 * period]
    assert len(recent) / 20 <= 3.5


@pytest.mark.parametrize("phase", [0.5, 3.3, 7.0, 11.0, 14.9])
def test_the_age_of_the_first_numbers_says_when_the_next_are_due(phase: float) -> None:
    rhythm, now, known, late = Rhythm(), 0.0, -1, []
    while now < 120:
        number = int((now + 15 - phase) // 15)
        age = now + 15 - phase - number * 15
        if news := number > known:
            late.append(age)
            known = number
        passed = {"window": seconds(15), "age": seconds(age)}
        now += rhythm.next(seconds(now), news=news, **passed).total_seconds()
    assert max(late[1:]) <= STEP.total_seconds()


def test_an_outage_makes_numbers_old_no_longer_than_it_lasts() -> None:
    rhythm, now, known, seen = Rhythm(), 0.0, -1, []
    while now < 900:
        number = int((now - 3.3) // 15)
        news = number > known and not 300 <= now < 400
        if news:
            seen.append(now)
            known = number
        now += rhythm.next(seconds(now), news=news, window=seconds(15)).total_seconds()
    after = [b - a for a, b in itertools.pairwise(seen) if a >= 400]
    assert max(after) < 18
    assert after[-1] == 15


def test_an_adapter_that_computes_on_the_spot_is_asked_seldom() -> None:
    rhythm = Rhythm()
    waits = [rhythm.next(seconds(n), news=True, window=seconds(300)) for n in range(20)]
    assert max(waits) < PERIOD
    assert waits[-1] == SHORTEST


def test_a_fast_server_is_followed() -> None:
    rhythm = Rhythm()
    waits = [rhythm.next(seconds(n), news=True, window=seconds(1)) for n in range(9)]
    assert waits == [STEP] * 9


def test_a_server_that_is_late_is_not_pestered() -> None:
    rhythm = Rhythm()
    rhythm.next(seconds(0), news=True)
    waits = [rhythm.next(seconds(n), news=False) for n in range(20)]
    assert waits[0] == STEP
    assert waits[-1] == SELDOM


def item(**fields: object) -> dict[str, object]:
    return {
        "metadata": {"name": "web-1"},
        "timestamp": "2026-03-02T08:00:00Z",
        "window": "15.032s",
        "containers": [{"name": "a", "usage": {"cpu": "250m", "memory": "64Mi"}}],
        **fields,
    }


def test_a_pod_and_what_it_used() -> None:
    name, usage = _usage(item())
    assert usage is not None
    assert (name, usage.window) == ("web-1", seconds(15))
    assert usage.containers == (("a", 0.25, 64.0 * 2**20),)


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": "yesterday"},
        {"timestamp": "2026-03-02T08:00:00"},
        {"timestamp": None},
        {"window": "long"},
        {"containers": None},
        {"containers": [{"name": "a", "usage": {"cpu": "NaN"}}]},
        {"containers": [{"name": "a", "usage": {"cpu": "-1"}}]},
        {"containers": [{"name": "a"}]},
        {"containers": [{"name": "a", "usage": {}}]},
        {"containers": [{"name": "a", "usage": {"cpu": "1"}}]},
        {"containers": [{"name": "a", "usage": {"cpu": 1, "memory": "1Mi"}}]},
        {"containers": [{"name": "a", "usage": {"cpu": ["1"], "memory": "1Mi"}}]},
        {"window": "99999999999999999999s"},
        {"metadata": []},
    ],
)
def test_what_is_written_strangely_is_nothing(fields: dict[str, object]) -> None:
    assert _usage(item(**fields))[1] is None
