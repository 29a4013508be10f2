"""The unchanged engine in simulated time: its jobs are stepped on a heap instead of by a timer."""

import asyncio
import heapq
from collections.abc import Callable, Mapping
from datetime import timedelta

from scaler.clock import ManualClock
from scaler.core.journal import Entry
from scaler.core.policy import Policy
from scaler.engine.health import BEAT
from scaler.engine.jobs import Job
from scaler.engine.leader import Leadership
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.interfaces import Adapters, Store


class Simulation:
    """One life of the daemon. A second one on the same store and world is a restart of it."""

    def __init__(
        self,
        *,
        adapters: Adapters,
        policies: Mapping[str, Policy],
        store: Store,
        clock: ManualClock,
        tell: Callable[[Entry], None] = lambda _: None,
        leadership: Leadership | None = None,
    ) -> None:
        self._clock = clock
        self._policies = policies
        self._store = store
        self._recorder = Recorder(store=store, clock=clock)
        self.manager = ScalingManager(
            adapters=adapters,
            recorder=self._recorder,
            clock=clock,
            tell=tell,
            leadership=leadership,
        )

    async def start(self) -> None:
        await self.manager.load(await self._store.load())
        await self.manager.apply(self._policies)

    async def run(self, span: timedelta) -> None:
        """Let `span` pass. Each job runs at its own moment and ends before the next one begins."""
        jobs = self.manager.jobs()
        if self.manager.health.busy:
            jobs.append(Job(name="probes", every=BEAT, run=self.manager.health.step))
        end = self._clock.monotonic() + span
        due = [(self._clock.monotonic(), number) for number in range(len(jobs))]
        while due and due[0][0] < end:
            at, number = heapq.heappop(due)
            await self._pass(at)
            jobs[number].run()
            await self._calm()
            heapq.heappush(due, (at + jobs[number].every, number))
        await self._pass(end)

    async def _pass(self, until: timedelta) -> None:
        """Let time pass; what was set to happen meanwhile happens at its own moment."""
        while (at := self._clock.upcoming()) is not None and at <= until:
            await self._clock.advance(at - self._clock.monotonic())
            await self._calm()
        await self._clock.advance(until - self._clock.monotonic())
        await self._calm()

    async def _calm(self) -> None:
        """Wait until nothing is under way; time stands still meanwhile."""
        while under_way := self.manager.under_way():
            done = await asyncio.gather(*under_way, return_exceptions=True)
            for ended in done:
                if isinstance(ended, BaseException):
                    raise ended
        await self._recorder.flush(timedelta(seconds=10))

    async def stop(self) -> None:
        await self.manager.drain(timedelta(seconds=1))
        await self._recorder.aclose(timedelta(seconds=1))
