"""What clients ask for, checked: either a value, or words for the client about what to write."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from scaler.demo.ledger.records import MOST_LINES, Position, Wanted, midnight, month_of

MOST_ACCOUNT: Final = 2**63 - 1
MOST_AMOUNT: Final = Decimal(10) ** 12
LONGEST: Final = timedelta(days=366)  # a range
EARLIEST: Final = date(2000, 1, 1)
PAGE: Final = 100
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)
_SYMBOL: Final = re.compile(r"[A-Z0-9.]{1,12}")
_AMOUNT: Final = re.compile(r"\d{1,13}(\.\d{1,2})?", re.ASCII)
_KEY: Final = re.compile(r"[!-~]{1,64}")
_MONTH: Final = re.compile(r"\d{4}-\d{2}", re.ASCII)


class Invalid(Exception):
    """The message is for the client: what was found and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Lines from `begin` until before `end`."""

    begin: datetime
    end: datetime
    account: int | None
    after: Position | None
    most: int


def account(text: str, field: str = "account") -> int:
    if not _NUMBER.fullmatch(text) or int(text) > MOST_ACCOUNT:
        raise Invalid(f'{field}: "{text[:40]}" is no account; write a number such as 17')
    return int(text)


def symbol(text: str) -> str:
    if not _SYMBOL.fullmatch(text):
        raise Invalid(f'symbol: "{text[:40]}" is none; write capital letters, digits and dots')
    return text


def month(text: str, now: datetime) -> date:
    """The first day of a month that has begun."""
    try:
        found = month_of(text) if _MONTH.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None or found < EARLIEST:
        raise Invalid(f'month: "{text[:40]}" is none; write it like 2026-11')
    if midnight(found) > now:
        raise Invalid(f"month: {text} has not begun yet")
    return found


def lines(query: Mapping[str, str]) -> Range:
    """`from` and `to` (without it), `account`, `limit` and `after`, which an answer has given."""
    if odd := sorted(set(query) - {"from", "to", "account", "limit", "after"}):
        raise Invalid(f"{odd[0][:40]}: unknown; there are from, to, account, limit and after")
    missing = [name for name in ("from", "to") if name not in query]
    if missing:
        raise Invalid(f"{missing[0]}: missing; write a day such as {missing[0]}=2026-11-01")
    begin, end = _moment(query["from"], "from"), _moment(query["to"], "to")
    if begin >= end:
        raise Invalid("to: is not after from; it is the first moment that is left out")
    if end - begin > LONGEST:
        raise Invalid(f"to: more than {LONGEST.days} days after from; ask for less at a time")
    limit = query.get("limit", str(PAGE))
    if not _NUMBER.fullmatch(limit) or not 1 <= int(limit) <= MOST_LINES:
        raise Invalid(f'limit: "{limit[:40]}" is not from 1 to {MOST_LINES}')
    return Range(
        begin=begin,
        end=end,
        account=account(query["account"]) if "account" in query else None,
        after=_position(query["after"]) if "after" in query else None,
        most=int(limit),
    )


def _moment(text: str, field: str) -> datetime:
    """In UTC; a day means its midnight, and a time without a zone is in UTC."""
    try:
        found = datetime.fromisoformat(text)
        whole = found if found.tzinfo else found.replace(tzinfo=UTC)
        moment = whole.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f'{field}: "{text[:40]}" is no moment; write 2026-11-01 or 2026-11-01T08:00:00Z'
        ) from None
    if moment.date() < EARLIEST:
        raise Invalid(f"{field}: {text[:40]} is before {EARLIEST}, where nothing is kept")
    return moment


def page_after(position: Position) -> str:
    """What a client hands back to get the page that follows."""
    return f"{position.at.astimezone(UTC):%Y%m%dT%H%M%S.%f}-{position.id}"


def _position(text: str) -> Position:
    moment, _, number = text.partition("-")
    try:
        at = datetime.strptime(moment, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
        return Position(at, account(number))
    except (ValueError, Invalid):
        raise Invalid("after: is not what an answer gave as next; leave it out") from None


def transfer(key: str | None, body: bytes) -> Wanted:
    """`{"from": 1, "to": 2, "amount": "12.50"}` under the header `Idempotency-Key`."""
    if not key:
        raise Invalid("Idempotency-Key: missing; send a header with a new key for each transfer")
    if not _KEY.fullmatch(key):
        raise Invalid("Idempotency-Key: write 1 to 64 visible ASCII characters")
    plain = _object(body)
    numbers = {}
    for field in ("from", "to"):
        found = plain[field]
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= MOST_ACCOUNT:
            raise Invalid(f"{field}: is no account; write a number such as 17")
        numbers[field] = found
    if numbers["from"] == numbers["to"]:
        raise Invalid("to: is the same account as from")
    amount = plain["amount"]
    if not isinstance(amount, str) or not _AMOUNT.fullmatch(amount):
        raise Invalid('amount: write a string with at most two places, such as "12.50"')
    if not 0 < Decimal(amount) <= MOST_AMOUNT:
        raise Invalid(f"amount: {amount} is not from 0.01 to {MOST_AMOUNT}")
    return Wanted(key=key, source=numbers["from"], target=numbers["to"], amount=Decimal(amount))


def _object(body: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        raise Invalid('the body is no JSON; send {"from": 1, "to": 2, "amount": "12.50"}') from None
    fields = {"from", "to", "amount"}
    if not isinstance(plain, dict) or set(plain) != fields:
        raise Invalid("the body is no object with exactly from, to and amount")
    return plain
