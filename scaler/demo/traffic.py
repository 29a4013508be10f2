"""What visitors of the ledger ask for, and how a day of them goes."""

from datetime import date, timedelta
from typing import Final

from scaler.loadtest import schedule
from scaler.loadtest.plan import Plan, of_fields
from scaler.loadtest.schedule import Schedule

ACCOUNTS: Final = 1000
TRANSFER: Final = "a transfer"
LOW, HIGH = 0.5, 2.4  # of what one instance carries, in the quiet hours and at the peak
DAY: Final = 0.8  # of the load is the wave; the rest is the night after it
SEED: Final = 1000  # far from those of calibration: the same seed would give the same keys


def plan(url: str, today: date, *, keep_alive: bool) -> Plan:
    """Weighted as visitors ask; each transfer with a key of its own.

    Without `keep_alive` each visitor comes by a new connection: a port that is shared spreads
    connections and not requests. One that was due ten seconds ago is a failure.
    """
    recent = f"from={today - timedelta(days=30)}&to={today + timedelta(days=2)}"
    months = [f"{today - timedelta(days=31 * back):%Y-%m}" for back in range(1, 7)]
    body = '{"from": ${giver}, "to": ${taker}, "amount": "${euros}.${cents}"}'
    return of_fields(
        {
            "target": url,
            "load": {"rate": "1/s", "seed": SEED},
            "scenario": [
                {"name": "a balance", "weight": 40, "path": "/accounts/${account}/balance"},
                {"name": "a quote", "weight": 20, "path": "/quotes/${symbol}"},
                {
                    "name": "a range",
                    "weight": 20,
                    "path": f"/transactions?{recent}&account=${{account}}&limit=20",
                },
                {"name": "a report", "weight": 5, "path": "/reports/${month}"},
                {
                    "name": TRANSFER,
                    "weight": 15,
                    "method": "POST",
                    "path": "/transfers",
                    "headers": {"Idempotency-Key": "demo-${key}"},
                    "body": body,
                },
            ],
            "variables": {
                "account": f"1..{ACCOUNTS // 5}",
                "giver": f"1..{ACCOUNTS // 2}",
                "taker": f"{ACCOUNTS // 2 + 1}..{ACCOUNTS}",
                "euros": "1..20",
                "cents": "10..99",
                "key": "1..1000000000000000000",
                "symbol": ["AAPL", "MSFT", "SAP", "SIE", "ALV", "BTC"],
                "month": months,
            },
            "timeouts": {"first_byte": "10s", "whole": "10s", "end": "10s"},
            "bounds": {"in_flight": 2000, "connections": 1000},
            "keep_alive": keep_alive,
        }
    )


def day(capacity: float, seconds: float) -> Schedule:
    """A day's wave in so many seconds, for instances that carry `capacity` requests per second."""
    low, high, span = LOW * capacity, HIGH * capacity, DAY * seconds
    pieces = schedule.wave(low, high, span, span) + schedule.constant(low, seconds - span)
    return Schedule(pieces, seed=SEED)
