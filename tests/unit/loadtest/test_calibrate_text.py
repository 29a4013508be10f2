"""What `scaler calibrate` prints, from a search on a station."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

from scaler.cli.calibrate import Asked, Measured, Result, page, text, to_dict
from scaler.loadtest import usl
from scaler.loadtest.capacity import Found, Refused, Search, Trial
from scaler.loadtest.delays import Delays
from scaler.loadtest.evidence import Objective
from scaler.loadtest.growth import Headroom
from scaler.loadtest.station import Station, exponential

WITHIN = Objective(within=timedelta(milliseconds=200), share=0.01)
ASKED = Asked(
    what="http://127.0.0.1:8080/", slo="p99<200ms", lowest="5/s", highest="1000/s", span="400s",
    instances=(2,), points=(), growth="25%", ready="30s", write=Path("web.yaml"), policy="web",
    metric="requests", html=None, allow_host=False, form="table",
)  # fmt: skip


def result(law: usl.Law | usl.NotIdentified | None = None) -> Result:
    station = Station(workers=4, service=exponential(0.02), random=Random(2))
    search = Search(WITHIN)
    while isinstance(found := search.next(), Trial):
        search.took(found, station.take(found.rate, found.seconds, 0.2))
    headroom = Headroom(growth=0.25, ready=timedelta(seconds=30))
    return Result(asked=ASKED, objective=WITHIN, headroom=headroom, found=found, law=law)


def test_a_capacity_is_printed_with_its_curve_and_its_goal() -> None:
    made = result(usl.fit([(1, 100.0), (2, 190.0), (4, 340.0), (8, 560.0)]))
    assert isinstance(made.found, Found)
    shown = text(made)
    assert "by 2 instances within p99<200ms" in shown
    assert "growth    contention" in shown
    assert len(shown.splitlines()) == len(made.found.points) + 5
    assert made.goal == made.found.rate / 2 / (1 + made.headroom.share)
    assert to_dict(made)["goal"] == made.goal
    assert page(made).count("<svg") == 1
    assert "src=" not in page(made)


def test_growth_that_is_not_known_says_why() -> None:
    assert "growth    not known: 1 different" in text(result(usl.fit([(1, 100.0)])))


def test_a_refusal_is_printed_with_what_was_seen() -> None:
    made = result()
    refused = Refused(because="too noisy", seconds=9, points=made.found.points)
    shown = text(
        Result(asked=ASKED, objective=WITHIN, headroom=made.headroom, found=refused, law=None)
    )
    assert shown.endswith("NO CAPACITY: too noisy")


def test_the_instances_of_a_policy_are_printed_with_delays_cpu_and_curve() -> None:
    made = result(usl.fit([(1, 100.0), (2, 190.0), (4, 340.0), (8, 560.0)]))
    delays = Delays(ready=timedelta(seconds=1.5), drained=timedelta(seconds=0.5))
    measured = Measured(
        found=made.found, points=((1, 100.0), (2, 190.0), (4, 340.0)), delays=delays, cpu=0.6
    )
    asked = replace(ASKED, metric="cpu")
    made = replace(made, asked=asked, measured=measured)
    assert "ready in 1.5 s, gone in 0.5 s" in text(made)
    assert "1 carry 100/s, 2 carry 190/s, 4 carry 340/s" in text(made)
    assert made.written == 0.6 / (1 + made.headroom.share)
    assert page(made).count("<svg") == 2
    assert to_dict(made)["capacities"] == [[1, 100.0], [2, 190.0], [4, 340.0]]
