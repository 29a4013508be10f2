"""Keys of a Redis, looked at many at a time and changed only as long as they are what they were.

Looking is one script per chunk of SCAN that adds up on the server and answers with sums: 13 to 26
times as fast as asking key by key, on a shared machine (benchmarks/cachebench/hygiene.py). Nothing
it calls counts as a use of a key. Where the server knows EVAL_RO (7.0) it also guarantees that
looking writes nothing. Neither FLUSH*, KEYS, CONFIG nor DEBUG is ever called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from redis import exceptions

from scaler.clients.redis import DEADLINE, ERRORS, connected
from scaler.errors import ConfigError, Forbidden, ScalerError, translate

MOST_VERSIONS: Final = 10_000  # on a roll; with more of them nothing is said to be known
MOST_STATS: Final = 1_000  # processes whose statistics are read
MOST_STAT_BYTES: Final = 256 * 1024  # of one of them
LONGEST_NAME: Final = 200  # characters of a key that are shown
BATCH: Final = 100  # keys changed in one call

WHOSE: Final = r"""
local sub, match = string.sub, string.match
local function own(rest, version)
  if version then return sub(rest, -7) == '}:lease' end
  return rest == 'versions' or rest == 'hot' or sub(rest, 1, 7) == '{stats}'
    or sub(rest, 1, 4) == 'tag:'
end
local function version_of(rest)
  return match(rest, '^{([%w_.-]+%.%x%x%x%x%x%x%x%x):')
end
"""  # what a cache keeps for itself is neither idle nor without a TTL by mistake
LOOK: Final = (
    WHOSE
    + r"""
local call, pcall_, find = redis.call, redis.pcall, string.find
local function now_us()
  local at = pcall_('TIME')
  return at[1] and at[1] * 1000000 + at[2]
