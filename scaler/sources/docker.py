"""What containers use: CPU, memory, throttling, pressure, processes, devices and network.

Numbers come from the files of the control groups (`clients.cgroups`); where those cannot be seen,
from the engine (`clients.stats`), which is two orders of magnitude dearer. Rates are means since
the last look, so the first look at a new start has none.

All instances are read on the thread of the loop, in slices. One look at 200 containers takes 4 ms;
a thread would cost another tenth of a millisecond per metric and a lock around every descriptor.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from scaler import mistakes
from scaler.clients import cgroups, processes
from scaler.clients.cgroups import Absent, Counts
from scaler.clients.docker import Engines
from scaler.clients.stats import Stats
from scaler.clock import Clock
from scaler.core.document import Source, Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError, ScalerError
from scaler.interfaces import Context

SHORTEST: Final = timedelta(milliseconds=200)  # of a rate; shorter spans are mostly noise
SLICE: Final = 64  # instances read before others have their turn: about a millisecond
STAMP: Final = 8  # instances that share a moment: a tenth of a millisecond


class DockerSource(Source):
    """What the kernel or the engine says of the containers; there is nothing to configure."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a metric is made of counters."""

    kind: str  # of `Groups.read`
    way: Literal["level", "rate", "share"] = "level"  # as it is, per second, second of first
    part: int = 0  # which of the counters
    base: float | None = 1.0  # what 100 % is; None: the instance or the host says


MEASURES: Final = {
    "cpu": Measure("cpu", "rate", base=None),
    "memory": Measure("memory", base=None),
    "throttled": Measure("throttle", "share"),
    "pids": Measure("pids"),
    "io_read": Measure("io", "rate", 0),
    "io_write": Measure("io", "rate", 1),
    "net_in": Measure("net", "rate", 0),
    "net_out": Measure("net", "rate", 1),
    "pressure_cpu": Measure("pressure_cpu"),
    "pressure_memory": Measure("pressure_memory"),
    "pressure_io": Measure("pressure_io"),
}
AMOUNTS: Final = ("pids", "io_read", "io_write", "net_in", "net_out")  # nothing is 100 % of them


class _Look:
    """An instance at the last look."""

    __slots__ = ("counts", "life", "moment", "sample")

    def __init__(
        self, life: str, moment: timedelta, counts: Counts, sample: Sample | None = None
    ) -> None:
        self.life = life
        self.moment = moment  # of the counters, on whichever clock they were read by
        self.counts = counts
        self.sample = sample


