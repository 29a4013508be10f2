"""Whether hits in the process are true: foreign writes, expiry, a lost listener, tags, warm-up.

The writer is a process of its own with the same cache. A value carries the moment at which its
writer began to write it, and the clock is the same in all processes of a machine.
"""

import asyncio
import random
import time
from typing import Any

import redis.asyncio

from benchmarks.cachebench import children, peers
from benchmarks.outcome import percentile
from tests.integration.redises import RedisServer

WRITES = int(peers.sized(200, 30))
BETWEEN_S = 0.02  # writes of the foreign process
LOOK_S = 0.0005
LOST_S = 2.0  # a write that is not seen by then will not be
EXPIRING = int(peers.sized(100, 10))
EXPIRING_TTL_S = 0.3
EARLY_S = 0.02  # it is looked at from so long before its expiry, and at least so long after it
WATCHED_S = 0.4  # after the expiry, when it is still served
CUTS = int(peers.sized(20, 5))
TAGGED = int(peers.sized(1_000_000, 100_000))
PLANTED_AT_ONCE = 10_000
ROUNDS = 5  # of the tag
HOT_READS = 10
READ = [f"T{n}" for n in range(200)]  # values of the tag that are really read
TTL_S = 600.0
KEYS, MINUTE, MINUTES_BEFORE, ZIPF = 20_000, 3_000, 10, "zipf"
FOREIGN = ("scaler", "cashews_local", "cashews_resp3")
HERE = "benchmarks.cachebench.fresh"


async def write(given: dict[str, Any], go: children.Go) -> dict[str, Any]:
    """In a child: writes one key again and again, each time when the reader has seen the last."""
    cache = await peers.PEERS[given["peer"]].open(given["url"])
    await cache.set("fresh", {"n": -1, "at": 0.0}, ttl_s=TTL_S)
    await go()
    for n in range(WRITES):
        await cache.set("fresh", {"n": n, "at": time.monotonic()}, ttl_s=TTL_S)
        await asyncio.sleep(BETWEEN_S)
    return {"written": WRITES}


async def _seen(cache: peers.Opened, end: float) -> dict[int, float]:
    """Milliseconds from the begin of each write until a read in a loop found it."""
    seen: dict[int, float] = {}
    while time.monotonic() < end and WRITES - 1 not in seen:
        value = await cache.get("fresh")
        if isinstance(value, dict) and value["n"] >= 0 and value["n"] not in seen:
            seen[value["n"]] = 1000 * (time.monotonic() - value["at"])
        await asyncio.sleep(LOOK_S)
    return seen


async def _commands(raw: redis.asyncio.Redis) -> int:
    return int((await raw.info("stats"))["total_commands_processed"])


async def _in_process(cache: peers.Opened, raw: redis.asyncio.Redis) -> float:
    """The share of reads of one key that asked the server for nothing."""
    reads = 200
    before = await _commands(raw)
    for _ in range(reads):
        await cache.get("fresh")
    asked = await _commands(raw) - before - 1
    return round(max(0.0, 1 - asked / reads), 2)


async def _foreign(server: RedisServer, peer: str) -> dict[str, float]:
    cache = await peers.PEERS[peer].open(server.url)
    raw = redis.asyncio.Redis.from_url(server.url)
    try:
        (child,), at = await children.start(f"{HERE}:write", {"peer": peer, "url": server.url})
        await cache.get("fresh")
        share = await _in_process(cache, raw)
        seen = await _seen(cache, at + WRITES * BETWEEN_S * 2 + LOST_S)
        await child.answer(LOST_S + WRITES * BETWEEN_S)
    finally:
        await raw.aclose()
        await cache.aclose()
    lost = WRITES - len(seen)
    found = {"in_process": share, "writes_never_seen": lost}
    if seen:
        taken = list(seen.values())
        found["write_seen_p50_ms"] = round(percentile(taken, 0.5), 2)
        found["write_seen_p99_ms"] = round(percentile(taken, 0.99), 2)
    return found


async def _overrun(cache: peers.Opened, key: str, writer: peers.Opened) -> float:
    """Milliseconds for which it was served past its expiry. The span counts from after the write:
    whatever clock it was held by, it has expired then.
    """
    await writer.set(key, {"key": key}, ttl_s=EXPIRING_TTL_S)
    expires = time.monotonic() + EXPIRING_TTL_S
    await cache.get(key)  # a local tier has it from now on
    await asyncio.sleep(EXPIRING_TTL_S - EARLY_S)
    over = 0.0
    while (asked := time.monotonic()) < expires + WATCHED_S:
        if await cache.get(key) is not None:
            over = max(over, asked - expires)
        elif asked > expires + EARLY_S:
            break
        await asyncio.sleep(LOOK_S)
    return 1000 * over