end
local begun = now_us()
local idle_s, big, examples = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local last, dead, at, kinds, long = 6 + tonumber(ARGV[6]), {}, {}, {}, {}
for i = 7, last do at[i], kinds[i], long[i] = {}, {}, #ARGV[i] end
for i = last + 1, #ARGV do dead[ARGV[i]] = true end
local scanned = call('SCAN', ARGV[1], 'COUNT', ARGV[2])
local outside, idle_known = 0, true
local groups, bigs, lasting, unused, gone = {}, {}, {}, {}, {}
for _, key in ipairs(scanned[2]) do
  local number
  for i = 7, last do
    if sub(key, 1, long[i]) == ARGV[i] then number = i break end
  end
  local ttl = number and call('PTTL', key)
  if not number then
    outside = outside + 1
  elseif ttl ~= -2 then
    local rest = sub(key, long[number] + 1)
    local colon = find(rest, ':', 1, true)
    local head = colon and sub(rest, 1, colon) or ''
    local version = kinds[number][head]
    if version == nil then
      version = version_of(rest) or false
      kinds[number][head] = version
    end
    local mine = (version or not colon or head == 'tag:' or head == '{stats}:')
      and own(rest, version)
    local word = mine and '(own)' or version or head
    local group = at[number][word]
    if not group then
      local name = ARGV[number] .. (version and not mine and '{' or '') .. sub(word, 1, 200)
      group = {number - 7, name, version and not mine and version or '', 0, 0, 0, 0}
      at[number][word] = group
      groups[#groups + 1] = group
    end
    local bytes = call('MEMORY', 'USAGE', key) or 0
    group[4], group[5] = group[4] + 1, group[5] + bytes
    if not mine then
      if ttl == -1 then
        group[6] = group[6] + 1
        if #lasting < examples then lasting[#lasting + 1] = key end
      end
      if idle_known and (ttl == -1 or ttl >= idle_s * 1000) then
        local idle = pcall_('OBJECT', 'IDLETIME', key)
        if type(idle) ~= 'number' then idle_known = false
        elseif idle >= idle_s then
          group[7] = group[7] + 1
          if #unused < examples then unused[#unused + 1] = key end
        end
      end
      if version and dead[group[2]] and #gone < examples then gone[#gone + 1] = key end
      if bytes >= big then
        bigs[#bigs + 1] = {sub(key, 1, 400), call('TYPE', key).ok, bytes}
      end
    end
  end
end
local busy_us = begun and now_us() - begun or 0
return {scanned[1], #scanned[2], outside, idle_known and 1 or 0, groups, bigs, lasting, unused,
  gone, busy_us}
"""
)
# A key that ends by itself before it could be idle is not asked: that spares most keys a call.
# MEMORY USAGE looks at five elements of a large value unless told otherwise. TIME goes on within a
# script of 7.0 (seen on 7.0.15); where it stands still, or is denied, 0 says that nothing is known.
CHANGE: Final = (
    WHOSE
    + r"""
local what, prefix, version = ARGV[1], ARGV[2], ARGV[3]
local limit, now, left = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local done, freed = {}, 0
if what == 'dead' then
  local size = redis.pcall('HLEN', KEYS[1])
  if type(size) ~= 'number' or size == 0 then return {done, 'nobody has said what is alive'} end
  local said = redis.call('HGET', KEYS[1], version)
  if said then
    local seen = tonumber(said)
    if not seen or seen ~= seen or seen == -math.huge or now - seen <= limit then
      return {done, 'it is alive again'}
    end
  end
end
for i = 2, #KEYS do
  local key = KEYS[i]
  local rest = string.sub(key, #prefix + 1)
  local its = version_of(rest)
  if string.sub(key, 1, #prefix) == prefix and not own(rest, its) then
    local remove = false
    if what == 'ttl' then
      if redis.call('PTTL', key) == -1 then
        redis.call('PEXPIRE', key, limit)
        done[#done + 1] = {i - 2, 0}
      end
    elseif what == 'dead' then remove = its == version
    elseif what == 'idle' then
      local idle = redis.pcall('OBJECT', 'IDLETIME', key)
      remove = type(idle) == 'number' and idle >= limit
    end
    local bytes = remove and redis.call('MEMORY', 'USAGE', key)
    if bytes then
      if freed + bytes > left then return {done, 'bytes'} end
      freed = freed + bytes
      redis.call('UNLINK', key)
      done[#done + 1] = {i - 2, bytes}
    end
  end
end
return {done, ''}
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about every key."""

    prefixes: tuple[str, ...]
    idle: timedelta
    big_bytes: int
    examples: int = 1  # names of each kind that a chunk answers with
    dead: tuple[str, ...] = ()  # PREFIX{FUNCTION.VERSION whose keys are to be named


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Keys of one group in a chunk."""

    prefix: str
    name: str
    version: str
    keys: int
    bytes: int
    no_ttl: int
    idle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one call has seen."""

    cursor: int  # 0: that was the last one
    seen: int
    outside: int
    idle_known: bool
    groups: tuple[Sum, ...]
    big: tuple[tuple[str, str, int], ...]  # name, type, bytes
    no_ttl: tuple[bytes, ...]
    idle: tuple[bytes, ...]
    dead: tuple[bytes, ...]
    busy: timedelta | None  # that the server worked on it; None when it does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What one call has changed, and why it ended early if it did."""

    keys: tuple[tuple[bytes, int], ...]  # name, and the bytes that were freed
    full: bool = False  # the next one would have freed too much
    refused: str = ""


class CacheServer:
    """One server, connected to when it is first asked."""

    def __init__(self, url: str, *, deadline: timedelta = DEADLINE) -> None:
        """`url` as in `redis://user:password@host:6379/0`, `rediss://` or `unix:///run/r.sock`.

        Raises:
            ConfigError: it is no such address.
        """
        try:
            self._connection: Any = connected(url, deadline)
        except (ValueError, TypeError):  # its message may hold a part of the password
            remedy = "write redis://HOST:PORT/DB, with / and # in a password as %2F and %23"
            raise ConfigError(f"the address of the cache cannot be used; {remedy}") from None
        self._reader = "EVAL_RO"

    @property
    def cannot_write(self) -> bool:
        """Whether the server itself keeps looking from writing; known after the first look."""
        return self._reader == "EVAL_RO"

    async def info(self) -> Mapping[str, Any]:
        """INFO, and `keys` and `expires` of the database that is looked into."""
        answer: dict[str, Any] = await self._do("INFO")
        number = self._connection.connection_pool.connection_kwargs.get("db", 0)
        database = answer.get(f"db{number}")
        counts = database if isinstance(database, dict) else {}
        return {**answer, "keys": counts.get("keys", 0), "expires": counts.get("expires", 0)}

    async def calls(self) -> Mapping[str, int]:
        """How often each command has been called, by any client."""
        answer: dict[str, Any] = await self._do("INFO", "commandstats")
        return {
            name.removeprefix("cmdstat_"): int(stat["calls"])
            for name, stat in answer.items()
            if isinstance(stat, dict) and "calls" in stat
        }

    async def slow(self) -> tuple[int, int] | None:
        """The number of the newest entry of the slow log, and how many it holds; None if denied."""
        try:
            newest = await self._do("SLOWLOG GET", 1)
            kept = await self._do("SLOWLOG LEN")
        except Forbidden:
            return None
        return (int(newest[0]["id"]) + 1 if newest else 0), int(kept)

    async def roll(self, prefix: str) -> Mapping[str, float]:
        """Versions and when each was last alive; empty when nobody says or it cannot be read.

        A moment that is no number is taken for one in the future: that version is alive.
        """
        key = f"{prefix}versions".encode()
        try:
            if await self._do("HLEN", key) > MOST_VERSIONS:
                return {}
            answer = await self._do("HGETALL", key)
        except Forbidden:
            raise
        except ScalerError as error:
            if isinstance(error.__cause__, exceptions.ResponseError):
                return {}  # somebody else's key has this name
            raise
        return {shown(field): _moment(value) for field, value in answer.items()}

    async def stats(self, prefix: str) -> tuple[bytes, ...]:
        """What the processes of a cache say about themselves, as they wrote it."""
        found: list[bytes] = []
        cursor = 0
        while len(found) < MOST_STATS:
            try:
                cursor, some = await self._do("HSCAN", f"{prefix}{{stats}}", cursor, "COUNT", 100)
            except ScalerError as error:
                if isinstance(error.__cause__, exceptions.ResponseError):
                    return ()  # somebody else's key has this name
                raise
            texts = some.values() if isinstance(some, dict) else some[1::2]
            found += [bytes(text[:MOST_STAT_BYTES]) for text in texts]
            if int(cursor) == 0:
                break
        return tuple(found)

    async def ping(self) -> None:
        await self._do("PING")

    async def look(self, cursor: int, count: int, question: Question) -> Chunk:
        """About `count` keys from `cursor` on.

        Raises:
            Forbidden: the user lacks a right; the message names it.
            ScalerError: no answer in time, or a refusal.
        """
        prefixes = [prefix.encode() for prefix in question.prefixes]
        words = [cursor, count, round(question.idle.total_seconds()), question.big_bytes]
        words += [question.examples, len(prefixes)]
        dead = [name.encode() for name in question.dead]
        answer = await self._look(*words, *prefixes, *dead)
        return _chunk(answer, question)

    async def _look(self, *words: Any) -> Any:
        try:
            return await self._do(self._reader, LOOK, 0, *words)
        except ScalerError as error:
            known = "unknown command" not in str(error).lower() and "eval_ro" not in str(error)
            if known or self._reader == "EVAL":
                raise
            self._reader = "EVAL"  # an older server, or a user without that right
            return await self._do(self._reader, LOOK, 0, *words)

    async def remove_dead(
        self, prefix: str, version: str, names: Sequence[bytes], *, after: timedelta,
        now_s: float, most_bytes: int,
    ) -> Changed:  # fmt: skip
        """Remove those keys of `version`, if no process has had it for `after` even now."""
        limits = (after.total_seconds(), now_s, most_bytes)
        return await self._change("dead", prefix, version, names, limits)

    async def remove_idle(
        self, prefix: str, names: Sequence[bytes], *, idle: timedelta, most_bytes: int
    ) -> Changed:
        """Remove those keys that nobody has used for `idle` even now."""
        limits = (round(idle.total_seconds()), 0, most_bytes)
        return await self._change("idle", prefix, "", names, limits)

    async def set_ttl(self, prefix: str, names: Sequence[bytes], ttl: timedelta) -> Changed:
        """Give a TTL to those keys that have none even now."""
        return await self._change(
            "ttl", prefix, "", names, (ttl // timedelta(milliseconds=1), 0, 0)
        )

    async def _change(
        self, what: str, prefix: str, version: str, names: Sequence[bytes],
        limits: tuple[float, float, int],
    ) -> Changed:  # fmt: skip
        keys = [f"{prefix}versions".encode(), *names[:BATCH]]
        values = [what, prefix.encode(), version, *limits]
        done, why = await self._do("EVAL", CHANGE, len(keys), *keys, *values)
        changed = tuple((names[number], freed) for number, freed in done)
        full = why == b"bytes"
        return Changed(keys=changed, full=full, refused="" if full else why.decode())

    async def may_change(self, prefix: str) -> None:
        """Ask for the rights to change keys; nothing is changed.

        Raises:
            Forbidden: one is missing; the message names it.
        """
        never = f"{prefix}scaler-verify:no-such-key".encode()
        await self._do("UNLINK", never)
        await self._do("PEXPIRE", never, 1)

    async def _do(self, *words: Any) -> Any:
        try:
            with translate(ERRORS, doing="asking the cache"):
                return await self._connection.execute_command(*words)
        except ScalerError as error:
            if _is_denied(str(error)):
                raise Forbidden(f"{error}; see deploy/redis/hygiene.acl for the rights") from error
            raise

    async def aclose(self) -> None:
        await self._connection.aclose()


def _is_denied(said: str) -> bool:
    """A script reports a missing right as an error of its own, in words that differ by version."""
    return any(mark in said for mark in ("NOPERM", "ACL failure", "can't run this command"))


def _chunk(answer: Any, question: Question) -> Chunk:
    cursor, seen, outside, idle_known, groups, big, no_ttl, idle, dead, busy_us = answer
    return Chunk(
        cursor=int(cursor),
        seen=seen,
        outside=outside,
        idle_known=bool(idle_known),
        groups=tuple(
            Sum(
                prefix=question.prefixes[number],
                name=shown(name),
                version=shown(version),
                keys=keys,
                bytes=size,
                no_ttl=lasting,
                idle=unused,
            )
            for number, name, version, keys, size, lasting, unused in groups
        ),
        big=tuple((shown(name), shown(kind), size) for name, kind, size in big),
        no_ttl=tuple(no_ttl),
        idle=tuple(idle),
        dead=tuple(dead),
        busy=timedelta(microseconds=busy_us) if busy_us > 0 else None,
    )


def _moment(value: bytes) -> float:
    try:
        moment = float(value)
    except ValueError:
        return float("inf")
    return moment if -1e15 < moment < 1e15 else float("inf")


def shown(name: bytes) -> str:
    """A key as text for people: what cannot be printed is escaped, and the end is left out."""
    text = name[: 2 * LONGEST_NAME].decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
