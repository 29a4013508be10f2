"""The driver on a station, what a report counts as late, and the goal in a file."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler import policyfile
from scaler.errors import ConfigError
from scaler.loadtest import growth, policytext
from scaler.loadtest.calibrate import calibrate, counts_of, in_time
from scaler.loadtest.capacity import Found, Limits, Refused
from scaler.loadtest.evidence import Batch, Counts, Objective
from scaler.loadtest.failures import Failure
from scaler.loadtest.growth import Headroom
from scaler.loadtest.histogram import Histogram
from scaler.loadtest.record import Record
from scaler.loadtest.report import Report
from scaler.loadtest.station import Station, capacity_exponential, exponential
from scaler.loadtest.transport import Call
from scaler.located import parse

WITHIN = Objective(within=timedelta(milliseconds=200), share=0.01)
FOUND = Found(rate=200, low=194, high=210, because="", seconds=300, points=())
FILE = Path("web.yaml")


@dataclass
class OnStation:
    """A station as a load."""

    station: Station

    async def __call__(self, rate: float, seconds: int) -> Counts:
        return self.station.take(rate, seconds, WITHIN.within.total_seconds())


async def test_it_drives_a_search_to_its_end_and_tells() -> None:
    told: list[float] = []
    load = OnStation(Station(workers=4, service=exponential(0.02), random=Random(2)))
    found = await calibrate(load, WITHIN, tell=lambda trial, _: told.append(trial.rate))
    assert isinstance(found, Found)
    assert found.rate == pytest.approx(capacity_exponential(4, 0.02, WITHIN), rel=0.1)
    assert min(told) < found.rate < max(told)


async def test_a_load_that_counts_nothing_is_refused() -> None:
    async def nothing(_: float, __: int) -> Counts:
        return Counts(batches=())

    found = await calibrate(nothing, WITHIN, Limits())
    assert isinstance(found, Refused)
    assert "counted nothing" in found.because


def report(*calls: tuple[float, Failure | None], lag: float = 0.0, cpu: float = 0.1) -> Report:
    """Requests of one second, by how long they took."""
    record = Record(["GET /"])
    for took, failure in calls:
        record.begun(0.5, lag)
        call = Call(b"", 0.5, lambda _: None)
        call.sent, call.ended, call.failure = 0.5, 0.5 + took, failure
        record.ended(call, 0.5)
    return Report(target="http://x", kind="open", seconds=1, record=record, cpu=(cpu,))


def test_failed_and_slow_requests_are_late() -> None:
    counts = counts_of(
        report((0.1, None), (0.19, None), (0.3, None), (0.1, Failure.RESET)), WITHIN, 1
    )
    assert counts.batches == (Batch(4, 2),)
    assert counts.broken is None
    assert counts.doubts == ()


def test_a_service_that_is_not_there_is_no_slow_one() -> None:
    gone = counts_of(report((0.1, Failure.REFUSED), (0.1, Failure.REFUSED)), WITHIN, 1)
    assert gone.broken is not None
    assert "connection refused" in gone.broken
    slow = counts_of(report((0.1, Failure.FIRST_BYTE_TIMEOUT)), WITHIN, 1)
    assert slow.broken is None
    assert slow.batches == (Batch(1, 1),)


def test_doubts_are_about_the_generator() -> None:
    assert len(counts_of(report((0.1, None), lag=0.15, cpu=0.99), WITHIN, 1).doubts) == 2


def test_lag_counts_when_requests_are_late_by_it() -> None:
    """A tester 40 ms late: those of 50 ms are in time all the same, those of 190 ms are not."""
    assert counts_of(sent_late(0.04, 0.05), WITHIN, 1).doubts == ()
    (doubt,) = counts_of(sent_late(0.04, 0.19), WITHIN, 1).doubts
    assert "3 are late only by that" in doubt


def sent_late(lag: float, takes: float) -> Report:
    record = Record(["GET /"])
    for _ in range(3):
        record.begun(0.5, lag)
        call = Call(b"", 0.5, lambda _: None)
        call.sent, call.ended = 0.5 + lag, 0.5 + lag + takes
        record.ended(call, 0.5)
    return Report(target="http://x", kind="open", seconds=1, record=record, cpu=(0.1,))


@given(st.lists(st.floats(1e-5, 10), min_size=1, max_size=50), st.floats(0.001, 5))
def test_in_time_is_right_to_a_bucket(values: list[float], within: float) -> None:
    histogram = Histogram()
    histogram.add_all(values)
    found = in_time(histogram, within)
    assert sum(v <= within / 1.0101 for v in values) <= found <= sum(v <= within for v in values)


def test_the_goal_leaves_room_for_growth_until_instances_are_ready() -> None:
    headroom = Headroom(growth=0.3, ready=timedelta(seconds=25), window=timedelta(minutes=1))
    assert headroom.lead == timedelta(seconds=60)
    assert growth.goal(FOUND, headroom) == pytest.approx(200 / 1.3)
    calm = Headroom(growth=0.0, ready=timedelta())
    assert growth.goal(FOUND, calm) == pytest.approx(200 / 1.05)


WRITTEN = """\
version: 1
policies:
  web:
    target: {local: {command: [sleep, "9"]}}
    metrics:
      - name: requests  # by the proxy
        goal: {per_instance: 100}
        source: {prometheus: {query: "sum(rate(x[1m]))"}}  # kept
