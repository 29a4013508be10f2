"""The ledger's PostgreSQL in the demo: seeded, partitioned while it is used, and checked."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from scaler.clients.postgres import Postgres
from scaler.demo.ledger.check import check
from scaler.demo.ledger.store import PostgresStore, Seed

PARTITIONS: Final = (
    "SELECT count(*) FROM pg_inherits WHERE inhparent = to_regclass('public.transactions')"
)


@dataclass(slots=True)
class Books:
    """One database."""

    dsn: str
    words: str = "transactions is still a plain table"  # how far the partitioning is

    async def seed(self, seed: Seed, now: datetime) -> None:
        store = PostgresStore(self.dsn, connections=2)
        try:
            await store.open()
            await store.make(seed, now)
        finally:
            await store.aclose()

    async def partition(self, say: Callable[[str], None]) -> None:
        """The plain table becomes partitioned, then its history moves; all while it is in use.

        Raises:
            ScalerError: it stopped on the way; nothing is half done.
        """
        store = PostgresStore(self.dsn, connections=1)
        await store.convert()
        made = await self._number(PARTITIONS)
        self.words = f"live with {made} partitions, the history is one of them"
        say(f"transactions is partitioned by month while it is used: {self.words}")
        await store.convert(split=True)
        made = await self._number(PARTITIONS)
        self.words = f"{made}, with the history moved into its months under load"
        say(f"the history has moved into its months: {made} partitions, each compared")

    async def transfers(self) -> int:
        """How many clients have asked for and got."""
        return await self._number("SELECT count(*) FROM transfers")

    async def _number(self, query: str) -> int:
        database = Postgres(self.dsn, name="scaler demo")
        try:
            ((count,),) = await database.fetch(query)
        finally:
            await database.aclose()
        return int(count)

    async def check(self, acknowledged: int, before: int) -> str:
        """Whether they are right, when clients were told of so many transfers since `before`."""
        store = PostgresStore(self.dsn, connections=1)
        try:
            await store.open()
            found = await check(store.pool)
        finally:
            await store.aclose()
        wrong = list(found.wrong)
        there = found.transfers - before
        if there < acknowledged:
            wrong.append(f"{acknowledged} transfers were acknowledged and {there} are there")
        if wrong:
            return f"NOT right: {'; '.join(wrong)}"
        return (
            f"right to the cent: {found.lines} lines, and all {acknowledged} acknowledged "
            "transfers are there"
        )
