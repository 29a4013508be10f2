"""Selectors as a Scale has them."""

import pytest

from scaler.clients import kube_selector

LABELS = {"app": "web", "tier": "front", "example.com/team": ""}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app=web,tier=back", False),
        ("app!=web", False),
        ("zone!=eu", True),
        ("tier in (front,back),app=web", True),
        ("tier in (back)", False),
        ("tier notin (back, middle)", True),
        ("zone notin (eu)", True),
        ("tier notin (front)", False),
        ("example.com/team", True),
        ("example.com/team=", True),
        ("!example.com/team", False),
        ("!zone", True),
        ("zone", False),
    ],
)
def test_selectors(text: str, holds: bool) -> None:
    assert kube_selector.matches(kube_selector.parse(text), LABELS) is holds


@pytest.mark.parametrize("text", ["a b", "cores>3", "tier in (a", "=web"])
def test_what_no_server_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no name of a label"):
        kube_selector.parse(text)
