"""What sizes and rows of today say of the days to come."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scaler.maintenance import partition_forecast, partition_plan
from scaler.maintenance.partition_facts import Facts
from scaler.maintenance.partition_forecast import Forecast
from scaler.maintenance.partition_plan import Level, Plan
from tests.unit.maintenance.test_partition_plan import NOW, READY, facts, months, part, rules

MB = 1_000_000
DROPS: dict[str, Any] = {"keep": "3 months", "expire": {"drop_after": "7 days"}}


def planned(there: Facts, **more: Any) -> Plan:
    return partition_plan.plan(rules(**more), there, NOW)


def known(there: Facts, **more: Any) -> Forecast:
    return planned(there, **more).forecast


def test_growth_is_that_of_the_last_partitions_that_are_full() -> None:
    older = part("t_2026_01", "2026-01-01", "2026-02-01", bytes=900 * MB)
    full = months(2, 4, bytes=89 * MB)  # 28, 31 and 30 days
    now, later = months(5, 5, bytes=10 * MB), months(6, 8)
    found = known(facts(older, *full, *now, *later))
    assert found.held == (900 + 3 * 89 + 10) * MB
    assert found.per_day == 3 * MB
    assert found.next == 90 * MB  # June has 30 days
    assert found.later == found.held + 90 * MB
    assert found.more == 90 * MB


def test_a_set_that_is_young_goes_by_the_partition_of_now() -> None:
    now = months(5, 5, bytes=39 * MB)  # of 19.5 days
    assert known(facts(*now, *months(6, 8))).per_day == 2 * MB
    today = part("d", "2026-05-20", "2026-05-21", bytes=39 * MB)
    found = known(facts(today, part("e", "2026-05-21", None)), every="day")
    assert (found.held, found.per_day, found.next, found.later) == (39 * MB, None, None, None)


def test_what_has_no_beginning_says_nothing_of_growth() -> None:
    history = part("t_history", None, "2026-05-01", bytes=700 * MB)
    found = known(facts(history, *months(5, 5, bytes=39 * MB), *months(6, 8)))
    assert (found.held, found.per_day) == (739 * MB, 2 * MB)


@pytest.mark.parametrize(
    ("more", "left_out"),
    [
        pytest.param({}, 0, id="nothing expires"),
        pytest.param({"keep": "3 months"}, 0, id="detached tables take room"),
        pytest.param(DROPS, 31, id="what is dropped within 30 days is left out"),
        pytest.param(
            {**DROPS, "expire": {"drop_after": "60 days"}}, 0, id="a grace that lasts longer"
        ),
        pytest.param({**DROPS, "expire": {"drop_after": "7 days", "how": "report"}}, 0, id="told"),
    ],
)
def test_room_that_becomes_free(more: dict[str, Any], left_out: int) -> None:
    """19 June less 7 days less 3 months is 12 March: February is gone then, and March is not."""
    older = part("t_2026_02", "2026-02-01", "2026-03-01", bytes=31 * MB)
    there = facts(older, *months(3, 4, bytes=31 * MB), *months(5, 8))
    found = known(there, **more)
    assert found.per_day is not None
    assert found.later == round(found.held + 30 * found.per_day) - left_out * MB


@pytest.mark.parametrize(
    ("more", "free", "days"),
    [
        pytest.param([300], 299, 30, id="less than a month"),
        pytest.param([300], 300, None, id="just enough"),
        pytest.param([300], 69, 7, id="less than a week"),
        pytest.param([200, 100], 299, 30, id="all sets of the database together"),
        pytest.param([300, -100], 250, None, id="one gives room to another"),
        pytest.param([-5], 0, None, id="nothing is needed of a full disk"),
        pytest.param([None], 0, None, id="nothing is known"),
    ],
)
def test_when_a_disk_is_full(more: list[int | None], free: int, days: int | None) -> None:
    found = [Forecast(held=1000, later=None if m is None else 1000 + m) for m in more]
    assert partition_forecast.full_within(found, free) == days


# --- rows that run ahead of the clock ---


def test_the_end_is_reached_when_the_clock_comes_there() -> None:
    assert known(facts(*READY)).reached == datetime(2026, 9, 1, tzinfo=UTC)
    there = facts(*months(4, 5, rows=9), *months(6, 8))
    assert known(there).reached == datetime(2026, 9, 1, tzinfo=UTC)
    assert known(facts(part("old", "2020-01-01", "2020-02-01"))).reached is None


def test_rows_that_run_ahead_reach_the_end_sooner() -> None:
    there = facts(*months(5, 6), *months(7, 7, rows=9), *months(8, 8), may_create=False)
    made = planned(there)
    lead = datetime(2026, 7, 1, tzinfo=UTC) - NOW  # at least
    assert made.forecast.reached == datetime(2026, 9, 1, tzinfo=UTC) - lead
    assert made.horizon == 3
    (alarm,) = [f for f in made.findings if "are ready after" in f.text]
    assert alarm.level is Level.ALARM
    assert alarm.text == (
        "public.t: only 1 partitions are ready after the newest rows and reach to 2026-09-01; "
        "rows will find no partition"
    )


def test_creating_more_in_time_is_a_warning() -> None:
    made = planned(facts(*months(5, 7), *months(8, 8, rows=9)))
    levels = [f.level for f in made.findings if "are ready after the newest rows" in f.text]
    assert levels == [Level.WARNING]
    names = [getattr(step, "name", "") for step in made.steps]
    assert names == ["t_2026_09", "t_2026_10", "t_2026_11"]
    assert made.forecast.reached is not None
    assert made.forecast.reached > NOW + timedelta(days=20)


def test_rows_in_a_partition_without_an_end_in_sight_run_not_ahead() -> None:
    made = planned(facts(part("t_all", "2020-01-01", "9999-12-31", rows=5, bytes=MB)))
    assert made.steps == ()
    assert made.horizon > 3
    assert made.forecast.reached == made.until


def test_what_is_ready_behind_a_gap_counts_for_rows_that_are_there() -> None:
    there = facts(*months(5, 6), *months(8, 8, rows=9), may_create=False)
    lead = datetime(2026, 8, 1, tzinfo=UTC) - NOW
    assert known(there).reached == datetime(2026, 9, 1, tzinfo=UTC) - lead
