"""Our way to convert a table in use: going live, an undo, a split, and with somebody in the way."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psycopg

from benchmarks.partitionbench.rig import Rig, say, wish
from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_steps import Ears, Progress

IDLE_S: Final = float(os.environ.get("SCALER_BENCH_IDLE_S", "60"))
LOAD_S: Final = 20.0


@asynccontextmanager
async def conversion(dsn: str, ears: Ears | None = None) -> AsyncIterator[Conversion]:
    database = Postgres(dsn)
    try:
        yield Conversion(database, wish(), ears=ears)
    finally:
        await database.aclose()


async def nothing(rig: Rig) -> None:
    """The load alone, against which the waits and the WAL of the others can be read."""

    async def work(_: str) -> None:
        await asyncio.sleep(LOAD_S)

    await rig.way("load", work)


async def live(rig: Rig) -> None:
    """Until the table is partitioned."""

    async def work(dsn: str) -> None:
        async with conversion(dsn) as ours:
            await ours.run(Stage.LIVE)

    await rig.way("live", work)


async def undo(rig: Rig) -> None:
    """The whole of it, and the transaction after which the table is what it was."""
    loop = asyncio.get_running_loop()
    at: dict[str, float] = {}

    def told(progress: Progress) -> None:
        at.setdefault(progress.step, loop.time())

    def after(done: str) -> None:
        at.setdefault(done, loop.time())

    async def work(dsn: str) -> None:
        async with conversion(dsn, Ears(told=told, after=after)) as ours:
            await ours.run(Stage.LIVE)
            begin = loop.time()
            await ours.undo()
            rig.worst("undo_whole_ms", 1000 * (loop.time() - begin))
        rig.worst("undo_transaction_ms", 1000 * (at["committed undo"] - at["undo"]))

    await rig.way("undo", work)


async def split(rig: Rig) -> None:
    """The history into its months; `split_only` is what comes after the table is live."""

    async def work(dsn: str) -> None:
        async with conversion(dsn) as ours:
            await ours.run(Stage.LIVE)
            lsn, begin = await rig.lsn(), asyncio.get_running_loop().time()
            known = await ours.run(Stage.VERIFIED)
            rig.worst("split_only_s", asyncio.get_running_loop().time() - begin)
            rig.worst("split_only_wal_mb", (await rig.lsn() - lsn) / 1e6)
            rig.worst("split_swap_ms", known.steps["swap ranges"]["seconds"] * 1000)

    await rig.way("split", work)


async def idle(rig: Rig) -> None:
    """Somebody has written a row and keeps the transaction open; the conversion begins then."""
    loop = asyncio.get_running_loop()

    async def work(dsn: str) -> None:
        async with (
            await psycopg.AsyncConnection.connect(dsn) as other,
            conversion(dsn) as ours,
        ):
            await other.execute("INSERT INTO transactions (account, amount) VALUES (1, 1)")
            running = asyncio.create_task(ours.run(Stage.LIVE))
            await asyncio.sleep(IDLE_S)
            rig.figures["idle_waited_for_it"] = not running.done()
            await other.rollback()
            end = loop.time()
            await running
            rig.worst("idle_live_after_its_end_s", loop.time() - end, 2)

    say(f"  a transaction stays open for {IDLE_S:g} s")
    await rig.way("idle", work)
