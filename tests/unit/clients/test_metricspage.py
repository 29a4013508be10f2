"""Numbers from a page of metrics."""

import math
from datetime import UTC, datetime

import pytest

from scaler.clients import metricspage

PAGE = """
# HELP queue_depth Waiting.
# TYPE queue_depth gauge
queue_depth{queue="mail",zone="a"} 3
queue_depth{queue="mail",zone="b"} 4 1767225600000
queue_depth{queue="sms} \\" x",zone="a"} 5
queue_depth_max 9
queue 1e3
broken{ 1
nothing NaN
# TYPE wait histogram
wait_bucket{le="+Inf"} 7
wait_count 7
"""


@pytest.mark.parametrize(
    ("wanted", "values"),
    [
        pytest.param("queue", [1000], id="a name is whole"),
        pytest.param("queue_depth", [3, 4, 5], id="all lines of a name"),
        pytest.param('queue_depth{queue="mail"}', [3, 4], id="further labels are allowed"),
        pytest.param('queue_depth{queue="sms} \\" x"}', [5], id="a value may hold anything"),
        pytest.param('queue_depth{queue="none"}', [], id="a label that no line has"),
        pytest.param("depth", [], id="a name that no line has"),
        pytest.param("wait_count", [7], id="a part of a histogram"),
    ],
)
def test_lines_are_found_by_name_and_labels(wanted: str, values: list[float]) -> None:
    found = metricspage.find(PAGE, metricspage.parse(wanted))
    assert [series.value for series in found] == values


def test_a_line_may_say_when() -> None:
    found = metricspage.find(PAGE, metricspage.parse('queue_depth{zone="b"}'))
    assert found[0].at == datetime(2026, 1, 1, tzinfo=UTC)
    assert math.isnan(metricspage.find(PAGE, metricspage.parse("nothing"))[0].value)


@pytest.mark.parametrize("written", ["", "{", 'a{b="c"', "a b", "a 1 2 3", "a{b=c}", "#"])
def test_what_names_no_metric_is_said_with_an_example(written: str) -> None:
    with pytest.raises(ValueError, match="write it like queue_depth"):
        metricspage.parse(written)


def test_a_broken_line_harms_only_those_who_ask_for_it() -> None:
    with pytest.raises(ValueError, match="a line of broken cannot be read"):
        metricspage.find(PAGE, metricspage.parse("broken"))
