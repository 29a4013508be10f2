"""All parts of a load test that several machines share, as whoever gathers their figures sees them.

It begins when every part is there, merges what they tell, and misses who falls silent.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from scaler.clock import Clock, seconds
from scaler.errors import ConfigError, ScalerError, Unavailable
from scaler.loadtest import progress
from scaler.loadtest.meeting import HOLD_S, STOP, Meeting
from scaler.loadtest.part import BEAT, LOOK, WAIT_S, insist_on_one_process, print_of
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress
from scaler.loadtest.record import Record
from scaler.loadtest.workers import GRACE_S, Found

SOON_S: Final = 2.0  # from all being there to the first request; each looks five times a second
QUIET: Final = 10  # looks at which a part has told nothing new, about a second apart


@dataclass(slots=True)
class _Seen:
    """One part."""

    token: str = ""
    progress: Progress | None = None
    beat: float = 0.0
    quiet: int = 0
    pieces: int = 0
    record: Record | None = None
    cpu: float = 0.0
    lost: str = ""


class Parts:
    """Gathers one run; it stands in for the workers of this machine."""

    def __init__(
        self,
        plan: Plan,
        meeting: Meeting,
        count: int,
        *,
        clock: Clock,
        tell: Callable[[Progress], None] | None = None,
    ) -> None:
        """Raises ConfigError: the plan cannot be shared by so many."""
        insist_on_one_process(plan)
        if plan.load.users and plan.load.users < count:
            raise ConfigError(f"{count} parts cannot share {plan.load.users} users")
        self._plan = plan
        self._meeting = meeting
        self._clock = clock
        self._tell = tell
        self._run = secrets.token_hex(8)
        self._over = False
        self._seen = [_Seen() for _ in range(count)]

    def stop(self) -> None:
        """Have them end soon."""
        self._over = True

    async def run(self) -> Found:
        """Wait for all parts, begin, and gather what they find.

        Raises:
            ConfigError: the name is in use, or a part has another plan.
            Unavailable: a part has not come, not one has told its figures, or Redis is away.
        """
        await self._open()
        try:
            await self._all_there()
            tokens = [one.token for one in self._seen]
            ahead = await self._meeting.ahead()
            begin = seconds() + SOON_S
            await self._meeting.begin({"run": self._run, "at": begin + ahead, "tokens": tokens})
            await self._collect(begin)
            return self._found(begin)
        finally:
            with suppress(ScalerError):  # it ends by itself
                await self._meeting.clear((one.token, one.pieces) for one in self._seen)

    def _name(self, number: int) -> str:
        return f"part {number} of {len(self._seen)}"

    async def _open(self) -> None:
        since = seconds()
        while not await self._meeting.open(self._run):
            if seconds() - since > HOLD_S + 1 or self._over:
                name = self._meeting.name
                raise ConfigError(f"a load test named {name} is going on; give another --run")
            await self._clock.sleep(LOOK)

    async def _all_there(self) -> None:
        wanted = print_of(self._plan)
        since = seconds()
        while not self._over:
            await self._meeting.hold(self._run)
            there = [await self._meeting.there(number) for number, _ in enumerate(self._seen)]
            for number, (one, who) in enumerate(zip(self._seen, there, strict=True)):
                one.token, _, given = (who or "").partition(" ")
                if given and given != wanted:
                    raise ConfigError(f"{self._name(number)} was given another plan")
            if all(there):
                return
            if seconds() - since > WAIT_S:
                missing = ", ".join(str(number) for number, who in enumerate(there) if not who)
                raise Unavailable(
                    f"of {len(self._seen)} parts these have not come within {WAIT_S:g} s: {missing}"
                )
            await self._clock.sleep(LOOK)
        raise Unavailable("ended before all parts were there")

    async def _collect(self, begin: float) -> None:
        ending = self._plan.timeouts.end.total_seconds()
        end = begin + self._plan.load.seconds() + ending + GRACE_S
        while seconds() < end and any(not (one.record or one.lost) for one in self._seen):
            await self._clock.sleep(BEAT if seconds() > begin else timedelta(seconds=SOON_S))
            with suppress(Unavailable):  # the next second is the next try
                await self._meeting.hold(self._run + STOP if self._over else self._run)
                for number, one in enumerate(self._seen):
                    if one.record is None and not one.lost:
                        await self._look(number, one)
            several = [one.progress for one in self._seen if one.progress and not one.lost]
            if self._tell and len(several) == sum(not one.lost for one in self._seen):
                self._tell(progress.together(several))

    async def _look(self, number: int, one: _Seen) -> None:
        told = await self._meeting.told(one.token)
        if "pieces" in told:
            await self._fetch(number, one, told)
        elif told.get("beat", 0.0) > one.beat:
            one.beat, one.quiet = told["beat"], 0
            one.progress = Progress.of_dict(told["progress"])
        else:
            one.quiet += 1
            if one.quiet > QUIET:
                one.lost = f"{self._name(number)} fell silent and its requests are missing"

    async def _fetch(self, number: int, one: _Seen, told: dict[str, Any]) -> None:
        one.pieces = int(told["pieces"])
        written = await self._meeting.left(one.token, one.pieces)
        one.record, one.cpu = Record.of_dict(written["record"]), float(written["cpu"])
        if not told["whole"]:
            one.lost = f"{self._name(number)} was ended early"

    def _found(self, begin: float) -> Found:
        for number, one in enumerate(self._seen):
            if one.record is None and not one.lost:
                one.lost = f"{self._name(number)} has told no figures in time"
        records = [one.record for one in self._seen if one.record]
        if not records:
            raise Unavailable("no part has told its figures; see what they have printed")
        cpu = tuple(one.cpu for one in self._seen if one.record)
        lost = tuple(one.lost for one in self._seen if one.lost)
        return Found(records, cpu, lost, seconds() - begin)
