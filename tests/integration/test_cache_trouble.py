"""A cache whose Redis is killed, hangs, is full, read-only or says no: nobody is to notice."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from scaler.clients import cache_ears
from scaler.errors import Unavailable
from scaler.maintenance.cache import CacheManager
from scaler.maintenance.caching import flights
from tests.integration.redises import SERVERS, RedisServer, serving_redis
from tests.integration.running import eventually

ACL = Path("deploy/redis/cache.acl")
pytestmark = pytest.mark.live


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving_redis(kind=request.param) as made:
        yield made


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@pytest.fixture
async def cache(server: RedisServer) -> AsyncIterator[CacheManager]:
    made = CacheManager(server.url, namespace="t")
    await made.start()
    yield made
    await made.aclose()


class Calls:
    """A backend, and callers who ask for 20 keys again and again and remember how long it took."""

    def __init__(self, cache: CacheManager, **given: Any) -> None:
        self.count = 0
        self.slowest = 0.0
        self.errors = 0
        self.made = 0

        @cache.cached(ttl="1m", name="get", version="1", **given)
        async def get(key: int) -> int:
            self.count += 1
            await asyncio.sleep(0.01)
            return key

        self.get = get

    async def one(self, key: int) -> None:
        began = time.monotonic()
        try:
            assert await self.get(key) == key
        except Unavailable:
            self.errors += 1
        self.made += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        key = 0
        under_way = set()
        while time.monotonic() < end:
            under_way.add(asyncio.create_task(self.one(key % 20)))
            key += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*under_way)


async def again(cache: CacheManager) -> None:
    """It answers and changes are heard of."""
    side = cache._here()
    await eventually(lambda: side.shared.link.up and side.shared.ears.on, "Redis is back")


@pytest.mark.parametrize("local", [True, False], ids=["kept locally", "in Redis only"])
async def test_a_killed_redis_is_noticed_by_nobody(
    server: RedisServer, logged: list[Any], *, local: bool
) -> None:
    cache = CacheManager(server.url, namespace="t", local=local)
    await cache.start()
    calls = Calls(cache)
    await calls.go_on(0.3)
    server.kill()
    before = calls.count
    await calls.go_on(1.5)
    assert calls.errors == 0
    assert calls.count - before <= 20 * 3, "once a second for a key, not for each call"
    server.start()
    await again(cache)
    await calls.go_on(0.3)
    assert calls.errors == 0
    lines = [line["event"] for line in logged]
    assert len(lines) <= 5, lines
    assert {"cache.lost", "cache.back"} <= set(lines)
    await cache.aclose()


async def test_a_hanging_redis_costs_its_first_callers_the_budget(
    server: RedisServer, logged: list[Any]
) -> None:
    cache = CacheManager(server.url, namespace="t", local=False, budget=timedelta(milliseconds=200))
    calls = Calls(cache)
    await calls.go_on(0.3)
    server.pause()
    await calls.go_on(1)
    server.resume()
    await again(cache)
    assert calls.errors == 0
    assert calls.slowest < 5, "nobody waits for Redis to come back"
    for line in server.ask("KEYS", "*:lease").split():
        assert int(server.ask("PTTL", line)) <= 5000
    assert len(logged) <= 5, logged
    await cache.aclose()


async def test_a_lease_that_was_asked_for_in_vain_is_given_back(
    server: RedisServer, cache: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "LEASE_MS", 3_600_000)  # it does not end by itself
    calls = Calls(cache)
    await calls.one(1)
    server.pause()
    await asyncio.gather(*[calls.one(key) for key in range(5, 10)])
    server.resume()
    await again(cache)
    await eventually(lambda: not server.ask("KEYS", "*:lease").split(), "no lease is left")
    assert calls.errors == 0


async def test_scripts_that_redis_has_forgotten_are_given_again(
    server: RedisServer,
) -> None:
    cache = CacheManager(server.url, namespace="t", budget=timedelta(seconds=5))
    calls = Calls(cache)
    await asyncio.gather(*[calls.one(key) for key in range(20)])
    server.ask("SCRIPT", "FLUSH")
    await asyncio.gather(*[calls.one(key) for key in range(20, 40)])
    assert (calls.made, calls.count, calls.errors) == (40, 40, 0)
    assert not server.ask("KEYS", "*:lease").split()
    await cache.aclose()


async def test_an_event_loop_that_was_busy_itself_says_nothing_about_redis(
    server: RedisServer, cache: CacheManager, logged: list[Any]
) -> None:
    calls = Calls(cache)
    for key in range(5):
        asking = asyncio.create_task(calls.one(key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.3)  # three times the budget
        await asking
    assert cache._here().shared.link.up
    assert not logged


async def test_a_refresh_that_an_outage_breaks_off_holds_up_no_thread(
    server: RedisServer, cache: CacheManager
) -> None:
    """Its thread has its answer and is gone: nobody would call the function for the refresh."""

    @cache.cached(ttl=0.2, stale="1m", early=False, name="slow", version="1")
    def slow() -> int:
        return 1

    assert await asyncio.to_thread(slow) == 1
    await asyncio.sleep(0.3)  # it is stale now
    side = cache._sides[cache._portal.loop]
    run = side.shared.link.run

    async def refused(*_: object) -> object:
        raise Unavailable("just now")

    side.shared.link.run = refused  # type: ignore[assignment,method-assign]
    assert await asyncio.to_thread(slow) == 1  # served stale, and refreshed in vain
    await eventually(lambda: not side._flights._flights, "the refresh has ended")
    side.shared.link.run = run  # type: ignore[method-assign]
    assert await asyncio.to_thread(slow) == 1


async def test_what_was_invalidated_in_an_outage_is_so_afterwards(
    server: RedisServer, cache: CacheManager
) -> None:
    other = CacheManager(server.url, namespace="t")
    calls, there = Calls(cache, tags=["x"]), Calls(other)
    for key in (1, 2):
        await calls.get(key)
        await there.get(key + 10)
    server.pause()
    with pytest.raises(Unavailable):
        await cache.invalidate_tag("first", "x")  # the others are made good as well
    with pytest.raises(Unavailable):
        await calls.get.invalidate(11)  # type: ignore[attr-defined]
    server.resume()
    await again(cache)
    await eventually(lambda: not cache._here().shared._owed, "it is made good")
    await calls.get(1)
    await there.get(11)
    assert (calls.count, there.count) == (3, 3)
    await other.aclose()


async def test_a_full_redis_still_answers(
    server: RedisServer, cache: CacheManager, logged: list[Any]
) -> None:
    calls = Calls(cache)
    await calls.one(1)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    await calls.go_on(0.5)
    assert calls.errors == 0
    assert [line["event"] for line in logged].count("cache.refuses_writes") == 1
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await eventually(lambda: _written(calls, server), "it takes writes again")
    assert "cache.takes_writes" in [line["event"] for line in logged]


def _written(calls: Calls, server: RedisServer) -> bool:
    asyncio.get_running_loop().create_task(calls.one(19))
    return server.ask("EXISTS", calls.get.key(19)).strip() == "1"  # type: ignore[attr-defined]


async def test_a_replica_answers_and_takes_nothing(
    server: RedisServer, cache: CacheManager, logged: list[Any]
) -> None:
    calls = Calls(cache)
    await calls.one(1)
    server.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")
    server.ask("REPLICAOF", "127.0.0.1", "1")
    await calls.go_on(0.3)
    assert calls.errors == 0
    with pytest.raises(Unavailable):
        await cache.set("k", 1, ttl="1m")
    assert len(logged) <= 5, logged


@pytest.mark.parametrize("rights", ["-@all", "+@all -@scripting", "+@all -client"])
async def test_a_user_who_may_not_do_everything(
    server: RedisServer, rights: str, logged: list[Any]
) -> None:
    server.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", *rights.split())
    cache = CacheManager(f"unix://app:pw@{server.socket}", namespace="t")
    calls = Calls(cache)
    await calls.go_on(0.5)
    assert calls.errors == 0
    assert len(logged) <= 5, logged
    await cache.aclose()


async def test_the_rights_that_are_shipped_suffice_and_none_is_spare(
    server: RedisServer, logged: list[Any]
) -> None:
    line = next(x for x in ACL.read_text().splitlines() if x.startswith("user "))
    _, name, *rights = line.split()
    server.ask("ACL", "SETUSER", name, *rights, ">pw", "on")
    server.ask("CONFIG", "RESETSTAT")
    cache = CacheManager(f"unix://{name}:pw@{server.socket}", namespace=name)
    await cache.start()
    calls = Calls(cache, stale="1m", tags=["x"])
    await kept_locally(cache, calls)
    await asyncio.gather(*[calls.get(key) for key in range(5)])
    await cache.set("k", 1, ttl="1m")
    assert await cache.get("k") == 1
    await cache.publish()
    cache._here().local.clear()
    await cache.warm_up()
    assert await cache.invalidate_pattern("get.*:1") == 1
    await cache.invalidate_tag("x")
    with pytest.raises(ZeroDivisionError):
        await cache.get_or_set("failing", _failing, ttl="1m")
    await cache.aclose()
    assert not logged
    assert not [x for x in server.ask("ACL", "LOG").splitlines() if "reason" in x]
    used = {
        x.partition(":")[0].removeprefix("cmdstat_")
        for x in server.ask("INFO", "commandstats").split()
    }
    granted = {right[1:] for right in rights if right.startswith("+")}
    rare = {"pexpire", "hdel", "zrem"}  # while a backend is slow, and when a process has ended
    assert granted - used <= {"hello", *rare}


async def _failing() -> int:
    return 1 // 0


@pytest.mark.parametrize("url", ["unix://:wrong@{}", "unix:///nowhere/s"], ids=["password", "gone"])
async def test_a_redis_that_never_answers(server: RedisServer, url: str, logged: list[Any]) -> None:
    server.ask("CONFIG", "SET", "requirepass", "right")
    cache = CacheManager(url.format(server.socket), namespace="t")
    calls = Calls(cache)
    await calls.go_on(0.5)
    assert calls.errors == 0
    assert [line["event"] for line in logged] == ["cache.lost"]
    assert await cache.get("k", 7) == 7
    with pytest.raises(Unavailable):
        await cache.invalidate_tag("x")
    await cache.aclose()


# --- local values stay right ---


def local_of(cache: CacheManager) -> dict[str, Any]:
    return cache._here().local.held


async def kept_locally(cache: CacheManager, calls: Calls, key: int = 1) -> None:
    async with asyncio.timeout(10):
        while calls.get.key(key) not in local_of(cache):  # type: ignore[attr-defined]
            await calls.get(key)
            await asyncio.sleep(0.001)


async def test_when_the_listening_connection_is_cut_nothing_is_kept(
    server: RedisServer, cache: CacheManager
) -> None:
    calls = Calls(cache)
    await kept_locally(cache, calls)
    listening = next(
        line for line in server.ask("CLIENT", "LIST").splitlines() if "flags=tB" in line
    )
    server.ask("CLIENT", "KILL", "ID", listening.partition("id=")[2].split()[0])
    await eventually(lambda: not local_of(cache), "nothing is kept")
    await again(cache)
    await kept_locally(cache, calls)
    assert calls.count == 1


async def test_what_others_write_and_empty_is_seen(
    server: RedisServer, cache: CacheManager
) -> None:
    calls = Calls(cache)
    await kept_locally(cache, calls)
    server.ask("DEL", calls.get.key(1))  # type: ignore[attr-defined]
    await eventually(lambda: not local_of(cache), "a foreign DEL")
    await kept_locally(cache, calls)
    server.ask("FLUSHALL")
    await eventually(lambda: not local_of(cache), "a foreign FLUSHALL")


async def test_a_connection_that_is_silently_dead_is_found_out(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    """A firewall that forgot it: nothing comes any more, and no end of it either."""
    monkeypatch.setattr(cache_ears, "BEAT", timedelta(milliseconds=100))
    monkeypatch.setattr(cache_ears, "PATIENCE", timedelta(milliseconds=300))
    cache = CacheManager(server.url, namespace="t")
    await cache.start()
    calls = Calls(cache)
    await kept_locally(cache, calls)
    side = cache._here()
    monkeypatch.setattr(side.shared.ears, "_beat_key", "elsewhere:beat")  # nobody tells us of it
    await eventually(lambda: not side.shared.ears.on, "it is found out")
    assert not local_of(cache)
    assert "cache.deaf" in [line["event"] for line in logged]
    await cache.aclose()


async def test_what_changes_while_it_is_read_is_not_kept(
    cache: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The news of a change overtakes the answer that was read before it."""
    calls = Calls(cache)
    await calls.get(1)
    side, key = cache._here(), calls.get.key(1)  # type: ignore[attr-defined]
    read = side.shared.link.get

    async def overtaken(name: str) -> bytes | None:
        answer = await read(name)
        side.shared._changed([key.encode()])
        return answer

    await calls.get(2)  # from here on the tokens of its tags are known
    monkeypatch.setattr(side.shared.link, "get", overtaken)
    assert await calls.get(1) == 1
    assert key not in local_of(cache)
    monkeypatch.undo()
    await kept_locally(cache, calls)
    assert not side.shared._reading
    assert not side.shared._spoiled


