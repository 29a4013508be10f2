"""CacheManager on a real Redis. Two managers are two processes as far as they know."""

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from redis.asyncio import Redis

from scaler.errors import ConfigError
from scaler.maintenance.cache import CacheManager
from scaler.maintenance.caching import flights
from scaler.maintenance.caching.calls import BackendFailed
from tests.integration.redises import SERVERS, RedisServer, serving_redis
from tests.integration.running import eventually

pytestmark = pytest.mark.live
PATIENT = timedelta(seconds=5)  # calls are counted: a slow machine is no outage


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving_redis(kind=request.param) as made:
        yield made


@pytest.fixture
async def cache(server: RedisServer) -> AsyncIterator[CacheManager]:
    server.ask("FLUSHALL")
    made = CacheManager(server.url, namespace="t", budget=PATIENT)
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
async def other(server: RedisServer, cache: CacheManager) -> AsyncIterator[CacheManager]:
    made = CacheManager(server.url, namespace="t", budget=PATIENT)
    await made.start()
    yield made
    await made.aclose()


class Backend:
    """Counts its calls; answers when it is let go, or at once."""

    def __init__(self) -> None:
        self.calls = 0
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None
        self.answer: Any = None

    async def __call__(self, symbol: str = "A") -> Any:
        self.calls += 1
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return {"symbol": symbol, "n": self.calls} if self.answer is None else self.answer


def quotes(cache: CacheManager, backend: Backend, **given: Any) -> Any:
    """The same function for every manager: its name and version decide what is shared."""
    given = {"ttl": "10s", "key": "quote:{symbol}", "name": "quote", "version": "1", **given}

    @cache.cached(**given)
    async def quote(symbol: str) -> Any:
        return await backend(symbol)

    return quote


async def started(backend: Backend, calls: int = 1) -> None:
    await eventually(lambda: backend.calls >= calls, "the backend is called")


# --- one call ---


