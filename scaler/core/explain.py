"""A decision in words. What `explain`, `plan`, the journal and the log say derives from here."""

from collections.abc import Sequence
from datetime import datetime

from scaler.core import limits, schedule
from scaler.core.model import Decision, Fleet, History, Step, Wish
from scaler.core.policy import Policy


def summary(decision: Decision) -> str:
    """One line for the person on call: what happens to whom, and the rule that settled it."""
    parts = []
    if decision.desired != decision.current:
        parts.append(f"{decision.current} → {decision.desired}: {_settled_by(decision)}")
    elif decision.remove:
        parts.append(f"{len(decision.remove)} more than the {decision.desired} wanted go")
    parts += [f"restart {r.instance}: {r.because}" for r in decision.restarts]
    if not parts:
        parts.append(f"stays at {decision.current}: {_settled_by(decision)}")
    return f"{decision.target} {'; '.join(parts)}"


def _settled_by(decision: Decision) -> str:
    """The reason of the first step, and of the last one if another rule changed the count again."""
    first, last = decision.steps[0], decision.steps[-1]
    if last is first:
        return first.because
    return f"{first.because}; {last.rule}: {last.because} → {last.after}"


def lines(decision: Decision) -> tuple[str, ...]:
    """The whole way from what was seen to the count, a line for each wish and each rule."""
    said = [f"{decision.target} at {decision.at:%Y-%m-%d %H:%M:%S} UTC: {_outcome(decision)}"]
    said += [f"  wish     {wish.because}{_say(wish, decision)}" for wish in decision.wishes]
    said += [
        f"  {step.rule:<8} {step.before} → {step.after}  {step.because}" for step in decision.steps
    ]
    said.append(f"  result   {decision.desired}")
    if decision.remove:
        said.append(f"  go       {', '.join(decision.remove)}")
    said += [f"  restart  {r.instance}: {r.because}" for r in decision.restarts]
    said += [f"  waiting  {why}" for why in decision.waiting]
    return tuple(said)


def _outcome(decision: Decision) -> str:
    if decision.desired == decision.current:
        return f"stays at {decision.current}"
    return f"{decision.current} → {decision.desired}"


def _say(wish: Wish, decision: Decision) -> str:
    if wish.count is None:
        return "; it has no say" + (", and nothing shrinks" if wish.blocks else "")
    if wish.grow_only and wish.count < decision.current:
        return " (may only make it grow)"
    return ""


def why_not(
    policy: Policy, fleet: Fleet, history: History, decision: Decision, count: int
) -> tuple[str, ...]:
    """Everything that speaks against `count`: who did not ask for it, and which rules forbid it.

    `history` is what the decision was made from.
    """
    if count == decision.desired:
        return (f"{decision.target} does go to {count}: {_settled_by(decision)}",)
    said = [*_against(decision, count), *_forbidding(policy, fleet, history, decision, count)]
    heading = f"{decision.target} does not go to {count} but to {decision.desired}:"
    return (heading, *(f"  {line}" for line in dict.fromkeys(said)))


def _against(decision: Decision, count: int) -> list[str]:
    """Wishes and steps of this decision that led away from `count`."""
    said = []
    for wish in decision.wishes:
        if wish.count is None:
            said.append(f"metrics: {wish.because}")
        elif wish.count != count:
            said.append(f"metrics: {wish.source} asks for {wish.count} ({wish.because})")
    for step in decision.steps[1:] if decision.wishes else decision.steps:
        crossed = step.before <= count < step.after or step.after < count <= step.before
        if crossed:
            said.append(f"{step.rule}: {step.because}")
    return said


def _forbidding(
    policy: Policy, fleet: Fleet, history: History, decision: Decision, count: int
) -> Sequence[str]:
    """Rules that would have changed `count` had it been asked for."""
    if policy.compatibility == "hpa":
        return ()
    now: datetime = decision.at
    current, rules = decision.current, policy.limits
    bounds = schedule.bounds(rules, policy.schedule, now)
    steps: list[Step] = [
        limits.settle(rules, count, current, history, now),
        limits.rate(rules, count, current, history, now),
        limits.budget(rules, count, current, history, now),
        limits.rollout(fleet, count, current),
        limits.hold(history, count),
        limits.bound(bounds, count),
        limits.pause(history, count, current),
        *([limits.heal(count, current)] if policy.mode == "heal" else []),
    ]
    return [f"{step.rule}: {step.because}" for step in steps if step.after != count]
