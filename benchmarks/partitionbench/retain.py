"""Month after month of the ledger retired under load: by DELETE and VACUUM, and by detaching.

In two turns each, in ledgers of their own. Both without the time it takes to connect and to look,
which is a figure of `keep`. So is the WAL: here that of the load would be counted too.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from benchmarks.partitionbench.convert import conversion
from benchmarks.partitionbench.keep import KEPT, MONTHS, retiring
from benchmarks.partitionbench.rig import Rig
from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_notes import Stage

RETIRED: Final = 6  # months of each turn, after the one with which the ledger begins
GONE: Final = (RETIRED + 2) / MONTHS  # of the rows, a little more than are retired
PAUSE_S: Final = 0.5  # between two months

Retire = Callable[[datetime], Any]


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

    async def month(end: datetime) -> None:
        begin = time.monotonic()
        await database.execute(f"DELETE FROM transactions WHERE created_at < '{end:%Y-%m-%d}'")
        await database.execute("VACUUM transactions")
        took.append(time.monotonic() - begin)

    await _months(took, month)
    await database.aclose()


async def _retire(took: list[float], dsn: str) -> None:
    async with conversion(dsn) as ours:
        await ours.run(Stage.VERIFIED)

    async def month(end: datetime) -> None:
        async with retiring(dsn, "transactions", end + KEPT, []) as go:
            begin = time.monotonic()
            await go()
            took.append(time.monotonic() - begin)

    await _months(took, month)


async def _months(took: list[float], retire: Retire) -> None:
    """One after the other; the first is not whole, so its figure is dropped."""
    begin = datetime.now(UTC) - timedelta(days=730)
    first = begin.year * 12 + begin.month  # its end, as months after year 0
    known = len(took)
    for end in range(first, first + RETIRED + 1):
        await retire(datetime(end // 12, end % 12 + 1, 1, tzinfo=UTC))
        await asyncio.sleep(PAUSE_S)
    del took[known]
