"""The cache beside cashews, aiocache and redis-py: hits, stampedes, outages, and fresh values.

Each part starts a Redis of its own on a unix socket. The peers are in the dependency group `bench`;
what is not installed is named as missing. Takes about seven minutes; SCALER_BENCH_SHORT=1 makes it
about ten times shorter, with fewer rounds and shorter outages.
"""

import asyncio
import math
from typing import Any

from benchmarks.cachebench import children, fresh, hits, hygiene, outage, peers, stampede
from benchmarks.outcome import Outcome


def run() -> Outcome:
    lines = children.Lines()  # what they log is no part of the table
    found: dict[str, Any] = dict(peers.described())
    found |= asyncio.run(hits.measure())
    found |= asyncio.run(stampede.measure())
    found |= asyncio.run(outage.measure())
    found |= asyncio.run(fresh.measure())
    found |= asyncio.run(hygiene.measure())
    found["log_lines_of_this_process"] = lines.count
    outcome = Outcome(figures=found)
    if peers.present("scaler"):
        _hits(outcome)
        _stampede(outcome)
        _outage(outcome)
        _fresh(outcome)
        _hygiene(outcome)
    return outcome


def _hits(outcome: Outcome) -> None:
    """What needs a peer that is missing or refuses is no goal of this run; the table names it."""
    figures, goal = outcome.figures, outcome.goal
    own = figures["hits_scaler_local_us"]
    goal("hit in the process, p50, µs", own, most=2.5)
    for name, figure in (
        ("hit in the process, times faster than cashews", "hits_cashews_local_by_ours"),
        ("hit in the process, times faster than redis-py", "hits_redis_py_tracking_by_ours"),
    ):
        if figure in figures:
            goal(name, figures[figure], least=10)
    cpu = figures["hits_scaler_shared_cpu_by_raw"]
    goal("CPU of a hit in Redis by that of a raw GET", cpu, most=1.4)
    burst = figures["hits_scaler_shared_per_s_by_raw"]
    goal("50 keys at once, calls a second by raw GETs", burst, least=2)
    if "hits_scaler_shared_per_s_by_cashews" in figures:
        burst = figures["hits_scaler_shared_per_s_by_cashews"]
        goal("50 keys at once, by cashews", burst, least=5)


def _stampede(outcome: Outcome) -> None:
    figures, goal = outcome.figures, outcome.goal
    for case, backend in (("fast", stampede.FAST_S), ("slow", stampede.SLOW_S)):
        calls = figures[f"cold_{case}_scaler_calls"]
        late = figures[f"cold_{case}_scaler_last_after_backend_ms"]
        goal(f"backend calls for 500 callers, backend {backend:g} s", calls, most=1)
        goal(f"last of 500 callers after a backend of {backend:g} s, ms", late, most=100)
    goal(
        "calls of a failing backend per error TTL",
        figures["failing_scaler_calls_per_error_ttl"],
        most=1,
    )
    goal("callers of a hot key that waited", figures["hot_scaler_waited"], most=0)


def _outage(outcome: Outcome) -> None:
    """Each goal holds for the worse of two: with the local tier, which hides most of an outage, and
    without it.
    """

    def worst(figure: str) -> float:
        case, _, what = figure.partition("_")
        names = [f"{case}_{peer}_{what}" for peer in ("scaler", "scaler_shared")]
        return max(float(outcome.figures.get(name, math.inf)) for name in names)

    goal = outcome.goal
    backend_ms = 1000 * outage.BACKEND_S
    goal("Redis killed: errors", worst("killed_errors"), most=0)
    goal("Redis killed: p99, ms", worst("killed_p99_ms"), most=backend_ms + 10)
    goal("Redis killed: log lines", worst("killed_log_lines"), most=5)
    goal("Redis hung: slowest, ms", worst("hung_slowest_ms"), most=250 + backend_ms)
    goal("Redis hung: longest lease left, s", worst("hung_longest_lease_s"), most=5)


def _fresh(outcome: Outcome) -> None:
    figures, goal = outcome.figures, outcome.goal
    goal(
        "foreign write seen, p99, ms",
        figures.get("fresh_scaler_write_seen_p99_ms", math.inf),
        most=10,
    )
    goal("served past its TTL, ms", figures["fresh_scaler_past_ttl_max_ms"], most=0)
    goal("a tag of a million keys, ms", figures["fresh_scaler_tag_invalidated_ms"], most=5)
    warm = figures["fresh_scaler_warm_by_old_percent"]
    goal("first minute of a new replica, % of an old one's hits", warm, least=90)


def _hygiene(outcome: Outcome) -> None:
    figures, goal = outcome.figures, outcome.goal
    goal("hygiene: keys a second by the naive way", figures["hygiene_by_naive"], least=25)
    idle, lap = (figures[f"hygiene_probe_{way}_p99_ms"] for way in ("idle", "lap"))
    most = round(max(1.5 * idle, idle + 1), 2)
    goal("hygiene at that speed: p99 of another client, ms", round(lap, 2), most=most)
    goal("hygiene: precision", figures["hygiene_precision"], least=1)
    goal("hygiene: recall", figures["hygiene_recall"], least=1)
    goal("hygiene: writes in a dry run", figures["hygiene_writes_in_dry_run"], most=0)
    off = 100 * abs(figures["hygiene_unlink_by_limit"] - 1)
    goal("hygiene: UNLINK rate off its limit, %", round(off, 2), most=10)
