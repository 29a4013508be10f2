"""The only module that knows APScheduler. Jobs run on time whatever the wall clock does.

APScheduler 3 follows the wall clock: set back by an hour, every interval job is silent for an
hour. It also drops a run that is a second late, and cancels what runs when it shuts down. So every
job here may be late, late runs become one, a watcher on the monotonic clock brings overdue jobs
forward, and a job only starts work that the engine itself drains.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from scaler.clock import SystemClock
from scaler.engine.jobs import Job

LOOK: Final = timedelta(seconds=1)
A_STEP: Final = timedelta(seconds=1)  # of the wall clock against ours; slewing stays below


class Scheduler:
    """Starts every job of the list again and again, from `start` until `stop`."""

    def __init__(self, clock: SystemClock, on_step: Callable[[timedelta], None]) -> None:
        """`on_step` hears how far the wall clock was moved."""
        self._clock = clock
        self._on_step = on_step
        self._apscheduler = AsyncIOScheduler(timezone=UTC)
        self._jobs: dict[str, Job] = {}
        self._ran_at: dict[str, timedelta] = {}
        self._step = timedelta()
        self._watcher: asyncio.Task[None] | None = None

    def apply(self, jobs: Sequence[Job]) -> None:
        """Exactly these from now on; one that stays keeps its rhythm."""
        fresh = {job.name: job for job in jobs}
        for name in self._jobs.keys() - fresh.keys():
            self._apscheduler.remove_job(name)
        for name, job in fresh.items():
            if name not in self._jobs:
                self._ran_at[name] = self._clock.monotonic()
                self._apscheduler.add_job(
                    self._run,
                    IntervalTrigger(seconds=job.every.total_seconds(), timezone=UTC),
                    args=(name,),
                    id=name,
                    next_run_time=self._clock.wall(),
                    misfire_grace_time=None,
                    coalesce=True,
                    max_instances=1,
                )
        self._jobs = fresh

    def start(self) -> None:
        self._apscheduler.start()
        self._watcher = asyncio.create_task(self._watch(), name="scheduler watch")

    async def _run(self, name: str) -> None:
        if name in self._jobs:
            self._ran_at[name] = self._clock.monotonic()
            self._jobs[name].run()

    async def _watch(self) -> None:
        while True:
            await self._clock.sleep(LOOK)
            step = self._clock.step()
            if abs(step - self._step) > A_STEP:
                self._on_step(step - self._step)
            self._step = step
            now = self._clock.monotonic()
            for name, job in self._jobs.items():
                if now - self._ran_at[name] > job.every * 1.5 + LOOK:
                    self._apscheduler.modify_job(name, next_run_time=self._clock.wall())

    async def stop(self) -> None:
        """No job starts any more. What the jobs have started is for the engine to drain."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._apscheduler.shutdown(wait=False)
