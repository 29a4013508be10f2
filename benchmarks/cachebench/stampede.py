"""Many callers of one key: cold, failing, and hot while it expires.

Callers sit in processes of their own that begin at one moment. A backend writes down each of its
calls in a file that all processes append to.
"""

import asyncio
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.cachebench import children, peers
from tests.integration.redises import RedisServer

PROCESSES = 4
CALLERS = 500
FAST_S = 0.05
SLOW_S = peers.sized(3.0, 0.5)
TTL_S = 60.0
ROUNDS = int(peers.sized(3, 1))  # of the fast backend; the slow one has one
ERRORS_S = 2.0
FAILING_S = peers.sized(5.0, 2.5)
FAILING_PER_S = 50  # of each process
HOT_TTL_S = 1.0
HOT_BACKEND_S = 0.2
HOT_PER_S = 400
HOT_S = peers.sized(10.0, 2.5)
WAITED_S = 0.1
PATIENCE_S = 30.0
COLD = ("scaler", "cashews_early", "cashews_lock", "aiocache", "aiocache_stampede")
FAILING = ("scaler", "cashews", "aiocache")
HOT = ("scaler", "cashews", "cashews_early", "cashews_lock", "aiocache", "aiocache_stampede")
HERE = "benchmarks.cachebench.stampede"


class Backend:
    """Takes its time, and leaves a line with the moment of each call."""

    def __init__(self, folder: str, takes_s: float, *, fails: bool = False) -> None:
        self.folder = Path(folder)
        self.takes_s = takes_s
        self.fails = fails

    async def __call__(self, symbol: str) -> Any:
        note(self.folder / symbol)
        await asyncio.sleep(self.takes_s)
        if self.fails:
            raise ValueError("the exchange does not answer")
        return peers.quote_of(symbol)

    def plain(self) -> peers.Quote:
        """As a function: libraries look into what they wrap."""

        async def quote(symbol: str) -> Any:
            return await self(symbol)

        return quote


