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
from scaler.clients.cgroups import Counts, Reader
from scaler.clients.docker import Engines
from scaler.clients.stats import Stats
from scaler.clock import Clock
from scaler.core.document import Source, Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError, ScalerError
from scaler.interfaces import Context

SHORTEST: Final = timedelta(milliseconds=200)  # of a rate; shorter spans are mostly noise
SLICE: Final = 100  # instances read before others have their turn: about two milliseconds
NO_TIME: Final = timedelta()
UNREADABLE: Final = (OSError, LookupError, ValueError)  # as `Groups.reader` says
STAMP: Final = 10  # instances that share a moment: a tenth of a millisecond


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


class _Unread:
    """Nobody has looked for the files yet."""

    def read(self, now: timedelta) -> tuple[timedelta, Counts]:
        raise LookupError(now)


UNREAD: Final = _Unread()


class _Look:
    """One life of an instance, as far as it was looked at."""

    __slots__ = ("counts", "life", "moment", "reader", "sample", "seen")

    def __init__(self, life: str) -> None:
        self.life = life
        self.reader: Reader = UNREAD
        self.seen = False  # by the kernel itself: when it sees it no more, it has ended
        self.moment = timedelta()  # of the counters, on whichever clock they were read by
        self.counts: Counts | None = None
        self.sample: Sample | None = None


class DockerMetrics:
    """One metric of one target."""

    def __init__(
        self, metric: Metric, engine: str, clock: Clock, groups: cgroups.Groups, stats: Stats
    ) -> None:
        self._metric = metric
        self._measure = MEASURES[metric.name]
        self._base = self._measure.base  # what 100 % is, when it is the same for all
        self._engine = engine
        self._clock = clock
        self._groups = groups
        self._stats = stats
        self._looks: dict[InstanceId, _Look] = {}
        self._plan: list[_Look] = []  # the same, in the order of the fleet
        self._lives: list[str] = []
        self._asked: set[str] = set()  # lives that the engine was asked for

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - no past
        name = self._metric.name
        runs = State.RUNNING
        running = [i for i in fleet.instances if i.state is runs]
        self._follow(running)
        if not running:
            return Reading(metric=name, missing="no instance is running")
        if self._metric.of == "host" and self._base is None:
            try:
                self._base = await self._stats.host(self._engine, name)
            except ScalerError as error:
                return Reading(metric=name, missing=f"the size of the host is not known: {error}")
        samples: list[Sample] = []
        absent: dict[InstanceId, str] = {}
        others = []
        for begin in range(0, len(running), SLICE):
            if begin:
                await self._clock.sleep(NO_TIME)
            part, looks = running[begin : begin + SLICE], self._plan[begin : begin + SLICE]
            others += self._of_kernel(part, looks, samples, absent)
        if others:
            await self._of_engine(others, samples, absent)
        found = tuple([sample for sample in samples if sample.at > since])
        return Reading(metric=name, samples=found, missing=None if found else _why(absent))

    def _of_kernel(
        self,
        part: Sequence[Instance],
        looks: Sequence[_Look],
        samples: list[Sample],
        absent: dict[InstanceId, str],
    ) -> list[Instance]:
        """Fills samples, and reasons; who is left has to be asked for elsewhere.

        Reads all, then looks at all: the kernel's work on memory.stat drives ours from the caches.
        """
        at, now = self._clock.now(), self._clock.monotonic
        try:
            found: list[tuple[timedelta, Counts]] = []
            for begin in range(0, len(looks), STAMP):
                moment = now()
                found += [look.reader.read(moment) for look in looks[begin : begin + STAMP]]
        except UNREADABLE:
            return self._one_by_one(part, looks, samples, absent)
        if self._measure.way == "level":
            base, name, which = self._base, self._metric.name, self._measure.part
            samples += [
                Sample(at=at, value=counts[which], instance=i.id, base=base or i.bases.get(name))
                for i, (_, counts) in zip(part, found, strict=True)
            ]
            return []
        judged = self._judged
        for instance, look, (moment, counts) in zip(part, looks, found, strict=True):
            if (sample := judged(look, instance, at, moment, counts)) is not None:
                samples.append(sample)
        return []

    def _one_by_one(
        self,
        part: Sequence[Instance],
        looks: Sequence[_Look],
        samples: list[Sample],
        absent: dict[InstanceId, str],
    ) -> list[Instance]:
        """The same when one of them is new or cannot be read; what was read is not read again."""
        others = []
        kind, at = self._measure.kind, self._clock.now()
        for instance, look in zip(part, looks, strict=True):
            try:
                if look.reader is UNREAD:
                    look.reader = self._groups.reader(kind, look.life, instance.pid)
                moment, counts = look.reader.read(self._clock.monotonic())
            except UNREADABLE as error:
                look.reader = UNREAD
                failed = self._groups.failed(kind, look.life, error)
                absent[instance.id] = failed.because
                if failed.elsewhere and not look.seen:
                    others.append(instance)
            else:
                look.seen = True
                if (sample := self._judged(look, instance, at, moment, counts)) is not None:
                    samples.append(sample)
        return others

    async def _of_engine(
        self, others: Sequence[Instance], samples: list[Sample], absent: dict[InstanceId, str]
    ) -> None:
        lives = [instance.incarnation for instance in others]
        self._asked.update(lives)
        told = await self._stats.read(self._engine, self._measure.kind, lives)
        for instance in others:
            answer = told[instance.incarnation]
            look = self._looks[instance.id]
            if isinstance(answer, str):
                absent[instance.id] = f"{absent[instance.id]}, and the engine: {answer}"
            elif (sample := self._judged(look, instance, *answer)) is not None:
                samples.append(sample)

    def _judged(
        self, look: _Look, instance: Instance, at: datetime, moment: timedelta, counts: Counts
    ) -> Sample | None:
        """A sample, as far as there are older counters of the same life where they are needed."""
        measure, window = self._measure, NO_TIME
        if measure.way == "level":
            value = counts[measure.part]
        else:
            old, window = look.counts, moment - look.moment
            if old is not None and NO_TIME <= window < SHORTEST:
                return look.sample
            look.counts, look.moment, look.sample = counts, moment, None
            if old is None or window < NO_TIME or counts[measure.part] < old[measure.part]:
                return None  # the first look, or another life after all
            value = counts[measure.part] - old[measure.part]
            if measure.way == "rate":
                value /= window.total_seconds()
            elif value:  # else there was no period in which it ran or waited
                value = (counts[1] - old[1]) / value
        base = self._base or instance.bases.get(self._metric.name)
        look.sample = Sample(at=at, value=value, instance=instance.id, base=base, window=window)
        return look.sample

    def _follow(self, running: Sequence[Instance]) -> None:
        """A look for each life, in their order; lives that are over are let go of."""
        lives = [instance.incarnation for instance in running]
        if lives == self._lives:
            return
        self._lives, old = lives, self._looks
        self._looks = {}
        for instance in running:
            look = old.get(instance.id)
            if look is None or look.life != instance.incarnation:
                look = _Look(instance.incarnation)
            self._looks[instance.id] = look
        self._plan = list(self._looks.values())
        for life in {look.life for look in old.values()}.difference(lives):
            self._groups.drop(life)
        if gone := self._asked.difference(lives):
            self._stats.drop(self._engine, gone)
            self._asked -= gone

    async def aclose(self) -> None:
        self._follow(())


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