class DockerMetrics:
    """One metric of one target."""

    def __init__(
        self, metric: Metric, engine: str, clock: Clock, groups: cgroups.Groups, stats: Stats
    ) -> None:
        self._metric = metric
        self._measure = MEASURES[metric.name]
        self._engine = engine
        self._clock = clock
        self._groups = groups
        self._stats = stats
        self._looks: dict[InstanceId, _Look] = {}
        self._base = self._measure.base  # what 100 % is, when it is the same for all
        self._ended: set[str] = set()  # lives that the kernel itself saw end
        self._asked: set[str] = set()  # lives that the engine was asked for

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - no past
        name = self._metric.name
        running = [i for i in fleet.instances if i.state is State.RUNNING]
        self._forget(running)
        if not running:
            return Reading(metric=name, missing="no instance is running")
        if self._metric.of == "host" and self._base is None:
            try:
                self._base = await self._stats.host(self._engine, name)
            except ScalerError as error:
                return Reading(metric=name, missing=f"the size of the host is not known: {error}")
        looks, absent = await self._look(running)
        self._looks = looks
        samples = tuple(
            look.sample for look in looks.values() if look.sample and look.sample.at > since
        )
        if samples:
            return Reading(metric=name, samples=samples)
        return Reading(metric=name, missing=_why(absent))

    async def _look(
        self, running: Sequence[Instance]
    ) -> tuple[dict[InstanceId, _Look], dict[InstanceId, str]]:
        looks: dict[InstanceId, _Look] = {}
        absent: dict[InstanceId, str] = {}
        others = []
        read, judged, kind = self._groups.read, self._judged, self._measure.kind
        for begin in range(0, len(running), SLICE):
            if begin:
                await self._clock.sleep(timedelta())
            at = self._clock.now()
            moment = self._clock.monotonic()
            for number, instance in enumerate(running[begin : begin + SLICE], 1):
                found = read(kind, instance.incarnation, instance.pid, moment)
                if not isinstance(found, Absent):
                    looks[instance.id] = judged(instance, at, *found)
                else:
                    absent[instance.id] = found.because
                    if found.elsewhere and not self._saw(instance):
                        others.append(instance)
                if not number % STAMP:
                    moment = self._clock.monotonic()
        if others:
            lives = [instance.incarnation for instance in others]
            self._asked.update(lives)
            told = await self._stats.read(self._engine, self._measure.kind, lives)
            for instance in others:
                answer = told[instance.incarnation]
                if isinstance(answer, str):
                    absent[instance.id] = f"{absent[instance.id]}, and the engine: {answer}"
                else:
                    looks[instance.id] = self._judged(instance, *answer)
        return looks, absent

    def _saw(self, instance: Instance) -> bool:
        """Whether the kernel told of this life before: then it has ended, whatever others say."""
        life = instance.incarnation
        old = self._looks.get(instance.id)
        if old is not None and old.life == life and life not in self._asked:
            self._ended.add(life)
        return life in self._ended

    def _judged(self, instance: Instance, at: datetime, moment: timedelta, counts: Counts) -> _Look:
        """The look, with a sample as far as there is a look of the same life before it."""
        measure, life = self._measure, instance.incarnation
        if measure.way == "level":
            return _Look(life, moment, counts, self._sample(instance, at, counts[measure.part]))
        old = self._looks.get(instance.id)
        if old is None or old.life != life:
            return _Look(life, moment, counts)
        span = moment - old.moment
        if timedelta() <= span < SHORTEST:
            return old
        gained = counts[measure.part] - old.counts[measure.part]
        if span < timedelta() or gained < 0:
            return _Look(life, moment, counts)  # another life after all
        if measure.way == "rate":
            value = gained / span.total_seconds()
        else:
            held = counts[1] - old.counts[1]
            value = held / gained if gained else 0.0  # no period in which it ran or waited
        return _Look(life, moment, counts, self._sample(instance, at, value, span))

    def _sample(
        self, instance: Instance, at: datetime, value: float, span: timedelta = timedelta()
    ) -> Sample:
        base = self._base or instance.bases.get(self._metric.name)
        return Sample(at=at, value=value, instance=instance.id, base=base, window=span)

    def _forget(self, running: Sequence[Instance]) -> None:
        lives = {instance.incarnation for instance in running}
        for look in self._looks.values():
            if look.life not in lives:
                self._groups.drop(look.life)
        self._ended &= lives
        if gone := self._asked - lives:
            self._stats.drop(self._engine, gone)
            self._asked -= gone

    async def aclose(self) -> None:
        self._forget(())
        self._looks = {}


def _why(absent: dict[InstanceId, str]) -> str:
    if not absent:
        return "seen for the first time just now; the next look has a number"
    first, because = next(iter(absent.items()))
    more = f" (and {len(absent) - 1} others)" if len(absent) > 1 else ""
    return f"{first}{more}: {because}"


class _Plugin:
    source = DockerSource

    def open(self, metric: Metric, target: Target, context: Context) -> DockerMetrics:
        check(metric, "docker", MEASURES)
        processes.allow_files()
        shared = context.shared
        engines = shared.setdefault(Engines, Engines())
        groups = shared.setdefault(cgroups.Groups, cgroups.Groups())
        stats = shared.setdefault(Stats, Stats(engines, context.clock))
        engine = str(getattr(target, "engine", ""))
        return DockerMetrics(metric, engine, context.clock, groups, stats)


def check(metric: Metric, platform: str, known: Iterable[str]) -> None:
    """Whether the platform can say this.

    Raises:
        ConfigError: there is no such metric, or nothing is 100 % of it.
    """
    name = metric.name
    if name not in known:
        remedy = mistakes.meant(name, known) or f"known are {', '.join(sorted(known))}"
        raise ConfigError(f'{platform} has no metric "{name}"; {remedy} or name a source for it')
    if metric.of == "request":
        raise ConfigError(f"{name}: containers have no request; write of: limit or of: host")
    if metric.of == "host" and name not in ("cpu", "memory"):
        raise ConfigError(f"{name}: only cpu and memory have a size of the host; leave out of:")
    if name in AMOUNTS and metric.keep is not None and metric.keep.utilization is not None:
        raise ConfigError(f"{name}: nothing is 100 % of it; write per_instance: or value:")


PLUGIN: Final = _Plugin()
