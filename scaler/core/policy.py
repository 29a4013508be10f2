"""What a policy may say. One definition is the value, the validation, the schema and the reference.

The string under a field is its description in the schema and in `docs/policies.md`.
"""

from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    Field,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from scaler.core.document import Balancer, Model, Source, Target, Wrong, within
from scaler.core.healthpolicy import Health
from scaler.core.units import (
    Amount,
    AmountOf,
    ClockTime,
    Days,
    Level,
    Per,
    Percent,
    PerSpan,
    Points,
    Quantity,
    Ratio,
    Span,
    Zone,
    format_span,
)

LONGEST_WINDOW: Final = timedelta(hours=1)  # bounds the history; as in Kubernetes
MOST_POINTS: Final = 720  # of one metric; with the window it bounds history and work per tick


class RateRule(Model):
    """At most so much change in so long."""

    at_most: AmountOf
    """Instances such as `4`, or a share such as `100%` of the count at the start of the span."""
    per: Span = timedelta(minutes=1)
    """The span that `at_most` holds for, up to 1h."""

    @field_validator("per")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(seconds=1), LONGEST_WINDOW)


class Rate(Model):
    """How fast the count may move in one direction."""

    at_most: AmountOf | None = None
    """Instances such as `4`, or a share such as `100%` of the count at the start of the span."""
    or_: AmountOf | None = Field(default=None, alias="or")
    """A second bound beside `at_most`; `pick` says which one counts."""
    per: Span = timedelta(minutes=1)
    """The span that both bounds hold for, up to 1h."""
    rules: tuple[RateRule, ...] = ()
    """Further bounds, each with its own span."""
    pick: Literal["larger", "smaller", "none"] = "larger"
    """Which bound counts when there are several. `none` forbids the direction altogether."""

    @field_validator("per")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(seconds=1), LONGEST_WINDOW)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.at_most is None and self.or_ is not None:
            raise Wrong("it stands without at_most; write the first bound as at_most", "or")
        if not self.all_rules and self.pick != "none":
            raise ValueError("no bound is given; write for example at_most: 100%")
        return self

    @cached_property
    def all_rules(self) -> tuple[RateRule, ...]:
        own = tuple(
            RateRule(at_most=amount, per=self.per)
            for amount in (self.at_most, self.or_)
            if amount is not None
        )
        return own + self.rules


class Limits(Model):
    """How far and how fast a target may move."""

    min: Annotated[int, Field(ge=0, le=1000)] = 1
    """Fewest instances. Zero needs a provider that can scale to zero."""
    max: Annotated[int, Field(ge=1, le=1000)] = 10
    """Most instances, whatever the metrics say."""
    tolerance: Percent = Ratio(0.1)
    """Leave the count alone while a metric is this close to its goal."""
    tolerance_up: Percent | None = None
    """The same for growing only; `tolerance` when it is not given."""
    tolerance_down: Percent | None = None
    """The same for shrinking only; `tolerance` when it is not given."""
    settle_down: Span = timedelta(minutes=5)
    """Shrink only to the highest count asked for in this span. `0s` turns the rule off."""
    settle_up: Span = timedelta(0)
    """Grow only to the lowest count asked for in this span. `0s` turns the rule off."""
    grow: Rate = Rate(at_most=Amount(share=1.0), or_=Amount(count=4), per=timedelta(minutes=1))
    """How fast the target may grow."""
    shrink: Rate = Rate(at_most=Amount(share=0.5), or_=Amount(count=1), per=timedelta(minutes=1))
    """How fast the target may shrink."""
    cooldown: Span = timedelta(0)
    """After any change, do not shrink for this long. Growing is never held back by it."""
    changes: PerSpan | None = None
    """A budget such as `12 per 1h`: when it is spent, nothing shrinks until it recovers."""
    reversals: PerSpan = Per(6, timedelta(hours=1))
    """The flap guard: after so many changes of direction, nothing shrinks until some have aged."""

    @cached_property
    def band(self) -> tuple[float, float]:
        """Ratios to the goal between which a metric leaves the count alone; both ends count."""
        down = self.tolerance if self.tolerance_down is None else self.tolerance_down
        up = self.tolerance if self.tolerance_up is None else self.tolerance_up
        return 1.0 - down, 1.0 + up

    @field_validator("settle_down", "settle_up", "cooldown")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(0), LONGEST_WINDOW)

    @field_validator("changes", "reversals")
    @classmethod
    def _bounded_budget(cls, per: Per | None) -> Per | None:
        if per is not None:
            within(per.span, timedelta(seconds=1), LONGEST_WINDOW)
            if not 1 <= per.count <= 100:
                raise ValueError(f"{per.count} changes are out of range; choose 1 to 100")
        return per

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise Wrong(f"{self.min} is above max ({self.max}); raise max or lower min", "min")
        return self


