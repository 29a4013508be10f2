"""The way to one value in JSON."""

from typing import Any

import pytest

from scaler.clients import jsonpath

DOCUMENT: Any = {"queue": {"depth": 3, "a.b": [10, {"x": 20}]}, "up": True}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("$", DOCUMENT),
        ("$.queue.depth", 3),
        ('$.queue["a.b"][0]', 10),
        ('$["queue"]["a.b"][-1].x', 20),
        ("$.up", True),
    ],
)
def test_a_path_leads_to_its_value(written: str, value: object) -> None:
    path = jsonpath.parse(written)
    assert jsonpath.find(DOCUMENT, path) == value
    assert jsonpath.find(DOCUMENT, jsonpath.parse(jsonpath.shown(path))) == value


@pytest.mark.parametrize(
    "written",
    ["", "queue", "$queue", "$.", "$..depth", "$.queue[*]", "$[?(@.x)]", "$[0", "$.a b", '$[""]'],
)
def test_what_is_no_path_is_said_with_an_example(written: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        jsonpath.parse(written)


def test_a_path_is_bounded() -> None:
    assert len(jsonpath.parse("$" + ".a" * jsonpath.MOST_STEPS)) == jsonpath.MOST_STEPS
    with pytest.raises(ValueError, match="is not a path"):
        jsonpath.parse("$" + ".a" * (jsonpath.MOST_STEPS + 1))


@pytest.mark.parametrize(
    ("written", "because"),
    [
        ("$.que.depth", r"\$ has no .que; there are queue, up"),
        ("$.queue.depth.x", r"\$.queue.depth has no .x; it is '3'"),
        ('$.queue["a.b"][2]', r'\$.queue\["a.b"\] has no \[2\]; it is a list of 2'),
        ("$.queue[0]", r"\$.queue has no \[0\]; there are depth, a.b"),
    ],
)
def test_a_path_that_ends_early_says_where(written: str, because: str) -> None:
    with pytest.raises(LookupError, match=because):
        jsonpath.find(DOCUMENT, jsonpath.parse(written))
