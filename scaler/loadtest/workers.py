"""Several processes that share one load test: one interpreter uses one core.

Each is told the plan and its number on its standard input, says when it is ready, and starts at a
moment that all are given; the monotonic clock is the same in all processes of a machine. One that
dies takes its share along, which the report says.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from scaler.clock import seconds
from scaler.errors import ConfigError, Unavailable
from scaler.loadtest import progress
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress
from scaler.loadtest.record import Record

MOST_LINE: Final = 64 * 2**20  # bytes of a worker's record
START_S: Final = 30.0  # until a worker has imported what it needs
SOON_S: Final = 0.1  # from all being ready to the first request
GRACE_S: Final = 15.0  # for a worker to tell its figures after the last answer


@dataclass(frozen=True, slots=True)
class Found:
    """What all workers together have found."""

    records: list[Record]
    cpu: tuple[float, ...]
    lost: tuple[str, ...]
    seconds: float


class Workers(Protocol):
    """Whoever shares the load, once."""

    def stop(self) -> None: ...

    async def run(self) -> Found: ...


class Crew:
    """The workers of one run, on this machine."""

    def __init__(
        self, plan: Plan, *, allow_host: bool, tell: Callable[[Progress], None] | None
    ) -> None:
        self._plan = plan
        self._allow_host = allow_host
        self._tell = tell
        self._processes: list[asyncio.subprocess.Process] = []
        self._told: dict[int, Progress] = {}

    def stop(self) -> None:
        """Let them end soon."""
        for process in self._processes:
            if process.stdin is not None and process.returncode is None:
                process.stdin.close()

    async def run(self) -> Found:
        """Start them, wait for them, and leave none behind.

        Raises:
            ConfigError: what a worker has refused.
            Unavailable: a worker has not started, or not one has told its figures.
        """
        try:
            for number in range(self._plan.workers):
                self._processes.append(await self._start(number))
            async with asyncio.timeout(START_S):
                await asyncio.gather(*(self._ready(process) for process in self._processes))
            begin = seconds() + SOON_S
            for process in self._processes:
                self._say(process, {"begin": begin})
            return await self._collect(begin)
        except TimeoutError:
            raise Unavailable(
                f"a worker has not started within {START_S:g} s; is the machine busy?"
            ) from None
        finally:
            await self._end()

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scaler.loadtest.worker",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MOST_LINE,
        )  # fmt: skip
        plan = self._plan.model_dump_json(by_alias=True, exclude_unset=True)
        order = {"plan": json.loads(plan), "number": number, "allow_host": self._allow_host}
        self._say(process, order)
        return process

    def _say(self, process: asyncio.subprocess.Process, what: dict[str, Any]) -> None:
        if process.stdin is not None:
            process.stdin.write(json.dumps(what).encode() + b"\n")

    async def _heard(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """The next line of a worker; empty when it has ended."""
        if process.stdout is None:
            return {}
        line = await process.stdout.readline()
        heard: dict[str, Any] = json.loads(line) if line else {}
        if "error" in heard:
            raise ConfigError(str(heard["error"]))
        return heard

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        if "ready" not in await self._heard(process):
            raise Unavailable("a worker ended before it was ready; its own words stand above")

    async def _collect(self, begin: float) -> Found:
        ending = self._plan.timeouts.end.total_seconds()
        patience = self._plan.load.seconds() + ending + GRACE_S
        several = [self._one(number, patience) for number in range(self._plan.workers)]
        ends = await asyncio.gather(*several)
        records = [Record.of_dict(end["record"]) for end in ends if end]
        if not records:
            raise Unavailable("no worker has told its figures; their own words stand above")
        lost = tuple(
            f"worker {number + 1} of {len(ends)} ended early and its requests are missing"
            for number, end in enumerate(ends)
            if not end
        )
        cpu = tuple(float(end["cpu"]) for end in ends if end)
        return Found(records, cpu, lost, seconds() - begin)

    async def _one(self, number: int, patience: float) -> dict[str, Any]:
        """The figures of a worker; empty when it has died or hangs."""
        process = self._processes[number]
        with suppress(TimeoutError, json.JSONDecodeError):
            async with asyncio.timeout(patience):
                while heard := await self._heard(process):
                    if "record" in heard:
                        return heard
                    self._hear(number, Progress.of_dict(heard["progress"]))
        return {}

    def _hear(self, number: int, told: Progress) -> None:
        self._told[number] = told
        alive = {n for n, process in enumerate(self._processes) if process.returncode is None}
        if self._tell and self._told.keys() >= alive:
            self._tell(progress.together(list(self._told.values())))
            self._told.clear()

    async def _end(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