async def _expiry(server: RedisServer, peer: str) -> dict[str, float]:
    """Half of the keys are written by the reader itself, half by another cache.

    Redis counts in whole milliseconds and ends a key after its last one, so a plain GET serves it
    for up to 1 ms too long; `raw` tells how long that is in this run.
    """
    cache = await peers.PEERS[peer].open(server.url)
    other = await peers.PEERS[peer].open(server.url)
    try:
        taken = [
            await _overrun(cache, f"soon{n}", cache if n % 2 else other) for n in range(EXPIRING)
        ]
    finally:
        await cache.aclose()
        await other.aclose()
    return {"past_ttl_max_ms": round(max(taken), 3), "past_ttl_keys": sum(t > 0 for t in taken)}


async def _cut(raw: redis.asyncio.Redis) -> int:
    """Ends every connection that tracks keys; how many there were."""
    tracking = [c for c in await raw.client_list() if set(c["flags"]) & set("tB")]
    for client in tracking:
        await raw.client_kill_filter(_id=client["id"])
    return len(tracking)


async def _listener(server: RedisServer) -> dict[str, float]:
    """Milliseconds for which reads were stale after the listener's connection was cut and the key
    written, counted from the answer to that write.
    """
    cache = await peers.PEERS["scaler"].open(server.url)
    writer = await peers.PEERS["scaler_shared"].open(server.url)
    raw = redis.asyncio.Redis.from_url(server.url)
    late: list[float] = []
    cut = 0
    try:
        for n in range(CUTS):
            key = f"cut{n}"
            await writer.set(key, "old", ttl_s=TTL_S)
            await _until_local(cache, raw, key)
            cut += await _cut(raw)
            await writer.set(key, "new", ttl_s=TTL_S)
            written = time.monotonic()
            late.append(max(0.0, 1000 * (await _new(cache, key) - written)))
    finally:
        await raw.aclose()
        await cache.aclose()
        await writer.aclose()
    return {
        "cut_listeners": cut,
        "cut_stale_first_reads": sum(ms > 0 for ms in late),
        "cut_stale_max_ms": round(max(late), 2),
    }


async def _new(cache: peers.Opened, key: str) -> float:
    """When the last stale read had its answer; long ago when there was none."""
    last = 0.0
    end = time.monotonic() + LOST_S
    while last < end and await cache.get(key) != "new":
        last = time.monotonic()
        await asyncio.sleep(0)
    return last


async def _until_local(cache: peers.Opened, raw: redis.asyncio.Redis, key: str) -> None:
    """Reads until a read asks the server for nothing."""
    for _ in range(1000):
        before = await _commands(raw)
        await cache.get(key)
        if await _commands(raw) - before == 1:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("reads never came from the process")


async def _plant(raw: redis.asyncio.Redis, name: bytes) -> None:
    """A million entries like one that is there; what they hold is not read."""
    value = await raw.get(name)
    assert value is not None
    for first in range(0, TAGGED, PLANTED_AT_ONCE):
        async with raw.pipeline(transaction=False) as pipe:
            for n in range(first, first + PLANTED_AT_ONCE):
                pipe.set(name.replace(b"T0}", b"P%d}" % n), value)
            await pipe.execute()


async def _tag(server: RedisServer) -> dict[str, float]:
    """Milliseconds to invalidate a tag among a million keys; all of its values are gone then."""
    cache: Any = await peers.PEERS["scaler"].open(server.url)
    raw = redis.asyncio.Redis.from_url(server.url)
    made: list[str] = []

    async def tagged(symbol: str) -> str:
        made.append(symbol)
        return symbol

    try:
        quote = cache.manager.cached(ttl=TTL_S, key="tagged:{symbol}", tags=("million",))(tagged)
        await _all(quote)
        await _all(quote)
        assert len(made) == len(READ), "values of a tag are not kept: this would measure nothing"
        names = [name async for name in raw.scan_iter(count=1000) if name.endswith(b"T0}")]
        await _plant(raw, names[0])
        taken = []
        for n in range(ROUNDS):
            began = time.perf_counter()
            await cache.manager.invalidate_tag("million")
            taken.append(1000 * (time.perf_counter() - began))
            await _all(quote)
            assert len(made) == len(READ) * (n + 2), "an invalidated value was served"
        keys = await raw.dbsize()
    finally:
        await raw.aclose()
        await cache.aclose()
    return {"tag_keys": keys, "tag_invalidated_ms": round(percentile(taken, 0.5), 3)}