async def test_many_callers_of_a_cold_key_are_one_call(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    backend.free.clear()
    here, there = quotes(cache, backend), quotes(other, backend)
    callers = [asyncio.create_task(f("A")) for f in (here, there) for _ in range(100)]
    await started(backend)
    backend.free.set()
    answers = await asyncio.gather(*callers)
    assert backend.calls == 1
    assert all(answer == {"symbol": "A", "n": 1} for answer in answers)
    assert await here("B") == {"symbol": "B", "n": 2}


async def test_a_second_call_is_answered_locally(cache: CacheManager, server: RedisServer) -> None:
    backend = Backend()
    quote = quotes(cache, backend)
    await quote("A")
    await eventually(lambda: cache.statistics()["quote"]["misses"] == 1, "it was a miss")
    await quote("A")
    first = await quote("A")
    assert (await quote("A")) is first
    assert backend.calls == 1
    assert cache.statistics()["quote"]["hits_local"] >= 1


async def test_without_a_local_tier_every_hit_is_shared(server: RedisServer) -> None:
    cache = CacheManager(server.url, namespace="nolocal", local=False)
    backend = Backend()
    quote = quotes(cache, backend)
    for _ in range(3):
        await quote("A")
    counts = cache.statistics()["quote"]
    assert (counts["hits_local"], counts["hits_shared"], counts["misses"]) == (0, 2, 1)
    await cache.aclose()


async def test_without_a_local_tier_changes_are_seen_at_once(server: RedisServer) -> None:
    first, second = (CacheManager(server.url, namespace="now", local=False) for _ in range(2))
    for n in range(5):
        await first.set("k", {"n": n}, ttl="10s")
        for _ in range(2):  # the second time its bytes are known
            assert await second.get("k") == {"n": n}
    await first.set("k", {"n": 5}, ttl=0.1)
    assert await second.get("k") == {"n": 5}
    await asyncio.sleep(0.15)
    assert await second.get("k") is None
    await first.aclose()
    await second.aclose()


async def test_the_lease_is_renewed_while_the_backend_works(
    cache: CacheManager, other: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "LEASE_MS", 300)
    monkeypatch.setattr(flights, "RENEW", timedelta(milliseconds=50))
    backend = Backend()
    backend.free.clear()
    first = asyncio.create_task(quotes(cache, backend)("A"))
    await started(backend)
    second = asyncio.create_task(quotes(other, backend)("A"))
    await asyncio.sleep(1)  # three terms
    backend.free.set()
    assert await first == await second
    assert backend.calls == 1


async def test_who_waits_for_another_process_hears_of_its_answer(
    cache: CacheManager, other: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "POLL_S", 3600)
    backend = Backend()
    backend.free.clear()
    first = asyncio.create_task(quotes(cache, backend)("A"))
    await started(backend)
    second = asyncio.create_task(quotes(other, backend)("A"))
    await eventually(lambda: other._here().shared.wakes, "it waits")
    backend.free.set()
    assert await first == await second


async def test_when_the_one_who_computes_dies_another_does_it(
    cache: CacheManager, other: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "LEASE_MS", 300)
    dead, alive = Backend(), Backend()
    dead.free.clear()
    dying = asyncio.create_task(quotes(other, dead)("A"))
    await started(dead)
    waiting = asyncio.create_task(quotes(cache, alive)("A"))
    await other.aclose()  # its lease stays
    assert await waiting == {"symbol": "A", "n": 1}
    with pytest.raises(asyncio.CancelledError):
        await dying


async def test_who_has_lost_the_lease_stores_nothing(
    cache: CacheManager, server: RedisServer
) -> None:
    backend = Backend()
    backend.free.clear()
    quote = quotes(cache, backend)
    call = asyncio.create_task(quote("A"))
    await started(backend)
    server.ask("SET", quote.key("A") + ":lease", "somebody else")
    backend.free.set()
    assert await call == {"symbol": "A", "n": 1}
    assert server.ask("EXISTS", quote.key("A")).strip() == "0"
    assert server.ask("GET", quote.key("A") + ":lease").strip() == "somebody else"
    server.ask("DEL", quote.key("A") + ":lease")


async def test_a_caller_who_gives_up_does_not_stop_the_others(cache: CacheManager) -> None:
    backend = Backend()
    backend.free.clear()
    quote = quotes(cache, backend)
    first, second = (asyncio.create_task(quote("A")) for _ in range(2))
    await started(backend)
    first.cancel()
    backend.free.set()
    assert await second == {"symbol": "A", "n": 1}
    assert backend.calls == 1


async def test_the_backend_sees_the_context_of_its_caller(cache: CacheManager) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @cache.cached(ttl="10s")
    async def whose() -> str:
        return user.get()

    user.set("ada")
    assert await whose() == "ada"


# --- errors, nothing, and what is not kept ---


async def test_a_failing_backend_is_called_once_for_all(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    backend.error = KeyError("no such symbol")
    here = quotes(cache, backend, errors={KeyError: "10s"})
    there = quotes(other, backend, errors={KeyError: "10s"})
    answers = await asyncio.gather(
        *[f("A") for f in (here, there) for _ in range(20)], return_exceptions=True
    )
    answers += await asyncio.gather(here("A"), there("A"), return_exceptions=True)
    assert backend.calls == 1
    assert all(isinstance(answer, KeyError) for answer in answers)
    assert "no such symbol" in str(answers[-1])


async def test_an_undeclared_failure_of_another_process_says_what_it_was(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    backend.error = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError):
        await quotes(cache, backend)("A")
    with pytest.raises(BackendFailed, match="ZeroDivisionError: by zero"):
        await quotes(other, backend)("A")
    assert backend.calls == 1


@pytest.mark.parametrize("errors", [None, {KeyError: "10s"}], ids=["none", "others only"])
async def test_failures_that_are_not_to_be_kept_are_not(cache: CacheManager, errors: Any) -> None:
    backend = Backend()
    backend.error = ValueError("now")
    quote = quotes(cache, backend, errors=errors)
    for _ in range(2):
        with pytest.raises(ValueError, match="now"):
            await quote("A")
    assert backend.calls == 2


async def test_that_there_is_nothing_is_kept_for_its_own_time(
    cache: CacheManager, server: RedisServer
) -> None:
    calls = 0

    @cache.cached(ttl="1h", missing="5s")
    async def nothing() -> dict[str, int] | None:
        nonlocal calls
        calls += 1
        return None

    assert await nothing() is None
    assert await nothing() is None
    assert calls == 1
    assert 0 < int(server.ask("PTTL", nothing.key())) <= 5000  # type: ignore[attr-defined]


async def test_what_does_not_meet_the_condition_is_not_kept(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    here = quotes(cache, backend, condition=lambda value: value["n"] > 2)
    there = quotes(other, backend, condition=lambda value: value["n"] > 2)
    assert [(await f("A"))["n"] for f in (here, there, here, there)] == [1, 2, 3, 4]


async def test_a_time_to_live_may_depend_on_the_value(
    cache: CacheManager, server: RedisServer
) -> None:
    quote = quotes(cache, Backend(), ttl=lambda value: 100 * value["n"])
    await quote("A")
    await quote("B")
    assert 90_000 < int(server.ask("PTTL", quote.key("A"))) <= 100_000
    assert 190_000 < int(server.ask("PTTL", quote.key("B"))) <= 200_000


async def test_what_would_come_back_different_is_not_kept_and_said_once(
    cache: CacheManager, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Backend()
    backend.answer = {"price": Decimal("1.10")}
    quote = quotes(cache, backend)
    for _ in range(3):
        assert await quote("A") == {"price": Decimal("1.10")}
    assert backend.calls == 3
    assert capsys.readouterr().out.count("cache.unkept") == 1


@dataclass(frozen=True)
class Price:
    amount: Decimal


async def test_declared_types_come_back_as_they_are(
    cache: CacheManager, other: CacheManager
) -> None:
    for manager in (cache, other):

        @manager.cached(ttl="10s", name="price", version="1")
        async def price() -> Price:
            return Price(Decimal("1.10"))

        assert await price() == Price(Decimal("1.10"))
        assert await price() == Price(Decimal("1.10"))
    assert other.statistics()["price"]["misses"] == 0


async def test_a_failing_time_to_live_reaches_the_caller(cache: CacheManager) -> None:
    quote = quotes(cache, Backend(), ttl=lambda _: "soon")
    with pytest.raises(ValueError, match="soon"):
        await quote("A")


# --- refreshing ---


async def test_stale_values_are_served_while_one_call_refreshes(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    here = quotes(cache, backend, ttl=0.2, stale="1m", early=False)
    there = quotes(other, backend, ttl=0.2, stale="1m", early=False)
    await here("A")
    await asyncio.sleep(0.25)
    backend.free.clear()
    answers = await asyncio.gather(*[f("A") for f in (here, there) for _ in range(50)])
    assert {answer["n"] for answer in answers} == {1}
    await started(backend, 2)
    backend.free.set()
    for quote in (here, there):

        async def is_new(quote: Any = quote) -> bool:
            return bool((await quote("A"))["n"] >= 2)

        async with asyncio.timeout(10):
            while not await is_new():
                await asyncio.sleep(0.01)


async def test_a_failing_refresh_leaves_the_stale_value_and_the_backend_alone(
    cache: CacheManager,
) -> None:
    backend = Backend()
    quote = quotes(cache, backend, ttl=0.1, stale="1m", errors="5s", early=False)
    await quote("A")
    await asyncio.sleep(0.15)
    backend.error = OSError("down")
    for _ in range(50):
        assert (await quote("A"))["n"] == 1
        await asyncio.sleep(0.002)
    assert backend.calls == 2


async def test_a_hot_key_is_refreshed_before_it_ends(cache: CacheManager) -> None:
    calls = 0

    @cache.cached(ttl=0.4)
    async def hot() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        return calls

    await hot()
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        await hot()
        await asyncio.sleep(0.002)
    counts = next(v for k, v in cache.statistics().items() if "hot" in k)
    assert calls >= 3
    assert counts["refreshed"] == calls - 1
    assert (counts["misses"], counts["joined"]) == (1, 0), "after the first nobody waited"


# --- invalidation ---


async def test_a_tag_voids_what_has_it(cache: CacheManager, other: CacheManager) -> None:
    backend = Backend()
    here = quotes(cache, backend, tags=["market", "symbol:{symbol}"])
    there = quotes(other, backend, tags=["market", "symbol:{symbol}"])
    for symbol in "AB":
        for quote in (here, there):
            for _ in range(3):
                await quote(symbol)
    assert backend.calls == 2
    await cache.invalidate_tag("symbol:A")
    assert (await here("A"))["n"] == 3

    async def heard() -> bool:
        return bool((await there("A"))["n"] == 3)

    async with asyncio.timeout(5):
        while not await heard():
            await asyncio.sleep(0.001)
    assert (await there("B"))["n"] == 2
    await other.invalidate_tag("market")
    assert (await there("B"))["n"] >= 4


async def test_a_tag_that_changes_during_the_call_voids_its_answer(cache: CacheManager) -> None:
    backend = Backend()
    backend.free.clear()
    quote = quotes(cache, backend, tags=["market"])
    call = asyncio.create_task(quote("A"))
    await started(backend)
    await cache.invalidate_tag("market")
    backend.free.set()
    assert (await call)["n"] == 1
    assert (await quote("A"))["n"] == 2


async def test_a_tag_that_redis_has_forgotten_voids_what_has_it(
    cache: CacheManager, server: RedisServer
) -> None:
    backend = Backend()
    quote = quotes(cache, backend, tags=["market"])
    await quote("A")
    server.ask("DEL", "t:tag:market")
    async with asyncio.timeout(5):
        while (await quote("A"))["n"] == 1:
            await asyncio.sleep(0.001)


async def test_one_key_and_all_of_a_function(cache: CacheManager) -> None:
    backend = Backend()
    quote = quotes(cache, backend)
    await quote("A")
    await quote("B")
    await quote.invalidate("A")
    assert (await quote("A"))["n"] == 3
    assert (await quote("B"))["n"] == 2
    await quote.invalidate_all()
    assert (await quote("A"))["n"] == 4
    assert (await quote("B"))["n"] == 5


async def test_a_key_dropped_during_the_call_is_not_stored(cache: CacheManager) -> None:
    backend = Backend()
    backend.free.clear()
    quote = quotes(cache, backend)
    call = asyncio.create_task(quote("A"))
    await started(backend)
    await quote.invalidate("A")
    backend.free.set()
    assert (await call)["n"] == 1
    assert (await quote("A"))["n"] == 2


async def test_a_pattern_drops_what_matches(cache: CacheManager) -> None:
    backend = Backend()
    quote = quotes(cache, backend)
    for symbol in ("AA", "AB", "BB"):
        await quote(symbol)
    assert await cache.invalidate_pattern("quote.*:quote:A*") == 2
    assert (await quote("BB"))["n"] == 3
    assert (await quote("AA"))["n"] == 4


# --- keys made up by callers ---


async def test_keys_set_by_hand(cache: CacheManager, other: CacheManager) -> None:
    await cache.set("rates/{EUR}", {"usd": 1.1}, ttl="10s")
    await cache.set("nothing", None, ttl="10s")
    assert await other.get("rates/{EUR}") == {"usd": 1.1}
    found = await other.get_many(["rates/{EUR}", "nothing", "unknown"])
    assert found == {"rates/{EUR}": {"usd": 1.1}, "nothing": None}
    assert await other.get("unknown", 7) == 7
    await other.delete("rates/{EUR}", "nothing")
    async with asyncio.timeout(5):
        while await cache.get("rates/{EUR}") is not None:
            await asyncio.sleep(0.001)


async def test_a_key_with_tags_is_read_with_them(cache: CacheManager) -> None:
    await cache.set("a", 1, ttl="10s", tags=["x"])
    assert await cache.get("a", tags=["x"]) == 1
    await cache.invalidate_tag("x")
    assert await cache.get("a", tags=["x"]) is None


async def test_get_or_set_is_one_call_too(cache: CacheManager, other: CacheManager) -> None:
    backend = Backend()
    answers = await asyncio.gather(
        *[m.get_or_set("k", backend, ttl="10s") for m in (cache, other) for _ in range(20)]
    )
    assert backend.calls == 1
    assert all(answer == {"symbol": "A", "n": 1} for answer in answers)
    assert await cache.get("k") == {"symbol": "A", "n": 1}


async def test_a_value_set_by_hand_is_not_replaced_by_an_older_call(cache: CacheManager) -> None:
    backend = Backend()
    backend.free.clear()
    call = asyncio.create_task(cache.get_or_set("k", backend, ttl="10s"))
    await started(backend)
    await cache.set("k", "newer", ttl="10s")
    backend.free.set()
    assert await call == {"symbol": "A", "n": 1}
    assert await cache.get("k") == "newer"


async def test_what_cannot_be_kept_is_refused_when_set_by_hand(cache: CacheManager) -> None:
    with pytest.raises(TypeError, match="different"):
        await cache.set("k", (1, 2), ttl="10s")


# --- what others leave there ---


@pytest.mark.parametrize(
    "command",
    [("SET", "garbage"), ("RPUSH", "a list"), ("SET", ""), ("SADD", "a set")],
    ids=["text", "a list", "nothing", "a set"],
)
async def test_what_somebody_else_left_at_a_key_is_a_miss(
    cache: CacheManager, server: RedisServer, command: tuple[str, str]
) -> None:
    backend = Backend()
    quote = quotes(cache, backend)
    server.ask(command[0], quote.key("A"), command[1])
    assert (await quote("A"))["n"] == 1
    assert (await quote("A"))["n"] == 1
    assert backend.calls == 1


async def test_with_a_secret_the_entries_of_others_are_misses(
    cache: CacheManager, server: RedisServer
) -> None:
    backend = Backend()
    await quotes(cache, backend)("A")
    guarded = CacheManager(server.url, namespace="t", secrets=[b"x" * 16])
    assert (await quotes(guarded, backend)("A"))["n"] == 2
    assert (await quotes(guarded, backend)("A"))["n"] == 2
    await guarded.aclose()


async def test_another_version_of_a_function_has_its_own_values(
    cache: CacheManager, other: CacheManager
) -> None:
    backend = Backend()
    await quotes(cache, backend, version="1")("A")
    assert (await quotes(other, backend, version="2")("A"))["n"] == 2


# --- functions without await ---


async def test_threads_share_one_call_too(cache: CacheManager, other: CacheManager) -> None:
    calls: list[str] = []
    free = threading.Event()

    def made(manager: CacheManager) -> Any:
        @manager.cached(ttl="10s", name="slow", version="1")
        def slow(n: int) -> int:
            calls.append(threading.current_thread().name)
            free.wait(10)
            return n * 2

        return slow

    with ThreadPoolExecutor(20, "caller") as pool:
        answers = [pool.submit(made(m), 21) for m in (cache, other) for _ in range(10)]
        await eventually(lambda: len(calls) > 0, "the function is called")
        free.set()
        assert [await asyncio.wrap_future(answer) for answer in answers] == [42] * 20
    assert len(calls) == 1
    assert calls[0].startswith("caller")


async def test_what_a_function_raises_its_thread_gets(cache: CacheManager) -> None:
    calls = 0

    @cache.cached(ttl="10s")
    def failing() -> int:
        nonlocal calls
        calls += 1
        raise KeyError("gone")

    for _ in range(2):
        with pytest.raises(KeyError, match="gone"):
            await asyncio.to_thread(failing)
    assert calls == 1


async def test_threads_without_a_loop_may_do_all_the_rest(cache: CacheManager) -> None:
    def work() -> Any:
        cache.run(cache.set("k", 1, ttl="10s"))
        return cache.run(cache.get("k"))

    assert await asyncio.to_thread(work) == 1


async def test_a_function_without_await_is_refreshed_early(cache: CacheManager) -> None:
    calls = 0

    @cache.cached(ttl=0.3)
    def hot() -> int:
        nonlocal calls
        calls += 1
        time.sleep(0.03)
        return calls

    def use() -> None:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            hot()
            time.sleep(0.002)

    await asyncio.to_thread(use)
    counts = next(v for k, v in cache.statistics().items() if "hot" in k)
    assert counts["refreshed"] >= 1


# --- a new process ---


async def test_a_new_process_takes_over_the_hottest_keys(
    cache: CacheManager, server: RedisServer
) -> None:
    backend = Backend()
    quote = quotes(cache, backend, tags=["symbol:{symbol}"])
    for symbol in "ABCDE":
        for _ in range(5):
            await quote(symbol)
    await cache.publish()
    new = CacheManager(server.url, namespace="t")
    there = quotes(new, backend, tags=["symbol:{symbol}"])
    assert await new.warm_up() == 5
    for symbol in "ABCDE":
        await there(symbol)
    counts = new.statistics()["quote"]
    assert (counts["hits_local"], counts["misses"], backend.calls) == (5, 0, 5)
    await new.invalidate_tag("symbol:A")
    assert (await there("A"))["n"] == 6
    await new.aclose()


async def test_warming_up_without_redis_ends_in_time() -> None:
    cache = CacheManager("unix:///nowhere/redis.sock", namespace="t")
    assert await cache.warm_up(within=timedelta(milliseconds=200)) == 0
    await cache.aclose()


async def test_what_processes_report(cache: CacheManager, server: RedisServer) -> None:
    quote = quotes(cache, Backend())
    await quote("A")
    await cache.publish()
    rule = quote.key("A").partition("{")[2].partition(":")[0]
    assert rule in server.ask("HKEYS", "t:versions").split()
    assert '"misses":1' in server.ask("HGET", "t:{stats}", cache._terms.process)


async def test_processes_that_have_ended_are_forgotten(
    cache: CacheManager, server: RedisServer
) -> None:
    server.ask("HSET", "t:{stats}", "ended", "{}")
    server.ask("ZADD", "t:{stats}:seen", "1000", "ended")
    await cache.publish()
    assert server.ask("HKEYS", "t:{stats}").split() == [cache._terms.process]


# --- clients and settings ---


async def test_a_client_of_the_caller_is_used(server: RedisServer) -> None:
    cache = CacheManager(client=Redis(unix_socket_path=str(server.socket)), namespace="own")
    await cache.start()
    assert await quotes(cache, Backend())("A") == {"symbol": "A", "n": 1}
    with pytest.raises(ConfigError, match="a function that makes one"):
        await asyncio.to_thread(cache.run, cache.get("k"))
    await cache.aclose()


async def test_a_function_makes_a_client_for_each_loop(server: RedisServer) -> None:
    cache = CacheManager(
        client=lambda: Redis(unix_socket_path=str(server.socket)), namespace="each"
    )
    await cache.set("k", 1, ttl="10s")
    assert await asyncio.to_thread(cache.run, cache.get("k")) == 1
    await cache.aclose()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"namespace": "t"}, "either the address of Redis or a client"),
        ({"url": "http://x", "namespace": "t"}, "address of Redis cannot be used"),
        ({"url": "redis://x", "namespace": "a b"}, "is no namespace"),
        ({"url": "redis://x", "namespace": "t", "secrets": [b"x"]}, "16 bytes"),
    ],
    ids=["no address", "another address", "namespace", "secret"],
)
async def test_settings_that_cannot_be_used(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await CacheManager(**given).get("k")


async def test_a_client_that_decodes_is_refused(server: RedisServer) -> None:
    client = Redis(unix_socket_path=str(server.socket), decode_responses=True)
    cache = CacheManager(client=client, namespace="t")
    with pytest.raises(ConfigError, match="decode_responses=False"):
        await cache.get("k")
    await client.aclose()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ttl": "5"}, "has no unit"),
        ({"ttl": "5s", "key": "{nobody}"}, "is no argument"),
        ({"ttl": "5s", "tags": [f"t{n}" for n in range(20)]}, "20 tags"),
    ],
    ids=["span", "key", "tags"],
)
def test_functions_that_cannot_be_cached(given: dict[str, Any], message: str) -> None:
    cache = CacheManager("redis://localhost", namespace="t")
    with pytest.raises(ConfigError, match=message):

        @cache.cached(**given)
        async def some(symbol: str) -> dict[str, int]:
            return {symbol: 1}
