"""How many instances each metric asks for. One function for each kind of rule.

`target` keeps a metric at a goal. It is the Kubernetes formula with its second pass for missing
and unready instances, applied to the *load* (value times instances), averaged over a window. A load
does not fall because instances are added, so a window never makes a target grow twice for one rise.
`threshold` adds or removes while a metric is past a level. Where `target` differs from
upstream is written in `docs/policies.md`; `hpa.py` reproduces upstream to the number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from scaler.core import roster, window
from scaler.core.model import (
    Burst,
    Fleet,
    History,
    InstanceId,
    Point,
    Reading,
    Sample,
    Wish,
)
from scaler.core.policy import BreachStep, Goal, Limits, Metric, Policy, Threshold
from scaler.core.roster import Crew
from scaler.core.units import Ratio, format_percent, format_span

EPSILON: Final = 1e-9  # of an instance: a float that should be 3 must not ask for 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one metric says at this tick."""

    value: float  # as the goal is written: mean ratio, mean per instance, or the whole
    load: float  # of all ready instances together
    count: int = 0  # instances that it was measured on
    silent: int = 0  # ready ones without a sample
    unsure: int = 0  # became ready within the measured span: as good as not measured
    whole: bool = False  # one number for the target


def wishes(
    policy: Policy, fleet: Fleet, readings: Mapping[str, Reading], history: History, now: datetime
) -> tuple[tuple[Wish, ...], History]:
    """Every metric's wish, and the history with this tick's points in it."""
    everybody = roster.muster(fleet, history, now)
    points = dict(history.points)
    bursts: dict[str, Burst | None] = dict(history.bursts)
    found = []
    for metric in policy.metrics:
        reading = readings.get(metric.name) or Reading(metric=metric.name, missing="not read")
        loaded = roster.loaded(metric, reading, fleet)
        crew = roster.muster(fleet, history, now, loaded) if loaded else everybody
        measured = measure(metric, reading, fleet, crew, now, policy.every)
        old = points.get(metric.name, ())
        if isinstance(measured, str):
            found.append(_missing(metric, measured, old, fleet.wanted, now))
            continue
        seen = _extended(metric, old, measured, now, policy.every)
        points[metric.name] = seen
        if metric.keep is not None:
            wish = target(metric, policy.limits, measured, seen, crew, fleet.wanted, now)
            if metric.burst is not None:
                wish, bursts[metric.name] = _burst(
                    metric, wish, seen, crew, fleet.wanted, bursts.get(metric.name), now
                )
        else:
            wish = threshold(metric, seen, crew, fleet.wanted, history, now)
        found.append(wish)
    names = {metric.name for metric in policy.metrics}
    return tuple(found), replace(
        history,
        points={name: kept for name, kept in points.items() if name in names},
        bursts={n: b for n, b in bursts.items() if n in names and b is not None},
    )


def measure(
    metric: Metric, reading: Reading, fleet: Fleet, crew: Crew, now: datetime, every: timedelta
) -> Measure | str:
    """One number out of a reading, or why there is none."""
    if reading.missing is not None:
        return reading.missing
    max_age = metric.max_age
    if max_age is None:  # who measures over a long window has new numbers as seldom
        max_age = 3 * max(every, max((s.window for s in reading.samples), default=timedelta()))
    each, whole, doubt = window.newest(reading, now, max_age)
    if whole is None:
        return _mean(metric, each, fleet, crew, doubt)
    goal = metric.keep
    value = whole.value
    if goal is not None and goal.utilization is not None:
        if whole.base is None:
            return "nobody says what 100 % is"
        value /= whole.base
    alone = goal is not None and goal.per_instance is not None
    return Measure(value=value, load=value * (1 if alone else _carriers(crew)), whole=True)


def _carriers(crew: Crew) -> int:
    return len(crew.working) or 1  # nobody works: the number speaks for the one to come


def _mean(
    metric: Metric, each: dict[InstanceId, Sample], fleet: Fleet, crew: Crew, doubt: str
) -> Measure | str:
    goal = metric.keep
    as_share = metric.source.kind == "platform" if goal is None else goal.utilization is not None
    used = full = 0.0
    count = silent = unsure = 0
    for instance in fleet.instances:
        if instance.id not in crew.working:
            continue
        sample = each.get(instance.id)
        if sample is None:
            silent += 1
            continue
        changed = None if instance.lapsed else instance.ready_changed_at
        if changed is not None and sample.at - sample.window < changed:
            unsure += 1  # it measured the start-up, not the work
            continue
        used += sample.value
        if as_share:
            base = sample.base or instance.bases.get(metric.name)
            if base is None:
                return f"nobody says what 100 % is for {instance.id}"
            full += base
        else:
            full += 1.0
        count += 1
    if not count:
        return doubt or ("no instance is ready" if not crew.working else "no instance has a sample")
    value = used / full
    load = value * (count + silent)
    return Measure(value=value, load=load, count=count, silent=silent, unsure=unsure)


