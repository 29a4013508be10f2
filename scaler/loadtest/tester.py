"""LoadTester: sends requests when they are due, and counts latency from that moment.

A tester that waits for answers before it sends the next request measures a service that hangs as
quick (coordinated omission). Here every request has its moment, and one that could not be sent in
time is late in the figures and not left out.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Self

from scaler.clock import Clock, seconds
from scaler.errors import ConfigError
from scaler.loadtest import progress, workers
from scaler.loadtest.engine import Engine, Share
from scaler.loadtest.hosts import Origin, locate
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress
from scaler.loadtest.record import Record
from scaler.loadtest.report import Report, merged
from scaler.loadtest.rotating import RotatingTransport
from scaler.loadtest.schedule import Schedule
from scaler.loadtest.transport import HttpTransport, Limits, Transport
from scaler.loadtest.wires import wires_of
from scaler.loadtest.workers import Workers

SOON_S: Final = 0.05  # from being ready to the first request

Endpoints = Callable[[], Sequence[str]]
Tell = Callable[[Progress], None]


class LoadTester:
    """One load test; `run` does it once."""

    def __init__(
        self,
        plan: Plan,
        *,
        clock: Clock,
        allow_host: bool = False,
        endpoints: Endpoints | None = None,
        schedule: Schedule | None = None,
        tell: Tell | None = None,
        crew: Workers | None = None,
    ) -> None:
        """`tell` hears once a second how it stands. `crew` does it in place of this process.

        `endpoints` names at every request the URLs on this machine that share the load, in place
        of the target of the plan; what nobody takes at one is offered to the next. `schedule`
        stands in for that of the plan.

        Raises:
            ConfigError: the load cannot be made, or has more requests than it may have.
        """
        self._plan = plan
        self._clock = clock
        self._allow_host = allow_host
        self._endpoints = endpoints
        self._given = schedule
        self._schedule = schedule or plan.load.schedule()
        self._tell = tell
        self._crew = crew
        self._stop: list[Callable[[], None]] = []
        if (endpoints or schedule) and plan.workers > 1:
            raise ConfigError("endpoints and schedules of a caller are for one worker")
        if self._schedule and self._schedule.requests > plan.bounds.requests:
            raise ConfigError(
                f"the load has {self._schedule.requests:.0f} requests, the most is "
                f"{plan.bounds.requests}; shorten it, or raise bounds.requests"
            )
        if plan.load.warm_up.total_seconds() >= self._length:
            raise ConfigError("warming up takes the whole load; lengthen it or shorten warm_up")

    @property
    def _length(self) -> float:
        if self._schedule:
            return self._schedule.seconds
        return self._plan.load.length.total_seconds()

    def stop(self) -> None:
        """Start nothing more; `run` returns soon with what there is."""
        for stop in self._stop:
            stop()

    async def run(self) -> Report:
        """Do it.

        Raises:
            Refused: the target is not on this machine, and that was not allowed.
            ConfigError: a variable, a secret or a certificate is not there.
        """
        begin = self._clock.monotonic()
        crew = self._crew
        if self._plan.workers > 1:
            await locate(self._plan.target, allow_host=self._allow_host)
            crew = workers.Crew(self._plan, allow_host=self._allow_host, tell=self._tell)
        if crew is not None:
            self._stop.append(crew.stop)
            found = await crew.run()
            return self._report(merged(found.records), found.cpu, found.lost, found.seconds)
        share = Share()
        async with Solo(
            self._plan, self._clock, share, allow_host=self._allow_host,
            endpoints=self._endpoints, schedule=self._given,
        ) as solo:  # fmt: skip
            self._stop.append(solo.engine.stop)
            record = await solo.run(seconds() + SOON_S, self._tell)
            took = (self._clock.monotonic() - begin).total_seconds()
            return self._report(record, (solo.engine.cpu,), (), took)

    def _report(
        self, record: Record, cpu: tuple[float, ...], lost: tuple[str, ...], took: float
    ) -> Report:
        counted = min(self._length, took) - self._plan.load.warm_up.total_seconds()
        return Report(
            target=self._plan.target,
            kind="open" if self._schedule else "closed",
            seconds=max(counted, 0.001),
            record=record,
            cpu=cpu,
            lost=lost,
            wanted=self._plan.thresholds,
        )


class Solo:
    """One share of a load test in this process, with its connections."""

    engine: Engine

    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        share: Share,
        *,
        allow_host: bool,
        endpoints: Endpoints | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._share = share
        self._allow_host = allow_host
        self._endpoints = endpoints
        self._schedule = schedule or plan.load.schedule()
        self._rotating: RotatingTransport | None = None
        self._transport: Transport

    async def __aenter__(self) -> Self:
        plan, share = self._plan, self._share
        limits = limits_of(plan, share.of)
        if self._endpoints is not None:
            self._transport = self._rotating = RotatingTransport(self._endpoints, limits)
            host = "localhost"
        else:
            origin = await locate(plan.target, allow_host=self._allow_host)
            self._transport = HttpTransport(origin, limits, tls_of(plan, origin))
            host = origin.named
        wires = wires_of(plan, host, share.number)
        self.engine = Engine(
            plan, self._schedule, self._transport, wires, clock=self._clock, share=share
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.aclose()

    async def run(self, begin: float, tell: Tell | None) -> Record:
        zero = begin + self._plan.load.warm_up.total_seconds()
        teller = asyncio.create_task(self._tells(zero, tell)) if tell else None
        try:
            record = await self.engine.run(begin)
        finally:
            if teller:
                teller.cancel()
                await asyncio.gather(teller, return_exceptions=True)
        if self._rotating:
            record.retried = self._rotating.retried
        return record

    async def _tells(self, zero: float, tell: Tell) -> None:
        while True:
            await self._clock.sleep(timedelta(seconds=1))
            engine = self.engine
            tell(progress.of(engine.record, seconds() - zero, engine.in_flight))


def limits_of(plan: Plan, workers: int = 1) -> Limits:
    """Of one worker of several, which share the connections."""
    return Limits(
        connect=plan.timeouts.connect.total_seconds(),
        first_byte=plan.timeouts.first_byte.total_seconds(),
        whole=plan.timeouts.whole.total_seconds(),
        connections=-(-max(plan.bounds.connections, plan.load.users or 0) // workers),
        response=plan.bounds.response,
        keep_alive=plan.keep_alive,
    )


def tls_of(plan: Plan, origin: Origin) -> ssl.SSLContext | None:
    """How connections are encrypted; None for plain HTTP.

    Raises:
        ConfigError: the certificates cannot be read.
    """
    if origin.scheme != "https":
        return None
    try:
        context = ssl.create_default_context(cafile=plan.tls.ca)
    except OSError as error:
        raise ConfigError(f"tls.ca: {plan.tls.ca} cannot be read: {error}") from error
    if not plan.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
