"""Decisions per second of one core, and the CPU of a tick of 1,000 policies with the store.

The history is full: its windows hold a point and another ask for each tick, and the last hour a
hundred changes. `largest` is the most that a policy may make us remember: an hour of ticks, asks
and changes. The peer in the same run is the formula of the Kubernetes autoscaler
(`compatibility: hpa`) on the same facts, without the windows, bounds and reasons of ours.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.outcome import Outcome
from scaler.core.decide import decide
from scaler.core.document import Target
from scaler.core.limits import MOST_ASKED, MOST_CHANGES
from scaler.core.model import (
    Asked,
    Change,
    Fleet,
    History,
    Instance,
    InstanceId,
    Reading,
    Sample,
    State,
)
from scaler.core.policy import Policy
from scaler.stores.sqlite import SqliteStore

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVERY = timedelta(seconds=5)
INSTANCES = 10
POLICIES = 1000
RUNS = 5
CALLS = 2000


def policy(name: str, window: str = "1m", settle: str = "5m") -> Policy:
    return Policy.model_validate(
        {
            "name": name,
            "target": Target(kind="bench", policy=name),
            "metrics": [{"cpu": "70%", "window": window}],
            "limits": {"max": 50, "settle_down": settle},
        }
    )


def facts(name: str, at: datetime, value: float) -> tuple[Fleet, dict[str, Reading]]:
    """Ten ready instances, each with a sample."""
    before = at - timedelta(hours=1)
    instances = tuple(
        Instance(
            id=InstanceId(f"{name}-{number}"),
            state=State.RUNNING,
            ready=True,
            started_at=before,
            ready_changed_at=before,
        )
        for number in range(INSTANCES)
    )
    samples = tuple(
        Sample(at=at, value=value, instance=i.id, base=1.0, window=EVERY) for i in instances
    )
    fleet = Fleet(target=name, at=at, wanted=INSTANCES, instances=instances)
    return fleet, {"cpu": Reading(metric="cpu", samples=samples)}


def filled(rules: Policy, *, asks: int, changes: int) -> tuple[History, datetime]:
    """A history with points for the whole window, and so many different asks and changes."""
    history, now = History(), START
    for number in range(asks):
        now += EVERY
        fleet, readings = facts(rules.name, now, 0.66 + 0.05 * (number % 3))
        _, history = decide(rules, fleet, readings, history, now)
    hour = timedelta(hours=1)
    made = [Change(now - hour * (n / changes), 10, 10 + n % 2) for n in range(changes, 0, -1)]
    asked = [Asked(now - EVERY * n, 9 + n % 3) for n in range(asks, 0, -1)]
    return replace(history, asked=tuple(asked), changes=tuple(made)), now


def single(rules: Policy, history: History, now: datetime) -> Callable[[], object]:
    """One decision that changes the count, so that every limit has its say."""
    fleet, readings = facts(rules.name, now + EVERY, 0.95)
    return lambda: decide(rules, fleet, readings, history, now + EVERY)


def per_second(call: Callable[[], object]) -> float:
    begin = time.process_time()
    for _ in range(CALLS):
        call()
    return CALLS / (time.process_time() - begin)


def run() -> Outcome:
    outcome = Outcome()
    rules = policy("web")
    history, now = filled(rules, asks=60, changes=100)
    ours = single(rules, history, now)
    theirs = single(rules.model_copy(update={"compatibility": "hpa"}), history, now)
    longest = policy("web", window="1h", settle="1h")
    largest = single(longest, *filled(longest, asks=MOST_ASKED, changes=MOST_CHANGES))
    rates, peers, lasts, waits = [], [], [], []
    for _ in range(RUNS):
        rates.append(per_second(ours))
        peers.append(per_second(theirs))
        lasts.append(per_second(largest))
        for _ in range(CALLS):
            start = time.perf_counter_ns()
            ours()
            waits.append((time.perf_counter_ns() - start) / 1000)
    waits.sort()
    rate, p99 = statistics.median(rates), waits[int(0.99 * len(waits))]
    tick = asyncio.run(whole_ticks())
    outcome.figures = {
        "decisions_per_s": round(rate),
        "p50_us": round(statistics.median(waits), 1),
        "p99_us": round(p99, 1),
        "largest_history_decisions_per_s": round(statistics.median(lasts)),
        "upstream_formula_per_s": round(statistics.median(peers)),
        "ratio_to_upstream_formula": round(rate / statistics.median(peers), 2),
        "tick_cpu_ms_decide": round(tick[0], 1),
        "tick_cpu_ms_store": round(tick[1], 1),
    }
    outcome.goal("decisions per second and core", round(rate), least=10_000)
    outcome.goal("p99 of one decision in µs", round(p99, 1), most=250)
    whole = round(tick[0] + tick[1], 1)
    outcome.goal("CPU of a tick of 1,000 policies with the store in ms", whole, most=150)
    return outcome


async def whole_ticks() -> tuple[float, float]:
    """Median CPU in ms of deciding for all policies, and of saving what came of it."""
    all_rules = {f"p{number}": policy(f"p{number}") for number in range(POLICIES)}
    history, now = filled(all_rules["p0"], asks=60, changes=100)
    histories = dict.fromkeys(all_rules, history)
    deciding, saving = [], []
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "scaler.db")
        await store.save(histories, [])
        for number in range(60):
            now += EVERY
            seen = {name: facts(name, now, 0.66 + 0.01 * (number % 3)) for name in all_rules}
            begin = time.process_time()
            for name, rules in all_rules.items():
                fleet, readings = seen[name]
                _, histories[name] = decide(rules, fleet, readings, histories[name], now)
            middle = time.process_time()
            await store.save(histories, [])
            deciding.append((middle - begin) * 1000)
            saving.append((time.process_time() - middle) * 1000)
        await store.aclose()
    return statistics.median(deciding), statistics.mean(saving)  # snapshots come in turns
