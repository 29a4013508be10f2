"""Names in the cache: different calls never share one, and versions follow code and types."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance.caching import names


class Side(Enum):
    BUY = 1


PARTS = (
    st.text(max_size=5)
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.binary(max_size=4)
    | st.tuples(st.text(max_size=3), st.integers())
)


def quote(symbol: object, day: object = None) -> None: ...


def same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return repr(one) == repr(other)


@given(st.tuples(PARTS, PARTS), st.tuples(PARTS, PARTS))
def test_different_arguments_have_different_names(
    one: tuple[Any, Any], other: tuple[Any, Any]
) -> None:
    build = names.builder(quote, "quote:{symbol}:{day}")
    assert (build(one, {}) == build(other, {})) == same(one, other)
    assert not set(build(one, {})) & set("{}")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("AAPL", "AAPL"),
        ("BRK.B", "'BRK.B"),
        ("1", "'1"),
        (1, "1"),
        (True, "!True"),
        (None, "!None"),
        (1.5, "1.5"),
        (Decimal("1.50"), "d1.50"),
        (date(2026, 1, 2), "@2026-01-02"),
        (datetime(2026, 1, 2, tzinfo=UTC), "@2026-01-02T00:00:00+00:00"),
        (timedelta(seconds=1), "@P1.0"),
        (Side.BUY, "!Side.BUY"),
        (b"\xff", "bff"),
        (UUID(int=1), "u00000000-0000-0000-0000-000000000001"),
        (["a", 1], "(a,1)"),
        ({"b", "a"}, "<a,b>"),
        ({"b": 1, "a": 2}, "[a=2,b=1]"),
        ("", "'"),
        ("ü:{}", "'%C3%BC%3A%7B%7D"),
    ],
)
def test_how_a_value_is_written(value: object, form: str) -> None:
    assert names.written(value) == form


def test_what_cannot_tell_itself_apart_is_refused_with_a_remedy() -> None:
    with pytest.raises(TypeError, match="name the arguments that matter"):
        names.written(object())


@pytest.mark.parametrize(
    ("args", "named"),
    [(("AAPL", 1), {}), (("AAPL",), {"day": 1}), ((), {"symbol": "AAPL", "day": 1})],
    ids=["by place", "mixed", "by name"],
)
def test_it_does_not_matter_how_arguments_are_given(
    args: tuple[Any, ...], named: dict[str, Any]
) -> None:
    assert names.builder(quote, None)(args, named) == "AAPL,1"


def test_defaults_count_as_given() -> None:
    assert names.builder(quote, None)(("AAPL",), {}) == "AAPL,!None"


@pytest.mark.parametrize(
    ("args", "named"),
    [((), {}), (("A", 1, 2), {}), (("A",), {"month": 1}), (("A",), {"symbol": "B"})],
    ids=["too few", "too many", "unknown", "twice"],
)
def test_wrong_arguments_are_a_type_error(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        names.builder(quote, None)(args, named)


def test_self_is_no_part_of_a_name() -> None:
    class Api:
        def quote(self, symbol: str) -> None: ...

    assert names.builder(Api.quote, None)((Api(), "AAPL"), {}) == "AAPL"


def test_a_template_with_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\{sym\} in .* is no argument; there are"):
        names.builder(quote, "quote:{sym}")


def test_any_arguments_need_a_function_for_the_key() -> None:
    def anything(*args: int) -> None: ...

    with pytest.raises(TypeError, match="give key="):
        names.builder(anything, None)
    assert names.builder(anything, lambda *args: str(sum(args)))((1, 2), {}) == "3"


def test_long_names_become_digests() -> None:
    build = names.builder(quote, None)
    one, other = build(("a" * 300,), {}), build(("a" * 299 + "b",), {})
    assert len(one) < 60
    assert one != other


# --- versions ---

FIRST = "def f(a):\n    return a + 1\n"


def loaded(folder: Path, text: str, name: str = "f") -> Callable[..., Any]:
    path = folder / f"m{abs(hash(text))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("def f(a):\n    # why\n\n    return (a + 1)\n", True),
        ('def f(a):\n    """Adds one."""\n    return a + 1\n', True),
        ("def f(a):\n    return a + 2\n", False),
        ("def f(a, b=0):\n    return a + 1\n", False),
    ],
    ids=["comments and layout", "a docstring", "other code", "other arguments"],
)
def test_a_version_follows_the_code(tmp_path: Path, text: str, stays: bool) -> None:
    one = names.version(loaded(tmp_path, FIRST), int, None)
    other = names.version(loaded(tmp_path, text), int, None)
    assert (one == other) == stays


def test_a_pinned_version_follows_the_type_only(tmp_path: Path) -> None:
    @dataclass
    class One:
        a: int

    @dataclass
    class Two:
        a: int
        b: int

    first = loaded(tmp_path, FIRST)
    second = loaded(tmp_path, FIRST.replace("1", "2"))
    assert names.version(first, One, None, "7") == names.version(second, One, None, "7")
    assert names.version(first, One, None, "7") != names.version(first, Two, None, "7")
    assert names.version(first, One, None, "7") != names.version(first, One, None, "8")