async def test_nothing_is_served_past_its_time(
    cache: CacheManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(cache, early=False)
    await kept_locally(cache, calls)
    side = cache._here()
    held = local_of(cache)[calls.get.key(1)]  # type: ignore[attr-defined]
    hits = cache.statistics()["get"]["hits_local"]
    monkeypatch.setattr(side, "time", lambda: held.fresh_until - 0.001)
    await calls.get(1)
    assert cache.statistics()["get"]["hits_local"] == hits + 1
    monkeypatch.setattr(side, "time", lambda: held.fresh_until)
    monkeypatch.setattr(side.shared, "time", lambda: held.fresh_until)
    await calls.get(1)
    assert cache.statistics()["get"]["hits_local"] == hits + 1
    assert calls.count == 2


async def test_entries_end_by_the_clock_of_the_server(
    server: RedisServer, cache: CacheManager
) -> None:
    """The clock of this host may be wrong by hours."""
    calls = Calls(cache)
    side = cache._here()
    side.shared._ahead_ms -= 3_600_000
    await side.shared.set_clock()
    await kept_locally(cache, calls)
    held = local_of(cache)[calls.get.key(1)]  # type: ignore[attr-defined]
    left_s = int(server.ask("PTTL", calls.get.key(1))) / 1000  # type: ignore[attr-defined]
    assert abs(held.fresh_until - side.time() - left_s) < 5
