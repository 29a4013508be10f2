"""CacheManager: answers of slow functions, kept in Redis for all processes and here for this one.

    cache = CacheManager("redis://localhost:6379/0", namespace="ledger")

    @cache.cached(ttl="5s", key="quote:{symbol}", tags=["quotes"])
    async def quote(symbol: str) -> Quote: ...

A cold key calls its function once, whoever asks; a hot one is refreshed before it ends; and without
Redis callers get what the function says. Values are shared between callers: treat them as frozen.
Design and figures: docs/caches.md.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from functools import partial, wraps
from os import getpid
from random import SystemRandom
from typing import Any, Final, TypeVar, get_type_hints

from scaler.clients.cache_link import Client, connected
from scaler.clock import Clock, SystemClock
from scaler.errors import ConfigError, Unavailable
from scaler.maintenance.caching import names
from scaler.maintenance.caching.calls import Call, Errors, Outcome, Rule, Span, Terms, rule_of
from scaler.maintenance.caching.counts import plain
from scaler.maintenance.caching.names import LEASE, NAMESPACE
from scaler.maintenance.caching.portal import Portal
from scaler.maintenance.caching.scripts import PUT
from scaler.maintenance.caching.side import Side
from scaler.maintenance.caching.times import Ttl
from scaler.maintenance.caching.values import MOST_TAGS, Codec, Seals

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
BUDGET: Final = timedelta(milliseconds=100)
LOCAL_BYTES: Final = 64 * 1024 * 1024
OUTAGE: Final = timedelta(seconds=1)
MOST_LOOPS: Final = 64  # event loops that use one cache
SWEPT: Final = 200  # keys of one step of a sweep


class CacheManager:
    """One namespace of one Redis (6 or newer) or Valkey, standalone, Sentinel or Cluster."""

    def __init__(
        self,
        url: str = "",
        *,
        namespace: str,
        client: Client | Callable[[], Client] | None = None,
        local: bool = True,
        local_bytes: int = LOCAL_BYTES,
        budget: timedelta = BUDGET,
        outage: timedelta = OUTAGE,
        secrets: Sequence[bytes] = (),
        compress_above: int = 4096,
        clock: Clock | None = None,
    ) -> None:
        """Connects when it is first used.

        `client` stands for `url`: a client of redis-py, or a function that makes one for each event
        loop, such as `lambda: Sentinel(...).master_for("main")`. `budget` is how long a caller may
        wait for Redis. `outage` is how long answers are kept locally while Redis is away. With
        `secrets` (16 bytes or more each) entries of anybody else are misses; the first one seals.

        Raises:
            ConfigError: a setting cannot be used.
        """
        if bool(url) == (client is not None):
            raise ConfigError("a cache needs either the address of Redis or a client")
        if not NAMESPACE.fullmatch(namespace):
            raise ConfigError(f'"{namespace}" is no namespace; use letters, digits, _ . - and :')
        try:
            seals = Seals(secrets, compress_above=compress_above)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        random = SystemRandom()
        self._rules: dict[str, Rule] = {}
        self._terms = Terms(
            namespace=namespace,
            process=f"{getpid()}-{random.getrandbits(40):010x}",
            budget=budget,
            local_bytes=local_bytes if local else 0,
            outage_s=outage.total_seconds(),
            seals=seals,
            clock=clock or SystemClock(),
            random=random,
            rules=self._rules,
        )
        self._client = client
        self._url = url
        self._portal = Portal()
        self._sides: dict[asyncio.AbstractEventLoop, Side] = {}
        self._last: tuple[asyncio.AbstractEventLoop | None, Side | None] = (None, None)
        self._plain = rule_of("", Codec(), ttl=0, stale=0, missing=0, errors=None, early=False)

    # --- functions ---

    def cached(
        self,
        *,
        ttl: Ttl,
        key: str | Callable[..., str] | None = None,
        tags: Sequence[str] = (),
        early: bool = True,
        stale: Span = 0,
        missing: Span | None = None,
        errors: Errors = "2s",
        condition: Callable[[Any], bool] | None = None,
        name: str = "",
        version: str = "",
        returns: Any = None,
    ) -> Callable[[F], F]:
        """Keep what a function answers; it may be `async` or not.

        `key` and `tags` name arguments in braces; without `key` all arguments count. `ttl` is a
        span, a `BarEnd` or `SessionClose`, or says it for each value. `early` refreshes before the
        end, `stale` serves for so long after it while one call refreshes. `missing` is for None (a
        minute at most by default), `errors` for failures, all alike or by class. What does not meet
        `condition` is not kept. `version` pins what is otherwise derived from the code; `returns`
        stands for the annotation.

        The function gets `key(...)`, `invalidate(...)` and `invalidate_all()`.

        Raises:
            ConfigError: a setting cannot be used with this function.
        """

        def decorated(function: F) -> F:
            title = name or names.named(function)
            try:
                declared = returns if returns is not None else _declared(function)
                build = names.builder(function, key)
                tagged = names.tags_of(function, tags)
                rule = rule_of(
                    title,
                    Codec(declared),
                    ttl=ttl,
                    stale=stale,
                    missing=missing,
                    errors=errors,
                    early=early,
                    condition=condition,
                    version=names.version(function, declared, key, version),
                )
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{title} cannot be cached: {error}") from None
            if len(tags) >= MOST_TAGS:
                raise ConfigError(f"{title} has {len(tags)} tags; {MOST_TAGS - 1} is the most")
            self._rules[rule.id] = rule
            if inspect.iscoroutinefunction(function):
                made = self._awaited(function, rule, build, tagged)
            else:
                made = self._threaded(function, rule, build, tagged)
            return self._equipped(made, rule, build)

        return decorated

    def _awaited(
        self, function: F, rule: Rule, build: names.Builder, tagged: list[names.Builder]
    ) -> F:
        head, counts = self._head(rule), rule.counts

        @wraps(function)
        async def call(*args: Any, **named: Any) -> Any:
            key = f"{head}{build(args, named)}}}"
            side = self._here()
            held = side.local.held.get(key)
            if held is not None and (now := side.time()) < held.fresh_until:
                held.again = True
                counts.hits_local += 1
                if now >= held.refresh_at:
                    run = partial(function, *args, **named)
                    side.due(Call(key, rule, held.tags, run, run), held, now)
                return held.taken()
            run = partial(function, *args, **named)
            return await side.fetch(
                Call(key, rule, self._tags(rule, tagged, args, named), run, run)
            )

        return call  # type: ignore[return-value]

    def _threaded(
        self, function: F, rule: Rule, build: names.Builder, tagged: list[names.Builder]
    ) -> F:
        head, counts = self._head(rule), rule.counts

        @wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            key = f"{head}{build(args, named)}}}"
            run = partial(function, *args, **named)
            again = partial(asyncio.to_thread, run)
            loop = self._portal.started
            side = self._sides.get(loop) if loop is not None else None
            held = side.local.held.get(key) if side is not None else None
            if side is not None and held is not None and (now := side.time()) < held.fresh_until:
                held.again = True
                counts.hits_local += 1
                if now >= held.refresh_at and loop is not None:
                    due = Call(key, rule, held.tags, again, again)
                    loop.call_soon_threadsafe(side.due, due, held, now)
                return held.taken()
            tags = self._tags(rule, tagged, args, named)

            async def fetch(handed: Callable[[], Awaitable[Any]]) -> Any:
                return await self._here().fetch(Call(key, rule, tags, handed, again))

            return self._portal.answer(fetch, run)

        return call  # type: ignore[return-value]

    def _equipped(self, function: F, rule: Rule, build: names.Builder) -> F:
        head = self._head(rule)

        def key(*args: Any, **named: Any) -> str:
            return f"{head}{build(args, named)}}}"

        async def invalidate(*args: Any, **named: Any) -> None:
            await self._drop(key(*args, **named))

        async def invalidate_all() -> None:
            await self._void(self._function_tag(rule))

        function.key = key  # type: ignore[attr-defined]
        function.invalidate = invalidate  # type: ignore[attr-defined]
        function.invalidate_all = invalidate_all  # type: ignore[attr-defined]
        return function

    def _head(self, rule: Rule) -> str:
        return f"{self._terms.namespace}:{{{rule.id}:"

    def _function_tag(self, rule: Rule) -> str:
        return f"{self._terms.namespace}:tag:={rule.name}"

    def _tags(
        self,
        rule: Rule,
        tagged: list[names.Builder],
        args: tuple[Any, ...],
        named: Mapping[str, Any],
    ) -> tuple[str, ...]:
        """The keys of the tokens of a call; the first is that of its function."""
        space = self._terms.namespace
        own = self._function_tag(rule)
        if not tagged:
            return (own,)
        return (own, *(f"{space}:tag:{build(args, named)}" for build in tagged))

    # --- keys made up by callers ---

    async def get_or_set(
        self,
        key: str,
        backend: Callable[[], Awaitable[T]],
        *,
        ttl: Ttl,
        tags: Sequence[str] = (),
        stale: Span = 0,
        missing: Span | None = None,
        errors: Errors = "2s",
        early: bool = True,
    ) -> T:
        """What is kept under `key`, else what `backend` answers, for all who ask meanwhile."""
        name = self._by_hand(key)

        def call() -> Call:
            rule = self._by_hand_rule(ttl, stale=stale, missing=missing, errors=errors, early=early)
            return Call(name, rule, self._tag_keys(tags), backend, backend)

        side = self._here()
        held = side.local.held.get(name)
        if held is not None and (now := side.time()) < held.fresh_until:
            held.again = True
            self._plain.counts.hits_local += 1
            if now >= held.refresh_at:
                side.due(call(), held, now)
            return held.taken()  # type: ignore[no-any-return]
        return await side.fetch(call())  # type: ignore[no-any-return]

    async def get(self, key: str, default: Any = None, *, tags: Sequence[str] = ()) -> Any:
        """What was set under `key` with these tags, or `default`; also when Redis is away."""
        return (await self.get_many([key], tags=tags)).get(key, default)

    async def get_many(self, keys: Sequence[str], *, tags: Sequence[str] = ()) -> dict[str, Any]:
        """What was set under those of `keys` that there are, with these tags."""
        wanted = self._tag_keys(tags)
        calls = [Call(self._by_hand(key), self._plain, wanted, _none, _none) for key in keys]
        found = await self._here().find(calls)
        return {k: held.value for k, held in zip(keys, found, strict=True) if held is not None}

    async def set(
        self, key: str, value: Any, *, ttl: Ttl, tags: Sequence[str] = (), stale: Span = 0
    ) -> None:
        """Keep `value`; who is computing this key at the moment does not replace it.

        Raises:
            Unavailable: Redis does not take it; nothing is known of the old value.
            TypeError: the value would come back as something else.
        """
        rule = self._by_hand_rule(ttl, stale=stale, missing=None, errors=None, early=True)
        if value is not None:
            rule.codec.faithful(value)
        side = self._here()
        await side.begin()
        call = Call(self._by_hand(key), rule, self._tag_keys(tags), _none, _none)
        tokens = await side.shared.link.firmly(partial(side.shared.tokens_of, call.tags))
        made = side.shared.made(call, Outcome(value), tokens, 0.0)
        if made is not None:
            link, places = side.shared.link, (call.key, call.key + LEASE)
            await link.firmly(partial(link.run, PUT, places, *made))
        side.local.drop(call.key)

    async def delete(self, *keys: str) -> None:
        """Raises Unavailable, as `invalidate_tag` does."""
        for key in keys:
            await self._drop(self._by_hand(key))

    def _by_hand_rule(self, ttl: Ttl, **given: Any) -> Rule:
        rule = rule_of("", self._plain.codec, ttl=ttl, **given)
        rule.counts = self._plain.counts
        return rule

    def _by_hand(self, key: str) -> str:
        return f"{self._terms.namespace}:{{=:{names.by_hand(key)}}}"

    def _tag_keys(self, tags: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{self._terms.namespace}:tag:{names.by_hand(tag)}" for tag in tags)

    # --- invalidation ---

    async def invalidate_tag(self, *tags: str) -> None:
        """Void everything with one of these tags, however much it is, at one write each.

        Raises:
            Unavailable: Redis does not answer; it is made good when it does, and until then this
                process has no such value, but others may.
        """
        await self._void(*self._tag_keys(tags))

    async def invalidate_pattern(self, pattern: str) -> int:
        """Drop the values of a function whose keys match, as in `quote.*:A*`; how many there were.

        `*`, `?` and `[...]` are as in Redis. It looks through all keys, a few at a time; a tag does
        the same at once. Raises Unavailable.
        """
        side = self._here()
        await side.begin()
        dropped = 0
        async for keys in side.shared.link.scan(f"{self._terms.namespace}:{{{pattern}}}*", SWEPT):
            for key in keys:
                side.local.drop(key)
            dropped += await side.shared.link.unlink(keys)
        return dropped

    async def _void(self, *tags: str) -> None:
        side = self._here()
        await side.begin()
        await side.shared.void(*tags)

    async def _drop(self, key: str) -> None:
        side = self._here()
        await side.begin()
        await side.shared.drop(key)

    # --- the whole ---

    async def start(self) -> None:
        """Connect, and wait until changes are heard of, so that values are kept locally.

        Raises:
            TimeoutError: that takes longer than five seconds; the cache works nevertheless.
        """
        side = self._here()
        await side.begin()
        async with asyncio.timeout(5):
            await side.shared.ears.ready()

    async def warm_up(self, most: int = 5000, *, within: timedelta = timedelta(seconds=5)) -> int:
        """Load the hottest keys of all processes; for a new one, before it says that it is ready.

        How many values are kept locally then; fewer when time is up or Redis is away.
        """
        try:
            async with asyncio.timeout(within.total_seconds()):
                return await self._here().warm_up(most)
        except (Unavailable, TimeoutError):
            return len(self._here().local.held)

    async def publish(self) -> None:
        """Tell the other processes what was done here, now rather than within ten seconds.

        Raises Unavailable.
        """
        await self._here().report()

    def statistics(self) -> Mapping[str, Mapping[str, Any]]:
        """What each function did in this process: see `counts.Counts.plain`."""
        rules = [self._plain, *self._rules.values()]
        return plain((rule.name or "=", rule.counts) for rule in rules)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Any coroutine of this cache, for threads without an event loop.

        `cache.run(cache.invalidate_tag("quotes"))`
        """
        return self._portal.run(work)

    def _here(self) -> Side:
        """What belongs to the running event loop; a connection is of one loop."""
        loop = asyncio.get_running_loop()
        last = self._last  # as one: other threads change it
        if last[0] is loop and last[1] is not None:
            return last[1]
        side = self._sides.get(loop)
        if side is None:
            for old in [one for one in self._sides if one.is_closed()]:
                del self._sides[old]
            if len(self._sides) >= MOST_LOOPS:
                raise ConfigError(f"more than {MOST_LOOPS} event loops use one cache")
            side = self._sides[loop] = Side(self._terms, self._connected())
        self._last = (loop, side)
        return side

    def _connected(self) -> Client:
        if self._url:
            return connected(self._url)
        if not callable(self._client):
            client, self._client = self._client, _taken
            return client  # type: ignore[return-value]
        return self._client()

    async def aclose(self) -> None:
        """Close what belongs to the running event loop, and the loop for threads."""
        side = self._sides.pop(asyncio.get_running_loop(), None)
        self._last = (None, None)
        if side is not None:
            await side.aclose()
        loop = self._portal.started
        if loop is not None:
            other = self._sides.pop(loop, None)
            if other is not None:
                closing = asyncio.run_coroutine_threadsafe(other.aclose(), loop)
                await asyncio.wrap_future(closing)
            await asyncio.to_thread(self._portal.close)


def _declared(function: Callable[..., Any]) -> Any:
    """What a function says that it returns."""
    try:
        return get_type_hints(function).get("return", Any)
    except (NameError, TypeError):
        return Any


def _taken() -> Client:
    raise ConfigError(
        "a client is of one event loop and this cache is used in two; give client=lambda: ..., a "
        "function that makes one"
    )


async def _none() -> None: ...
