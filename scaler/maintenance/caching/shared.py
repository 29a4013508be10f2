"""What one event loop sees of a shared cache: valid answers, and every change to them.

Moments in entries are the server's, since the clocks of our hosts need not agree. What was read is
kept locally only when it did not change while it was being read.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Self

import msgspec
import structlog

from scaler.clients.cache_ears import Ears
from scaler.clients.cache_link import Client, Link
from scaler.errors import Unavailable
from scaler.maintenance.caching.calls import Call, Outcome, Rule, Terms
from scaler.maintenance.caching.local import Held, Local
from scaler.maintenance.caching.names import LEASE
from scaler.maintenance.caching.scripts import KEEP, TAG_OF
from scaler.maintenance.caching.values import SEAL_AT, TOKEN, Entry, Kind

ROUNDED_MS: Final = 1.0  # moments in entries are whole milliseconds
PASS_S: Final = 1.0  # that an answer which is not to be kept is known to be one
TAG_KEPT_S: Final = 30 * 86_400
MOST_TOKENS: Final = 100_000
MOST_OPENED: Final = 256  # entries that are remembered with what is in them
LARGEST_OPENED: Final = 16 * 1024  # bytes of one of them
MOST_OWED: Final = 10_000  # invalidations that wait for Redis
MOST_ERRORS: Final = 1000
LONGEST_TEXT: Final = 2000  # of a failure
LEAST_ROOM: Final = 1024 * 1024  # bytes for what is kept in an outage
NIL: Final = msgspec.msgpack.encode(None)

log = structlog.get_logger(__name__)


class Shared:
    """Made in the event loop that uses it."""

    def __init__(self, terms: Terms, client: Client) -> None:
        self.terms = terms
        self.local = Local(max(terms.local_bytes, LEAST_ROOM))
        self.time = asyncio.get_running_loop().time
        self.wakes: dict[str, asyncio.Future[None]] = {}  # of flights that wait for a key
        space = terms.namespace
        self.link = Link(
            client,
            budget=terms.budget,
            probe_key=f"{space}:probe",
            clock=terms.clock,
            random=terms.random,
        )
        self.ears = Ears(
            client,
            self.link,
            prefix=f"{space}:",
            name=terms.process,
            changed=self._changed,
            turned=self._turned,
            clock=terms.clock,
            random=terms.random,
        )
        self._tag_prefix = f"{space}:tag:"
        self._tokens: dict[str, bytes] = {}  # of tags, as long as changes are heard of
        self._reading: dict[str, int] = {}  # keys that are being read, and how often
        self._spoiled: set[str] = set()  # those of them that changed meanwhile
        self._opened: dict[str, tuple[bytes, Entry]] = {}  # the last entries, as they were read
        self._owed: set[str] = set()  # tags and keys that are to be invalidated still
        self._errors: dict[bytes, Exception] = {}  # of this process, by the seal of their entry
        self._slack_ms = 0.0  # by which it may be too far ahead
        self._ahead_ms = terms.clock.now().timestamp() * 1000 - self.time() * 1000  # of the server

    async def look(self, call: Call) -> tuple[Held, Kind] | None:
        """The shared answer, if there is a valid one. Raises Unavailable."""
        key, known = call.key, self._tokens
        wanted = [tag for tag in call.tags if tag not in known]
        if not wanted and not self._keeps:  # the shortest way
            raw = await self.link.get(key)
            return self.valid(call, raw, tuple([known.get(tag) for tag in call.tags]))
        with _Reading(self._reading, self._spoiled, key, *wanted) as reading:
            if wanted:
                raw, *tokens = await self.link.get_many([key, *wanted])
            else:
                raw, tokens = await self.link.get(key), []
            fresh = dict(zip(wanted, tokens, strict=True))
            self._learn(fresh, reading)
            current = tuple([fresh.get(tag) or known.get(tag) for tag in call.tags])
            held = self.valid(call, raw, current)
            if held is not None and self._keeps and not reading.spoiled(key, *call.tags):
                self.local.put(key, held[0])
            return held

    def valid(
        self, call: Call, raw: bytes | None, tokens: tuple[bytes | None, ...]
    ) -> tuple[Held, Kind] | None:
        """The answer in an entry, if it has not ended and its tags have these tokens still."""
        if raw is None or (self._owed and not self._owed.isdisjoint((call.key, *call.tags))):
            return None
        entry = self._entry(call, raw)
        if entry is None or entry.tokens != tokens:
            return None
        now, ahead = self.time(), self._ahead_ms
        until = (entry.until_ms - ahead) / 1000
        kind = entry.kind
        if now >= until or kind is Kind.PASS:
            return None
        fresh_until = (entry.fresh_until_ms - ahead) / 1000
        took_s = max(entry.took_ms / 1000, call.rule.counts.p95_s)
        error, refresh_at = None, math.inf
        if kind is Kind.ERROR:
            error = self._errors.get(entry.seal) or call.rule.error(entry.value)
        elif call.rule.early:
            lead = (fresh_until - now) / 2
            refresh_at = fresh_until - min(lead, 2 * took_s)
        held = Held(
            entry.value,
            error,
            now,
            fresh_until,
            until,
            refresh_at,
            took_s,
            entry.seal,
            call.tags,
            entry.size,
        )
        return held, kind

    def _entry(self, call: Call, raw: bytes) -> Entry | None:
        """What is in an entry; the same bytes are not opened and decoded again.

        Where values are kept locally that is hardly ever needed.
        """
        known = self._opened.get(call.key)
        if known is not None and known[0] == raw:
            return known[1]
        entry = self.terms.seals.opened(call.key, raw, call.rule.codec.decode)
        if entry is not None and not self._keeps and len(raw) <= LARGEST_OPENED:
            self._opened.pop(call.key, None)
            self._opened[call.key] = raw, entry
            if len(self._opened) > MOST_OPENED:
                del self._opened[next(iter(self._opened))]
        return entry

    @property
    def _keeps(self) -> bool:
        return self.ears.on and self.terms.local_bytes > 0

    def _learn(self, fresh: Mapping[str, bytes | None], reading: "_Reading") -> None:
        """Keep the tokens of tags while changes to them are heard of."""
        if not self.ears.on:
            return
        if len(self._tokens) > MOST_TOKENS:
            self._tokens.clear()
        for tag, token in fresh.items():
            if token is not None and not reading.spoiled(tag):
                self._tokens[tag] = token

    # --- answers of ours ---

    async def tokens_of(self, tags: Sequence[str]) -> tuple[bytes, ...]:
        """From before the backend is called: a tag that changes meanwhile voids the answer."""
        found = []
        for tag in tags:
            token = self._tokens.get(tag)
            if token is None:
                fresh = self.terms.random.randbytes(TOKEN)
                token = await self.link.run(TAG_OF, (tag,), fresh, TAG_KEPT_S)
            found.append(token)
        return tuple(found)

    async def void(self, *tags: str) -> None:
        """Give tags other tokens: no answer with the old ones is valid.

        Raises:
            Unavailable: other processes may serve them until Redis is back; then it is made good.
        """
        for tag in tags:
            self._tokens.pop(tag, None)
            self.local.drop_tag(tag)
            self._owe(tag)
        for tag in tags:
            token = self.terms.random.randbytes(TOKEN)
            await self.link.firmly(partial(self.link.run, KEEP, (tag,), token, TAG_KEPT_S))
            self._owed.discard(tag)

    async def drop(self, key: str) -> None:
        """Remove a value, also one that is being computed. Raises Unavailable, as `void` does."""
        self.local.drop(key)
        self._owe(key)
        await self.link.firmly(partial(self.link.unlink, [key, key + LEASE]))
        self._owed.discard(key)

    def _owe(self, name: str) -> None:
        if len(self._owed) >= MOST_OWED:
            log.warning("cache.forgets", because=f"more than {MOST_OWED} invalidations wait")
            self._owed.clear()
        self._owed.add(name)

    async def make_good(self) -> None:
        """What could not be invalidated while Redis was away. Raises Unavailable."""
        for name in list(self._owed):
            await (self.void if name.startswith(self._tag_prefix) else self.drop)(name)

    def made(
        self, call: Call, outcome: Outcome, tokens: tuple[bytes, ...], took_s: float
    ) -> tuple[bytes, int] | None:
        """The entry of an answer as bytes and the milliseconds to keep it; None when it is not."""
        rule = call.rule
        stale_s, data, kind = 0.0, NIL, Kind.PASS
        fresh_s = PASS_S
        if outcome.error is not None:
            fresh_s, kind = rule.error_s(outcome.error), Kind.ERROR
            data = msgspec.msgpack.encode(_told(outcome.error))
        elif outcome.value is None:
            fresh_s, kind, stale_s = rule.missing_s, Kind.MISSING, rule.stale_s
        elif rule.kept(outcome.value):
            encoded = self._encoded(rule, outcome.value)
            seconds = rule.ttl_s(outcome.value, self.terms.clock.now())
            if encoded is not None and seconds > 0:
                fresh_s, kind, stale_s, data = seconds, Kind.VALUE, rule.stale_s, encoded
        keep_ms = round((fresh_s + stale_s) * 1000)
        if keep_ms <= 0:
            return None
        now_ms = math.floor(self.now_ms - self._slack_ms)
        entry = Entry(
            kind,
            None,
            now_ms + round(fresh_s * 1000),
            now_ms + keep_ms,
            round(took_s * 1000),
            tokens,
        )
        raw = self.terms.seals.sealed(call.key, entry, data)
        rule.counts.bytes += len(raw)
        if isinstance(outcome.error, Exception):
            if len(self._errors) > MOST_ERRORS:
                self._errors.clear()
            self._errors[raw[SEAL_AT]] = outcome.error
        return raw, keep_ms

    def _encoded(self, rule: Rule, value: Any) -> bytes | None:
        """None, said once, for what would come back as something else."""
        try:
            return rule.codec.faithful(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            if not rule.counts.unkept:
                remedy = "annotate what the function returns, or return plain data"
                log.warning("cache.unkept", function=rule.name, because=f"{error}; {remedy}")
            rule.counts.unkept += 1
            return None

    # --- what is heard ---

    def _changed(self, keys: Sequence[bytes] | None) -> None:
        """Somebody has changed these keys, or (None) emptied the server."""
        if keys is None:
            self._turned()
            return
        for raw in keys:
            key = raw.decode(errors="replace")
            if key in self._reading:
                self._spoiled.add(key)
            if key.startswith(self._tag_prefix):
                self._tokens.pop(key, None)
                self.local.drop_tag(key)
                continue
            self.local.drop(key)
            woken = self.wakes.get(key.removesuffix(LEASE))
            if woken is not None and not woken.done():
                woken.set_result(None)

    def _turned(self) -> None:
        """Changes are heard of from now on, or no longer: what is here may be old."""
        self.local.clear()
        self._tokens.clear()
        self._spoiled.update(self._reading)

    @property
    def now_ms(self) -> float:
        """On the server's clock."""
        return self.time() * 1000 + self._ahead_ms

    async def set_clock(self) -> None:
        """Moments in entries are the server's: the clocks of our hosts need not agree.

        It may be ahead by as long as the question took, so nothing is served past its end.
        """
        before = self.time()
        try:
            seconds, micros = await self.link.ask("TIME")
        except Unavailable:
            return
        self._ahead_ms = int(seconds) * 1000 + int(micros) / 1000 - before * 1000 + ROUNDED_MS
        self._slack_ms = (self.time() - before) * 1000 + ROUNDED_MS


def _told(error: BaseException) -> list[str]:
    """What other processes may know of a failure: its class and its text."""
    only = error.args[0] if len(error.args) == 1 else error
    return [type(error).__name__, str(only)[:LONGEST_TEXT]]


class _Reading:
    """Remembers that keys are being read, so that a change meanwhile is noticed."""

    def __init__(self, reading: dict[str, int], spoiled: set[str], *keys: str) -> None:
        self._reading = reading
        self._spoiled = spoiled
        self._keys = keys

    def __enter__(self) -> Self:
        for key in self._keys:
            self._reading[key] = self._reading.get(key, 0) + 1
        return self

    def spoiled(self, *keys: str) -> bool:
        return not self._spoiled.isdisjoint(keys)

    def __exit__(self, *_: object) -> None:
        for key in self._keys:
            self._reading[key] -= 1
            if not self._reading[key]:
                del self._reading[key]
                self._spoiled.discard(key)
