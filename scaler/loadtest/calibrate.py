"""Calibration: a search put on something that takes load, a station or a real service.

`calibrate` drives; `ServiceLoad` is the load of a LoadTester, counted against the objective. Load
comes as of independent users (Poisson), since evenly spaced requests queue less than real ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from scaler.clock import Clock
from scaler.core.units import format_percent
from scaler.loadtest.capacity import Found, Limits, Refused, Search, Trial
from scaler.loadtest.evidence import Batch, Counts, Evidence, Objective
from scaler.loadtest.failures import Failure
from scaler.loadtest.histogram import ERROR, LEAST, Histogram
from scaler.loadtest.plan import Plan, of_fields
from scaler.loadtest.record import Record
from scaler.loadtest.report import MOST_CPU, Report
from scaler.loadtest.tester import Endpoints, LoadTester

SOME_LAG: Final = 0.1  # of the objective, p99: beyond it the generator's own delay may count
MOST_LAG: Final = 0.5  # beyond it requests come in bursts, and nothing is believed
OURS: Final = 0.2  # of the share allowed, or of all late ones: so many may be late by the generator
REST: Final = timedelta(seconds=0.3)  # between trials
REST_AFTER_OVERLOAD: Final = timedelta(seconds=2)  # for queues that we cannot see
OVERLOAD: Final = 0.1  # share of late requests
SLOW: Final = frozenset(
    {
        Failure.CONNECT_TIMEOUT,
        Failure.FIRST_BYTE_TIMEOUT,
        Failure.BODY_TIMEOUT,
        Failure.NOT_SENT,
        Failure.CUT_OFF,
    }
)  # fmt: skip - failures that overload explains


class Load(Protocol):
    """Something that takes load and counts who was late."""

    async def __call__(self, rate: float, seconds: int, /) -> Counts:
        """Put on `rate` requests per second for so long; a batch for each second."""
        ...


Tell = Callable[[Trial, Evidence | None], None]


async def calibrate(
    load: Load,
    objective: Objective,
    limits: Limits | None = None,
    *,
    clock: Clock | None = None,
    tell: Tell | None = None,
) -> Found | Refused:
    """The capacity of what takes `load`, or why it cannot be named.

    With a clock there is a rest after every trial. `tell` hears what is known at the rate of a
    trial after it.
    """
    search = Search(objective, limits or Limits())
    while isinstance(trial := search.next(), Trial):
        counts = await load(trial.rate, trial.seconds)
        search.took(trial, counts)
        if tell:
            tell(trial, search.points.get(trial.rate))
        if clock and isinstance(search.next(), Trial):
            due = sum(batch.due for batch in counts.batches)
            over = sum(batch.late for batch in counts.batches) > OVERLOAD * due
            await clock.sleep(REST_AFTER_OVERLOAD if over else REST)
    return trial


@dataclass(slots=True)
class ServiceLoad:
    """The load of a LoadTester on a service.

    Attributes:
        plan: what is asked of the service; its own load and thresholds are not used.
        endpoints: the URLs that share the load, in place of the target of the plan.
    """

    plan: Plan
    objective: Objective
    clock: Clock
    allow_host: bool = False
    trials: int = 0
    endpoints: Endpoints | None = None

    async def __call__(self, rate: float, seconds: int, /) -> Counts:
        self.trials += 1
        tester = LoadTester(
            self._planned(rate, seconds),
            clock=self.clock,
            allow_host=self.allow_host,
            endpoints=self.endpoints,
        )
        return counts_of(await tester.run(), self.objective, seconds)

    def _planned(self, rate: float, seconds: int) -> Plan:
        """Give up soon after a request is late: it counts no more, and overload ends earlier."""
        patience = max(timedelta(seconds=1), 4 * self.objective.within)
        fields = self.plan.model_dump(mode="json", by_alias=True, exclude_unset=True)
        fields["load"] = {
            "rate": f"{rate:.3f}/s",
            "for": f"{seconds}s",
            "arrivals": "poisson",
            "seed": self.trials,  # other moments each time, else trials are no evidence together
        }
        fields["thresholds"] = []
        span = f"{math.ceil(patience.total_seconds() * 1000)}ms"
        fields["timeouts"] = {"connect": span, "first_byte": span, "whole": span, "end": span}
        return of_fields(fields)


def counts_of(report: Report, objective: Objective, seconds: int) -> Counts:
    """A report as batches of a second; what failed or was never sent is late."""
    record = report.record
    record.settle()
    within = objective.within.total_seconds()
    batches = tuple(
        Batch(one.due, max(0, one.due - in_time(one.response, within)))
        for one in record.slices[:seconds]
    )
    return Counts(batches=batches, doubts=_doubts(report, objective), broken=_broken(record))


def in_time(histogram: Histogram, within: float) -> int:
    """How many values are not above `within` seconds; right to the width of a bucket, 0.2 %."""
    last = math.floor(math.log(within / LEAST) / math.log1p(ERROR) + 1e-9)
    buckets = histogram.to_dict()["buckets"]
    return sum(count for bucket, count in buckets.items() if int(bucket) <= last)


def _doubts(report: Report, objective: Objective) -> tuple[str, ...]:
    found, record = list(report.lost), report.record
    within = objective.within.total_seconds()
    lag = record.lag.percentile(0.99)
    started = f"1 % of the requests were started {lag * 1000:.0f} ms late by this tester"
    if lag > MOST_LAG * within:
        found.append(started)
    elif lag > SOME_LAG * within:
        late = record.due - sum(in_time(one.response, within) for one in record.slices)
        ours = in_time(record.service, within) - (record.due - late)  # in time from their sending
        if ours > OURS * max(late, objective.share * record.due):
            found.append(f"{started}, and {ours} are late only by that")
    if report.cpu and max(report.cpu) > MOST_CPU:
        used = format_percent(round(max(report.cpu), 2))
        found.append(f"this tester used {used} of a core")
    without = record.failures[Failure.OUT_OF_SOCKETS.value]
    if without:
        found.append(f"{without} requests found no free port or file")
    return tuple(found)


def _broken(record: Record) -> str | None:
    """Why this is no measurement: nothing is answered, and not for being slow."""
    slow = {failure.value for failure in SLOW}
    hard = {why: count for why, count in record.failures.items() if why not in slow}
    if record.answered or not hard:
        return None
    why, count = max(hard.items(), key=lambda item: item[1])
    return f"no request was answered well: {why} ({count} times)"
