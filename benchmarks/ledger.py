"""The ledger scaled 1 to 6 to 1 while an instance is killed, one hangs and Redis is away for 10 s.

Visitors (the mix of `scaler demo`, open model) come in by HAProxy, else by a shared port. Beside
them a client sends transfers until each is acknowledged, and every one is looked for in the books
afterwards. Two cores cannot saturate six instances: each answers 60 requests per second at most, by
`--pace`, as if its work were slow. Takes about two minutes; SCALER_BENCH_SHORT=1 about one.
"""

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.outcome import Outcome
from scaler.clock import SystemClock
from scaler.core.journal import Entry
from scaler.daemon import Daemon
from scaler.demo import stage, traffic
from scaler.demo.door import Door, free_ports, haproxy
from scaler.demo.ledger.check import Checked, check
from scaler.demo.ledger.store import PostgresStore, Seed
from scaler.demo.report import path
from scaler.demo.scene import PORTS, Scene
from scaler.loadtest.histogram import Histogram
from scaler.loadtest.report import Report
from scaler.loadtest.schedule import Piece, Schedule
from scaler.loadtest.tester import LoadTester
from tests.integration.ledger_client import Client
from tests.integration.postgreses import PostgresServer
from tests.integration.redises import RedisServer

SHORT: Final = os.environ.get("SCALER_BENCH_SHORT") == "1"
LOW, HIGH = 12.0, 165.0  # requests per second; the goal is 30 for each instance
QUIET_S, RISE_S, HIGH_S, FALL_S, END_S = (3, 20, 32, 5, 14) if SHORT else (5, 35, 45, 10, 20)
TOP: Final = QUIET_S + RISE_S
KILL_AT, HANG_AT = TOP + 4, TOP + 12
AWAY_AT, AWAY_S = TOP + (20 if SHORT else 26), 10
FALL_AT: Final = TOP + HIGH_S
PER_S: Final = 10  # transfers that are looked for afterwards
ROWS: Final = 200_000
PATIENCE_S: Final = 30.0


def run() -> Outcome:
    logging.disable(logging.INFO)
    postgres, redis = PostgresServer(), RedisServer()
    try:
        postgres.start()
        redis.start()
        with tempfile.TemporaryDirectory(prefix="lb", dir="/tmp") as folder:
            return asyncio.run(_run(Path(folder), postgres, redis))
    finally:
        redis.stop()
        postgres.stop()


@dataclass(slots=True)
class Seen:
    """What happened, by seconds since the load began."""

    begin: float = 0.0
    counts: list[tuple[float, int]] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)

    def entry(self, entry: Entry) -> None:
        if (made := entry.decision) is None:
            return
        self.counts.append((_now() - self.begin, made.desired))
        self.restarts += [f"{one.instance}: {one.because}" for one in made.restarts]


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _run(folder: Path, postgres: PostgresServer, redis: RedisServer) -> Outcome:
    clock, seen = SystemClock(), Seen()
    store = PostgresStore(postgres.dsn(), connections=2)
    async with AsyncExitStack() as stack:
        await store.open()
        stack.push_async_callback(store.aclose)
        await store.make(Seed(accounts=traffic.ACCOUNTS, rows=ROWS), clock.now())
        await store.convert()
        first = free_ports(PORTS)
        door = Door(clock, first, haproxy=haproxy())
        stack.push_async_callback(door.close)
        await door.open()
        scene = Scene(folder=folder, dsn=postgres.dsn(), redis=redis.url)
        scene.write(door, first + 1)
        daemon = await stage.running_daemon(scene, clock, seen.entry, stack)
        await _until(lambda: len(stage.ready(daemon)) == 1)
        report, client = await _load(door, daemon, redis, seen, clock)
        await _until(lambda: len(stage.there(daemon)) == 1, fails=False)
        left = len(stage.there(daemon))
        books = await check(store.pool, client.told)
    return _outcome(door, report, seen, books, left)


async def _until(true: Callable[[], bool], *, fails: bool = True) -> None:
    end = _now() + PATIENCE_S
    while not true():
        if _now() > end:
            if fails:
                raise AssertionError("no instance became ready")
            return
        await asyncio.sleep(0.05)


