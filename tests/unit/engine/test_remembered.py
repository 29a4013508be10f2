"""What a follower remembers of the changes of its leader."""

from datetime import UTC, datetime, timedelta

import pytest

from scaler.core.model import Change, Fleet, History
from scaler.engine.remembered import with_leaders

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD = Change(NOON - timedelta(hours=1), 1, 2)


@pytest.mark.parametrize(
    ("wanted", "set_by", "added"),
    [
        pytest.param(2, "", (), id="nothing has changed"),
        pytest.param(5, "", (Change(NOON, 2, 5),), id="the leader has grown it"),
        pytest.param(1, "", (Change(NOON, 2, 1),), id="the leader has shrunk it"),
        pytest.param(5, "kubectl", (), id="a person has set it, which is no change of ours"),
    ],
)
def test_a_follower_remembers(wanted: int, set_by: str, added: tuple[Change, ...]) -> None:
    fleet = Fleet(target="web", at=NOON, wanted=wanted, set_by=set_by)
    assert with_leaders(History(changes=(OLD,)), fleet, 2, NOON).changes == (OLD, *added)