"""


def test_a_file_gets_the_goal_and_how_it_was_measured_and_keeps_the_rest() -> None:
    headroom = Headroom(growth=0.25, ready=timedelta(seconds=25))
    at = datetime(2026, 1, 2, tzinfo=UTC)
    said = growth.remark(FOUND, WITHIN, headroom, "http://x/", at)
    once = growth.updated(FILE, WRITTEN, "web", "requests", 160.0, said)
    assert "goal: {per_instance: 160}" in once
    assert "# kept" in once
    assert "2026-01-02, http://x/: 200/s within p99<200ms (194/s to 210/s" in once
    lines = once.splitlines()
    assert lines[5].startswith("      # calibrated:")
    assert lines[6].startswith("      - name: requests")
    twice = growth.updated(FILE, once, "web", "requests", 150.0, said)
    assert twice == once.replace("160}", "150}")


@pytest.mark.parametrize(
    ("policy", "metric", "text", "because"),
    [
        ("api", "requests", WRITTEN, "no policy api; known are: web|has no policy api"),
        ("web", "queue", WRITTEN, "no metric queue"),
        ("web", "requests", "- 1\n", "no policy web"),
        ("web", "requests", "a: [", "web.yaml"),
    ],
)
def test_a_file_that_cannot_be_updated_says_why(
    policy: str, metric: str, text: str, because: str
) -> None:
    with pytest.raises(ConfigError, match=because):
        growth.updated(FILE, text, policy, metric, 1.0, growth.MARK)


SOURCE = '{http: {url: "http://x/", json: $.x}}'


@pytest.mark.parametrize(
    ("limits", "metric"),
    [
        ("", "- {name: requests, goal: {per_instance: 9}, source: " + SOURCE + "}"),
        ("limits: {max: 5}\n    ", "- cpu: 50%"),
        ("limits:\n      settle_down: 9m  # old\n    ", "- cpu: 50%\n        use: grow"),
        ("limits: {}\n    ", "- name: cpu\n        goal:\n          utilization: 50%"),
    ],
)  # fmt: skip
def test_the_rules_are_set_wherever_they_stand(limits: str, metric: str) -> None:
    text = (
        "version: 1\npolicies:\n  web:\n    target: {local: {command: [sleep, '9']}}\n"
        f"    {limits}metrics:\n      {metric}\n"
    )
    rules = growth.rules(Headroom(growth=0.25, ready=timedelta(minutes=2)))
    name = "requests" if "requests" in metric else "cpu"
    for _ in range(2):
        text = growth.updated(FILE, text, "web", name, 0.63, growth.MARK, rules)
    document = parse(FILE, text)
    policy = policyfile.policies_of(document, {})["web"]
    assert document.problems == []
    assert policy.limits.settle_down == timedelta(seconds=265)
    assert policy.limits.tolerance_up == 0
    assert policy.metrics[0].window == timedelta(seconds=15)
    (one,) = policy.metrics
    found = (one.cpu, one.goal and one.goal.per_instance, one.goal and one.goal.utilization)
    assert 0.63 in found, text
    assert text.count(growth.MARK) == 1


def test_a_new_file_holds_the_policy() -> None:
    target = policyfile.policies_of(parse(FILE, WRITTEN), {})["web"].target
    text = policytext.created(
        "web", target, {"settle_down": "2m"}, ["cpu: 60%", "window: 15s"], growth.MARK
    )
    document = parse(FILE, text)
    made = policyfile.policies_of(document, {})["web"]
    assert document.problems == []
    assert made.target == target
