"""A server, a ledger of 24 months for each way of converting it, and the load that all of them get.

Ten writers with 200 writes a second (70 % inserts, 25 % updates, 5 % deletes) and 50 reads a
second; every acknowledged write is checked at the end of a way. The server waits for the disk at
each commit, as one does that nobody has set up.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from scaler.maintenance.partition_rules import PartitionSet
from tests.integration.ledger_traffic import Seen, Traffic, table, wrong
from tests.integration.postgreses import PostgresServer

ROWS: Final = int(os.environ.get("SCALER_BENCH_ROWS", "2000000"))
LIMIT_S: Final = float(os.environ.get("SCALER_BENCH_LIMIT_S", "120"))  # then a peer is stopped
SETTLING_S: Final = 2.0  # under load, before the work begins
OPTIONS: Final = (
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "shared_buffers=512MB",
    "max_wal_size=8GB",
    "max_locks_per_transaction=256",
    "timezone=UTC",
    "datestyle=ISO",
)
COUNTS: Final = ("twice", "lost", "stale", "back", "foreign", "errors", "missed")


def wish(**more: Any) -> PartitionSet:
    """The ledger by month, as fast as it can like the others unless something else is said."""
    plain: dict[str, Any] = {"table": "transactions", "by": "created_at", "every": "1 month"}
    return PartitionSet.model_validate({**plain, "guards": {"wal_per_s": "10GB"}, **more})


def say(words: str) -> None:
    """To who waits."""
    print(words, file=sys.stderr, flush=True)


class Rig:
    """One server, and a database of the same kind for each way."""

    def __init__(self, server: PostgresServer, rows: int = ROWS) -> None:
        self.server = server
        self.rows = rows
        self.figures: dict[str, Any] = {}
        say(f"  {rows:,} rows of 24 months")
        server.psql("CREATE DATABASE seed")
        server.psql(table(rows), "seed")
        server.psql("VACUUM transactions", "seed")

    async def way(
        self, name: str, work: Callable[[str], Awaitable[None]], *, gone: int = 0
    ) -> None:
        """Do it under load; figures are noted under the name, of several rounds the worst.

        Rows up to the id `gone` are no concern of the load: they are retired under it.
        """
        say(f"  {name}")
        place = await self.database(name)
        dsn = self.server.dsn(place)
        clients = Traffic(dsn, rows=self.rows, gone=gone)
        async with clients.running() as seen:
            await asyncio.sleep(SETTLING_S)
            seen.waits_ms.clear()
            lsn, begin = await self.lsn(), asyncio.get_running_loop().time()
            await work(dsn)
            self.worst(f"{name}_s", asyncio.get_running_loop().time() - begin, 2)
            self.worst(f"{name}_wal_mb", (await self.lsn() - lsn) / 1e6)
            self._waited(name, seen)
            await asyncio.sleep(1)
        found = await asyncio.to_thread(wrong, dsn, seen, self.rows, gone)
        counts = {kind: len(rows) for kind, rows in found.items()}
        counts |= {"errors": len(seen.errors), "missed": len(seen.missed)}
        for kind in COUNTS:
            self.figures[f"{name}_{kind}"] = self.figures.get(f"{name}_{kind}", 0) + counts[kind]
        for error in seen.errors[:3]:
            say(f"    a client was told: {error[:200]}")
        await asyncio.to_thread(self.server.psql, f"DROP DATABASE {place}")

    def worst(self, name: str, value: float, digits: int = 1) -> None:
        self.figures[name] = round(max(value, self.figures.get(name, 0)), digits)

    def _waited(self, name: str, seen: Seen) -> None:
        waits = sorted(seen.waits_ms) or [0.0]
        self.worst(f"{name}_slowest_ms", waits[-1])
        self.worst(f"{name}_p99_ms", waits[int(len(waits) * 0.99)])
        written = self.figures.get(f"{name}_writes", 0)
        self.figures[f"{name}_writes"] = written + len(waits)

    def wrong(self, name: str) -> int:
        """Rows and answers of a way that were not as they had to be."""
        return sum(self.figures[f"{name}_{kind}"] for kind in COUNTS)

    async def database(self, name: str) -> str:
        """Another ledger of the same rows."""
        make = f"CREATE DATABASE way_{name} TEMPLATE seed STRATEGY file_copy"
        await asyncio.to_thread(self.server.psql, make)
        await asyncio.to_thread(self.server.psql, "CHECKPOINT")
        return f"way_{name}"

    async def lsn(self) -> int:
        query = "SELECT pg_current_wal_insert_lsn() - '0/0'"
        return int((await asyncio.to_thread(self.server.psql, query)).split(".")[0])
