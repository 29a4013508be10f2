"""One part of a load test that several machines share: request i belongs to part i mod n.

It waits until all are there, starts at the moment that is named, tells once a second how it stands,
and leaves its record at the end. It stops when whoever gathers the figures has gone: load that
nobody watches is an accident.
"""

import asyncio
import hashlib
import json
import re
import secrets
from contextlib import suppress
from datetime import timedelta
from itertools import count
from typing import Final

from scaler.clock import Clock, seconds
from scaler.errors import ConfigError, ScalerError, Unavailable
from scaler.loadtest import progress
from scaler.loadtest.engine import Share
from scaler.loadtest.meeting import HOLD_S, Meeting
from scaler.loadtest.plan import Plan
from scaler.loadtest.record import Record
from scaler.loadtest.tester import Solo

NODE: Final = re.compile(r"[a-z0-9]{25}")  # an id of Swarm
WAIT_S: Final = 120.0  # for all to be there; images have to be fetched
LOOK: Final = timedelta(milliseconds=200)  # between two looks whether it begins
BEAT: Final = timedelta(seconds=1)
LEAVE_S: Final = 10.0  # to leave a record


def print_of(plan: Plan) -> str:
    """What must be the same for all parts: not what must hold, and not where files lie."""
    replayed = {"load": {"replay": {"file"}}} if plan.load.replay else {}
    fields = plan.model_dump_json(exclude={"thresholds": True, "tls": True, **replayed})
    return hashlib.sha256(f"{fields} {plan.load.schedule()!r}".encode()).hexdigest()[:16]


def insist_on_one_process(plan: Plan) -> None:
    """Raises ConfigError: the plan wants several workers, which parts are already."""
    if plan.workers > 1:
        raise ConfigError("each part is one process; leave workers out and start more parts")


def share_of(written: str) -> Share:
    """`0/3`, `1/3` and `2/3`; or `1/3` to `3/3`, where counting begins with one.

    A job of Swarm numbers its tasks from zero, and gives the id of a node for that zero.

    Raises:
        ConfigError: it is neither.
    """
    number, slash, of = written.partition("/")
    number = "0" if NODE.fullmatch(number) else number
    if not (slash and number.isdigit() and of.isdigit() and 0 <= int(number) <= int(of) > 0):
        raise ConfigError(f'"{written}" is no part; write 0/3 for the first of three')
    return Share(int(number) % int(of), int(of))


class Part:
    """What one process does."""

    def __init__(
        self, plan: Plan, meeting: Meeting, share: Share, *, clock: Clock, allow_host: bool
    ) -> None:
        """Raises ConfigError: as `insist_on_one_process`."""
        insist_on_one_process(plan)
        self._plan = plan
        self._meeting = meeting
        self._share = share
        self._clock = clock
        self._solo = Solo(plan, clock, share, allow_host=allow_host)
        self._token = secrets.token_hex(8)
        self._run = ""
        self._whole = True
        self._over = False

    def stop(self) -> None:
        """End early; what is missing is said in the report."""
        self._whole = False
        self._over = True
        if self._run:
            self._solo.engine.stop()

    async def run(self) -> Record:
        """Do it once.

        Raises:
            ConfigError: another process has this part, or a mistake in the plan.
            Refused: the target is on another machine, and that was not allowed.
            Unavailable: nobody gathers the figures, it began without this part, or Redis is away.
        """
        async with self._solo as solo:
            begin = await self._begin()
            beats = asyncio.create_task(self._beats(begin))
            try:
                record = await solo.run(begin, None)
            finally:
                beats.cancel()
                await asyncio.gather(beats, return_exceptions=True)
            await self._leave(record)
            return record

    @property
    def _name(self) -> str:
        return f"part {self._share.number} of {self._share.of}"

    async def _begin(self) -> float:
        """Hold the place until the beginning is named; that moment by the clock of this process."""
        who = f"{self._token} {print_of(self._plan)}"
        since = seconds()
        while not self._over and seconds() - since < WAIT_S:
            answer = await self._meeting.take(self._share.number, who)
            if answer == "taken" and seconds() - since > HOLD_S + 1:
                raise ConfigError(f"{self._name} is another process already; give each its number")
            if answer and answer != "taken":
                begin = json.loads(answer)
                if self._token not in begin["tokens"]:
                    raise Unavailable(f"the load test has begun without {self._name}")
                self._run = begin["run"]
                return float(begin["at"]) - await self._meeting.ahead()
            await self._clock.sleep(LOOK)
        raise Unavailable(f"{self._name} was not told to begin; does scaler loadtest --parts run?")

    async def _beats(self, begin: float) -> None:
        zero = begin + self._plan.load.warm_up.total_seconds()
        engine, heard = self._solo.engine, seconds()
        for beat in count(1):
            await self._clock.sleep(BEAT)
            told = progress.of(engine.record, seconds() - zero, engine.in_flight)
            what = {"beat": beat, "progress": told.to_dict()}
            with suppress(ScalerError):  # the next second is the next try
                if await self._meeting.tell(self._token, what) != self._run:
                    engine.stop()
                heard = seconds()
            if seconds() - heard > HOLD_S:
                engine.stop()

    async def _leave(self, record: Record) -> None:
        written = {"record": record.to_dict(), "cpu": self._solo.engine.cpu}
        since = seconds()
        while True:
            try:
                pieces = await self._meeting.leave(self._token, written)
                done = {"pieces": pieces, "whole": self._whole}
                await self._meeting.tell(self._token, done)
            except Unavailable:
                if seconds() - since > LEAVE_S:
                    raise
                await self._clock.sleep(BEAT)
            else:
                return
