"""Month after month of the ledger retired under load: by DELETE and VACUUM, and by detaching.

In two turns each, in ledgers of their own. Both without the time it takes to connect and to look,
which is a figure of `keep`. So is the WAL: here that of the load would be counted too.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from benchmarks.partitionbench.convert import conversion
from benchmarks.partitionbench.keep import KEPT, MONTHS, retiring
from benchmarks.partitionbench.rig import Rig
from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_notes import Stage

RETIRED: Final = 6  # months of each turn, after the one with which the ledger begins
GONE: Final = (RETIRED + 2) / MONTHS  # of the rows, a little more than are retired
PAUSE_S: Final = 0.5  # between two months


async def measure(rig: Rig) -> None:
    """Milliseconds of a month by both ways, and the slowest writer beside them."""
    took: dict[str, list[float]] = {"delete": [], "retire": []}
    gone = int(rig.rows * GONE)
    for _ in range(2):
        await rig.way("delete", partial(_delete, took["delete"]), gone=gone)
        await rig.way("retire", partial(_retire, took["retire"]), gone=gone)
    for way, seconds in took.items():
        rig.figures[f"{way}_month_ms"] = round(1000 * statistics.median(seconds), 1)


async def _delete(took: list[float], dsn: str) -> None:
    database = Postgres(dsn)

    async def month(end: datetime) -> float:
        begin = time.monotonic()
        await database.execute(f"DELETE FROM transactions WHERE created_at < '{end:%Y-%m-%d}'")
        await database.execute("VACUUM transactions")
        return time.monotonic() - begin

    took += await _months(month)
    await database.aclose()


async def _retire(took: list[float], dsn: str) -> None:
    async with conversion(dsn) as ours:
        await ours.run(Stage.VERIFIED)

    async def month(end: datetime) -> float:
        async with retiring(dsn, "transactions", end + KEPT) as (detach, drop):
            begin = time.monotonic()
            await detach()
            await drop()
            return time.monotonic() - begin

    took += await _months(month)


async def _months(retire: Callable[[datetime], Awaitable[float]]) -> list[float]:
    """The seconds of each, one after the other; without the first, which is not a whole month."""
    begin = datetime.now(UTC) - timedelta(days=730)
    first = begin.year * 12 + begin.month  # its end, as months after year 0
    seconds = []
    for end in range(first, first + RETIRED + 1):
        seconds.append(await retire(datetime(end // 12, end % 12 + 1, 1, tzinfo=UTC)))
        await asyncio.sleep(PAUSE_S)
    return seconds[1:]
