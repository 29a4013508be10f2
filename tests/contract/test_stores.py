"""Every store keeps the same promises; the one on disk keeps them over an end of the process."""

import math
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.core.journal import Entry, Facts, Kind
from scaler.core.model import (
    Asked,
    Burst,
    Change,
    Fleet,
    History,
    Hold,
    InstanceId,
    Pause,
    Point,
    Reading,
    Restarts,
    Sample,
)
from scaler.interfaces import Store
from scaler.stores.memory import MemoryStore
from scaler.stores.sqlite import SqliteStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "s.db")
    yield made
    await made.aclose()


def said(number: int, target: str = "web", kind: Kind = Kind.DECIDED) -> Entry:
    return Entry(at=NOON + number * SECOND, kind=kind, target=target, summary=str(number))


async def summaries(store: Store, **which: object) -> list[str]:
    return [entry.summary for entry in await store.read(**which)]  # type: ignore[arg-type]


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.load() == {}
    assert list(await store.read()) == []
    assert await store.forget(before=NOON) == 0


async def test_the_last_history_of_each_target_is_kept(store: Store) -> None:
    first, second = History(at=NOON), History(at=NOON + SECOND, startups=(1.5,))
    await store.save({"web": first, "api": first}, [])
    await store.save({"web": second}, [])
    assert await store.load() == {"web": second, "api": first}


async def test_histories_and_entries_are_saved_together(store: Store) -> None:
    await store.save({"web": History(at=NOON)}, [said(1)])
    assert await store.load() == {"web": History(at=NOON)}
    assert list(await store.read()) == [said(1)]


@pytest.mark.parametrize(
    ("which", "found"),
    [
        pytest.param({}, "123456", id="everything"),
        pytest.param({"target": "web"}, "1245", id="those of a target"),
        pytest.param({"target": ""}, "6", id="those of the daemon itself"),
        pytest.param({"kinds": [Kind.ACTED]}, "25", id="those of a kind"),
        pytest.param({"kinds": [Kind.ACTED, Kind.STARTED]}, "256", id="those of two kinds"),
        pytest.param({"since": NOON + 3 * SECOND}, "3456", id="since a moment, which counts"),
        pytest.param({"until": NOON + 3 * SECOND}, "123", id="until a moment, which counts"),
        pytest.param({"limit": 2}, "56", id="the newest when there are too many"),
        pytest.param({"limit": 0}, "", id="none when none are wanted"),
        pytest.param({"target": "web", "until": NOON + 4 * SECOND, "limit": 2}, "24", id="all"),
        pytest.param({"target": "' OR 1 --"}, "", id="a name is never part of the question"),
    ],
)
async def test_entries_are_found_oldest_first(
    store: Store, which: Mapping[str, object], found: str
) -> None:
    entries = [
        said(1),
        said(2, kind=Kind.ACTED),
        said(3, "api"),
        said(4),
        said(5, kind=Kind.ACTED),
        said(6, "", kind=Kind.STARTED),
    ]
    await store.save({}, entries[3:])
    await store.save({}, entries[:3])  # the moment counts, not the order of writing
    assert "".join(await summaries(store, **which)) == found


async def test_entries_of_one_moment_keep_their_order(store: Store) -> None:
    entries = [replace(said(1), summary=str(number)) for number in range(5)]
    await store.save({}, entries)
    assert await summaries(store, limit=3) == ["2", "3", "4"]


async def test_forgetting_drops_only_what_is_older(store: Store) -> None:
    await store.save({"web": History(at=NOON)}, [said(number) for number in range(2_500)])
    assert await store.forget(before=NOON + 2_400 * SECOND) == 2_400
    assert await summaries(store, limit=5_000) == [str(number) for number in range(2_400, 2_500)]
    assert await store.load() == {"web": History(at=NOON)}


async def test_moments_from_the_future_come_back_as_they_are(store: Store) -> None:
    later = NOON.replace(year=9998)
    history = History(at=later, points={"cpu": (Point(later, 1.0, 2.0),)})
    entry = replace(said(1), at=later)
    await store.save({"web": history}, [entry])
    assert await store.load() == {"web": history}
    assert list(await store.read()) == [entry]


async def test_what_sources_answer_can_be_read_again(store: Store) -> None:
    samples = tuple(Sample(at=NOON, value=value) for value in (math.inf, -math.inf, 1e308))
    facts = Facts(
        policy={"name": "web"},
        fleet=Fleet(target="web", at=NOON, wanted=1),
        readings={"cpu": Reading(metric="cpu", samples=samples)},
        history=History(points={"cpu": (Point(NOON, math.inf, math.inf),)}),
    )
    entry = replace(said(1), facts=facts)
    await store.save({"web": facts.history}, [entry])
    assert list(await store.read()) == [entry]
    assert await store.load() == {"web": facts.history}


async def test_text_that_is_not_unicode_holds_nothing_back(store: Store) -> None:
    half = "half a pair: \ud800"
    history = History(at=NOON, restarts={InstanceId(half): Restarts(attempts=1)})
    await store.save({"web": history}, [replace(said(1), summary=half), said(2, target=half)])
    await store.save({"web": history}, [said(3)])
    assert await store.load() == {"web": history}
    assert len(await store.read()) == 3


