"""The hygiene of a cache on a real Redis: what is planted is found, and only that is removed."""

import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis import Redis

from scaler.clients.redis_scan import CacheServer, Question
from scaler.clock import SystemClock
from scaler.errors import Forbidden, Unavailable
from scaler.maintenance.cache import CacheManager
from scaler.maintenance.cache_audit import CacheAudit, Outcome
from scaler.maintenance.cache_plan import Found
from scaler.maintenance.cache_reports import add_up
from tests.integration.caches import ALIVE, DEAD, HastyClock, plant, rules
from tests.integration.redises import RedisServer, insist_on_redis, serving_redis

pytestmark = pytest.mark.live

KEYS = 50_000
WRITES = {"set", "del", "unlink", "pexpire", "expire", "hset", "restore", "flushall", "eval"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with serving_redis("--maxmemory", "1gb") as server:
        yield server


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    connection = Redis.from_url(redis.url)
    yield connection
    connection.close()


@pytest.fixture
async def server(redis: RedisServer) -> AsyncIterator[CacheServer]:
    opened = CacheServer(redis.url)
    yield opened
    await opened.aclose()


def calls(client: Any) -> dict[str, int]:
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}


def numbers(outcome: Outcome) -> dict[tuple[Found, str], float]:
    return {(f.kind, f.subject): f.number for f in outcome.plan.findings}


def names(client: Any, pattern: str = "*") -> set[str]:
    return {key.decode() for key in client.scan_iter(pattern, 1000)}


