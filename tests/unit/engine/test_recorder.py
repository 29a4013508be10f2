"""What is recorded reaches the store in few writes, or waits in memory while scaling goes on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

import pytest

from scaler.clock import ManualClock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Asked, History
from scaler.engine import recorder as module
from scaler.engine.recorder import FIRST_RETRY, LAST_RETRY, Recorder
from scaler.errors import Unavailable
from scaler.stores.memory import MemoryStore

SOON = timedelta(seconds=5)
AT_ONCE = timedelta(seconds=0.01)


class SlowStore(MemoryStore):
    """A store that waits for a word before each answer, or refuses, or has a defect."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.free = asyncio.Event()
        self.free.set()
        self.saves: list[tuple[int, int]] = []  # histories and entries of each try
        self.at_once = self.most_at_once = 0
        self.closed = False

    async def save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        self.saves.append((len(histories), len(entries)))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.free.wait()
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        await super().save(histories, entries)

    async def aclose(self) -> None:
        self.closed = True


class Desk:
    """A recorder with all that belongs to it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = SlowStore()
        self.heard: list[Entry] = []
        self.recorder = Recorder(store=self.store, clock=self.clock, tell=self.heard.append)

    def entry(self, text: str) -> Entry:
        return Entry(at=self.clock.now(), kind=Kind.DECIDED, target="web", summary=text)

    def history(self, count: int) -> History:
        return History(asked=(Asked(self.clock.now(), count),))

    @property
    def written(self) -> list[str]:
        return [entry.summary for entry in self.store.entries]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    made.store.free.set()
    await made.recorder.aclose(SOON)


async def calm() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_tick_of_many_targets_is_one_write(desk: Desk) -> None:
    for number in range(1_000):
        desk.recorder.record(f"t{number}", desk.history(number), desk.entry(str(number)))
    await desk.recorder.flush(SOON)
    assert desk.store.saves == [(1_000, 1_000)]
    assert desk.written == [str(number) for number in range(1_000)]


async def test_flush_returns_when_what_was_recorded_is_durable_and_not_before(desk: Desk) -> None:
    desk.store.free.clear()
    desk.recorder.record("web", desk.history(1), desk.entry("first"))
    await calm()
    desk.recorder.record("web", desk.history(2), desk.entry("second"))
    flushing = asyncio.create_task(desk.recorder.flush(SOON))
    await calm()
    assert not flushing.done()
    desk.store.free.set()
    await flushing
    assert desk.store.histories == {"web": desk.history(2)}
    assert desk.written == ["first", "second"]


async def test_one_write_at_a_time_and_the_newest_history_wins(desk: Desk) -> None:
    desk.store.free.clear()
    for number in range(10):
        desk.recorder.record("web", desk.history(number))
        await calm()
    assert desk.store.saves == [(1, 0)]
    desk.store.free.set()
    await desk.recorder.flush(SOON)
    assert (desk.store.saves, desk.store.most_at_once) == ([(1, 0), (1, 0)], 1)
    assert desk.store.histories == {"web": desk.history(9)}


async def test_flush_of_nothing_writes_nothing(desk: Desk) -> None:
    await desk.recorder.flush(SOON)
    assert desk.store.saves == []


async def test_a_full_disk_is_said_once_and_holds_no_action_back(desk: Desk) -> None:
    desk.store.error = Unavailable("disk full")
    for number in range(5):
        desk.recorder.record("web", desk.history(number), desk.entry(str(number)))
        await desk.recorder.flush(SOON)
        await desk.clock.advance(timedelta(seconds=10))
    assert desk.recorder.degraded == "disk full"
    assert [(e.kind, e.ok) for e in desk.heard] == [(Kind.NOTICED, False)]
    assert desk.heard[0].summary.startswith("disk full; scaling goes on")


async def test_nothing_is_lost_when_the_store_comes_back(desk: Desk) -> None:
    desk.store.error = Unavailable("disk full")
    desk.recorder.record("web", desk.history(1), desk.entry("a"))
    desk.recorder.record("api", desk.history(1), desk.entry("b"))
    await desk.recorder.flush(SOON)
    desk.recorder.record("web", desk.history(2), desk.entry("c"))
    desk.store.error = None
    await desk.clock.advance(FIRST_RETRY)
    await desk.recorder.flush(SOON)
    assert desk.recorder.degraded == ""
    counts = {name: kept.asked[0].count for name, kept in desk.store.histories.items()}
    assert counts == {"web": 2, "api": 1}
    told = [entry.summary for entry in desk.heard]
    assert desk.written == ["a", "b", told[0], "c", "the store can be written again"]
    assert told[1:] == ["the store can be written again"]
    assert desk.heard[1].ok


async def test_tries_become_rarer_and_start_over_after_a_success(desk: Desk) -> None:
    desk.store.error = Unavailable("disk full")
    desk.recorder.record("web", desk.history(1))
    gaps = []
    for _ in range(8):
        before, tries = desk.clock.monotonic(), len(desk.store.saves)
        while len(desk.store.saves) == tries:
            await desk.clock.advance(FIRST_RETRY)
        gaps.append((desk.clock.monotonic() - before) / FIRST_RETRY)
    assert gaps[1:] == [1, 2, 4, 8, 16, LAST_RETRY / FIRST_RETRY, LAST_RETRY / FIRST_RETRY]
    desk.store.error = None
    await desk.clock.advance(LAST_RETRY)
    assert desk.recorder.degraded == ""
    desk.store.error = Unavailable("disk full")
    desk.recorder.record("web", desk.history(2))
    await calm()
    tries = len(desk.store.saves)
    await desk.clock.advance(FIRST_RETRY)
    assert len(desk.store.saves) == tries + 1


async def test_the_oldest_entries_go_when_too_many_wait_and_their_number_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 100)
    desk.store.error = Unavailable("disk full")
    for number in range(250):
        desk.recorder.record("web", desk.history(number), desk.entry(str(number)))
        if number % 50 == 0:
            await desk.clock.advance(LAST_RETRY)
    desk.store.error = None
    await desk.clock.advance(LAST_RETRY)
    await desk.recorder.flush(SOON)
    lost = 250 + 1 - 100  # with the word that the disk is full
    assert desk.written[:-1] == [str(number) for number in range(150, 250)]
    assert desk.written[-1] == (
        f"the store can be written again; {lost} entries of the journal were lost"
    )
    assert not desk.heard[-1].ok
    assert desk.store.histories["web"].asked[0].count == 249


async def test_a_store_that_does_not_answer_is_trouble_until_it_does(desk: Desk) -> None:
    desk.store.free.clear()
    desk.recorder.record("web", desk.history(1), desk.entry("a"))
    await desk.recorder.flush(AT_ONCE)
    assert "has not answered" in desk.recorder.degraded
    await asyncio.wait_for(desk.recorder.flush(timedelta(hours=1)), 5)  # does not wait again
    desk.store.free.set()
    await calm()
    assert desk.recorder.degraded == ""
    assert desk.written[0] == "a"


async def test_a_defect_in_the_store_is_counted_and_does_not_end_the_writing(desk: Desk) -> None:
    desk.store.error = ZeroDivisionError("of ours")
    desk.recorder.record("web", desk.history(1), desk.entry("a"))
    await desk.recorder.flush(SOON)
    assert desk.recorder.bugs == 1
    assert "a defect of scaler in the store: ZeroDivisionError: of ours" in desk.recorder.degraded
    desk.store.error = None
    await desk.clock.advance(FIRST_RETRY)
    await desk.recorder.flush(SOON)
    assert desk.written[0] == "a"


async def set_free(desk: Desk) -> None:
    desk.store.free.set()


async def mend(desk: Desk) -> None:
    desk.store.error = None


@pytest.mark.parametrize(
    ("before", "written"),
    [
        pytest.param(set_free, True, id="what waits is written"),
        pytest.param(mend, True, id="a disk that has room again is tried at once"),
        pytest.param(None, False, id="a full disk does not keep us"),
    ],
)
async def test_closing_tries_once_more(
    before: Callable[[Desk], Awaitable[None]] | None, written: bool
) -> None:
    desk = Desk()
    if before is not set_free:
        desk.store.error = Unavailable("disk full")
    desk.recorder.record("web", desk.history(1), desk.entry("a"))
    if before is not set_free:
        await desk.recorder.flush(SOON)
    if before is not None:
        await before(desk)
    await asyncio.wait_for(desk.recorder.aclose(SOON), 4)
    assert ("a" in desk.written) == written
    assert desk.store.closed


async def test_closing_does_not_wait_for_a_store_that_hangs() -> None:
    desk = Desk()
    desk.store.free.clear()
    desk.recorder.record("web", desk.history(1))
    await asyncio.wait_for(desk.recorder.aclose(AT_ONCE), 5)
    assert desk.recorder.degraded != ""
    assert len(asyncio.all_tasks()) == 1
