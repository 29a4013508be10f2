"""What holds for every policy, every fleet, all data and any past."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from scaler.core.decide import decide
from scaler.core.journal import (
    Entry,
    Facts,
    Kind,
    clamped,
    entry_from_json,
    entry_to_json,
    history_from_json,
    history_to_json,
    policy_of,
    policy_to_facts,
)
from scaler.core.limits import MOST_ASKED, MOST_CHANGES
from scaler.core.model import Decision, History, Reading, State
from scaler.core.policy import MOST_POINTS, Policy
from tests.properties.strategies import START, Moment, fleets, lives, paused, policies, readings

SANE = st.floats(0.01, 50)


def decided(moment: Moment) -> tuple[Decision, History]:
    return decide(moment.policy, moment.fleet, moment.readings, moment.history, moment.now)


@given(lives())
def test_the_count_lies_within_the_bounds(moment: Moment) -> None:
    decision, _ = decided(moment)
    limits = moment.policy.limits
    protected = sum(i.protected for i in moment.fleet.instances)
    assert decision.desired >= limits.min
    assert decision.desired <= max(limits.max, protected)


@given(lives())
def test_the_steps_chain_from_the_current_count_to_the_desired_one(moment: Moment) -> None:
    decision, _ = decided(moment)
    assert decision.current == moment.fleet.wanted
    assert decision.steps[0].before == decision.current
    assert decision.steps[-1].after == decision.desired
    for one, next_one in pairwise(decision.steps):
        assert one.after == next_one.before
    assert all(step.because for step in decision.steps)


@given(lives())
def test_the_same_facts_give_the_same_decision(moment: Moment) -> None:
    assert decided(moment) == decided(moment)


@given(lives(), st.randoms())
def test_the_order_of_instances_and_samples_is_irrelevant(moment: Moment, draw: object) -> None:
    decision, _ = decided(moment)
    there = list(moment.fleet.instances)
    draw.shuffle(there)  # type: ignore[attr-defined]
    mixed = {}
    for name, reading in moment.readings.items():
        samples = list(reading.samples)
        draw.shuffle(samples)  # type: ignore[attr-defined]
        mixed[name] = replace(reading, samples=tuple(samples))
    fleet = replace(moment.fleet, instances=tuple(there))
    other, _ = decided(replace(moment, fleet=fleet, readings=mixed))
    assert other.desired == decision.desired
    assert sorted(other.remove) == sorted(decision.remove)
    assert {r.instance for r in other.restarts} == {r.instance for r in decision.restarts}


@given(lives())
def test_missing_data_never_shrink_a_target(moment: Moment) -> None:
    """Whatever the past, and whichever of the metrics went missing."""
    assume(moment.policy.metrics)
    first = moment.policy.metrics[0].name
    gone = {**moment.readings, first: Reading(metric=first, missing="connection refused")}
    decision, _ = decided(replace(moment, readings=gone))
    assert decision.desired >= min(moment.fleet.wanted, moment.policy.limits.max)


@given(lives())
def test_stale_data_never_shrink_a_target(moment: Moment) -> None:
    assume(moment.policy.metrics)
    old = timedelta(minutes=30)
    stale = {
        name: replace(reading, samples=tuple(replace(s, at=s.at - old) for s in reading.samples))
        for name, reading in moment.readings.items()
    }
    decision, _ = decided(replace(moment, readings=stale))
    assert decision.desired >= min(moment.fleet.wanted, moment.policy.limits.max)


@given(lives(only_goals=True, values=SANE), st.floats(1, 20))
def test_more_load_never_asks_for_fewer(moment: Moment, times: float) -> None:
    calm, _ = decided(moment)
    heavy = {
        name: replace(r, samples=tuple(replace(s, value=s.value * times) for s in r.samples))
        for name, r in moment.readings.items()
    }
    busy, _ = decided(replace(moment, readings=heavy))
    assert busy.desired >= calm.desired


@given(lives(), st.lists(st.tuples(st.integers(1, 400), st.integers(0, 10**6)), max_size=10))
def test_histories_stay_bounded(moment: Moment, ticks: list[tuple[int, int]]) -> None:
    _, history = decided(moment)
    now = moment.now
    for span, seed in ticks:
        now += timedelta(seconds=span)
        fleet = replace(moment.fleet, at=now, wanted=seed % 30)
        _, history = decide(moment.policy, fleet, moment.readings, history, now)
    assert len(history.asked) <= MOST_ASKED
    assert len(history.changes) <= MOST_CHANGES
    assert all(len(points) <= MOST_POINTS + 2 for points in history.points.values())
    assert history.points.keys() <= {metric.name for metric in moment.policy.metrics}
    assert history.restarts.keys() <= {i.id for i in moment.fleet.instances}


@given(st.data(), st.sampled_from([2.0**-20, 2.0**-3, 2.0**10]))
def test_the_unit_of_a_metric_is_irrelevant(data: st.DataObject, scale: float) -> None:
    """Bytes or mebibytes: values and goal together say the same. Powers of two keep every bit."""
    moment = data.draw(lives(only_goals=True, values=SANE, ticks=0))
    plain = moment.policy.model_dump(mode="python", by_alias=True)
    for metric in plain["metrics"]:
        goal = metric["goal"]
        assume(goal["utilization"] is None)
        for kind in ("per_instance", "value"):
            if goal[kind] is not None:
                goal[kind] *= scale
    scaled = Policy.model_validate({**plain, "name": "web", "target": moment.policy.target})
    heavy = {
        name: replace(r, samples=tuple(replace(s, value=s.value * scale) for s in r.samples))
        for name, r in moment.readings.items()
    }
    before, _ = decided(moment)
    after, _ = decided(replace(moment, policy=scaled, readings=heavy))
    assert after.desired == before.desired


@given(lives())
def test_an_entry_of_the_journal_leads_to_the_same_decision_again(moment: Moment) -> None:
    decision, history = decided(moment)
    facts = Facts(
        policy=policy_to_facts(moment.policy),
        fleet=moment.fleet,
        readings=moment.readings,
        history=moment.history,
    )
    entry = Entry(
        at=moment.now, kind=Kind.DECIDED, summary="", decision=decision, facts=facts, target="web"
    )
    read = entry_from_json(entry_to_json(entry))
    assert read.facts is not None
    again = replace(
        moment,
        policy=policy_of(read.facts),
        fleet=read.facts.fleet,
        readings=dict(read.facts.readings),
        history=read.facts.history,
    )
    assert decided(again) == (decision, history)
    assert history_from_json(history_to_json(history)) == history


@given(lives())
def test_a_clock_that_jumps_an_hour_ahead_releases_nothing(moment: Moment) -> None:
    """After an hour without a look nobody knows what was asked meanwhile: nothing shrinks."""
    assume(moment.history.at is not None)
    assume(moment.policy.limits.settle_down > timedelta())
    later = moment.now + timedelta(hours=1)
    fleet = replace(
        moment.fleet,
        instances=tuple(replace(i, protected=False) for i in moment.fleet.instances),
    )
    fresh = {
        name: replace(r, samples=tuple(replace(s, at=later) for s in r.samples))
        for name, r in moment.readings.items()
    }
    decision, _ = decided(replace(moment, fleet=fleet, readings=fresh, now=later))
    assert decision.desired >= min(moment.fleet.wanted, moment.policy.limits.max)


@given(lives())
def test_a_history_from_the_future_stalls_nothing(moment: Moment) -> None:
    """A clock set back an hour: moments that have not come yet count as now."""
    earlier = moment.now - timedelta(hours=1)
    history = clamped(moment.history, earlier)
    moments = [a.at for a in history.asked] + [c.at for c in history.changes]
    moments += [p.at for points in history.points.values() for p in points]
    assert all(at <= earlier for at in moments)
    decision, _ = decided(replace(moment, history=history, now=earlier))
    assert decision.desired >= moment.policy.limits.min


@given(lives())
def test_what_somebody_else_decides_on_is_left_alone(moment: Moment) -> None:
    owned = replace(moment.fleet, owner="HorizontalPodAutoscaler web")
    decision, _ = decided(replace(moment, fleet=owned))
    if moment.policy.mode != "observe":
        assert decision.desired == decision.current
        assert decision.remove == ()


@given(lives())
def test_paused_nothing_moves(moment: Moment) -> None:
    decision, _ = decided(paused(moment))
    assert decision.desired == moment.fleet.wanted
    assert decision.restarts == ()


@given(lives())
def test_victims_are_there_and_no_more_than_needed(moment: Moment) -> None:
    decision, _ = decided(moment)
    there = {i.id: i for i in moment.fleet.instances}
    present = [i for i in moment.fleet.instances if i.state is not State.STOPPING]
    assert all(id_ in there and not there[id_].protected for id_ in decision.remove)
    assert len(decision.remove) <= max(0, len(present) - decision.desired)
    assert len(set(decision.remove)) == len(decision.remove)


@given(policies(), st.data())
def test_a_first_look_never_shrinks_what_is_there(policy: Policy, data: st.DataObject) -> None:
    """A lost history must not cost instances, unless the policy wants no settling."""
    assume(policy.limits.settle_down > timedelta())
    fleet = data.draw(fleets(START))
    seen = data.draw(readings(policy, fleet, START))
    assume(policy.metrics)
    decision, _ = decide(policy, fleet, seen, History(), START)
    assert decision.desired >= min(fleet.wanted, policy.limits.max)
