"""Statistics of processes: added up per function, whatever stands in them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance.cache_reports import FunctionStats, add_up

QUOTE = {
    "hits_local": 6, "hits_shared": 2, "stale": 1, "misses": 1, "errors": 0, "saved_s": 1.5,
    "bytes": 100, "recompute": {"count": 1, "p50_s": 0.1, "p95_s": 0.2}, "new": "field",
}  # fmt: skip


def said(**functions: Any) -> bytes:
    return json.dumps({"process": "a", "functions": functions}).encode()


def test_processes_are_added_up_per_function() -> None:
    slower = {"misses": 10, "recompute": {"count": 3, "p50_s": 0.5, "p95_s": 0.9}}
    stats = add_up([said(quote=QUOTE, bars=QUOTE), said(quote=slower)])
    assert stats.processes == 2
    quote = stats.functions["quote"]
    assert (quote.hits_local, quote.misses, quote.bytes) == (6, 11, 100)
    assert (quote.recomputed, quote.p95_s) == (4, 0.9)
    assert quote.p50_s == pytest.approx(0.4)
    assert quote.hit_ratio == pytest.approx(9 / 20)
    assert stats.functions["bars"].hit_ratio == pytest.approx(0.9)


def test_nobody_has_asked() -> None:
    assert FunctionStats().hit_ratio is None
    assert add_up([]).functions == {}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"functions": 3}', id="a number for a map"),
        pytest.param(b'{"functions": {"a"', id="cut off"),
    ],
)
def test_what_cannot_be_read_is_counted(text: bytes) -> None:
    stats = add_up([text, said(quote=QUOTE)])
    assert (stats.processes, stats.unreadable) == (1, 1)
    assert set(stats.functions) == {"quote"}


@pytest.mark.parametrize(
    "odd", ["NaN", "Infinity", "-1", '"9"', "true", "null", "[]", "1" + "0" * 400]
)
def test_what_is_no_number_is_0(odd: str) -> None:
    text = f'{{"functions": {{"a": {{"misses": {odd}, "saved_s": {odd}, "hits_local": 2}}}}}}'
    stats = add_up([text.encode()]).functions["a"]
    assert (stats.misses, stats.saved_s, stats.hits_local) == (0, 0.0, 2)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["functions", "a", "misses", "recompute", "count"]) | st.text(), inner
        ),
    )
)  # fmt: skip
def test_nothing_in_it_raises(plain: object) -> None:
    for written in (plain, {"functions": plain}, {"functions": {"a": plain}}):
        add_up([json.dumps(written).encode()])


def test_names_are_safe_to_print_and_bounded() -> None:
    stats = add_up([json.dumps({"functions": {"a\n\u001b[31m": QUOTE, "\ud800": QUOTE}}).encode()])
    assert set(stats.functions) == {"a\\n\\x1b[31m", "\\xed\\xa0\\x80"}
    many = add_up([said(**{f"f{i}": QUOTE for i in range(3_000)})])
    assert len(many.functions) == 1_000
