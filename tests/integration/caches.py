"""A cache with planted problems, so that a test knows what there is to be found."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from scaler.clock import SystemClock
from scaler.maintenance.cache_rules import Act, Budget, Cache, Find

ALIVE: Final = "quote.3fa9c2d1"
DEAD: Final = "quote.00000000"
WEEK_S: Final = 7 * 86_400
FAST: Final = Budget.model_validate({"server": "100%", "unlink": "100000 per 1s"})
PLANT: Final = r"""
local alive, dead, keys = KEYS[1], KEYS[2], tonumber(ARGV[1])
local payload = string.rep('x', 240)
for i = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local key = 'ledger:{' .. (i % 25 == 7 and dead or alive) .. ':A' .. i .. '}'
  redis.call('SET', key, payload)
  if i % 100 >= 3 then redis.call('PEXPIRE', key, 86400000) end
  if i % 50 == 11 or i % 1000 == 13 then  -- the second end by themselves before long
    local dump, ttl = redis.call('DUMP', key), i % 50 == 11 and 2592000000 or 86400000
    redis.call('RESTORE', key, ttl, dump, 'REPLACE', 'IDLETIME', ARGV[4])
  end
end
"""


class HastyClock(SystemClock):
    """Real time, in which a sleep of a second or more is over at once."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped = timedelta()

    def now(self) -> Any:
        return super().now() + self._skipped

    async def sleep(self, span: timedelta) -> None:
        if span >= timedelta(seconds=1):
            self._skipped += span
            span = timedelta()
        await super().sleep(span)


@dataclass(kw_only=True)
class Planted:
    """What there is in a cache."""

    keys: int
    no_ttl: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)
    big: set[str] = field(default_factory=set)


def plant(client: Any, keys: int, now_s: float) -> Planted:
    """A cache of `keys` values and ten big ones, and what is wrong with it.

    3 % of the keys have no TTL, 4 % are of a dead version, 2 % are idle.
    """
    planted = Planted(keys=keys + 10)
    for start in range(0, keys, 5000):
        end = min(start + 5000, keys) - 1
        client.eval(PLANT, 2, ALIVE, DEAD, keys, start, end, WEEK_S + 60)
    for i in range(keys):
        name = f"ledger:{{{DEAD if i % 25 == 7 else ALIVE}:A{i}}}"
        planted.no_ttl |= {name} if i % 100 < 3 else set()
        planted.dead |= {name} if i % 25 == 7 else set()
        planted.idle |= {name} if i % 50 == 11 else set()
    for i in range(10):
        name = f"ledger:{{{ALIVE}:big{i}}}"
        client.set(name, b"y" * 2_000_000, ex=86_400)
        planted.big.add(name)
    client.hset("ledger:versions", mapping={ALIVE: f"{now_s:.3f}"})
    client.hset("ledger:hot", "a", 1)
    client.set("ledger:tag:EU", "lasting")
    return planted


def rules(url: str, *, act: dict[str, Any] | None = None, **of: Any) -> Cache:
    """A cache whose big keys are those of 1 MB and more."""
    given = {"budget": FAST, "find": Find(), **of}
    return Cache.model_validate(
        {"name": "ledger", "url": url, "prefixes": ("ledger:",), "act": Act(**(act or {})), **given}
    )
