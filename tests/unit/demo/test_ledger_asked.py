"""What clients send to the ledger: taken, or refused in words that help."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.demo.ledger import asked
from scaler.demo.ledger.asked import Invalid
from scaler.demo.ledger.records import Position

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
GOOD = b'{"from": 1, "to": 2, "amount": "12.50"}'


def test_a_transfer_is_taken() -> None:
    wanted = asked.transfer("k-1", GOOD)
    assert (wanted.key, wanted.source, wanted.target) == ("k-1", 1, 2)
    assert wanted.amount == Decimal("12.50")


@pytest.mark.parametrize(
    ("key", "body", "words"),
    [
        pytest.param(None, GOOD, "Idempotency-Key: missing", id="no key"),
        pytest.param("a b", GOOD, "visible ASCII", id="a key with a space"),
        pytest.param("k" * 65, GOOD, "1 to 64", id="a long key"),
        pytest.param("k", b"{", "no JSON", id="no JSON"),
        pytest.param("k", b"[" * 9000, "no JSON", id="nested too deeply"),
        pytest.param("k", b"[]", "exactly from, to and amount", id="a list"),
        pytest.param("k", GOOD[:-1] + b', "x": 1}', "exactly", id="a field too many"),
        pytest.param("k", GOOD.replace(b"1,", b"true,"), "from: is no account", id="a truth"),
        pytest.param("k", GOOD.replace(b"2,", b"-2,"), "to: is no account", id="negative"),
        pytest.param("k", GOOD.replace(b"2,", b"1,"), "same account", id="to oneself"),
        pytest.param("k", GOOD.replace(b'"12.50"', b"12.5"), "write a string", id="a float"),
        pytest.param("k", GOOD.replace(b"12.50", b"12.505"), "two places", id="half a cent"),
        pytest.param("k", GOOD.replace(b"12.50", b"-1"), "two places", id="less than nothing"),
        pytest.param("k", GOOD.replace(b"12.50", b"0.00"), "0.01", id="nothing"),
        pytest.param("k", GOOD.replace(b"12.50", b"1e9"), "two places", id="an exponent"),
        pytest.param("k", GOOD.replace(b"12.50", b"9999999999999"), "0.01 to", id="too much"),
    ],
)
def test_a_transfer_that_is_none(key: str | None, body: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        asked.transfer(key, body)


def test_a_range_is_taken() -> None:
    wanted = asked.lines({"from": "2026-11-01", "to": "2026-11-02T01:00:00+01:00"})
    assert wanted.begin == datetime(2026, 11, 1, tzinfo=UTC)
    assert wanted.end == datetime(2026, 11, 2, tzinfo=UTC)
    assert (wanted.account, wanted.after, wanted.most) == (None, None, asked.PAGE)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        pytest.param({"from": "2026-11-01"}, "to: missing", id="no end"),
        pytest.param({"from": "soon", "to": "2026-11-01"}, "no moment", id="no moment"),
        pytest.param({"from": "2026-11-02", "to": "2026-11-01"}, "not after", id="backwards"),
        pytest.param({"from": "2020-01-01", "to": "2026-11-01"}, "366 days", id="too long"),
        pytest.param({"from": "1066-10-14", "to": "1066-10-15"}, "before 2000", id="long ago"),
        pytest.param({"from": "0001-01-01T00:00:00+14:00", "to": "2026-11-01"}, "no moment",
                     id="before all time"),
        pytest.param({"limit": "0"}, "limit", id="nothing"),
        pytest.param({"limit": "1001"}, "limit", id="too much"),
        pytest.param({"limit": "٣"}, "limit", id="digits of elsewhere"),
        pytest.param({"account": "x"}, "no account", id="no account"),
        pytest.param({"account": "9" * 19}, "no account", id="a number too large"),
        pytest.param({"after": "x"}, "after:", id="no position"),
        pytest.param({"form": "x"}, "form: unknown", id="a slip"),
    ],
)  # fmt: skip
def test_a_range_that_is_none(query: dict[str, str], words: str) -> None:
    whole = {**({} if "from" in query else {"from": "2026-11-01", "to": "2026-11-02"}), **query}
    with pytest.raises(Invalid, match=words):
        asked.lines(whole)


@given(st.datetimes(min_value=datetime(2000, 1, 1)), st.integers(0, 2**63 - 1))
def test_a_position_comes_back_as_it_was(at: datetime, number: int) -> None:
    position = Position(at.replace(tzinfo=UTC), number)
    query = {"from": "2026-11-01", "to": "2026-11-02", "after": asked.page_after(position)}
    assert asked.lines(query).after == position


@given(st.text())
def test_no_month_and_no_symbol_breaks_anything(text: str) -> None:
    for ask in (lambda: asked.month(text, NOON), lambda: asked.symbol(text)):
        try:
            ask()
        except Invalid:
            continue


def test_a_month_has_begun() -> None:
    assert asked.month("2026-11", NOON).isoformat() == "2026-11-01"
    for text, words in {"2026-12": "not begun", "2026-13": "is none", "1999-12": "none"}.items():
        with pytest.raises(Invalid, match=words):
            asked.month(text, NOON)
