"""Look at a cache within a budget, plan its hygiene, and carry the plan out when told to.

Nothing is written unless `act` is true. Each key is checked once more by the script that changes
it, so what has been used, given a TTL or come alive since the plan is left alone.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from scaler.clients.redis_scan import BATCH, CacheServer, Changed, Chunk, Question, shown
from scaler.clock import Clock
from scaler.maintenance.cache_facts import Facts, Point, Roll, Server
from scaler.maintenance.cache_lap import Bucket, Lap, Pace
from scaler.maintenance.cache_plan import (
    CONFIRMED,
    Action,
    Found,
    Plan,
    SetTtl,
    Unlink,
    must_stop,
    plan_cache,
)
from scaler.maintenance.cache_rules import Cache

GUARD_EVERY: Final = timedelta(seconds=1)  # between two looks at how the server bears it
PINGS: Final = 5  # the shortest one is what an empty call takes
MOST_POINTS: Final = 1_500  # of memory, for trends: a day at one look a minute
ROLLS: Final = 3  # of each prefix that are kept
MOST_NAMES: Final = 100  # of changed keys that an outcome names
ALL_NAMES: Final = 1_000_000  # of a chunk: whatever it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    phase: str  # "looking" or "acting"
    seen: int
    total: int
    changed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What has become of one action."""

    action: Action
    keys: int = 0
    bytes: int = 0
    names: tuple[str, ...] = ()  # the first ones
    ended: str = ""  # why it was not carried out to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run has seen, found and done."""

    cache: str
    at: datetime
    server: Server
    plan: Plan
    keys_seen: int
    keys_inside: int = 0  # of those, in one of the prefixes
    seconds: float
    busy_s: float  # of that the server worked for us, at most
    whole: bool
    stopped: str = ""  # why it ended early
    done: tuple[Done, ...] = ()

    @property
    def keys_per_s(self) -> float:
        return self.keys_seen / self.seconds if self.seconds else 0.0