async def _load(
    door: Door, daemon: Daemon, redis: RedisServer, seen: Seen, clock: SystemClock
) -> tuple[Report, Client]:
    plan = traffic.plan(door.url, clock.now().date(), keep_alive=door.admin is not None)
    pieces = (
        Piece(QUIET_S, LOW, LOW),
        Piece(RISE_S, LOW, HIGH),
        Piece(HIGH_S, HIGH, HIGH),
        Piece(FALL_S, HIGH, LOW),
        Piece(END_S, LOW, LOW),
    )
    tester = LoadTester(plan, clock=clock, schedule=Schedule(pieces, seed=1))
    client = Client(door.port, None)  # type: ignore[arg-type]  # the ledger is in other processes
    seen.begin = _now()
    done = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            test = group.create_task(tester.run())
            writing = group.create_task(_write(client, done))
            group.create_task(_strike(daemon, KILL_AT, -1, signal.SIGKILL))
            group.create_task(_strike(daemon, HANG_AT, 0, signal.SIGSTOP))
            group.create_task(_take_away(redis))
            report = await test
            done.set()
            await writing
    finally:
        await client.aclose()
    return report, client


async def _write(client: Client, done: asyncio.Event) -> None:
    """Transfers one after the other, each sent again with its key until it is acknowledged."""
    number = 0
    while not done.is_set():
        number += 1
        giver, taker = 1 + number % 400, 501 + number % 400
        for _ in range(20):
            try:
                async with asyncio.timeout(5):
                    status, _body = await client.post(giver, taker, "0.37", f"bench-{number}")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                status = 0
            if status in (200, 201):
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(1 / PER_S)


async def _strike(daemon: Daemon, at: float, which: int, number: int) -> None:
    await asyncio.sleep(at)
    victims = stage.ready(daemon)
    if len(victims) > 1 and (pid := victims[which].pid):
        os.kill(pid, number)


async def _take_away(redis: RedisServer) -> None:
    await asyncio.sleep(AWAY_AT)
    redis.kill()
    await asyncio.sleep(AWAY_S)
    redis.socket.unlink(missing_ok=True)
    await asyncio.to_thread(redis.start)


def _outcome(door: Door, report: Report, seen: Seen, books: Checked, left: int) -> Outcome:
    outcome, record = Outcome(), report.record
    outcome.figures["door"] = door.words
    outcome.figures["requests"] = record.due
    outcome.figures["failed"] = record.errors
    outcome.figures["failures"] = dict(record.failures)
    success = (record.due - record.errors) / record.due
    outcome.figures["success_percent"] = round(success * 100, 3)
    _span(outcome, report, "all", 0, TOP + HIGH_S + FALL_S + END_S)
    _span(outcome, report, "kill_and_hang", KILL_AT, AWAY_AT)
    away = _span(outcome, report, "redis_away", AWAY_AT, AWAY_AT + AWAY_S)
    shrinking = _span(outcome, report, "scale_in", FALL_AT, TOP + HIGH_S + FALL_S + END_S)
    outcome.figures["instances"] = path(seen.counts)
    outcome.figures["restarts"] = seen.restarts
    outcome.figures["acknowledged_and_looked_for"] = books.acknowledged
    outcome.figures["transfers"] = books.transfers
    outcome.figures["wrong"] = list(books.wrong)
    outcome.figures["doubts"] = report.doubts()
    most = max((count for _, count in seen.counts), default=0)
    outcome.goal("instances at the most", most, least=6)
    outcome.goal("instances at the end", left, most=1)
    outcome.goal("failed requests while instances go", shrinking)
    outcome.goal("failed requests while Redis is away", away)
    outcome.goal("success, percent", round(success * 100, 3), least=99.9)
    outcome.goal("mistakes in the books", len(books.wrong))
    return outcome


def _span(outcome: Outcome, report: Report, name: str, begin: float, end: float) -> int:
    """The figures of requests due in that span, and how many of them failed."""
    record = report.record
    record.settle()
    slices = record.slices[int(begin / record.width) : int(end / record.width)]
    response = Histogram()
    for one in slices:
        response.merge(one.response)
    figures: dict[str, Any] = {"due": sum(one.due for one in slices)}
    if response.count:
        half, high, highest = response.percentiles([0.5, 0.99, 0.999])
        figures |= {"p50_ms": half, "p99_ms": high, "p99.9_ms": highest, "max_ms": response.highest}
        figures = {k: v if k == "due" else round(v * 1000, 1) for k, v in figures.items()}
    failed = sum(one.errors for one in slices)
    outcome.figures[name] = {**figures, "failed": failed}
    return failed
