"""Who else decides on the count, and how long they are believed to mean it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scaler.core import elsewhere
from scaler.core.decide import decide
from scaler.core.document import Target
from scaler.core.model import (
    Change,
    Decision,
    Fleet,
    History,
    Instance,
    InstanceId,
    Reading,
    Sample,
    State,
)
from scaler.core.policy import Policy

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def policy(**fields: object) -> Policy:
    plain = {"name": "web", "target": Target(kind="world", policy="web"), "limits": {"max": 20}}
    return Policy.model_validate({**plain, "metrics": [{"cpu": "50%"}], **fields})


def fleet(wanted: int, **fields: object) -> Fleet:
    return replace(Fleet(target="web", at=NOW, wanted=wanted), **fields)  # type: ignore[arg-type]


def decided(
    rules: Policy, seen: Fleet, history: History, now: datetime
) -> tuple[Decision, History]:
    """With a load that asks for four more than there are."""
    value = 0.5 * (seen.wanted + 4)
    readings = {"cpu": Reading(metric="cpu", samples=(Sample(at=now, value=value, base=1.0),))}
    return decide(rules, replace(seen, at=now), readings, history, now)


@pytest.mark.parametrize("owner", ["HorizontalPodAutoscaler web", "ScaledObject web"])
def test_a_target_with_an_owner_is_left_as_it_is(owner: str) -> None:
    decision, _ = decided(policy(), fleet(3, owner=owner), History(), NOW)
    assert decision.desired == decision.current == 3
    last = decision.steps[-1]
    assert last.rule == "elsewhere"
    assert last.before > 3
    assert owner in last.because
    assert "mode: observe" in last.because
    assert "scaler adopt web" in last.because


def test_who_only_observes_shows_what_would_be_done() -> None:
    seen = fleet(3, owner="HorizontalPodAutoscaler web")
    decision, _ = decided(policy(mode="observe"), seen, History(), NOW)
    assert decision.desired > 3


def undone(history: History, now: datetime, wanted: int = 3, after: int = 7) -> History:
    """One change of ours, and the look that finds it set otherwise."""
    made = replace(
        history, changes=(*history.changes, Change(now - timedelta(seconds=1), wanted, after))
    )
    return replace(made, overruled=elsewhere.overruled(fleet(wanted), made, now))


def test_each_change_that_is_undone_counts_once() -> None:
    history = undone(History(), NOW)
    assert history.overruled == (NOW,)
    assert elsewhere.overruled(fleet(3), history, NOW + MINUTE) == (NOW,)
    assert elsewhere.overruled(fleet(9), history, NOW + MINUTE) == (NOW,)


def test_a_change_made_at_the_look_that_found_one_undone_counts_too() -> None:
    history = undone(History(), NOW)
    again = replace(history, changes=(*history.changes, Change(NOW, 3, 7)))
    assert len(elsewhere.overruled(fleet(3), again, NOW + MINUTE)) == 2


def test_what_stays_as_we_set_it_counts_as_nothing() -> None:
    history = History(changes=(Change(NOW, 3, 7),))
    assert elsewhere.overruled(fleet(7), history, NOW + MINUTE) == ()


def test_after_three_it_stops_and_tries_again_ever_more_seldom() -> None:
    history, now = History(), NOW
    pauses = []
    for _ in range(8):
        history = undone(history, now)
        pause = timedelta()
        while elsewhere.reason(policy(), fleet(3), history, now + pause):
            pause += MINUTE
        pauses.append(pause)
        now += max(pause, MINUTE)
    minutes = [pause // MINUTE for pause in pauses]
    assert minutes == [0, 0, 5, 10, 20, 40, 60, 60]


def test_the_words_name_who_does_it_and_the_ways_out() -> None:
    history = undone(undone(undone(History(), NOW), NOW + MINUTE), NOW + 2 * MINUTE)
    why = elsewhere.reason(policy(), fleet(3, set_by="argocd"), history, NOW + 3 * MINUTE)
    assert "argocd has set the count otherwise 3 times, now to 3" in why
    assert "trying again in 4m" in why
    assert "mode: observe" in why


def test_changes_by_hand_now_and_then_are_no_quarrel() -> None:
    history, now = History(), NOW
    for _ in range(6):
        history = undone(history, now)
        assert not elsewhere.reason(policy(), fleet(3), history, now)
        now += timedelta(minutes=31)


def test_nothing_goes_that_is_too_many_while_somebody_else_decides() -> None:
    """They may be the surge of a deployment, or on their way out already."""
    many = tuple(Instance(id=InstanceId(f"web-{n}"), state=State.RUNNING) for n in range(5))
    seen = fleet(3, owner="ScaledObject web", instances=many)
    decision, _ = decided(policy(), seen, History(), NOW)
    assert decision.remove == ()
