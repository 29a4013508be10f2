"""What the ledger knows, and the two refusals of a transfer that are the client's to mend."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, Protocol

MOST_LINES: Final = 1000  # of one answer
CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who it belongs to."""

    id: int
    owner: str
    currency: str
    opened_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One side of a transfer; `amount` is negative where the money came from."""

    id: int
    transfer: int
    account: int
    amount: Decimal
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A transfer that a client asks for, under a key of its own."""

    key: str
    source: int
    target: int
    amount: Decimal


class Outcome(StrEnum):
    """What became of it."""

    DONE = "done"
    REPEATED = "repeated"  # the key was known and asked for the same
    CONFLICT = "conflict"  # the key was known and asked for something else
    UNKNOWN = "unknown"  # there is no such account
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The answer to a transfer; `id` and `at` are of the first time."""

    outcome: Outcome
    id: int | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day of a report: transfers, and what they moved."""

    day: date
    transfers: int
    turnover: Decimal


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the moment and the id of its last line."""

    at: datetime
    id: int


class Store(Protocol):
    """Where the ledger is kept. Raises `Unavailable` when it cannot be asked."""

    async def open(self) -> None: ...

    async def account(self, number: int) -> Account | None: ...

    async def balance(self, number: int) -> Decimal | None: ...

    async def lines(
        self,
        begin: datetime,
        end: datetime,
        account: int | None,
        *,
        after: Position | None,
        most: int,
    ) -> Sequence[Line]:
        """From `begin` until before `end`, oldest first."""
        ...

    async def transfer(self, wanted: Wanted) -> Made: ...

    async def report(self, month: date) -> Sequence[Day]: ...

    async def quote(self, symbol: str) -> Decimal | None: ...

    async def ready(self) -> bool: ...

    async def aclose(self) -> None: ...


def month_of(text: str) -> date:
    """The first day of `2026-11`. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()


def following(month: date) -> date:
    """The first day of the next month."""
    return date(month.year + month.month // 12, month.month % 12 + 1, 1)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
