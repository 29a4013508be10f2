"""The ledger in the memory of one process, for where no PostgreSQL can run. Nothing outlives it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

from scaler.clock import Clock
from scaler.demo.ledger.records import (
    Account,
    Day,
    Line,
    Made,
    Outcome,
    Position,
    Wanted,
    following,
    midnight,
)
from scaler.errors import Busy

MOST_TRANSFERS: Final = 500_000  # more are refused: memory has an end
PRICES: Final = {"AAPL": Decimal("230.0000"), "MSFT": Decimal("430.0000")}


@dataclass
class MemoryStore:
    """`records.Store`. Account 0 may owe, and has opened the others."""

    clock: Clock
    accounts: int = 1000
    opening: Decimal = Decimal("1000000.00")
    balances: dict[int, Decimal] = field(default_factory=dict)
    transfers: dict[str, tuple[Wanted, Made]] = field(default_factory=dict)
    kept: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._opened = self.clock.now() - timedelta(days=1)
        self.balances[0] = Decimal(0)
        for number in range(1, self.accounts + 1):
            self.balances[number] = Decimal(0)
            self._post(number, 0, number, self.opening, self._opened)

    def _post(self, transfer: int, source: int, target: int, amount: Decimal, at: datetime) -> None:
        for account, signed in ((source, -amount), (target, amount)):
            self.balances[account] += signed
            self.kept.append(
                Line(
                    id=len(self.kept) + 1,
                    transfer=transfer,
                    account=account,
                    amount=signed,
                    created_at=at,
                )
            )

    async def open(self) -> None: ...

    async def account(self, number: int) -> Account | None:
        if number not in self.balances:
            return None
        owner = f"Customer {number}" if number else "the bank"
        return Account(id=number, owner=owner, currency="EUR", opened_at=self._opened)

    async def balance(self, number: int) -> Decimal | None:
        return self.balances.get(number)

    async def lines(
        self,
        begin: datetime,
        end: datetime,
        account: int | None,
        *,
        after: Position | None,
        most: int,
    ) -> Sequence[Line]:
        place = (after.at, after.id) if after else (begin, -1)
        found = (
            line
            for line in self.kept
            if begin <= line.created_at < end
            and (line.created_at, line.id) > place
            and account in (None, line.account)
        )
        return [line for line, _ in zip(found, range(most), strict=False)]

    async def transfer(self, wanted: Wanted) -> Made:
        """Raises Busy when there is no room for more."""
        if known := self.transfers.get(wanted.key):
            same = known[0] == wanted
            outcome = Outcome.REPEATED if same else Outcome.CONFLICT
            return Made(outcome=outcome, id=known[1].id, at=known[1].at)
        if not {wanted.source, wanted.target} <= self.balances.keys():
            return Made(outcome=Outcome.UNKNOWN)
        if wanted.source and self.balances[wanted.source] < wanted.amount:
            return Made(outcome=Outcome.INSUFFICIENT)
        if len(self.transfers) >= MOST_TRANSFERS:
            raise Busy(f"{MOST_TRANSFERS} transfers are in memory, which is all it takes")
        number, at = self.accounts + len(self.transfers) + 1, self.clock.now()
        self._post(number, wanted.source, wanted.target, wanted.amount, at)
        made = Made(outcome=Outcome.DONE, id=number, at=at)
        self.transfers[wanted.key] = (wanted, made)
        return made

    async def report(self, month: date) -> Sequence[Day]:
        begin, end = midnight(month), midnight(following(month))
        days: dict[date, list[Decimal]] = {}
        for line in self.kept:
            if begin <= line.created_at < end and line.amount > 0:
                days.setdefault(line.created_at.date(), []).append(line.amount)
        return [
            Day(day=day, transfers=len(amounts), turnover=sum(amounts, Decimal(0)))
            for day, amounts in sorted(days.items())
        ]

    async def quote(self, symbol: str) -> Decimal | None:
        return PRICES.get(symbol)

    async def ready(self) -> bool:
        return True

    async def aclose(self) -> None: ...
