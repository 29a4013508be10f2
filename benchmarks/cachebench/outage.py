"""What callers notice when Redis is killed and started again, and when it hangs.

A child asks 200 times a second for one of 50 keys and never waits for an answer before it asks
again; this process takes the server away. The children come one after the other, each with a
server of its own.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.cachebench import children, peers
from benchmarks.cachebench.stampede import Backend, calls
from tests.integration.redises import RedisServer

PER_S = 200
KEYS = [f"K{n:02}" for n in range(50)]
BACKEND_S = 0.02
TTL_S = 60.0
BEFORE_S = 1.0
OUT_S = peers.sized(3.0, 1.0)
AFTER_S = peers.sized(3.0, 1.0)
UNANSWERED_S = 10.0  # from the last call; who has no answer then counts as an error
PATIENCE_S = peers.sized(60.0, 20.0)
LONG_LEASE_S = 5.0
KILLED = ("scaler", "scaler_shared", "cashews", "cashews_lock", "aiocache", "aiocache_stampede")
HUNG = KILLED
HERE = "benchmarks.cachebench.outage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: when it was due, what it took, and whether it failed."""

    due: float
    took_s: float
    failed: str  # what was raised; empty when there was an answer


async def _call(quote: peers.Quote, symbol: str, due: float) -> Call:
    failed = ""
    try:
        await quote(symbol)
    except asyncio.CancelledError:
        failed = "cancelled"  # by us: it was still waiting at the end, or by the library
    except Exception as error:  # noqa: BLE001 - any error of any library counts
        failed = repr(error)
    return Call(due=due, took_s=time.monotonic() - due, failed=failed)


async def load(given: dict[str, Any], go: children.Go) -> dict[str, Any]:
    """In a child: all of its calls."""
    cache = await peers.PEERS[given["peer"]].open(given["url"])
    backend = Backend(given["folder"], BACKEND_S)
    quote = cache.cached(backend.plain(), ttl_s=TTL_S)
    await asyncio.gather(*(quote(symbol) for symbol in KEYS))
    at = await go()
    running: list[asyncio.Task[Call]] = []
    for n in range(int(PER_S * (BEFORE_S + OUT_S + AFTER_S))):
        due = at + n / PER_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        running.append(asyncio.create_task(_call(quote, KEYS[n % len(KEYS)], due)))
    _, late = await asyncio.wait(running, timeout=UNANSWERED_S)
    for task in late:
        task.cancel()
    made = await asyncio.gather(*running)
    return {
        "calls": [[call.due, call.took_s, call.failed] for call in made],
        "unanswered": len(late),
    }


def leases(server: RedisServer) -> tuple[int, float]:
    """How many locks are left that live longer than five seconds, and for how long the longest."""
    names = server.ask("--scan").split()
    locks = [name for name in names if "lock" in name or "lease" in name]
    left = [int(server.ask("pttl", name)) / 1000 for name in locks]
    return sum(s > LONG_LEASE_S for s in left), max([0.0, *left])


def summary(made: list[Call], began: float, ended: float) -> dict[str, Any]:
    """Errors and the slowest from the begin on; the 99th percentile of those due in the outage."""
    since = [call for call in made if call.due >= began]
    failed = [call for call in since if call.failed]
    within = [call.took_s for call in since if call.due < ended]
    first = f"{failed[0].failed[:200]}, due at {failed[0].due - began:.2f} s" if failed else ""
    return {
        "errors": len(failed),
        "p50_ms": round(1000 * statistics.median(within), 1),
        "p99_ms": round(1000 * statistics.quantiles(within, n=100)[98], 1),
        "slowest_ms": round(1000 * max(call.took_s for call in since), 1),
        **({"first_error": first} if failed else {}),
    }


async def _outage(server: RedisServer, *, hangs: bool) -> tuple[float, float]:
    """The moments between which it was away. Starting waits in a thread: this loop goes on."""
    began = time.monotonic()
    if hangs:
        server.pause()
        await asyncio.sleep(OUT_S)
        server.resume()
        return began, time.monotonic()
    server.kill()
    await asyncio.sleep(OUT_S)
    await asyncio.to_thread(server.start, "--appendonly", "no")
    return began, time.monotonic()


async def _one(peer: str, *, hangs: bool) -> dict[str, Any]:
    server = RedisServer()
    server.start("--appendonly", "no")
    folder = server.folder / "calls"
    folder.mkdir()
    try:
        given = {"peer": peer, "url": server.url, "folder": str(folder)}
        (child,), at = await children.start(f"{HERE}:load", given)
        await asyncio.sleep(at + BEFORE_S - time.monotonic())
        began, ended = await _outage(server, hangs=hangs)
        answer = await child.answer(PATIENCE_S)
        many, longest = leases(server)
        moments = [m for symbol in KEYS for m in calls(folder / symbol) if began <= m < ended]
    finally:
        server.stop()
    found: dict[str, Any] = {"backend_calls": len(moments)}
    found |= {"leases_over_5_s": many, "longest_lease_s": round(longest, 1)}
    if answer is None:
        return {**found, "process_hung": 1}
    made = [Call(due=due, took_s=took, failed=failed) for due, took, failed in answer["calls"]]
    kept = {"log_lines": answer["lines"], "unanswered": answer["unanswered"]}
    return {**summary(made, began, ended), **kept, **found}


async def measure() -> dict[str, Any]:
    """Milliseconds, calls and lines."""
    found: dict[str, Any] = {}
    for case, names in (("killed", KILLED), ("hung", HUNG)):
        for peer in peers.present(*names):
            figures = await _one(peer, hangs=case == "hung")
            found.update({f"{case}_{peer}_{name}": value for name, value in figures.items()})
    return found