# Histories as they come one after the other: windows slide, and now and then anything happens.

moments = st.integers(0, 2_000).map(lambda ms: NOON + timedelta(milliseconds=ms))
numbers = st.floats(allow_nan=False)
names = st.sampled_from(["cpu", "memory", 'queue "ü"'])
points = st.builds(Point, moments, numbers, numbers)
asks = st.builds(Asked, moments, st.integers(0, 9))
whole = st.fixed_dictionaries(
    {},
    optional={
        "changes": st.lists(st.builds(Change, moments, st.just(1), st.just(2))).map(tuple),
        "bursts": st.dictionaries(names, st.builds(Burst, over_at=moments, peak=st.just(3))),
        "restarts": st.dictionaries(names, st.builds(Restarts, at=st.none() | moments)),
        "startups": st.lists(st.floats(0, 60)).map(tuple),
        "missing_since": st.none() | moments,
        "brake_at": st.none() | moments,
        "pause": st.none() | st.builds(Pause, until=st.none() | moments, reason=st.text()),
        "hold": st.none() | st.builds(Hold, count=st.just(4), by=st.text()),
        "at": st.none() | moments,
        "points": st.dictionaries(names, st.lists(points, max_size=6).map(tuple), max_size=3),
        "asked": st.lists(asks, max_size=6).map(tuple),
    },
)


@st.composite
def successors(draw: st.DrawFn, history: History) -> History:
    """What may come after `history`."""
    change: dict[str, Any] = dict(draw(whole))
    if draw(st.booleans()):
        cut, pop = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        added = tuple(draw(st.lists(points, max_size=2)))
        change["points"] = {
            name: seen[cut : max(cut, len(seen) - pop)] + added
            for name, seen in history.points.items()
        }
    if draw(st.booleans()):
        front = tuple(draw(st.lists(asks, max_size=2)))
        added_asks = tuple(draw(st.lists(asks, max_size=2)))
        change["asked"] = front + history.asked[draw(st.integers(0, 3)) :] + added_asks
    return replace(history, **change)


@settings(max_examples=60, deadline=None)
@given(st.data())
async def test_what_is_loaded_is_exactly_what_was_last_saved(data: st.DataObject) -> None:
    """Also by a process that begins in the middle, and by another one that writes as well."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.db"
        open_stores = [SqliteStore(path)]
        expected: dict[str, History] = {}
        try:
            for _ in range(data.draw(st.integers(1, 12))):
                for target in data.draw(st.sets(st.sampled_from(["a", "b", "c"]))):
                    before = expected.get(target, History())
                    expected[target] = data.draw(successors(before))
                writer = open_stores[data.draw(st.integers(0, len(open_stores) - 1))]
                await writer.save(dict(expected), [])
                if data.draw(st.integers(0, 3)) == 0:
                    open_stores.append(SqliteStore(path))  # the others are never closed: kill -9
                    assert await open_stores[-1].load() == expected
            for store in open_stores:
                assert await store.load() == expected
        finally:
            for store in open_stores:
                await store.aclose()


async def test_a_long_run_stays_small_and_exact(tmp_path: Path) -> None:
    """Snapshots follow deltas: neither the file nor what is read at a start grows with time."""
    path, store = tmp_path / "s.db", SqliteStore(tmp_path / "s.db")
    history = {
        name: History(points={"cpu": tuple(Point(NOON + n * SECOND, n, n) for n in range(200))})
        for name in "abcde"
    }
    sizes = []
    for tick in range(200, 1_400):
        at = NOON + tick * SECOND
        for name, old in history.items():
            slid = (*old.points["cpu"][1:], Point(at, tick / 7, tick / 3))
            history[name] = replace(old, at=at, points={"cpu": slid})
        await store.save(history, [])
        sizes.append(path.stat().st_size)
    await store.aclose()
    assert sizes[-1] <= 1.5 * sizes[len(sizes) // 2]
    again = SqliteStore(path)
    assert await again.load() == history
    await again.aclose()
    assert path.stat().st_size < 1_000_000


async def test_a_history_that_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    history = {"web": History(at=NOON, asked=(Asked(NOON, 3),))}
    await store.save(history, [])
    written = (tmp_path / "s.db-wal").stat().st_size
    await store.save({"web": replace(history["web"], asked=(Asked(NOON, 3),))}, [])
    assert (tmp_path / "s.db-wal").stat().st_size == written
    await store.aclose()


async def test_the_journal_is_bounded_and_its_oldest_entries_go(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", most_bytes=2_000_000)
    for start in range(0, 8_000, 100):
        entries = [replace(said(n), data={"x": "y" * 1_000}) for n in range(start, start + 100)]
        await store.save({"web": History(at=NOON)}, entries)
    kept = await summaries(store, limit=10_000)
    assert 500 < len(kept) < 2_500
    assert kept == [str(number) for number in range(8_000 - len(kept), 8_000)]
    size = (tmp_path / "s.db").stat().st_size
    assert size < 3_000_000
    await store.forget(before=NOON + 8_000 * SECOND)
    assert (await store.load(), await summaries(store)) == ({"web": History(at=NOON)}, [])
    await store.aclose()
    assert (tmp_path / "s.db").stat().st_size < size / 10
