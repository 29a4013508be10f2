"""Partitions: converting a table in use beside others' ways, retention, upkeep, and queries.

24 months of a ledger with three indexes under 200 writes a second, each of which is checked. Takes
about ten minutes and 8 GB of disk with 2,000,000 rows. SCALER_BENCH_ROWS says how many there are,
SCALER_BENCH_LIMIT_S when a peer is stopped (120), SCALER_BENCH_IDLE_S how long the idle transaction
stays (60), SCALER_BENCH_PARTS which parts are run. It needs PostgreSQL 15; pg_partman
(postgresql-15-partman) is named as missing where it is not installed, and pg-partsmith where PyPI
does not answer.
"""

import asyncio
import os
from typing import Final

from benchmarks.outcome import Outcome
from benchmarks.partitionbench import convert, keep, peers, queries, replica, retain
from benchmarks.partitionbench.rig import OPTIONS, ROWS, Rig, say
from tests.integration.postgreses import PostgresServer

ALL: Final = "convert,partman,copying,partsmith,retain,replica,keep,queries"
PARTS: Final = os.environ.get("SCALER_BENCH_PARTS", ALL).split(",")


def run() -> Outcome:
    outcome = Outcome(figures={"rows": ROWS})
    asyncio.run(_measure(outcome))
    return outcome


async def _measure(outcome: Outcome) -> None:
    if "convert" in PARTS:
        say("converting")
        rig = await _converted()
        outcome.figures |= rig.figures
        _live(outcome, rig)
        _split(outcome, rig)
        _beside(outcome)
        if "retain" in PARTS:
            _retained(outcome, rig)
    if "replica" in PARTS:
        say("replica")
        outcome.figures |= await replica.measure()
        _replica(outcome)
    if "keep" in PARTS:
        say("keeping")
        await keep.measure(outcome)
    if "queries" in PARTS:
        say("queries")
        outcome.figures |= queries.measure()


async def _converted() -> Rig:
    """Ours before, between and after the others."""
    server = PostgresServer(*OPTIONS)
    try:
        server.start()
        rig = Rig(server)
        await convert.nothing(rig)
        await convert.live(rig)
        await convert.undo(rig)
        if "partman" in PARTS:
            await peers.partman(rig)
        await convert.live(rig)
        if "copying" in PARTS:
            await peers.copying(rig)
        await convert.split(rig)
        await peers.plain(rig)
        if "partsmith" in PARTS:
            await peers.partsmith(rig)
        await convert.live(rig)
        await convert.idle(rig)
        if "retain" in PARTS:
            say("retention")
            await retain.measure(rig)
    finally:
        server.stop()
    return rig


def _live(outcome: Outcome, rig: Rig) -> None:
    figures, goal = outcome.figures, outcome.goal
    goal("live: rows and answers that were wrong", rig.wrong("live"), most=0)
    goal("live: slowest writer, ms", figures["live_slowest_ms"], most=250)
    goal("undo: rows and answers that were wrong", rig.wrong("undo"), most=0)
    goal("undo: its transaction, ms", figures["undo_transaction_ms"], most=250)
    goal("undo: slowest writer, ms", figures["undo_slowest_ms"], most=250)
    goal("idle transaction: rows and answers that were wrong", rig.wrong("idle"), most=0)
    goal("idle transaction: waited for it", figures["idle_waited_for_it"], least=1)
    goal("idle transaction: slowest writer, ms", figures["idle_slowest_ms"], most=500)
    goal("idle transaction: live after its end, s", figures["idle_live_after_its_end_s"], most=60)


def _split(outcome: Outcome, rig: Rig) -> None:
    figures, goal = outcome.figures, outcome.goal
    goal("split: rows and answers that were wrong", rig.wrong("split"), most=0)
    goal("split: slowest writer, ms", figures["split_slowest_ms"], most=250)
    plain, split = figures["plain_copy_wal_mb"], figures["split_only_wal_mb"]
    load = figures["load_wal_mb"] / figures["load_s"] * figures["split_only_s"]
    figures["split_wal_without_that_of_the_load_by_plain"] = round((split - load) / plain, 3)
    more = round(split / plain, 3)
    goal("split: WAL, that of the load included, by a plain copy", more, most=1.15)


def _beside(outcome: Outcome) -> None:
    """What a peer that is missing or did not finish cannot be held against is no goal."""
    figures, goal = outcome.figures, outcome.goal
    if "partman_slowest_ms" in figures:
        times = round(figures["partman_slowest_ms"] / figures["live_slowest_ms"], 1)
        goal("live: slowest writer, times better than with pg_partman", times, least=5)
    if "copying_s" in figures:
        sooner = round(figures["copying_s"] / figures["live_s"], 1)
        goal("live: times sooner than the copy with a trigger", sooner, least=5)
        less = round(figures["copying_wal_mb"] / figures["live_wal_mb"], 1)
        goal("live: times less WAL than the copy with a trigger", less, least=10)
    if figures.get("partsmith_ended") == "finished":
        sooner = round(figures["partsmith_s"] / figures["live_s"], 1)
        goal("live: times sooner than pg-partsmith", sooner, least=5)


def _retained(outcome: Outcome, rig: Rig) -> None:
    figures, goal = outcome.figures, outcome.goal
    goal("retention: rows and answers that were wrong", rig.wrong("retire"), most=0)
    times = round(figures["delete_month_ms"] / figures["retire_month_ms"], 1)
    goal("retention, times faster than DELETE + VACUUM", times, least=20)


def _replica(outcome: Outcome) -> None:
    figures, goal = outcome.figures, outcome.goal
    wrong = sum(figures[f"replica_{kind}"] for kind in ("lost", "stale", "back", "twice", "missed"))
    goal("replica: rows and answers that were wrong", wrong, most=0)
    goal("replica: held back while it stood still", figures["replica_held_by_the_pause"], least=1)
    goal("replica: stood still with it", figures["replica_stood_still"], least=1)
    goal("replica: the split finished", figures["replica_finished"], least=1)
    most = replica.LAG.total_seconds() + 1
    goal("replica: most lag else, s", figures["replica_most_lag_s"], most=most)
