"""The bodies of answers, kept by CacheManager for as long as each may be old.

Bodies and not records are kept, so a hit costs no JSON. Without a cache everything is asked of the
store each time.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

import orjson

from scaler.clock import Clock
from scaler.demo.ledger import asked
from scaler.demo.ledger.records import (
    CENT,
    Line,
    Made,
    Position,
    Store,
    Wanted,
    following,
    midnight,
)
from scaler.errors import Unavailable
from scaler.maintenance.cache import CacheManager

F = TypeVar("F", bound=Callable[..., Any])
SETTLED: Final = timedelta(hours=1)  # after its end a month takes no more transfers


class Answers:
    """One body for each question; None where there is nothing of that name."""

    def __init__(self, store: Store, cache: CacheManager | None, clock: Clock) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock

        @self._kept(ttl="1h", key="{number}", tags=["accounts"], missing="5s")
        async def account(number: int) -> bytes | None:
            found = await store.account(number)
            return None if found is None else orjson.dumps(found)

        @self._kept(ttl="5s", key="{number}", tags=["account:{number}"])
        async def balance(number: int) -> bytes | None:
            found = await store.balance(number)
            return None if found is None else body({"account": number, "balance": found})

        @self._kept(ttl="2s", key="{symbol}", tags=["quotes"], stale="10s")
        async def quote(symbol: str) -> bytes | None:
            price = await store.quote(symbol)
            if price is None:
                return None
            return body({"symbol": symbol, "price": str(price), "at": clock.now()})

        @self._kept(ttl="30s", key="{begin}/{end}/{account}/{after}/{most}",
                    tags=["account:{account}"])  # fmt: skip
        async def lines(
            begin: datetime, end: datetime, account: int | None, after: Position | None, most: int
        ) -> bytes:
            found = await store.lines(begin, end, account, after=after, most=most + 1)
            return _page(found, most)

        @self._kept(ttl="1d", key="{month}", tags=["reports"])
        async def closed(month: date) -> bytes:
            return await self._report(month)

        @self._kept(ttl="30s", key="{month}", tags=["reports"], stale="1m")
        async def running(month: date) -> bytes:
            return await self._report(month)

        self.account, self.balance, self.quote = account, balance, quote
        self._lines, self._closed, self._running = lines, closed, running

    def _kept(self, **terms: Any) -> Callable[[F], F]:
        if self._cache is None:
            return lambda function: function
        return self._cache.cached(**terms)

    async def lines(self, wanted: asked.Range) -> bytes:
        return await self._lines(
            wanted.begin, wanted.end, wanted.account, wanted.after, wanted.most
        )

    async def report(self, month: date) -> bytes:
        over = midnight(following(month)) + SETTLED <= self._clock.now()
        return await (self._closed(month) if over else self._running(month))

    async def _report(self, month: date) -> bytes:
        days = await self._store.report(month)
        total = sum((day.turnover for day in days), Decimal(0))
        return body(
            {
                "month": f"{month:%Y-%m}",
                "transfers": sum(day.transfers for day in days),
                "turnover": total.quantize(CENT),
                "days": [
                    {"day": day.day, "transfers": day.transfers, "turnover": day.turnover}
                    for day in days
                ],
            }
        )

    async def transfer(self, wanted: Wanted) -> Made:
        """Made, and what was cached of both accounts is void.

        While Redis is away other instances may show a balance that is old for its 5 s.
        """
        made = await self._store.transfer(wanted)
        if self._cache is not None:
            tags = (f"account:{wanted.source}", f"account:{wanted.target}")
            with suppress(Unavailable):  # the cache makes it good when Redis is back
                await self._cache.invalidate_tag(*tags)
        return made


def _page(found: Sequence[Line], most: int) -> bytes:
    """`found` has one line more than asked for when there is a further page."""
    shown = found[:most]
    more = len(found) > most
    last = Position(shown[-1].created_at, shown[-1].id) if more else None
    return body({"transactions": shown, "next": asked.page_after(last) if last else None})


def body(plain: Any) -> bytes:
    """JSON; amounts are strings, since many clients read numbers as floating point."""
    return orjson.dumps(plain, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(type(value).__name__)
