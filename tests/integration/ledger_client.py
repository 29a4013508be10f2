"""A ledger in this process, its database, and a client that says what it was told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import aiohttp

from scaler.demo.ledger.app import Ledger
from scaler.demo.ledger.check import Acknowledged
from scaler.demo.ledger.records import Wanted
from scaler.demo.ledger.store import PostgresStore, Seed
from scaler.maintenance.cache import CacheManager
from tests.integration.postgreses import PostgresServer

SMALL = Seed(accounts=20, rows=4000)


async def made(server: PostgresServer, *, convert: bool = True) -> None:
    """Its schema and a small seed, from the beginning."""
    server.psql("DROP SCHEMA IF EXISTS scaler CASCADE; DROP SCHEMA public CASCADE;"
                " CREATE SCHEMA public")  # fmt: skip
    store = PostgresStore(server.dsn(), connections=2)
    await store.open()
    await store.make(SMALL, datetime.now(UTC))
    if convert:
        await store.convert()
    await store.aclose()


@asynccontextmanager
async def running(
    server: PostgresServer, redis: str = "", port: int = 0
) -> AsyncIterator["Client"]:
    store = PostgresStore(server.dsn(), connections=4)
    await store.open()
    ledger = Ledger(store, CacheManager(redis, namespace="ledger") if redis else None)
    await ledger.start(port=port)
    client = Client(ledger.port, ledger)
    try:
        yield client
    finally:
        await client.aclose()
        await ledger.drain(timedelta())


class Client:
    """Requests to a port; transfers that were acknowledged are remembered."""

    def __init__(self, port: int, ledger: Ledger) -> None:
        self.ledger = ledger
        self.told: list[Acknowledged] = []
        self._keys = count()
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{port}")

    async def get(self, path: str, status: int = 200) -> Any:
        async with self._session.get(path) as response:
            body = await response.json()
            assert response.status == status, body
            return body

    async def post(
        self, source: int, target: int, amount: str, key: str = ""
    ) -> tuple[int, dict[str, Any]]:
        key = key or f"key-{id(self)}-{next(self._keys)}"
        body = json.dumps({"from": source, "to": target, "amount": amount})
        headers = {"Idempotency-Key": key}
        async with self._session.post("/transfers", data=body, headers=headers) as response:
            plain = await response.json()
            if response.status in (200, 201):
                wanted = Wanted(key=key, source=source, target=target, amount=Decimal(amount))
                self.told.append(Acknowledged(wanted=wanted, id=plain["id"]))
            return response.status, plain

    async def balance(self, account: int) -> Decimal:
        return Decimal((await self.get(f"/accounts/{account}/balance"))["balance"])

    async def aclose(self) -> None:
        await self._session.close()
        await asyncio.sleep(0)
