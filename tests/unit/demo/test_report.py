"""The end of the demo in words and as a page: each thing that happened is in both."""

from dataclasses import replace
from datetime import UTC, datetime

from scaler.demo import traffic
from scaler.demo.page import page
from scaler.demo.report import Story, closing_table, path
from scaler.loadtest.failures import Failure
from scaler.loadtest.record import Record
from scaler.loadtest.report import Report
from scaler.loadtest.transport import Call


def report(seconds: int = 10, failed_at: int = 4) -> Report:
    """Ten requests a second; one of those due at `failed_at` fails, and from there all are slow."""
    record = Record(["a balance"])
    for number in range(seconds * 10):
        at = number / 10
        record.begun(at, 0.0)
        call = Call(kind=0, wire=b"", due=100 + at, done=lambda _: None)
        call.sent = call.due
        call.ended = call.due + (0.5 if at >= failed_at else 0.02)
        if number == failed_at * 10:
            call.failure = Failure.RESET
        else:
            call.status = 200
        record.ended(call, at)
    return Report(
        target="http://127.0.0.1", kind="open", seconds=seconds, record=record, cpu=(0.1,)
    )


STORY = Story(
    report=report(),
    seconds=12,
    door="HAProxy",
    counts=[(-5.0, 1), (2.0, 3), (6.0, 3), (9.0, 1)],
    restarts=[(3.2, "ledger-1: killed by SIGKILL")],
    marks=[(3.0, "kill"), (5.0, "Redis")],
    outage=(5.0, 7.0),
    calibration="one instance carries about 55/s",
    cache="70% of 900 questions answered from it",
    hygiene=["25 keys never expire", "25 keys got a TTL"],
    partitions="29, with the history moved",
    books="right to the cent",
)


def row(table: str, name: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(name))


def test_every_row_is_there() -> None:
    table = closing_table(STORY, unicode=False)
    assert "100 due, 1 failed (1 × " in row(table, "requests")
    assert "p50 500 ms" in row(table, "latency")
    assert "1 → 3 → 1" in table
    assert row(table, "restarts").endswith("1")
    assert "3 s ledger-1: killed by SIGKILL" in table
    assert "25 keys got a TTL" in table
    for name in ("door", "cache", "partitions", "calibration", "hygiene", "books"):
        assert row(table, name)


def test_what_visitors_had_during_the_outage_is_counted_apart() -> None:
    told = row(closing_table(STORY, unicode=False), "Redis away")
    assert "2 s: 30 requests, 0 failed; p50 500 ms" in told
    earlier = replace(STORY, outage=(3.0, 4.0))
    assert "20 requests, 1 failed" in row(closing_table(earlier, unicode=False), "Redis away")


def test_instances_are_a_line_of_columns() -> None:
    bars = row(closing_table(STORY, unicode=False), "instances").split()[1]
    assert (len(bars), bars[0], max(bars), bars[-1]) == (60, "1", "3", "1")
    assert "█  most: 3" not in closing_table(STORY, unicode=False)
    assert "most: 3" in closing_table(STORY, unicode=True)


def test_what_was_not_there_has_no_row() -> None:
    bare = replace(STORY, outage=None, cache="", partitions="", hygiene=[])
    table = closing_table(bare, unicode=False)
    for name in ("Redis", "cache", "partitions", "hygiene"):
        assert f"\n{name}" not in table


def test_a_path_says_each_change_once() -> None:
    assert path([(0, 1), (1, 1), (2, 4), (3, 1)]) == "1 → 4 → 1"
    assert path([]) == ""


def test_the_page_has_plots_with_the_accidents_and_the_table() -> None:
    drawn = page(STORY)
    assert drawn.count("<svg") == 4
    assert drawn.count(">kill</text>") == 4
    assert "http://" not in drawn.replace("http://www.w3.org", "")
    for text in ("right to the cent", "25 keys got a TTL", "1 → 3 → 1", "killed by SIGKILL"):
        assert text in drawn


def test_the_page_is_made_of_nothing_too() -> None:
    empty = Report(
        target="http://127.0.0.1", kind="open", seconds=1, record=Record(["a"]), cpu=(0.1,)
    )
    bare = replace(STORY, report=empty, counts=[], marks=[], outage=None)
    assert "nothing was answered" in page(bare)


def test_the_words_of_others_are_no_markup() -> None:
    assert "<script>" not in page(replace(STORY, books="<script>", marks=[(1, "<script>")]))


def test_a_day_rises_to_its_peak_and_ends_quietly() -> None:
    day = traffic.day(50, 60)
    assert (day.seconds, day.rate(0), day.rate(59)) == (60, 25, 25)
    assert round(day.highest()) == 120


def test_each_transfer_has_a_key_and_two_accounts() -> None:
    plan = traffic.plan(
        "http://127.0.0.1:9", datetime(2026, 3, 15, tzinfo=UTC).date(), keep_alive=True
    )
    (transfer,) = [one for one in plan.scenario if one.name == traffic.TRANSFER]
    assert "${key}" in transfer.headers["Idempotency-Key"]
    assert plan.variables["giver"] == "1..500"
    assert plan.variables["taker"] == "501..1000"
    assert plan.variables["month"][0] == "2026-02"
