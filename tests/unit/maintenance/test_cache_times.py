"""How long values are good."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from scaler.maintenance.caching.times import BarEnd, SessionClose, reader, span_s

NOON = datetime(2026, 3, 6, 12, 0, 30, tzinfo=UTC)  # a Friday
CLOSE = SessionClose(time(16), "America/New_York", holidays=[date(2026, 3, 9)])


@pytest.mark.parametrize(
    ("ttl", "value", "seconds"),
    [
        ("1m", 0, 60),
        (timedelta(seconds=2), 0, 2),
        (1.5, 0, 1.5),
        (BarEnd("1m"), 0, 30),
        (BarEnd("5m"), 0, 270),
        (BarEnd(timedelta(hours=1)), 0, 3570),
        (lambda value: value * 2, 3, 6),
        (lambda _: "10s", 0, 10),
    ],
)
def test_how_long_a_value_is_good(ttl: Any, value: int, seconds: float) -> None:
    assert reader(ttl)(value, NOON) == seconds


@pytest.mark.parametrize(
    ("now", "close"),
    [
        (NOON, datetime(2026, 3, 6, 21, tzinfo=UTC)),
        (datetime(2026, 3, 6, 21, tzinfo=UTC), datetime(2026, 3, 10, 20, tzinfo=UTC)),
        (datetime(2026, 3, 8, 12, tzinfo=UTC), datetime(2026, 3, 10, 20, tzinfo=UTC)),
    ],
    ids=["today", "over a weekend, a holiday and a change of the clock", "on a Sunday"],
)
def test_until_an_exchange_closes(now: datetime, close: datetime) -> None:
    assert now + CLOSE.left(now) == close


def test_an_exchange_that_never_opens_is_as_long_as_can_be() -> None:
    assert SessionClose(time(16), "UTC", days=()).left(NOON) == timedelta(days=30)


@pytest.mark.parametrize("written", [-1, "31d", "five", float("nan")])
def test_what_is_no_time_to_live_is_refused(written: Any) -> None:
    with pytest.raises(ValueError, match=r"30d|span"):
        span_s(written)
