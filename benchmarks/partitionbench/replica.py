"""A split that minds its replica: how far that falls behind, and what is done when it stands still.

A primary and a replica that streams from it. The split may write as fast as it can, but no further
ahead than `guards.replica_lag` of its replica. Halfway the replica stops replaying for a while.
"""

import asyncio
from datetime import timedelta
from typing import Final

import psycopg

from benchmarks.partitionbench.rig import OPTIONS, ROWS, Rig, say, wish
from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_steps import Ears, Progress
from tests.integration.postgreses import PostgresServer

LAG: Final = timedelta(seconds=1)
PAUSE_S: Final = 10.0
GLANCE_S: Final = 0.1
QUESTION: Final = (
    "SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float FROM pg_stat_replication"
)


class Watched:
    """The progress of a split, and the lag of its replica."""

    def __init__(self) -> None:
        self.rows = ""
        self.share = 0.0
        self.held = 0  # times that the split waited for the replica
        self.paused = False
        self.lags: dict[bool, float] = {True: 0.0, False: 0.0}  # seconds, by whether it was paused

    def told(self, progress: Progress) -> None:
        self.held += "behind" in progress.message
        if progress.share is not None:
            self.rows, self.share = progress.message, progress.share

    async def look(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as server:
            while True:
                row = await (await server.execute(QUESTION)).fetchone()
                self.lags[self.paused] = max(self.lags[self.paused], row[0] if row else 0.0)
                await asyncio.sleep(GLANCE_S)


async def measure() -> dict[str, object]:
    primary = PostgresServer(*OPTIONS)
    copy: PostgresServer | None = None
    try:
        primary.start()
        rig = Rig(primary, ROWS // 4)
        copy = PostgresServer(*OPTIONS, "hot_standby=on", follows=primary)
        copy.start()
        await _split(rig, copy)
        return {f"replica_{name.removeprefix('replica_')}": v for name, v in rig.figures.items()}
    finally:
        if copy is not None:
            copy.stop()
        primary.stop()


async def _split(rig: Rig, copy: PostgresServer) -> None:
    seen = Watched()
    guards = {"wal_per_s": "10GB", "replica_lag": f"{LAG.total_seconds():g}s"}

    async def work(dsn: str) -> None:
        database = Postgres(dsn)
        ours = Conversion(database, wish(guards=guards), ears=Ears(told=seen.told))
        await ours.run(Stage.LIVE)
        looking = asyncio.create_task(seen.look(dsn))
        running = asyncio.create_task(ours.run(Stage.VERIFIED))
        while seen.share < 0.5 and not running.done():
            await asyncio.sleep(GLANCE_S)
        before, seen.paused = seen.held, True
        copy.psql("SELECT pg_wal_replay_pause()")
        await asyncio.sleep(PAUSE_S / 2)
        rows = seen.rows
        await asyncio.sleep(PAUSE_S / 2)
        rig.figures["stood_still"] = seen.rows == rows and not running.done()
        rig.figures["held_by_the_pause"] = seen.held - before
        copy.psql("SELECT pg_wal_replay_resume()")
        known = await running
        rig.figures["finished"] = known.stage is Stage.VERIFIED
        looking.cancel()
        await database.aclose()

    say(f"  a split with a replica that stands still for {PAUSE_S:g} s")
    await rig.way("replica", work)
    rig.figures["most_lag_s"] = round(seen.lags[False], 2)
    rig.figures["most_lag_while_paused_s"] = round(seen.lags[True], 2)
