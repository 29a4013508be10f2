"""The place in Redis where the parts of one load test meet, and what they leave there.

A part holds its place by saying again that it is there; whoever gathers the figures holds the run
alike. What nobody holds any more is gone after `HOLD_S`, so a crash leaves nothing that a
person has to clear away. Moments are of the clock of Redis, which each reads against its own: the
clocks of the machines need not agree.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from scaler.clients.redis import Redis
from scaler.clock import seconds

HOLD_S: Final = 15  # that a place or a run is held without a word
KEPT_S: Final = 3600  # figures, until somebody has fetched them
PIECE: Final = 512 * 1024  # characters of a record in one value
TRIES: Final = 5  # to read the clock; the quickest answer is nearest
STOP: Final = " stop"  # after the run: its parts are to end

# Takes or holds a place, unless another process has it. Says who runs and when it began, if it has.
TAKE: Final = """
local there = redis.call('get', KEYS[1])
if there and there ~= ARGV[1] then return 'taken' end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
return redis.call('get', KEYS[2])
"""
# The same for a run, without a beginning yet.
OPEN: Final = """
local there = redis.call('get', KEYS[1])
if there and there ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('del', KEYS[2])
return 1
"""
TELL: Final = """
redis.call('set', KEYS[1], ARGV[1], 'EX', ARGV[2])
return redis.call('get', KEYS[2])
"""


class Meeting:
    """One load test by its name. Every method raises ScalerError when Redis does not answer."""

    def __init__(self, redis: Redis, name: str) -> None:
        self._redis = redis
        self.name = name

    def _key(self, *parts: str | int) -> str:
        return ":".join(map(str, ("scaler:loadtest", self.name, *parts)))

    async def ahead(self) -> float:
        """Seconds that the clock of Redis is ahead of `scaler.clock.seconds` of this process.

        Off by no more than half of what the quickest answer took.
        """
        found: list[tuple[float, float]] = []
        for _ in range(TRIES):
            sent = seconds()
            whole, micro = await self._redis.ask("TIME")
            came = seconds()
            found.append((came - sent, int(whole) + int(micro) / 1e6 - (sent + came) / 2))
        return min(found)[1]

    # What a part does.

    async def take(self, number: int, who: str) -> str | None:
        """Hold a place: "taken" by another process, else the beginning once there is one."""
        keys = [self._key("place", number), self._key("begin")]
        answer = await self._redis.run(TAKE, keys, who, HOLD_S)
        return str(answer) if answer else None

    async def tell(self, token: str, what: Mapping[str, Any]) -> str | None:
        """Leave how it stands, and hear who runs; `STOP` follows when its parts are to end."""
        keys = [self._key("told", token), self._key("run")]
        answer = await self._redis.run(TELL, keys, json.dumps(what), KEPT_S)
        return str(answer) if answer else None

    async def leave(self, token: str, record: Mapping[str, Any]) -> int:
        """Leave a whole record; returns in how many pieces."""
        written = base64.b64encode(zlib.compress(json.dumps(record).encode())).decode()
        pieces = [written[at : at + PIECE] for at in range(0, len(written), PIECE)]
        for order, piece in enumerate(pieces):
            await self._redis.ask("SET", self._key("record", token, order), piece, "EX", KEPT_S)
        return len(pieces)

    # What gathers the figures.

    async def open(self, run: str) -> bool:
        """Hold the name for this run; False while another one has it."""
        return bool(
            await self._redis.run(OPEN, [self._key("run"), self._key("begin")], run, HOLD_S)
        )

    async def hold(self, run: str) -> None:
        await self._redis.ask("SET", self._key("run"), run, "EX", HOLD_S)

    async def there(self, number: int) -> str | None:
        """Who holds a place."""
        return await self._text("place", number)

    async def begin(self, what: Mapping[str, Any]) -> None:
        await self._redis.ask("SET", self._key("begin"), json.dumps(what), "EX", KEPT_S)

    async def told(self, token: str) -> dict[str, Any]:
        """What a part has told last; empty before that."""
        return dict(json.loads(await self._text("told", token) or "{}"))

    async def left(self, token: str, pieces: int) -> dict[str, Any]:
        """The record of a part."""
        parts = [await self._text("record", token, order) or "" for order in range(pieces)]
        return dict(json.loads(zlib.decompress(base64.b64decode("".join(parts)))))

    async def clear(self, left: Iterable[tuple[str, int]]) -> None:
        """Leave nothing behind; `left` are the token of each part and the pieces of its record."""
        keys = [self._key("run"), self._key("begin")]
        for number, (token, pieces) in enumerate(left):
            keys += [self._key("place", number), self._key("told", token)]
            keys += [self._key("record", token, order) for order in range(pieces)]
        await self._redis.ask("DEL", *keys)

    async def _text(self, *parts: str | int) -> str | None:
        found = await self._redis.ask("GET", self._key(*parts))
        return str(found) if found is not None else None
