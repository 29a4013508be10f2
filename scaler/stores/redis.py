"""A lease on Redis: one hash that says who holds it, since which write, and for how long.

Every step is one script, so nobody comes between a look and a write. Nothing here ends by itself:
Redis ends keys by its wall clock, and a step of that would end a term whose holder still acts.
Whoever waits measures the term alone, from when it saw the record change last. That holds for a
record that is forgotten, too (by a restart, or by a replica that took over and had not got it).
"""

from datetime import timedelta
from typing import Any, Final

from scaler.clients.redis import Redis
from scaler.clock import Clock
from scaler.interfaces import Grant

LONGEST_TERM_MS: Final = 3_600_000  # that is believed, whatever the record says
POLL: Final = timedelta(milliseconds=500)
FREE: Final = ""  # the holder after a release

LOOK: Final = """
local found = redis.call('HMGET', KEYS[1], 'holder', 'stamp', 'term_ms', 'fence')
return {found[1] or '', found[2] or '', tonumber(found[3]) or 0, tonumber(found[4]) or 0}
"""
TAKE: Final = """
local holder, term_ms, stamp, was_holder, was_stamp, fence = unpack(ARGV)
local found = redis.call('HMGET', KEYS[1], 'holder', 'stamp', 'fence')
if (found[1] or '') ~= was_holder or (found[2] or '') ~= was_stamp then return false end
if found[1] ~= holder then fence = math.max(fence, found[3] or 0) + 1 end
redis.call('HSET', KEYS[1], 'holder', holder, 'term_ms', term_ms, 'stamp', stamp, 'fence', fence)
return tonumber(fence)
"""
KEEP: Final = """
local holder, term_ms, stamp, fence = unpack(ARGV)
local found = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if found[1] ~= holder or found[2] ~= fence then return 0 end
redis.call('HSET', KEYS[1], 'term_ms', term_ms, 'stamp', stamp)
return 1
"""
ALLOWED: Final = """
return redis.call('HDEL', KEYS[1], 'never')
"""  # no record has this field: it changes nothing, and is refused where writing is
GIVE: Final = """
local holder, stamp, fence = unpack(ARGV)
local found = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if found[1] ~= holder or found[2] ~= fence then return 0 end
redis.call('HSET', KEYS[1], 'holder', '', 'stamp', stamp)
return 1
"""


class RedisLease:
    """One key of one Redis."""

    def __init__(self, redis: Redis, clock: Clock, *, name: str) -> None:
        self.holder = FREE
        self._redis = redis
        self._clock = clock
        self._keys = (f"scaler:lease:{name}",)
        self._stamp = ""  # of the write that was seen last: a holder never uses one twice
        self._fence = 0
        self._taken_by = FREE  # also when the record has been lost since
        self._taken_until = timedelta()  # on our clock, a term after it was seen to change last

    async def acquire(self, holder: str, ttl: timedelta) -> Grant | None:
        asked_at = self._clock.monotonic()
        await self._look()
        if self._taken_by != holder and not self._free():
            return None
        seen = (self.holder, self._stamp, self._fence)
        fence = await self._run(TAKE, holder, _ms(ttl), _stamp(asked_at), *seen)
        if fence is None:  # somebody else was faster
            await self._look()
            return None
        self.holder = self._taken_by = holder
        self._stamp, self._fence = _stamp(asked_at), fence
        return Grant.asked(holder, fence, asked_at, ttl)

    async def renew(self, grant: Grant, ttl: timedelta) -> Grant | None:
        asked_at = self._clock.monotonic()
        if not await self._run(KEEP, grant.holder, _ms(ttl), _stamp(asked_at), grant.fence):
            await self._look()
            return None
        return Grant.asked(grant.holder, grant.fence, asked_at, ttl)

    async def release(self, grant: Grant) -> None:
        await self._run(GIVE, grant.holder, _stamp(self._clock.monotonic()), grant.fence)

    async def freed(self, patience: timedelta) -> None:
        end = self._clock.monotonic() + patience
        while self._clock.monotonic() < end:
            await self._look()
            if self._free():
                return
            await self._clock.sleep(POLL)

    async def examine(self) -> None:
        """Look, and ask whether writing is allowed, without doing so.

        Raises:
            ScalerError: a candidate would get no further.
        """
        await self._look()
        await self._run(ALLOWED)

    def _free(self) -> bool:
        return self._clock.monotonic() >= self._taken_until

    async def _look(self) -> None:
        """Take in who holds it. An older record that is free was brought back: nobody gave it."""
        holder, stamp, term_ms, fence = await self._run(LOOK)
        changed = (holder, stamp) != (self.holder, self._stamp)
        if changed and (holder or fence >= self._fence):
            term_ms = max(0, min(term_ms, LONGEST_TERM_MS)) if holder else 0
            term = timedelta(milliseconds=term_ms)
            self._taken_by, self._taken_until = holder, self._clock.monotonic() + term
            self._fence = fence
        self.holder, self._stamp = holder, stamp

    async def _run(self, script: str, *values: str | int) -> Any:
        return await self._redis.run(script, self._keys, *values)

    async def aclose(self) -> None:
        await self._redis.aclose()


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _stamp(moment: timedelta) -> str:
    return str(moment // timedelta(microseconds=1))
