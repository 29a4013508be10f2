"""A lease on Redis: a key that ends by itself, and a counter that is the fence.

Every step is one script, so nobody comes between a look and a write. A key that is gone before its
time was lost by the server (it was restarted, or a replica took over that had not got it): whoever
had seen it waits for its end all the same.
"""

from datetime import timedelta
from typing import Final

from scaler.clients.redis import Redis
from scaler.clock import Clock
from scaler.interfaces import Grant

MARGIN: Final = 0.1  # of a term: the holder's clock may be a tenth slower than the server's
POLL: Final = timedelta(milliseconds=500)
FREE: Final = ""  # what a holder leaves that has given it back

LOOK: Final = """
return {redis.call('GET', KEYS[1]) or false, redis.call('PTTL', KEYS[1])}
"""
TAKE: Final = """
local held = redis.call('GET', KEYS[1])
if held and held ~= '' and held ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if held == ARGV[1] then return tonumber(redis.call('GET', KEYS[2])) end
return redis.call('INCR', KEYS[2])
"""
KEEP: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[3] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
ALLOWED: Final = """
return redis.call('PEXPIRE', KEYS[1], 1)
"""  # of a key that is not there: it changes nothing, and is refused where writing is
GIVE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
return 1
"""


class RedisLease:
    """Two keys of one Redis: who holds it, and how many have held it."""

    def __init__(self, redis: Redis, clock: Clock, *, name: str) -> None:
        self.holder = ""
        self._redis = redis
        self._clock = clock
        self._keys = (f"{{scaler:lease:{name}}}", f"{{scaler:lease:{name}}}:fence")
        self._taken_by = FREE
        self._taken_until = timedelta()  # on our clock, as the server said last

    async def acquire(self, holder: str, ttl: timedelta) -> Grant | None:
        await self._look()
        if self._taken_by != holder and not self._free():
            return None
        asked_at = self._clock.monotonic()
        fence = await self._redis.run(TAKE, self._keys, holder, _ms(ttl))
        if fence is None:
            await self._look()
            return None
        self.holder = self._taken_by = holder
        return Grant(holder=holder, fence=int(fence), until=asked_at + ttl * (1 - MARGIN))

    async def renew(self, grant: Grant, ttl: timedelta) -> Grant | None:
        asked_at = self._clock.monotonic()
        if not await self._redis.run(KEEP, self._keys, grant.holder, _ms(ttl), grant.fence):
            await self._look()
            return None
        until = asked_at + ttl * (1 - MARGIN)
        return Grant(holder=grant.holder, fence=grant.fence, until=until)

    async def release(self, grant: Grant) -> None:
        await self._redis.run(GIVE, self._keys, grant.holder, _ms(timedelta(hours=1)))

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
        await self._redis.run(ALLOWED, (f"{self._keys[0]}:none",))

    def _free(self) -> bool:
        return self._taken_by == FREE or self._clock.monotonic() >= self._taken_until

    async def _look(self) -> None:
        """Take in who holds it and for how long. What has vanished early stays taken."""
        held, left_ms = await self._redis.run(LOOK, self._keys)
        self.holder = held or ""
        if held is not None:
            left = timedelta(milliseconds=max(0, left_ms))
            self._taken_by, self._taken_until = held, self._clock.monotonic() + left

    async def aclose(self) -> None:
        await self._redis.aclose()


def _ms(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)
