"""One process of a load test: starts what is due, gives up what is late, and records both.

Requests of a schedule start at their moments whatever happened to those before. Users wait for
each answer, so a slow service slows them too, and their figures know no intended moment.
"""

import asyncio
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final

from scaler.clock import Clock, seconds
from scaler.loadtest.alarm import Alarm
from scaler.loadtest.failures import Failure
from scaler.loadtest.plan import Plan
from scaler.loadtest.record import Record
from scaler.loadtest.schedule import Schedule
from scaler.loadtest.transport import Call, Done, Transport
from scaler.loadtest.wires import Wire

SWEEP: Final = timedelta(milliseconds=25)  # between two looks for what is too late
TICK_S: Final = 0.0002  # between two starts; what is due in it starts together
LOOK_S: Final = 0.05  # whether it has been called off, where nothing is due
MOST_AT_ONCE: Final = 256  # starts before answers are looked at again
PAUSE_S: Final = 0.1  # of a user after an error, so that a dead server is not hammered
SPREAD_S: Final = 1.0  # in which users who do not think start


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of the load one process has: every `of`-th request or user from `number` on."""

    number: int = 0
    of: int = 1


class Engine:
    """Runs one share of a plan, once."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule | None,
        transport: Transport,
        wires: Sequence[Wire],
        *,
        clock: Clock,
        share: Share = Share(),
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._transport = transport
        self._wires = wires
        self._clock = clock
        self._share = share
        self._warm_up = plan.load.warm_up.total_seconds()
        self._most = -(-plan.bounds.in_flight // share.of)
        self._kinds = self._choices()
        self._zero = 0.0  # the moment from which requests count
        self._end = 0.0
        self._over = asyncio.Event()  # nothing starts any more
        self._idle = asyncio.Event()  # nothing is under way any more
        self._left = 0  # requests that users may still send
        self.in_flight = 0
        self.cpu = 0.0  # share of one core that this process has used
        self.record = Record([request.title for request in plan.scenario])

    def stop(self) -> None:
        """Start nothing more and end soon."""
        self._over.set()
        self._transport.cut_off()

    async def run(self, begin: float) -> Record:
        """Do it from that moment of `scaler.clock.seconds` on, and wait for the last answer."""
        self._zero = begin + self._warm_up
        sweeper = asyncio.create_task(self._sweep())
        before = _cpu()
        started = seconds()
        try:
            await self._until(begin)
            if self._schedule is not None:
                await self._arrivals(begin, self._schedule)
            else:
                await self._users(begin)
            self._over.set()
            self._share_of_core(before, started)
            await self._last_answers()
        finally:
            self._over.set()
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            self._transport.cut_off()
        self.record.settle()
        return self.record

    def _share_of_core(self, before: float, started: float) -> None:
        self.cpu = (_cpu() - before) / max(seconds() - started, 1e-3)

    async def _until(self, moment: float) -> None:
        wait = moment - seconds()
        if wait > 0:
            await self._clock.sleep(timedelta(seconds=wait))

    async def _arrivals(self, begin: float, schedule: Schedule) -> None:
        moments = schedule.moments(self._share.number, self._share.of)
        alarm = Alarm(self._clock)
        try:
            await self._follow(begin, moments, alarm)
        finally:
            alarm.close()
        await self._remaining(begin + schedule.seconds)

    async def _follow(self, begin: float, moments: Iterator[float], alarm: Alarm) -> None:
        due = next(moments, None)
        while due is not None and not self._over.is_set():
            now = seconds()
            for _ in range(MOST_AT_ONCE):
                if due is None or begin + due > now:
                    break
                self._arrive(begin + due)
                due = next(moments, None)
            if due is None:
                return
            now = seconds()
            if begin + due > now:
                await alarm.until(min(max(begin + due, now + TICK_S), now + LOOK_S))
            else:
                await self._clock.sleep(timedelta())  # let answers be read in between

    async def _remaining(self, end: float) -> None:
        """Until the end, or until it is called off."""
        wait = end - seconds()
        if wait > 0 and not self._over.is_set():
            timer = asyncio.create_task(self._clock.sleep(timedelta(seconds=wait)))
            called_off = asyncio.create_task(self._over.wait())
            await asyncio.wait({timer, called_off}, return_when=asyncio.FIRST_COMPLETED)
            for task in (timer, called_off):
                task.cancel()

    def _arrive(self, due: float) -> None:
        self.record.begun(due - self._zero, max(0.0, seconds() - due))
        kind = next(self._kinds)
        if self.in_flight >= self._most:
            self.record.dropped(due - self._zero, kind)
            return
        self._send(kind, due, self._answered)

    def _send(self, kind: int, due: float, done: Done) -> None:
        wire = self._wires[kind]
        self.in_flight += 1
        self._idle.clear()
        self._transport.send(
            Call(
                wire.fixed or wire.render(),
                due,
                done,
                kind,
                no_body=wire.no_body,
                wanted=bool(wire.contains),
            )
        )

    def _answered(self, call: Call) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()
        if call.failure is None:
            wire = self._wires[call.kind]
            if not wire.right(call.status):
                call.failure = Failure.WRONG_STATUS
            elif wire.contains and wire.contains not in call.body:
                call.failure = Failure.FAILED_CHECK
        self.record.ended(call, call.due - self._zero)

    async def _users(self, begin: float) -> None:
        load = self._plan.load
        self._end = begin + load.length.total_seconds()
        self._left = -(-self._plan.bounds.requests // self._share.of)
        users = range(self._share.number, load.users or 0, self._share.of)
        spread = load.think.total_seconds() or SPREAD_S
        loop = asyncio.get_running_loop()
        for user in users:
            loop.call_later(spread * user / (load.users or 1), self._ask)
        await self._remaining(self._end)

    def _ask(self) -> None:
        """A user sends its next request, if there is time for it."""
        now = seconds()
        if self._over.is_set() or now >= self._end:
            return
        if self._left <= 0:
            self._over.set()
            return
        self._left -= 1
        self.record.begun(now - self._zero, 0.0)
        self._send(next(self._kinds), now, self._told)

    def _told(self, call: Call) -> None:
        self._answered(call)
        pause = self._plan.load.think.total_seconds()
        if call.failure is not None:
            pause = max(pause, PAUSE_S)
        if pause:
            asyncio.get_running_loop().call_later(pause, self._ask)
        else:
            self._ask()

    def _choices(self) -> Iterator[int]:
        """Requests of the scenario by weight, endlessly."""
        weights = [request.weight for request in self._plan.scenario]
        random = Random(f"{self._plan.load.seed} {self._share.number}")
        while True:
            if len(weights) == 1:
                yield 0
            else:
                yield from random.choices(range(len(weights)), weights, k=1000)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP)
            self._transport.expire(seconds())

    async def _last_answers(self) -> None:
        if self.in_flight:
            self._idle.clear()
            try:
                async with asyncio.timeout(self._plan.timeouts.end.total_seconds()):
                    await self._idle.wait()
            except TimeoutError:
                return  # `cut_off` tells the rest


def _cpu() -> float:
    """Seconds that this process has computed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
