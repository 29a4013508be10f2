import dataclasses
import re
import xml.dom.minidom

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.errors import ConfigError
from scaler.loadtest import page, plots, text, thresholds
from scaler.loadtest.failures import Failure
from scaler.loadtest.histogram import ERROR, Histogram
from scaler.loadtest.record import MOST_SLICES, Record
from scaler.loadtest.report import Report, merged
from scaler.loadtest.transport import Call

SHARES = (0.01, 0.5, 0.9, 0.99, 0.999, 1.0)


def ended(record: Record, at: float, took: float, failure: Failure | None = None) -> None:
    call = Call(b"", at, lambda _: None)
    call.sent, call.ended, call.failure, call.status = at, at + took, failure, 200
    record.begun(at, 0.0001)
    record.ended(call, at)


def recorded(seconds: int = 4, took: float = 0.01, failure: Failure | None = None) -> Record:
    record = Record(["GET /"])
    for number in range(seconds * 100):
        ended(record, number / 100, took, failure if number % 100 == 7 else None)
    record.settle()
    return record


def report(record: Record, cpu: float = 0.5, wanted: str = "", kind: str = "open") -> Report:
    return Report(
        target="http://127.0.0.1:1/<&>",
        kind=kind,
        seconds=4,
        record=record,
        cpu=(cpu,),
        wanted=thresholds.parse(wanted),
    )


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=200), st.integers(1, 5))
def test_merged_histograms_are_as_one(values: list[float], parts: int) -> None:
    one, several = Histogram(), Histogram()
    for value in values:
        one.add(value)
    for part in range(parts):
        more = Histogram()
        more.add_all(values[part::parts])
        several.merge(Histogram.of_dict(more.to_dict()))
    assert several.percentiles(SHARES) == one.percentiles(SHARES)
    assert (several.count, several.highest) == (one.count, one.highest)


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=200), st.sampled_from(SHARES))
def test_a_percentile_is_right_to_its_error(values: list[float], share: float) -> None:
    made = Histogram()
    made.add_all(values)
    true = sorted(values)[max(0, -(-round(share * 1000) * len(values) // 1000) - 1)]
    assert true * (1 - 1e-9) <= made.percentile(share) <= true * (1 + ERROR) * (1 + 1e-9)


def test_a_long_run_has_wider_slices_and_loses_nothing() -> None:
    record = Record(["GET /"])
    for second in range(0, 5 * MOST_SLICES, 3):
        ended(record, second, 0.01)
    record.settle()
    assert record.width == 8
    assert len(record.slices) <= MOST_SLICES
    assert sum(one.due for one in record.slices) == record.due == MOST_SLICES * 5 / 3
    assert sum(one.response.count for one in record.slices) == record.due


def test_records_of_different_widths_merge() -> None:
    long, short = Record(["GET /"]), recorded(3)
    ended(long, 2 * MOST_SLICES, 0.5)
    both = merged([Record.of_dict(short.to_dict()), Record.of_dict(long.to_dict())])
    assert (both.due, both.answered, both.width) == (301, 301, 4)
    assert sum(one.answered for one in both.slices) == 301
    assert both.response.highest == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("made", "doubt"),
    [
        pytest.param(report(recorded()), "", id="nothing wrong"),
        pytest.param(report(recorded(), cpu=0.95), "used 95% of a core", id="a busy tester"),
        pytest.param(report(recorded(failure=Failure.NOT_SENT)), "never sent", id="not sent"),
        pytest.param(
            report(recorded(failure=Failure.OUT_OF_SOCKETS)), "more ports and files", id="sockets"
        ),
        pytest.param(report(recorded(failure=Failure.RESET)), "", id="the server's own errors"),
    ],
)
def test_a_run_says_when_the_tester_was_the_limit(made: Report, doubt: str) -> None:
    said = "; ".join(made.doubts())
    assert doubt in said
    assert bool(said) is bool(doubt)
    assert ("NOT TO BE TRUSTED" in text.summary(made)) is bool(doubt)


def test_a_tester_that_is_late_is_not_trusted() -> None:
    record = recorded()
    for _ in range(8):
        record.begun(3.9, 0.05)
    record.settle()
    assert any("50 ms late" in doubt for doubt in report(record).doubts())


def test_what_was_not_sent_is_an_error_for_thresholds() -> None:
    made = report(recorded(failure=Failure.NOT_SENT), wanted="p99<1s, errors<0.1%")
    assert [one.holds for one in made.judged()] == [True, False]
    assert not made.passed


def test_a_run_that_lost_a_worker_passes_no_threshold() -> None:
    whole = report(recorded(), wanted="p99<1s")
    assert whole.passed
    assert not dataclasses.replace(whole, lost=("worker 2 of 2 ended early",)).passed


def test_a_report_survives_json() -> None:
    made = report(recorded(failure=Failure.RESET), wanted="p99.99<1s, errors<5%")
    again = Report.of_dict(made.to_dict())
    assert again.to_dict() == made.to_dict()
    assert again.passed
    with pytest.raises(ConfigError, match="is no result"):
        Report.of_dict({"format": 1})


@pytest.mark.parametrize(
    "record", [Record(["GET /"]), recorded(), recorded(1, failure=Failure.RESET)], ids=str
)
def test_the_page_stands_alone_and_its_plots_are_xml(record: Record) -> None:
    made = page.page(report(record, wanted="p99<1s"))
    assert "<&>" not in made
    assert not re.search(r"(src|href)=|@import|url\(|<script", made)
    for svg in re.findall(r"<svg.*?</svg>", made):
        xml.dom.minidom.parseString(svg)
    assert made.count("<svg") == (4 if record.answered else 0)


@given(st.floats(0, 1e9))
def test_an_axis_ends_beyond_the_highest_value(highest: float) -> None:
    axis = plots.linear(highest)
    assert axis.ticks[-1][0] >= highest * (1 - 1e-9)
    assert 2 <= len(axis.ticks) <= 11


def test_two_runs_beside_each_other() -> None:
    shown = text.comparison(report(recorded()), report(recorded(took=0.02), kind="closed"))
    assert re.search(r"p99 +10\.00 ms +20\.00 ms +\+100\.0 %", shown)
    assert "mean different things" in shown


def test_figures_for_prometheus() -> None:
    lines = text.exposition(report(recorded(failure=Failure.RESET))).splitlines()
    assert 'scaler_loadtest_requests_due_total{target="http://127.0.0.1:1/<&>"} 400' in lines
    assert any(line.endswith(f'reason="{Failure.RESET.value}"}} 4') for line in lines)