class CacheAudit:
    """One cache, looked at again and again; what a trend needs is kept in memory."""

    def __init__(
        self,
        rules: Cache,
        server: CacheServer,
        clock: Clock,
        *,
        progress: Callable[[Progress], None] = lambda _: None,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_act` is asked before each batch of changes."""
        self.rules = rules
        self._server = server
        self._clock = clock
        self._progress = progress
        self._may_act = may_act
        self._before: Server | None = None  # at the look before, and
        self._now: Server | None = None  # at the last one
        self._rolls: dict[str, deque[Roll]] = {p: deque(maxlen=ROLLS) for p in rules.prefixes}
        self._points: deque[Point] = deque(maxlen=MOST_POINTS)
        self._sampled = 0  # where the next sample begins
        self._left: Lap | None = None  # a whole lap that was stopped
        self._last = Lap()  # the last one that was walked to its end
        self._left_of = ""  # the run of the server that it walks over
        self._changed = 0

    async def sample(self) -> Outcome:
        """The server's own numbers and `rules.sample` keys; the next sample goes on from there.

        Raises:
            ScalerError: the server does not answer, or refuses.
        """
        lap = Lap(self._sampled)
        outcome = await self._look(lap, self.rules.sample)
        if lap.ended and not lap.whole and lap.seen < self.rules.sample / 2:
            lap = Lap()  # too few were left before the end
            outcome = await self._look(lap, self.rules.sample)
        self._sampled = lap.cursor
        return outcome

    async def run(self, *, act: bool = False) -> Outcome:
        """A look at every key; then, if `act`, what the rules allow is done.

        A lap that was stopped or failed is gone on with by the next call.

        Raises:
            ScalerError: the server does not answer, or refuses.
        """
        run_id = (await self.observe()).run_id
        if self._left is None or self._left_of != run_id:
            self._left, self._left_of = Lap(), run_id  # cursors mean nothing to another process
        lap = self._left
        outcome = await self._look(lap, None)
        if outcome.stopped:
            return outcome
        self._left, self._last = None, lap
        return await self.carry_out(await self.confirmed(outcome)) if act else outcome

    async def confirmed(self, outcome: Outcome) -> Outcome:
        """The outcome of a dry run, its plan complete: versions that must be seen to be dead
        twice before they may be removed have been. That can take half a minute.
        """
        if not self._must_look_again(outcome.plan):
            return outcome
        await self._confirm()
        return replace(outcome, plan=self._plan(self._last, outcome.server))

    async def observe(self) -> Server:
        """The server's own numbers, now."""
        info = await self._server.info()
        slow = await self._server.slow()
        return _server(info, slow, self._clock.now())

    async def _look(self, lap: Lap, most: int | None) -> Outcome:
        """Walk until `most` keys were seen or all were, and plan what follows."""
        begun = self._clock.monotonic()
        first = await self.observe()
        await self._read_rolls()
        question = Question(
            prefixes=self.rules.prefixes,
            idle=self.rules.find.idle,
            big_bytes=round(self.rules.find.big),
        )
        pace = await self._pace()
        start, outside = lap.seen, lap.outside

        async def take(chunk: Chunk) -> str:
            lap.add(chunk, self.rules.prefixes)
            return "enough" if most is not None and lap.seen - start >= most else ""

        ended = await self._walk(lap.cursor, question, pace, first, "looking", take)
        stopped = "" if ended == "enough" else ended
        self._before, self._now = self._now, first
        self._note(lap, first)
        return Outcome(
            cache=self.rules.name,
            at=self._clock.now(),
            server=first,
            plan=self._plan(lap, first),
            keys_seen=lap.seen - start,
            keys_inside=lap.seen - start - (lap.outside - outside),
            seconds=(self._clock.monotonic() - begun).total_seconds(),
            busy_s=pace.busy.total_seconds(),
            whole=lap.whole,
            stopped=stopped,
        )

    async def _walk(
        self,
        cursor: int,
        question: Question,
        pace: Pace,
        first: Server,
        phase: str,
        take: Callable[[Chunk], Any],
    ) -> str:
        """Hand every chunk to `take` until it says why not; why the walk ended before its end."""
        guarded = self._clock.monotonic()
        seen = 0
        ahead = asyncio.create_task(self._timed(cursor, question, pace, timedelta()))
        try:
            while True:
                chunk, pause = await ahead
                seen += chunk.seen
                if chunk.cursor:  # the server works while we take in what it has said
                    work = self._timed(chunk.cursor, question, pace, pause)
                    ahead = asyncio.create_task(work)
                if (why := await take(chunk)) or chunk.cursor == 0:
                    return str(why)
                if self._clock.monotonic() - guarded >= GUARD_EVERY:
                    guarded = self._clock.monotonic()
                    self._progress(
                        Progress(phase=phase, seen=seen, total=first.keys, changed=self._changed)
                    )
                    if why := must_stop(first, await self.observe()):
                        return why
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _timed(
        self, cursor: int, question: Question, pace: Pace, pause: timedelta
    ) -> tuple[Chunk, timedelta]:
        """The next keys after a pause, and how long to wait after them."""
        if pause:
            await self._clock.sleep(pause)
        asked = self._clock.monotonic()
        chunk = await self._server.look(cursor, pace.count, question)
        return chunk, pace.took(self._clock.monotonic() - asked, chunk.busy)

    async def _pace(self) -> Pace:
        empty = timedelta.max
        for _ in range(PINGS):
            asked = self._clock.monotonic()
            await self._server.ping()
            empty = min(empty, self._clock.monotonic() - asked)
        return Pace(self.rules.budget.step, self.rules.budget.server, empty)

    async def _read_rolls(self) -> None:
        for prefix, rolls in self._rolls.items():
            if prefix.endswith(":"):
                seen = await self._server.roll(prefix)
                rolls.append(Roll(at=self._clock.now(), seen=seen))

    def _plan(self, lap: Lap, server: Server) -> Plan:
        unknown = () if server.slow is not None else ("slow commands: SLOWLOG is denied",)
        return plan_cache(
            self.rules,
            Facts(
                server=server,
                before=self._before,
                keys_seen=lap.seen,
                whole=lap.whole,
                groups=lap.groups,
                big=lap.big,
                examples=lap.examples,
                idle_known=lap.idle_known,
                rolls={prefix: tuple(rolls) for prefix, rolls in self._rolls.items()},
                points=tuple(self._points),
                unknown=unknown,
            ),
        )

    def _note(self, lap: Lap, server: Server) -> None:
        """A point for the trends, what a sample shows scaled to the whole."""
        scale = 1.0 if lap.whole else max(1.0, server.keys / max(1, lap.seen))
        sizes = dict.fromkeys(self.rules.prefixes, 0)
        for group in lap.groups:
            sizes[group.prefix] += round(group.bytes * scale)
        self._points.append(Point(at=server.at, used_bytes=server.used_bytes, prefixes=sizes))

    def _must_look_again(self, plan: Plan) -> bool:
        """Whether a dead version is left out of the actions until a second look at the roll."""
        dead = {f.subject for f in plan.findings if f.kind is Found.DEAD_VERSION}
        sure = {f"{a.prefix}{{{a.version}" for a in plan.actions if isinstance(a, Unlink)}
        return self.rules.act.dead_versions and bool(dead - sure)

    async def _confirm(self) -> None:
        oldest = min(rolls[0].at for rolls in self._rolls.values() if rolls)
        wait = oldest + CONFIRMED - self._clock.now()
        await self._clock.sleep(max(wait, timedelta()))
        await self._read_rolls()

    async def carry_out(self, outcome: Outcome) -> Outcome:
        """A second walk that changes what the plan says, each key only if it is still so.

        Raises:
            ScalerError: the server does not answer, or refuses; what is done is done.
        """
        if not outcome.plan.actions:
            return outcome
        begun = self._clock.monotonic()
        pace = await self._pace()
        acting = Acting(self.rules, outcome.plan, self._server, self._clock, self._may_act)

        async def take(chunk: Chunk) -> str:
            why = await acting.take(chunk)
            self._changed = acting.changed
            return why

        stopped = await self._walk(0, acting.question, pace, outcome.server, "acting", take)
        spent = (self._clock.monotonic() - begun).total_seconds()
        return replace(
            outcome,
            at=self._clock.now(),
            seconds=outcome.seconds + spent,
            busy_s=outcome.busy_s + pace.busy.total_seconds(),
            stopped=stopped,
            done=acting.done,
        )


class Acting:
    """The changes of one run: which keys, how fast, and how many of them."""

    def __init__(
        self,
        rules: Cache,
        plan: Plan,
        server: CacheServer,
        clock: Clock,
        may_act: Callable[[], bool],
    ) -> None:
        self.changed = 0
        self._rules = rules
        self._server = server
        self._clock = clock
        self._may_act = may_act
        self._bucket = Bucket(rules.budget.unlink, BATCH)
        self._bytes_left = round(rules.budget.bytes)
        self._done = {action: Done(action=action) for action in plan.actions}
        self._dead = [a for a in plan.actions if isinstance(a, Unlink) and a.version]
        self.question = Question(
            prefixes=rules.prefixes,
            idle=rules.find.idle,
            big_bytes=round(rules.find.big),
            examples=ALL_NAMES,
            dead=tuple(f"{action.prefix}{{{action.version}" for action in self._dead),
        )

    @property
    def done(self) -> tuple[Done, ...]:
        return tuple(self._done.values())

    async def take(self, chunk: Chunk) -> str:
        """Change what is to be changed among these keys; why no more may be, if so."""
        for action, done in list(self._done.items()):
            if done.ended:
                continue
            names = [n for n in self._candidates(action, chunk) if _is_meant(action, n)]
            while names:
                if not self._may_act():
                    return "this daemon no longer leads"
                room = min(self._bucket.batch, self._rules.budget.keys - self.changed)
                if room <= 0:
                    return f"{self.changed} keys are changed, the most of one run (budget: keys)"
                batch, names = names[:room], names[room:]
                wait = self._bucket.take(self._clock.monotonic(), len(batch))
                await self._clock.sleep(wait)
                changed = await self._change(action, batch)
                self._note(action, changed)
                if changed.full:
                    return f"{self._rules.budget.bytes:.0f} bytes are removed (budget: bytes)"
                if changed.refused:
                    break
        return ""

    def _candidates(self, action: Action, chunk: Chunk) -> tuple[bytes, ...]:
        if isinstance(action, SetTtl):
            return chunk.no_ttl
        return chunk.dead if action.version else chunk.idle

    async def _change(self, action: Action, names: list[bytes]) -> Changed:
        find = self._rules.find
        if isinstance(action, SetTtl):
            return await self._server.set_ttl(action.prefix, names, action.ttl)
        if not action.version:
            return await self._server.remove_idle(
                action.prefix, names, idle=find.idle, most_bytes=self._bytes_left
            )
        return await self._server.remove_dead(
            action.prefix,
            action.version,
            names,
            after=find.dead_after,
            now_s=self._clock.now().timestamp(),
            most_bytes=self._bytes_left,
        )

    def _note(self, action: Action, changed: Changed) -> None:
        done = self._done[action]
        freed = sum(size for _, size in changed.keys)
        self.changed += len(changed.keys)
        self._bytes_left -= freed
        more = [shown(name) for name, _ in changed.keys[: MOST_NAMES - len(done.names)]]
        self._done[action] = replace(
            done,
            keys=done.keys + len(changed.keys),
            bytes=done.bytes + freed,
            names=(*done.names, *more),
            ended=changed.refused,
        )


def _is_meant(action: Action, name: bytes) -> bool:
    if isinstance(action, Unlink) and action.version:
        return name.startswith(f"{action.prefix}{{{action.version}:".encode())
    return name.startswith(action.prefix.encode())


def _server(info: Mapping[str, Any], slow: tuple[int, int] | None, now: datetime) -> Server:
    """INFO as facts; a field that an old server does not have is as if nothing were wrong."""

    def number(name: str, default: float = 0.0) -> float:
        value = info.get(name, default)
        return float(value) if isinstance(value, int | float) else default

    return Server(
        at=now,
        version=str(info.get("redis_version", "")),
        run_id=str(info.get("run_id", "")),
        used_bytes=int(number("used_memory")),
        max_bytes=int(number("maxmemory")),
        policy=str(info.get("maxmemory_policy", "")),
        keys=int(number("keys")),
        expires=int(number("expires")),
        hits=int(number("keyspace_hits")),
        misses=int(number("keyspace_misses")),
        evicted=int(number("evicted_keys")),
        stale=number("expired_stale_perc") / 100,
        fragmentation=number("mem_fragmentation_ratio", 1.0),
        loading=bool(number("loading")),
        slow=slow[0] if slow else None,
        slow_kept=slow[1] if slow else None,
    )