class Goal(Model):
    """Where a metric is to be kept. Exactly one of the three."""

    utilization: Percent | None = None
    """Share of the limit, request or host that the mean instance uses."""
    per_instance: Quantity | None = None
    """So much for each instance: the total is divided by it."""
    value: Quantity | None = None
    """The number itself, whatever the count; the count moves in proportion."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [
            n for n in ("utilization", "per_instance", "value") if getattr(self, n) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                f"{len(given)} goals are given; "
                "write exactly one of utilization, per_instance, value"
            )
        if self.level <= 0:
            raise Wrong(f"a goal of {self.level:g} cannot be kept; it must be above zero", *given)
        return self

    @cached_property
    def level(self) -> float:
        return next(g for g in (self.utilization, self.per_instance, self.value) if g is not None)


class BreachStep(Model):
    """How much to change at one level of a step table."""

    above: Level | None = None
    """Applies from this value on (inclusive)."""
    below: Level | None = None
    """Applies under this value."""
    add: AmountOf | None = None
    """Add so many instances, or such a share of the present count (rounded up)."""
    remove: AmountOf | None = None
    """Remove so many instances, or such a share of the present count (rounded down)."""
    set: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Go to exactly this count."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("no level is given; write above or below")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise Wrong(
                f"nothing is from {self.above:g} up and under {self.below:g}; swap them", "below"
            )
        return self

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if type(self) is BreachStep:
            _one_change(self)
        return self


class Threshold(BreachStep):
    """A plain rule: while the metric is past a level, change the count by so much.

    With both levels given it holds from `above` up to, but not at, `below`.
    """

    for_: Span = Field(default=timedelta(0), alias="for")
    """It must have been so for this long, counted again after each change."""
    points: Points | None = None
    """Instead of `for`: so many of the last so many ticks, such as `3 of 5`."""
    steps: tuple[BreachStep, ...] = ()
    """A table by size of the breach in place of a single change; the last row that fits counts."""

    @field_validator("for_")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(0), LONGEST_WINDOW)

    @model_validator(mode="after")
    def _table_or_change(self) -> Self:
        if not self.steps:
            _one_change(self)
        elif self.add is not None or self.remove is not None or self.set is not None:
            raise Wrong("steps and a single change are both given; keep one of them", "steps")
        return self


def _one_change(step: BreachStep) -> None:
    given = [n for n in ("add", "remove", "set") if getattr(step, n) is not None]
    if len(given) != 1:
        raise ValueError(f"{len(given)} changes are given; write exactly one of add, remove, set")


class BurstWindow(Model):
    """A second, short window that reacts at once to a steep rise (Knative's panic mode)."""

    window: Span = timedelta(seconds=6)
    """The short window."""
    threshold: Annotated[float, *Percent.__metadata__] = Ratio(2.0)
    """Burst mode begins when the short window asks for this share of the ready instances."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if not 1.1 <= self.threshold <= 10:
            raise Wrong("it lies between 110% and 1000%; write for example 200%", "threshold")
        within(self.window, timedelta(seconds=1), timedelta(minutes=10))
        return self


class Metric(Model):
    """One number that has a say in the count. The highest wish of all metrics wins."""

    cpu: Percent | None = None
    """Short for a metric named `cpu` of the platform with this goal of utilization."""
    memory: Level | None = None
    """Short for a metric named `memory`: utilization (`80%`) or so much per instance (`512MiB`)."""
    name: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_.-]{0,62})?$")] = ""
    """Its name in messages; for the platform it says what is measured: `cpu` or `memory`.

    Docker also knows `throttled`, `pressure_cpu`, `pressure_memory` and `pressure_io` (shares of
    time), `pids`, and `io_read`, `io_write`, `net_in`, `net_out` (bytes per second).
    """
    source: SerializeAsAny[Source] = Source()
    """Where it is read; the platform itself when it is not given."""
    of: Literal["limit", "request", "host"] = "limit"
    """What 100 % is for a platform metric."""
    goal: Goal | None = None
    """Keep the metric here, by changing the count in proportion."""
    when: tuple[Threshold, ...] = ()
    """Or change the count by plain thresholds, as many as wanted."""
    window: Span = timedelta(minutes=1)
    """The span over which it is reduced to one number. `0s` takes the newest."""
    reduce: Literal["mean", "max", "min", "last", "p50", "p90", "p95", "p99"] = "mean"
    """How the numbers of the window become one."""
    use: Literal["both", "grow"] = "both"
    """`grow`: never shrink because of it."""
    max_age: Span | None = None
    """An older sample is missing. Three periods, or three windows of a sample if these are longer,
    when it is not given."""
    last_known: Span = timedelta(0)
    """For so long after it went missing its last value may still make the target grow."""
    burst: BurstWindow | None = None
    """A second, short window for steep rises."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        shorts = [name for name in ("cpu", "memory") if raw.get(name) is not None]
        if len(shorts) > 1:
            raise ValueError("cpu and memory stand in one metric; write them as two")
        if isinstance(raw.get("when"), dict):
            raw = {**raw, "when": (raw["when"],)}
        if shorts:
            raw = {"name": shorts[0], **raw}
        return raw

    @field_validator("window", "last_known", "max_age")
    @classmethod
    def _bounded(cls, span: timedelta | None) -> timedelta | None:
        return None if span is None else within(span, timedelta(0), LONGEST_WINDOW)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.name:
            raise ValueError("it has no name; add name: followed by a word")
        ways = [
            self.cpu is not None or self.memory is not None,
            self.goal is not None,
            bool(self.when),
        ]
        if sum(ways) != 1:
            raise ValueError(
                "write exactly one of goal, when, or the short forms cpu: 70% and memory: 80%"
            )
        if self.burst and self.keep is None:
            raise Wrong("it needs a goal; it does not go with when", "burst")
        if self.burst and self.burst.window > self.window:
            raise Wrong(
                "it is longer than window of the metric; make it shorter", "burst", "window"
            )
        return self

    @cached_property
    def keep(self) -> Goal | None:
        """The goal, short forms included."""
        if self.cpu is not None:
            return Goal(utilization=self.cpu)
        if self.memory is not None:
            if isinstance(self.memory, Ratio):
                return Goal(utilization=self.memory)
            return Goal(per_instance=self.memory)
        return self.goal

    @cached_property
    def longest(self) -> timedelta:
        """How far back its points are needed."""
        return max(self.window, self.last_known, *(rule.for_ for rule in self.when), timedelta())


class Window(Model):
    """A part of the week with its own bounds. The start counts, the end does not."""

    days: Days = (0, 1, 2, 3, 4, 5, 6)
    """On which days it begins: `mon-fri`, `sat,sun`. Every day when not given."""
    from_: ClockTime = Field(alias="from")
    """Local time of day at which it begins."""
    to: ClockTime
    """Local time of day at which it ends; on the next day when not after `from`."""
    zone: Zone = ZoneInfo("UTC")
    """Time zone of both times. Changes of the clocks are followed."""
    min: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Fewest instances meanwhile."""
    max: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Most instances meanwhile."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("it changes nothing; write min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise Wrong(f"{self.min} is above max ({self.max}); raise max or lower min", "min")
        return self


class Missing(Model):
    """What to do when no metric answers. Missing data never shrink a target."""

    do: Literal["hold", "fallback"] = "hold"
    """`hold` leaves the count alone; `fallback` goes up to `count`, never down."""
    count: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The count of `fallback`."""
    after: Span = timedelta(minutes=1)
    """How long nothing must have answered before `fallback` acts."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.do == "fallback") != (self.count is not None):
            raise Wrong("fallback and count belong together; write both or neither", "do")
        return self


class Policy(Model):
    """How one service is kept at the right size and in good health."""

    name: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader: the key of the map."""
    mode: Literal["act", "observe", "heal"] = "act"
    """`observe` decides and records, and changes nothing; `heal` restarts and never scales."""
    target: SerializeAsAny[Target]
    """What is scaled, on exactly one platform."""
    every: Span = timedelta(seconds=5)
    """Time between two looks."""
    limits: Limits = Limits()
    """How far and how fast it may move."""
    metrics: tuple[Metric, ...] = ()
    """What asks for instances; the highest wish wins. Without any, only the bounds count."""
    schedule: tuple[Window, ...] = ()
    """Bounds that change with the time of day."""
    missing: Missing = Missing()
    """What to do when no metric answers."""
    health: Health = Health()
    """How instances are judged and restarted."""
    balancer: SerializeAsAny[Balancer] | None = None
    """What sends requests to the instances, so that none is lost when one goes."""
    compatibility: Literal["scaler", "hpa"] = "scaler"
    """`hpa` reproduces the Kubernetes 1.36 autoscaler to the number, its faults included."""

    @field_validator("every")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(milliseconds=200), timedelta(hours=1))

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        longest = max((m.longest for m in self.metrics), default=timedelta())
        if longest > MOST_POINTS * self.every:
            widest = [m.longest for m in self.metrics].index(longest)
            raise Wrong(
                f"a window of {format_span(longest)} looked at every {format_span(self.every)} "
                f"holds more than {MOST_POINTS} points; shorten the window or raise every",
                "metrics",
                widest,
            )
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [metric.name for metric in self.metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            last = len(names) - 1 - names[::-1].index(twice[0])
            message = f'two metrics are named "{twice[0]}"; give one another name'
            raise Wrong(message, "metrics", last)
        return self
