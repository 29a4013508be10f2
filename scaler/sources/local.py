"""CPU and memory of local processes, each with everything that it has started.

`cpu` is cores used as the mean since the last look, so the first look at a new start has none.
Children that came and went in between count. `memory` is resident memory.
"""

import asyncio
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from scaler.clients import processes, usage
from scaler.core.document import Source, Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError
from scaler.interfaces import Context

SHARED: Final = timedelta(milliseconds=250)  # one scan serves all metrics of one tick
SHORTEST: Final = timedelta(milliseconds=200)  # the kernel counts in hundredths of a second


class LocalSource(Source):
    """What the system says of the processes; there is nothing to configure."""


@dataclass(frozen=True, slots=True)
class _Look:
    """An instance at the last look."""

    incarnation: str
    monotonic: timedelta
    usage: usage.Usage
    sample: Sample | None = None


class LocalMetrics:
    """One metric of one target."""

    def __init__(self, metric: Metric, table: processes.ProcessTable, host: float | None) -> None:
        self._metric = metric
        self._table = table
        self._host = host  # what 100 % is, when it is the host
        self._looks: dict[InstanceId, _Look] = {}

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - no past
        name = self._metric.name
        running = [i for i in fleet.instances if i.state is State.RUNNING]
        if not running:
            return Reading(metric=name, missing="no instance is running")
        try:
            snapshot = await self._table.look(max_age=SHARED)
        except OSError as error:
            return Reading(metric=name, missing=f"cannot look at processes: {error}")
        measure = self._cpu if name == "cpu" else self._memory
        found = await asyncio.to_thread(measure, running, snapshot)
        samples = tuple(sample for sample in found if sample.at > since)
        missing = (
            None if samples else "seen for the first time just now; the next look has a number"
        )
        return Reading(metric=name, samples=samples, missing=missing)

    async def aclose(self) -> None:
        self._looks = {}

    def _memory(self, running: list[Instance], snapshot: processes.Snapshot) -> list[Sample]:
        return [
            Sample(
                at=snapshot.at,
                value=float(usage.memory_bytes(tree)),
                instance=instance.id,
                base=self._base(instance),
            )
            for instance in running
            if (tree := snapshot.tree(instance.incarnation))
        ]

    def _cpu(self, running: list[Instance], snapshot: processes.Snapshot) -> list[Sample]:
        looks = {
            instance.id: look
            for instance in running
            if (look := self._looked(instance, snapshot)) is not None
        }
        self._looks = looks
        return [look.sample for look in looks.values() if look.sample]

    def _looked(self, instance: Instance, snapshot: processes.Snapshot) -> _Look | None:
        old = self._looks.get(instance.id)
        if old and old.incarnation != instance.incarnation:
            old = None
        span = snapshot.monotonic - old.monotonic if old else timedelta()
        if old and span < SHORTEST:
            return old
        tree = snapshot.tree(instance.incarnation)
        if not tree:  # it has ended just now
            return None
        used = usage.measured(old.usage if old else None, tree)
        sample = None
        if old:
            sample = Sample(
                at=snapshot.at,
                value=(used.cpu_s - old.usage.cpu_s) / span.total_seconds(),
                instance=instance.id,
                base=self._base(instance),
                window=span,
            )
        return _Look(instance.incarnation, snapshot.monotonic, used, sample)

    def _base(self, instance: Instance) -> float | None:
        return self._host or instance.bases.get(self._metric.name)


class _Plugin:
    source = LocalSource

    def open(self, metric: Metric, target: Target, context: Context) -> LocalMetrics:  # noqa: ARG002 - no target needs it
        if metric.name not in ("cpu", "memory"):
            raise ConfigError(
                f'local processes have no metric "{metric.name}"; '
                "write cpu or memory, or name a source for it"
            )
        if metric.of == "request":
            raise ConfigError(
                f"{metric.name}: local processes have no request; write of: limit or of: host"
            )
        table = context.shared.setdefault(
            processes.ProcessTable, processes.ProcessTable(context.clock)
        )
        whole = {"cpu": float(os.cpu_count() or 1), "memory": float(usage.memory_limit())}
        return LocalMetrics(metric, table, whole[metric.name] if metric.of == "host" else None)


PLUGIN: Final = _Plugin()