def _extended(
    metric: Metric, old: Sequence[Point], measured: Measure, now: datetime, every: timedelta
) -> tuple[Point, ...]:
    votes = max((rule.points.of for rule in metric.when if rule.points), default=0)
    kept = window.since(old, now - max(metric.longest, (votes + 1) * every))
    if len(kept) > 1 and now - kept[-2].at < every:  # looks out of turn weigh no more than others
        kept = kept[:-1]
    while kept and kept[-1].at >= now:  # the same moment again: the newest stands
        kept = kept[:-1]
    return (*kept, Point(now, measured.value, measured.load))


def _missing(
    metric: Metric, why: str, points: tuple[Point, ...], wanted: int, now: datetime
) -> Wish:
    """No data: it has no say and nothing shrinks. Its last value may still ask for more."""
    because = f"{metric.name} has no data ({why})"
    recent = window.since(points, now - metric.last_known)
    if metric.keep is None or not recent:
        return Wish(source=metric.name, count=None, because=because, blocks=True)
    count = max(wanted, _ceil(recent[-1].load / metric.keep.level))
    age = format_span(timedelta(seconds=round((now - recent[-1].at).total_seconds())))
    because = f"{because}; its value of {age} ago still counts → {count}"
    return Wish(source=metric.name, count=count, raw=count, because=because, blocks=True)


def target(
    metric: Metric,
    limits: Limits,
    measured: Measure,
    points: tuple[Point, ...],
    crew: Crew,
    wanted: int,
    now: datetime,
) -> Wish:
    """The count that brings the metric to its goal.

    With `n` ready instances at mean `v` the load is `v * n` and the count `ceil(load / goal)`.
    Silent instances are taken to carry nothing when growing and everything when shrinking; those on
    their way carry nothing and count once. Within the tolerance, or when such filling turns the
    direction, the count stays. Source: Kubernetes `replica_calculator.go`, both passes.
    """
    goal = metric.keep
    assert goal is not None  # noqa: S101 - the caller has looked
    level = goal.level
    in_window = window.since(points, now - metric.window) or points[-1:]
    load = window.reduce([point.load for point in in_window], metric.reduce)
    if measured.whole:
        ratio, corrected, exact, value = _of_whole(goal, load, crew, wanted)
    else:
        ratio, corrected, exact, value = _of_each(goal, load, measured, crew)
    low, high = limits.band
    shown = f"{metric.name} {_shown(goal, value)} against {_shown(goal, level)}"
    if measured.silent or measured.unsure or crew.coming or crew.stuck:
        shown += _crowd(measured, crew)
    turned = (ratio < 1 < corrected) or (corrected < 1 < ratio)
    backwards = (corrected < 1 and exact > wanted) or (corrected > 1 and exact < wanted)
    count = raw = exact
    if wanted and low <= corrected <= high:
        count = wanted
        shown += f", within the tolerance → {wanted}"
    elif turned or backwards:
        count = raw = wanted
        shown += f", too little is known to change {wanted}"
    else:
        shown += f" → {count}"
    return Wish(
        source=metric.name,
        count=count,
        raw=raw,
        because=shown,
        value=value,
        goal=level,
        grow_only=metric.use == "grow",
    )


def _of_whole(goal: Goal, load: float, crew: Crew, wanted: int) -> tuple[float, float, int, float]:
    """For one number for the target: its ratio twice, the count asked for, and the number.

    A total is shared out. Any other number moves the count in proportion: of those that work when
    growing, because the others do not carry it yet; of all when shrinking. (Upstream takes the
    ready ones both ways and so shrinks an overloaded target whose instances are starting.)
    """
    level = goal.level
    if goal.per_instance is not None:
        able = max(1, wanted - crew.stuck)
        exact = _ceil(load / level)
        ratio = load / (level * able)
        return ratio, ratio, exact + (crew.stuck if ratio > 1 else 0), load
    carriers = _carriers(crew)
    value = load / carriers
    ratio = value / level
    if ratio > 1:
        return ratio, ratio, max(wanted, _ceil(ratio * carriers) + crew.stuck), value
    return ratio, ratio, _ceil(ratio * wanted) if wanted else _ceil(ratio), value


def _of_each(
    goal: Goal, load: float, measured: Measure, crew: Crew
) -> tuple[float, float, int, float]:
    """For a sample of each instance: the ratio before and after filling, the count, the mean."""
    level = goal.level
    ready = measured.count + measured.silent
    mean = load / ready
    ratio = mean / level
    total, size, more = mean * measured.count, ready, 0
    if ratio > 1:
        size += measured.unsure + crew.coming
        more = crew.stuck
    elif measured.silent and ratio < 1:
        full = max(1.0, level) if goal.utilization is not None else level
        total += measured.silent * full
    return ratio, total / (size * level), _ceil(total / level) + more, mean