def note(path: Path) -> None:
    """One short append, which the kernel does not mix with those of others."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{time.monotonic()}\n".encode())
    os.close(handle)


def calls(path: Path) -> list[float]:
    return sorted(float(line) for line in path.read_text().split()) if path.exists() else []


def most_within(moments: list[float], span_s: float) -> int:
    """The most of them in any span of that length."""
    return max((sum(0 <= m - first < span_s for m in moments) for first in moments), default=0)


async def timed(quote: peers.Quote, symbol: str, due: float) -> tuple[float, bool]:
    """Seconds from when a call was due until it had an answer, and whether that was an error."""
    try:
        await quote(symbol)
    except Exception:  # noqa: BLE001 - any error of any library counts
        return time.monotonic() - due, True
    return time.monotonic() - due, False


async def cold(given: dict[str, Any], go: children.Go) -> dict[str, Any]:
    """In a child: its share of the callers of one cold key. It is connected already."""
    cache = await peers.PEERS[given["peer"]].open(given["url"])
    backend = Backend(given["folder"], given["takes_s"])
    quote = cache.cached(backend.plain(), ttl_s=TTL_S)
    backend.takes_s = 0.0
    await quote(f"warm{given['number']}")
    backend.takes_s = given["takes_s"]
    at = await go()
    callers = range(CALLERS // PROCESSES)
    answers = await asyncio.gather(*(timed(quote, "COLD", at) for _ in callers))
    return {
        "slowest_s": max(took for took, _ in answers),
        "errors": sum(failed for _, failed in answers),
    }


async def failing(given: dict[str, Any], go: children.Go) -> dict[str, Any]:
    """In a child: it keeps asking for a key whose backend fails."""
    cache = await peers.PEERS[given["peer"]].open(given["url"])
    backend = Backend(given["folder"], FAST_S, fails=True)
    quote = cache.cached(backend.plain(), ttl_s=TTL_S, errors_s=ERRORS_S)
    await timed(quote, f"warm{given['number']}", 0)
    taken = await paced(quote, ["BAD"], await go(), FAILING_PER_S, FAILING_S)
    first = FAST_S * 2
    return {"waited": sum(took > WAITED_S for took, _ in taken[int(first * FAILING_PER_S) :])}


async def hot(given: dict[str, Any], go: children.Go) -> dict[str, Any]:
    """In a child: a key that expires while it is asked for all the time."""
    cache = await peers.PEERS[given["peer"]].open(given["url"])
    backend = Backend(given["folder"], HOT_BACKEND_S)
    quote = cache.cached(backend.plain(), ttl_s=HOT_TTL_S)
    at = await go()
    await quote("HOT")
    at = time.monotonic()
    taken = await paced(quote, ["HOT"], at, HOT_PER_S, HOT_S)
    return {
        "waited": sum(took > WAITED_S for took, _ in taken),
        "errors": sum(failed for _, failed in taken),
        "p99_s": statistics.quantiles((took for took, _ in taken), n=100)[98],
    }


async def paced(
    quote: peers.Quote, symbols: list[str], at: float, per_s: float, span_s: float
) -> list[tuple[float, bool]]:
    """Calls at a fixed rate that waits for no answer; what each of them took."""
    running = []
    for n in range(int(per_s * span_s)):
        due = at + n / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        running.append(asyncio.create_task(timed(quote, symbols[n % len(symbols)], due)))
    return list(await asyncio.gather(*running))


class Arena:
    """A server, and a folder for the calls of each backend."""

    def __init__(self) -> None:
        self.server = RedisServer()
        self.server.start("--appendonly", "no")
        self.made = 0

    async def run(
        self, function: str, peer: str, count: int, **given: Any
    ) -> tuple[list[dict[str, Any]], Path]:
        self.server.ask("flushall")
        self.made += 1
        folder = self.server.folder / f"calls{self.made}"
        folder.mkdir()
        told = {"peer": peer, "url": self.server.url, "folder": str(folder), **given}
        answers = await children.together(f"{HERE}:{function}", told, count, PATIENCE_S)
        return answers, folder


async def _cold(arena: Arena, peer: str, takes_s: float, rounds: int) -> dict[str, float]:
    made, last = [], []
    errors = hung = 0
    for _ in range(rounds):
        answers, folder = await arena.run("cold", peer, PROCESSES, takes_s=takes_s)
        made.append(len(calls(folder / "COLD")))
        last.append(max((a["slowest_s"] for a in answers), default=math.inf) - takes_s)
        errors += sum(a["errors"] for a in answers)
        hung += PROCESSES - len(answers)
    return {
        "calls": max(made),
        "last_after_backend_ms": round(1000 * statistics.median(last), 1),
        "errors": errors,
        "processes_hung": hung,
    }


async def _failing(arena: Arena, peer: str) -> dict[str, float]:
    answers, folder = await arena.run("failing", peer, PROCESSES)
    moments = calls(folder / "BAD")
    return {
        "calls": len(moments),
        "calls_per_error_ttl": most_within(moments, ERRORS_S),
        "waited": sum(a["waited"] for a in answers),
    }


async def _hot(arena: Arena, peer: str) -> dict[str, float]:
    answers, folder = await arena.run("hot", peer, 1)
    if not answers:
        return {"waited": HOT_PER_S * HOT_S, "calls": len(calls(folder / "HOT"))}
    found = answers[0]
    return {
        "waited": found["waited"],
        "errors": found["errors"],
        "p99_ms": round(1000 * found["p99_s"], 1),
        "calls": len(calls(folder / "HOT")) - 1,  # without the first, which was cold
    }


async def measure() -> dict[str, float]:
    """Calls of the backend, callers and milliseconds."""
    found: dict[str, float] = {}

    def note_all(case: str, peer: str, figures: dict[str, float]) -> None:
        found.update({f"{case}_{peer}_{name}": value for name, value in figures.items()})

    arena = Arena()
    try:
        for peer in peers.present(*COLD):
            note_all("cold_fast", peer, await _cold(arena, peer, FAST_S, ROUNDS))
            note_all("cold_slow", peer, await _cold(arena, peer, SLOW_S, 1))
        for peer in peers.present(*FAILING):
            note_all("failing", peer, await _failing(arena, peer))
        for peer in peers.present(*HOT):
            note_all("hot", peer, await _hot(arena, peer))
    finally:
        arena.server.stop()
    return found