async def _all(quote: peers.Quote) -> None:
    await asyncio.gather(*(quote(symbol) for symbol in READ))


async def _warm(server: RedisServer) -> dict[str, float]:
    """What a new replica has in its process once it has warmed up: the share of the hot keys that
    it reads without asking Redis.
    """
    old: Any = await peers.PEERS["scaler"].open(server.url)
    new: Any = await peers.PEERS["scaler"].open(server.url)
    raw = redis.asyncio.Redis.from_url(server.url)

    async def backend(symbol: str) -> Any:
        return peers.quote_of(symbol)

    try:
        quote = old.cached(backend, ttl_s=TTL_S)
        for _ in range(HOT_READS):
            await _all(quote)
        await old.manager.publish()
        quote = new.cached(backend, ttl_s=TTL_S)
        began = time.perf_counter()
        loaded = await new.manager.warm_up()
        took = 1000 * (time.perf_counter() - began)
        before = int((await raw.info("stats"))["keyspace_hits"])
        await _all(quote)
        asked = int((await raw.info("stats"))["keyspace_hits"]) - before
    finally:
        await raw.aclose()
        await old.aclose()
        await new.aclose()
    share = round(max(0.0, 1 - asked / len(READ)), 2)
    return {"warm_up_keys": loaded, "warm_up_ms": round(took, 1), "warm_first_reads_local": share}


async def _replicas(server: RedisServer) -> dict[str, float]:
    """Hits in the process during a first minute of 50 calls a second on 20,000 keys, the n-th of
    which is asked for as often as 1/n: of a replica that warmed up, of one that did not, and of the
    one that has been there. The calls are made as fast as they go.
    """
    found: dict[str, float] = {}
    draw = random.Random(7)
    weights = [1 / n for n in range(1, KEYS + 1)]
    names = [f"Z{n}" for n in range(KEYS)]

    async def backend(symbol: str) -> Any:
        return peers.quote_of(symbol)

    async def hit_ratio(cache: Any, quote: peers.Quote) -> float:
        before = cache.manager.statistics()[ZIPF]["hits_local"]
        for symbol in draw.choices(names, weights, k=MINUTE):
            await quote(symbol)
        return float(cache.manager.statistics()[ZIPF]["hits_local"] - before) / MINUTE

    opened: list[Any] = []
    try:
        for replica in ("old", "cold", "warm"):
            cache: Any = await peers.PEERS["scaler"].open(server.url)
            opened.append(cache)
            await cache.manager.start()
            quote = cache.manager.cached(ttl=TTL_S, name=ZIPF, version="1")(backend)
            if replica == "old":
                for _ in range(MINUTES_BEFORE):
                    await hit_ratio(cache, quote)
                    await cache.manager.publish()
            if replica == "warm":
                await cache.manager.warm_up()
            found[f"{replica}_replica_hit_ratio"] = round(await hit_ratio(cache, quote), 3)
    finally:
        for one in opened:
            await one.aclose()
    old = found["old_replica_hit_ratio"]
    for replica in ("cold", "warm"):
        found[f"{replica}_by_old_percent"] = round(
            100 * found[f"{replica}_replica_hit_ratio"] / old, 1
        )
    return found


async def measure() -> dict[str, Any]:
    """Milliseconds, keys and shares."""
    found: dict[str, Any] = {}
    for peer in peers.present(*FOREIGN):
        found |= await _with_server(_foreign, f"fresh_{peer}", peer)
        found |= await _with_server(_expiry, f"fresh_{peer}", peer)
    found |= await _with_server(_expiry, "fresh_raw", "raw")
    if peers.present("scaler"):
        found |= await _with_server(_listener, "fresh_scaler")
        found |= await _with_server(_tag, "fresh_scaler")
        found |= await _with_server(_warm, "fresh_scaler")
        found |= await _with_server(_replicas, "fresh_scaler")
    return found


async def _with_server(piece: Any, prefix: str, *peer: str) -> dict[str, float]:
    server = RedisServer()
    server.start("--appendonly", "no")
    try:
        figures = await piece(server, *peer)
    finally:
        server.stop()
    return {f"{prefix}_{name}": value for name, value in figures.items()}