def _burst(
    metric: Metric,
    wish: Wish,
    points: tuple[Point, ...],
    crew: Crew,
    wanted: int,
    burst: Burst | None,
    now: datetime,
) -> tuple[Wish, Burst | None]:
    """Knative's panic mode: a short window that grows at once and lets nothing shrink.

    It begins when the short window asks for `threshold` times the ready instances and ends after a
    whole long window below. Source: Knative `pkg/autoscaler/scaling/autoscaler.go`, `Scale`.
    """
    rule, goal = metric.burst, metric.keep
    assert rule is not None  # noqa: S101 - the caller has looked
    assert goal is not None  # noqa: S101
    recent = window.since(points, now - rule.window) or points[-1:]
    load = window.reduce([point.load for point in recent], "mean")
    asked = _ceil(load / goal.level)
    over = load / goal.level >= rule.threshold * max(1, len(crew.working))
    if not over and (burst is None or now - burst.over_at >= metric.window):
        return wish, None
    known = burst.peak if burst else wanted
    peak = max(known, asked, wish.count or 0)
    since = now if over or burst is None else burst.over_at
    because = f"{wish.because}; burst: the last {format_span(rule.window)} ask for {asked} → {peak}"
    return replace(wish, count=peak, raw=peak, because=because), Burst(over_at=since, peak=peak)


def threshold(
    metric: Metric,
    points: tuple[Point, ...],
    crew: Crew,
    wanted: int,
    history: History,
    now: datetime,
) -> Wish:
    """The highest count that the rules whose level is passed ask for.

    A rule looks at the number of each tick since the last change of the count, so after a change it
    must hold for its whole span again. What is on its way counts once: adding is based on those
    that work (AWS step scaling calls that warm-up).
    """
    changed = history.changes[-1].at if history.changes else None
    counts = [
        (count, why)
        for rule in metric.when
        for count, why in _fired(rule, metric, points, crew, wanted, changed, now)
    ]
    value = points[-1].value
    if not counts:
        because = f"{metric.name} is {_plain(metric, value)}; no threshold is passed"
        return Wish(source=metric.name, count=None, because=because, value=value)
    count, because = max(counts)
    return Wish(
        source=metric.name,
        count=count,
        raw=count,
        because=because,
        value=value,
        grow_only=metric.use == "grow",
    )


def _fired(
    rule: Threshold,
    metric: Metric,
    points: tuple[Point, ...],
    crew: Crew,
    wanted: int,
    changed: datetime | None,
    now: datetime,
) -> list[tuple[int, str]]:
    fresh = points if changed is None else window.since(points, changed)
    if not fresh or not _holds(rule, fresh, now):
        return []
    value = fresh[-1].value
    step: BreachStep = rule
    for row in rule.steps:
        if _past(row, value):
            step = row
    if rule.steps and step is rule:
        return []
    count = _changed(step, wanted, crew)
    if rule.points is not None:
        span = f" in {rule.points} points"
    else:
        span = f" for {format_span(rule.for_)}" if rule.for_ else ""
    return [(count, f"{metric.name} is {_plain(metric, value)}, {_level(step)}{span} → {count}")]


def _holds(rule: Threshold, fresh: Sequence[Point], now: datetime) -> bool:
    if rule.points is not None:
        last = fresh[-rule.points.of :]
        return sum(_past(rule, point.value) for point in last) >= rule.points.needed
    begin = now - rule.for_
    if fresh[0].at > begin and rule.for_:
        return False  # not watched for long enough
    return all(_past(rule, p.value) for p in (window.since(fresh, begin) or fresh[-1:]))


def _past(step: BreachStep, value: float) -> bool:
    return (step.above is None or value >= step.above) and (
        step.below is None or value < step.below
    )


def _changed(step: BreachStep, wanted: int, crew: Crew) -> int:
    if step.set is not None:
        return step.set
    if step.add is not None:
        settled = wanted - crew.coming
        return max(wanted, settled + math.ceil(step.add.of(settled) - EPSILON))
    assert step.remove is not None  # noqa: S101 - the model asks for exactly one
    return max(0, wanted - math.floor(step.remove.of(wanted) + EPSILON))


def _ceil(count: float) -> int:
    return math.ceil(count - EPSILON)


def _shown(goal: Goal, number: float) -> str:
    return f"{number * 100:.3g} %" if goal.utilization is not None else f"{number:.4g}"


def _plain(metric: Metric, number: float) -> str:
    return f"{number * 100:.3g} %" if metric.source.kind == "platform" else f"{number:.4g}"


def _level(step: BreachStep) -> str:
    def written(level: float) -> str:
        return format_percent(level) if isinstance(level, Ratio) else f"{level:g}"

    parts = []
    if step.above is not None:
        parts.append(f"at or above {written(step.above)}")
    if step.below is not None:
        parts.append(f"below {written(step.below)}")
    return " and ".join(parts)


def _crowd(measured: Measure, crew: Crew) -> str:
    parts = [
        f"{count} {what}"
        for count, what in (
            (measured.silent, "without a sample"),
            (measured.unsure, "ready too short a time"),
            (crew.coming, "on the way"),
            (crew.stuck, "stuck"),
        )
        if count
    ]
    return f" ({', '.join(parts)})"
