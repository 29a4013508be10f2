"""Metrics of one kind of source as a process has them, for tests that ask a real server."""

from pathlib import Path
from random import Random
from typing import Any

from scaler import plugins
from scaler.clients.by_address import ByAddress
from scaler.clock import SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Reading
from scaler.core.policy import Metric
from scaler.interfaces import Context, MetricSource


class Bench:
    """Metrics by sources as they stand in a policy, as one process has them."""

    def __init__(self, kind: str, servers: type[ByAddress[Any]], folder: Path, **more: Any) -> None:
        """`servers` is where that kind keeps its connections, `more` stands in every source."""
        self.clock = SystemClock()
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self._kind = kind
        self._servers = servers
        self._more = more

    def metric(self, **fields: Any) -> MetricSource:
        plugin = plugins.source(self._kind)
        given = {**self._more, **fields, "kind": self._kind}
        metric = Metric(name="load", source=plugin.source.model_validate(given), goal={"value": 1})
        return plugin.open(metric, Target(), self.context)

    async def ask(self, metric: MetricSource) -> Reading:
        now = self.clock.now()
        found = await metric.read(Fleet(target="web", at=now, wanted=2), now, now)
        assert (not found.samples) == bool(found.missing)
        return found

    async def value(self, **fields: Any) -> float:
        reading = await self.ask(self.metric(**fields))
        assert reading.samples, reading.missing
        (sample,) = reading.samples
        assert (sample.instance, sample.base) == (None, 1.0)
        return sample.value

    async def missing(self, **fields: Any) -> str:
        reading = await self.ask(self.metric(**fields))
        assert reading.missing, reading
        assert len(reading.missing) < 600
        return reading.missing

    async def aclose(self) -> None:
        if self._servers in self.context.shared:
            await self.context.shared[self._servers].aclose()