async def test_all_that_was_planted_is_found_and_nothing_else(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    planted = plant(client, KEYS, time.time())
    client.config_resetstat()
    before = names(client)
    outcome = await CacheAudit(rules(redis.url), server, SystemClock()).run()
    assert outcome.whole
    assert not outcome.stopped
    found = numbers(outcome)
    found.pop((Found.SLOW, "slowlog"), None)
    assert found == {
        (Found.NO_TTL, "ledger:"): len(planted.no_ttl),
        (Found.IDLE, "ledger:"): len(planted.idle),
        (Found.DEAD_VERSION, f"ledger:{{{DEAD}"): len(planted.dead),
        (Found.POLICY, "noeviction"): 2**30,
        (Found.LOPSIDED, f"ledger:{{{ALIVE}"): found[Found.LOPSIDED, f"ledger:{{{ALIVE}"],
        **{(Found.BIG_KEY, name): found[Found.BIG_KEY, name] for name in planted.big},
    }
    assert outcome.done == ()
    assert not WRITES & calls(client).keys()
    assert names(client) == before


async def test_a_sample_shows_the_shares(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    planted = plant(client, KEYS, time.time())
    audit = CacheAudit(rules(redis.url), server, SystemClock())
    outcome = await audit.sample()
    assert 10_000 <= outcome.keys_seen < 11_000
    assert not outcome.whole
    found = numbers(outcome)
    near = 0.01 * planted.keys  # one key in a hundred, as 1.96 sqrt(p (1 - p) / 10,000) says
    assert abs(found[Found.NO_TTL, "ledger:"] - len(planted.no_ttl)) < near
    assert abs(found[Found.IDLE, "ledger:"] - len(planted.idle)) < near
    seen = outcome.keys_seen
    for _ in range(4):
        seen += (await audit.sample()).keys_seen
    assert seen >= planted.keys  # each one goes on where the last one has ended


ALL: dict[str, Any] = {"dead_versions": "on", "idle": "on", "missing_ttl": "1d"}


async def test_what_is_turned_on_is_done_and_nothing_else(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    planted = plant(client, 5_000, time.time())
    client.set("other:1", "kept")
    before = names(client)
    audit = CacheAudit(rules(redis.url, act=ALL), server, HastyClock())
    outcome = await audit.run(act=True)
    assert not outcome.stopped
    assert before - names(client) == planted.dead | planted.idle
    assert client.ttl("other:1") == -1
    assert client.ttl("ledger:tag:EU") == client.ttl("ledger:versions") == -1
    left = planted.no_ttl - planted.dead - planted.idle
    assert all(86_000 < client.ttl(name) <= 86_400 for name in left)
    done = {(d.action.prefix, getattr(d.action, "version", "ttl")): d.keys for d in outcome.done}
    assert done[("ledger:", DEAD)] == len(planted.dead)
    again = await audit.run(act=True)
    kinds = {f.kind for f in again.plan.findings}
    assert not kinds & {Found.NO_TTL, Found.IDLE, Found.DEAD_VERSION}


async def test_nothing_is_done_that_is_off_or_without_being_told_to(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    plant(client, 2_000, time.time())
    before = names(client)
    assert (await CacheAudit(rules(redis.url), server, HastyClock()).run(act=True)).done == ()
    assert (await CacheAudit(rules(redis.url, act=ALL), server, HastyClock()).run()).done == ()
    assert names(client) == before


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_the_keys_are_called_those_outside_are_left_alone(
    client: Any, redis: RedisServer, server: CacheServer, seed: int
) -> None:
    random = Random(seed)
    pieces = [b"ledger:", b"ledger", b"{quote.00000000:", b"}", b":lease", b"tag:", b"\xff", b"*",
              b"versions", b"Ledger:", b" ", b"\n", b"hot", b"a"]  # fmt: skip
    made = {b"".join(random.choices(pieces, k=random.randint(1, 5))) for _ in range(2_000)}
    made -= {b"ledger:versions"}
    for name in made:
        client.set(name, b"x")
    client.hset("ledger:versions", ALIVE, time.time())
    hidden = tuple(n for n in made if not n.startswith(b"ledger:"))
    everything = rules(redis.url, act=ALL)
    outcome = await CacheAudit(everything, server, HastyClock()).run(act=True)
    assert sum(done.keys for done in outcome.done) > 0
    assert all(client.ttl(name) == -1 for name in hidden)
    own = [n for n in made if n.startswith((b"ledger:tag:", b"ledger:hot"))]
    assert all(client.exists(name) for name in own)


async def test_keys_are_changed_only_if_they_are_still_what_the_plan_says(
    client: Any, server: CacheServer
) -> None:
    now = time.time()
    plant(client, 100, now)
    dead, used = f"ledger:{{{DEAD}:A7}}".encode(), f"ledger:{{{ALIVE}:A11}}".encode()
    hour = timedelta(hours=1)
    client.hset("ledger:versions", DEAD, now)
    asked: dict[str, Any] = {"after": hour, "most_bytes": 10**9}
    alive = await server.remove_dead("ledger:", DEAD, [dead], now_s=now, **asked)
    assert (alive.keys, alive.refused) == ((), "it is alive again")
    client.delete("ledger:versions")
    lost = await server.remove_dead("ledger:", DEAD, [dead], now_s=now, **asked)
    assert (lost.keys, lost.refused) == ((), "nobody has said what is alive")
    client.set("ledger:versions", "no hash")
    assert not (await server.remove_dead("ledger:", DEAD, [dead], now_s=now, **asked)).keys
    client.get(used)
    idle = await server.remove_idle("ledger:", [used], idle=hour, most_bytes=10**9)
    assert idle.keys == ()
    client.set("other:1", "x")
    assert not (await server.set_ttl("ledger:", [b"other:1"], hour)).keys
    nothing = timedelta()
    outside = await server.remove_idle("ledger:", [b"other:1"], idle=nothing, most_bytes=10**9)
    assert outside.keys == ()
    client.expire(dead, 50)
    assert not (await server.set_ttl("ledger:", [dead], hour)).keys
    assert client.ttl(dead) <= 50


@pytest.mark.parametrize(
    ("roll", "dead"),
    [
        pytest.param({}, False, id="no roll"),
        pytest.param({ALIVE: "soon", DEAD: "later"}, False, id="words in place of moments"),
        pytest.param({ALIVE: "nan", DEAD: "-inf"}, False, id="odd numbers"),
        pytest.param({ALIVE: "9e99", DEAD: "1"}, True, id="seen long ago"),
    ],
)
async def test_a_roll_with_anything_in_it(
    client: Any, redis: RedisServer, server: CacheServer, roll: dict[str, str], *, dead: bool
) -> None:
    plant(client, 100, time.time())
    client.delete("ledger:versions")
    if roll:
        client.hset("ledger:versions", mapping=roll)
    outcome = await CacheAudit(rules(redis.url, act=ALL), server, HastyClock()).run(act=True)
    assert (Found.DEAD_VERSION in {f.kind for f in outcome.plan.findings}) is dead
    assert any(client.exists(f"ledger:{{{DEAD}:A{i}}}") for i in (7, 32, 57)) is not dead


async def test_the_rate_of_removal_is_kept(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    planted = plant(client, 10_000, time.time())
    slow = {"server": "100%", "unlink": "200 per 1s"}
    clock = HastyClock()
    act = {"dead_versions": "on"}
    outcome = await CacheAudit(rules(redis.url, act=act, budget=slow), server, clock).run(act=True)
    assert [done.keys for done in outcome.done] == [len(planted.dead)]
    looked = await CacheAudit(rules(redis.url), server, clock).run()
    taken_s = outcome.seconds - looked.seconds
    assert len(planted.dead) / taken_s < 200 * 1.1


@pytest.mark.parametrize(
    ("budget", "keys", "says"),
    [
        pytest.param({"keys": 150}, 150, "most of one run", id="keys"),
        pytest.param({"bytes": 10_000}, 10_000 // 344, "bytes are removed", id="bytes"),
    ],
)
async def test_a_run_ends_at_its_budget(
    client: Any, redis: RedisServer, server: CacheServer, budget: Any, keys: int, says: str
) -> None:
    plant(client, 10_000, time.time())
    given = {"server": "100%", "unlink": "100000 per 1s", **budget}
    cache = rules(redis.url, act={"dead_versions": "on"}, budget=given)
    outcome = await CacheAudit(cache, server, HastyClock()).run(act=True)
    assert says in outcome.stopped
    (done,) = outcome.done
    assert done.keys == pytest.approx(keys, abs=5)
    assert done.bytes <= given.get("bytes", done.bytes)


async def test_who_no_longer_leads_changes_nothing(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    plant(client, 1_000, time.time())
    before = names(client)
    cache = rules(redis.url, act=ALL)
    audit = CacheAudit(cache, server, HastyClock(), may_act=lambda: False)
    assert "no longer leads" in (await audit.run(act=True)).stopped
    assert names(client) == before


class Breaking(CacheServer):
    """It answers so many times only."""

    answers = 10**9

    async def look(self, cursor: int, count: int, question: Question) -> Any:
        self.answers -= 1
        if self.answers < 0:
            raise Unavailable("gone")
        return await super().look(cursor, count, question)


async def test_a_lap_that_failed_is_gone_on_with(client: Any, redis: RedisServer) -> None:
    planted = plant(client, 5_000, time.time())
    server = Breaking(redis.url)
    server.answers = 20
    audit = CacheAudit(rules(redis.url), server, SystemClock())
    with pytest.raises(Unavailable):
        await audit.run()
    server.answers = 10**9
    outcome = await audit.run()
    assert outcome.whole
    assert 0 < outcome.keys_seen < planted.keys  # the rest
    assert numbers(outcome)[Found.NO_TTL, "ledger:"] == len(planted.no_ttl)
    await server.aclose()


async def test_idle_is_unknown_where_uses_are_counted(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    client.config_set("maxmemory-policy", "allkeys-lfu")
    plant(client, 200, time.time())
    outcome = await CacheAudit(rules(redis.url, act=ALL), server, HastyClock()).run(act=True)
    assert any(text.startswith("idle keys: allkeys-lfu") for text in outcome.plan.unknown)
    assert Found.IDLE not in {f.kind for f in outcome.plan.findings}


async def test_expired_keys_that_pile_up_end_a_lap(
    client: Any, redis: RedisServer, server: CacheServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(client, 5_000, time.time())
    monkeypatch.setattr("scaler.maintenance.cache_audit.GUARD_EVERY", timedelta())
    asked = 0
    honest = server.info

    async def worse() -> Any:
        nonlocal asked
        asked += 1
        return {**await honest(), "expired_stale_perc": 0 if asked < 5 else 30}

    monkeypatch.setattr(server, "info", worse)
    outcome = await CacheAudit(rules(redis.url), server, SystemClock()).run()
    assert "expired keys pile up" in outcome.stopped
    assert not outcome.whole


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    """A Redis that has the user of the example, switched on as the document says."""
    insist_on_redis()
    server = RedisServer()
    server.start("--maxmemory", "1gb", "--aclfile", str(Path("deploy/redis/hygiene.acl").resolve()))
    server.ask("ACL", "SETUSER", "scaler-hygiene", "on", ">sesame")
    yield server
    server.stop()


def limited_url(server: RedisServer, *rights: str) -> str:
    """The address of that user, after a change of its rights."""
    if rights:
        assert server.ask("ACL", "SETUSER", "scaler-hygiene", *rights).strip() == "OK"
    return f"unix://scaler-hygiene:sesame@{server.socket}"


async def test_the_user_of_the_example_can_do_all_of_it_and_no_more(
    guarded: RedisServer,
) -> None:
    client = Redis.from_url(guarded.url)
    planted = plant(client, KEYS // 5, time.time())
    client.set("other:1", "x")
    url = limited_url(guarded)
    server = CacheServer(url)
    client.config_resetstat()
    dry = await CacheAudit(rules(url, act=ALL), server, HastyClock()).run()
    assert dry.plan.unknown == ()
    assert not WRITES & calls(client).keys()
    acted = await CacheAudit(rules(url, act=ALL), server, HastyClock()).run(act=True)
    assert sum(d.keys for d in acted.done) >= len(planted.dead | planted.idle)
    await server.may_change("ledger:")
    await server.aclose()
    limited: Any = Redis.from_url(url)
    for words in (
        ["FLUSHALL"], ["FLUSHDB"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["DEBUG", "SLEEP", "0"],
        ["DEL", "ledger:a"], ["GET", "ledger:{a"], ["UNLINK", "other:1"], ["SET", "ledger:a", "1"],
    ):  # fmt: skip
        with pytest.raises(Exception, match=r"(?i)no permission|NOPERM|not allowed"):
            limited.execute_command(*words)
    limited.close()
    client.close()


@pytest.mark.parametrize(
    ("without", "says"),
    [
        pytest.param("-scan", "see deploy/redis/hygiene.acl", id="SCAN"),
        pytest.param("-pttl", "see deploy/redis/hygiene.acl", id="PTTL"),
        pytest.param("-info", "info", id="INFO"),
    ],
)
async def test_a_right_that_is_missing_is_named(
    guarded: RedisServer, without: str, says: str
) -> None:
    client = Redis.from_url(guarded.url)
    plant(client, 100, time.time())
    client.close()
    server = CacheServer(limited_url(guarded, without))
    with pytest.raises(Forbidden, match=says) as refused:
        await CacheAudit(rules(guarded.url), server, SystemClock()).run()
    assert "sesame" not in str(refused.value)
    await server.aclose()


async def test_without_the_slow_log_that_is_said(guarded: RedisServer) -> None:
    client = Redis.from_url(guarded.url)
    plant(client, 100, time.time())
    client.close()
    server = CacheServer(limited_url(guarded, "-slowlog"))
    outcome = await CacheAudit(rules(guarded.url), server, SystemClock()).run()
    assert outcome.plan.unknown == ("slow commands: SLOWLOG is denied",)
    await server.aclose()


@pytest.mark.parametrize(
    "without",
    [
        pytest.param(("-eval_ro",), id="done with EVAL"),
        pytest.param(("-eval", "-unlink", "-pexpire"), id="nothing could be written"),
    ],
)
async def test_fewer_rights_are_enough_to_look(
    guarded: RedisServer, without: tuple[str, ...]
) -> None:
    client = Redis.from_url(guarded.url)
    planted = plant(client, 100, time.time())
    client.close()
    server = CacheServer(limited_url(guarded, *without))
    outcome = await CacheAudit(rules(guarded.url), server, SystemClock()).run()
    assert outcome.keys_seen == planted.keys + 3
    await server.aclose()


async def test_what_an_application_keeps_is_known_for_what_it_is(
    client: Any, redis: RedisServer, server: CacheServer
) -> None:
    manager = CacheManager(redis.url, namespace="ledger")

    @manager.cached(ttl=timedelta(minutes=5), tags=("EU",))
    async def quote(symbol: str) -> str:
        return symbol

    for symbol in ("A", "B", "C"):
        await quote(symbol)
    await manager.set("by hand", 1, ttl=timedelta(minutes=5))
    await manager.publish()
    await manager.aclose()
    (living,) = await server.roll("ledger:")
    client.hset("ledger:versions", "quote.00000000", time.time() - 7_200)
    client.set("ledger:{quote.00000000:A}", "old", ex=60)
    outcome = await CacheAudit(rules(redis.url, act=ALL), server, HastyClock()).run(act=True)
    assert [(d.keys, d.names) for d in outcome.done] == [(1, ("ledger:{quote.00000000:A}",))]
    assert len(names(client, f"ledger:{{{living}:*}}")) == 3
    stats = add_up(await server.stats("ledger:"))
    (function,) = stats.functions.values()
    assert (function.misses, stats.unreadable) == (3, 0)
