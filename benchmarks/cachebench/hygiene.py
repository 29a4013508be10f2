"""The hygiene of a cache: how fast it looks, what others notice, and whether it finds all.

A Redis of its own on a unix socket holds SCALER_BENCH_KEYS keys (1,000,000) of about 300 bytes with
planted problems. Another process asks for one key a thousand times a second meanwhile. The naive
way asks three things about every key, one after the other, as a script with redis-py would.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, Final

import redis.asyncio
from redis import Redis

from scaler.clients.redis_scan import CacheServer
from scaler.maintenance.cache_audit import CacheAudit, Outcome
from scaler.maintenance.cache_plan import Found
from scaler.maintenance.cache_rules import Budget
from tests.integration.caches import DEAD, HastyClock, Planted, plant, rules
from tests.integration.redises import RedisServer

ROUNDS: Final = 3
BY_KEY: Final = 20_000  # keys that the slower ways look at
PROBE_S: Final = 0.001
IDLE_S: Final = 2.0
LIMIT: Final = 500  # keys a second that may be removed
REMOVED: Final = 2_500
READS: Final = frozenset(
    {"scan", "pttl", "time", "type", "memory|usage", "object|idletime", "eval_ro", "info", "ping",
     "get", "hlen", "hgetall", "slowlog|get", "slowlog|len", "config|resetstat", "client|setinfo"}
)  # fmt: skip


def _probe(url: str, orders: Connection) -> None:
    """GET again and again while told to; answers with the milliseconds that each took."""
    client: Any = Redis.from_url(url)
    while orders.recv():
        taken = []
        while not orders.poll():
            asked = time.perf_counter()
            client.get("probe")
            taken.append((time.perf_counter() - asked) * 1000)
            time.sleep(PROBE_S)
        orders.recv()
        orders.send(taken)


class Probe:
    """Another client, in a process of its own."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_probe, args=(url, theirs), daemon=True)
        self._process.start()

    async def during(self, work: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
        """What `work` gives, and the p99 of the probe meanwhile, in ms."""
        self._orders.send(True)
        found = await work()
        self._orders.send(True)
        taken = sorted(await asyncio.to_thread(self._orders.recv))
        return found, taken[int(0.99 * (len(taken) - 1))] if taken else 0.0

    def close(self) -> None:
        self._orders.send(False)
        self._process.join(10)


@contextmanager
def _server() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start("--maxmemory", "4gb", "--appendonly", "no")
    try:
        yield server
    finally:
        server.stop()


async def measure() -> dict[str, float]:
    """The figures; their names end in the unit."""
    keys = int(os.environ.get("SCALER_BENCH_KEYS", "1000000"))
    with _server() as server:
        client: Any = Redis.from_url(server.url)
        client.set("probe", "x")
        planted = plant(client, keys, time.time())
        scan = CacheServer(server.url)
        probe = Probe(server.url)
        found: dict[str, float] = {"hygiene_keys": planted.keys}
        try:
            await probe.during(lambda: asyncio.sleep(IDLE_S))  # it is up
            found |= await _speeds(server, client, scan, probe)
            found |= await _finds(server, client, scan, planted)
            found |= await _removes(server, client, scan, planted)
        finally:
            probe.close()
            await scan.aclose()
            client.close()
    return found


async def _speeds(
    server: RedisServer, client: Any, scan: CacheServer, probe: Probe
) -> dict[str, float]:
    """Keys a second of each way and what the probe sees, in rounds that take turns."""
    whole = CacheAudit(rules(server.url), scan, HastyClock())
    careful = CacheAudit(rules(server.url, budget=Budget(), sample=BY_KEY), scan, HastyClock())
    ways: dict[str, Callable[[], Awaitable[float]]] = {
        "idle": lambda: _nothing(asyncio.sleep(IDLE_S)),
        "lap": lambda: _rate(whole.run()),
        "budget": lambda: _rate(careful.sample()),
        "naive": lambda: _naive(server.url),
        "naive_sync": lambda: asyncio.to_thread(_naive_sync, client),
        "pipelined": lambda: asyncio.to_thread(_pipelined, client),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, work in ways.items():
            rate, p99_ms = await probe.during(work)
            rates[way].append(rate)
            seen[way].append(p99_ms)
    found = {f"hygiene_{way}_keys_per_s": median(all_) for way, all_ in rates.items()}
    del found["hygiene_idle_keys_per_s"]
    found |= {f"hygiene_probe_{way}_p99_ms": median(all_) for way, all_ in seen.items()}
    for way in ("naive", "naive_sync", "pipelined"):
        ratios = [ours / theirs for ours, theirs in zip(rates["lap"], rates[way], strict=True)]
        found[f"hygiene_by_{way}"] = median(ratios)
    return found


async def _nothing(work: Awaitable[None]) -> float:
    await work
    return 0.0


async def _rate(work: Awaitable[Outcome]) -> float:
    return (await work).keys_per_s


async def _naive(url: str) -> float:
    """Three reads per key with the client that ours uses too."""
    begun = time.perf_counter()
    count = 0
    async with redis.asyncio.Redis.from_url(url) as client:
        async for key in client.scan_iter(count=10):
            await client.pttl(key)
            await client.memory_usage(key)
            await client.object("IDLETIME", key)
            count += 1
            if count == BY_KEY:
                break
    return count / (time.perf_counter() - begun)


def _naive_sync(client: Any) -> float:
    """The same with the blocking client, which has less to do for a call."""
    begun = time.perf_counter()
    count = 0
    for count, key in enumerate(client.scan_iter(count=10), 1):
        client.pttl(key)
        client.memory_usage(key)
        client.object("IDLETIME", key)
        if count == BY_KEY:
            break
    return count / (time.perf_counter() - begun)


def _pipelined(client: Any) -> float:
    begun = time.perf_counter()
    cursor = count = 0
    while count < BY_KEY:
        cursor, names = client.scan(cursor, count=1000)
        pipe = client.pipeline(transaction=False)
        for key in names:
            pipe.pttl(key)
            pipe.memory_usage(key)
            pipe.object("IDLETIME", key)
        pipe.execute()
        count += len(names)
        if cursor == 0:
            break
    return count / (time.perf_counter() - begun)


def _sizes(outcome: Outcome) -> dict[str, float]:
    """What was found, by what was planted; big keys one by one."""
    kinds = (Found.NO_TTL, Found.IDLE, Found.DEAD_VERSION, Found.POLICY)
    found = {str(f.kind): f.number for f in outcome.plan.findings if f.kind in kinds}
    found[Found.POLICY] = sum(f.kind is Found.POLICY for f in outcome.plan.findings)
    big = (f.subject for f in outcome.plan.findings if f.kind is Found.BIG_KEY)
    return found | {f"big {name}": 1.0 for name in big}


async def _finds(
    server: RedisServer, client: Any, scan: CacheServer, planted: Planted
) -> dict[str, float]:
    client.config_resetstat()
    outcome = await CacheAudit(rules(server.url), scan, HastyClock()).run()
    calls = client.info("commandstats")
    writes = sum(
        stat["calls"] for name, stat in calls.items() if name.removeprefix("cmdstat_") not in READS
    )
    there: dict[str, float] = {
        Found.NO_TTL: len(planted.no_ttl),
        Found.IDLE: len(planted.idle),
        Found.DEAD_VERSION: len(planted.dead),
        Found.POLICY: 1,  # noeviction
        **{f"big {name}": 1.0 for name in planted.big},
    }
    said = _sizes(outcome)
    right = sum(min(number, there.get(name, 0)) for name, number in said.items())
    sample = await CacheAudit(rules(server.url), scan, HastyClock()).sample()
    shares = [
        abs(_sizes(sample).get(kind, 0) - there[kind]) / planted.keys
        for kind in (Found.NO_TTL, Found.IDLE, Found.DEAD_VERSION)
    ]
    return {
        "hygiene_precision": right / sum(said.values()),
        "hygiene_recall": right / sum(there.values()),
        "hygiene_writes_in_dry_run": writes,
        "hygiene_sample_s": sample.seconds,
        "hygiene_sample_worst_share_error": max(shares),
    }


async def _removes(
    server: RedisServer, client: Any, scan: CacheServer, planted: Planted
) -> dict[str, float]:
    """Removal of a dead version at a limit; whether only that is gone."""
    budget = {"server": "100%", "unlink": f"{LIMIT} per 1s", "keys": REMOVED}
    cache = rules(server.url, act={"dead_versions": "on"}, budget=budget)
    audit = CacheAudit(cache, scan, HastyClock())
    before = set(client.scan_iter(count=1000))
    client.hset("ledger:versions", DEAD, time.time() - timedelta(hours=2).total_seconds())
    looked = await audit.run()
    acted = await audit.carry_out(looked)
    removed = sum(done.keys for done in acted.done)
    gone = {name.decode() for name in before - set(client.scan_iter(count=1000))}
    per_s = removed / (acted.seconds - looked.seconds)
    return {
        "hygiene_removed_keys": removed,
        "hygiene_removed_wrongly_keys": len(gone - planted.dead),
        "hygiene_unlink_per_s": per_s,
        "hygiene_unlink_by_limit": per_s / LIMIT,
    }
