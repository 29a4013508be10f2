"""Recorder: histories and entries to the store, many in one transaction, whatever the store does.

What is recorded while a write is under way goes out with the next one, so a tick of a thousand
targets costs a handful of commits. When the disk is full or read-only that is said loudly, the
newest history of every target and a bounded number of entries are kept in memory, and writing is
tried again: scaling goes on.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from scaler.clock import Clock
from scaler.core.journal import Entry, Kind
from scaler.core.model import History
from scaler.core.units import format_span
from scaler.engine.jobs import guarded
from scaler.errors import ScalerError
from scaler.interfaces import Store

MOST_WAITING: Final = 5_000  # entries in memory while the store does not take them; some are 20 kB
FIRST_RETRY: Final = timedelta(seconds=1)
LAST_RETRY: Final = timedelta(seconds=30)


class Recorder:
    """What is to be kept goes through here."""

    def __init__(
        self, *, store: Store, clock: Clock, tell: Callable[[Entry], None] = lambda _: None
    ) -> None:
        """`tell` hears when the store stops taking what is written, and when it does again."""
        self.store = store
        self.degraded = ""  # why nothing can be written now
        self.bugs = 0
        self._clock = clock
        self._tell = tell
        self._histories: dict[str, History] = {}
        self._entries: deque[Entry] = deque()
        self._dropped = 0
        self._writer: asyncio.Task[None] | None = None
        self._attempted = asyncio.Event()  # set after each attempt, good or bad
        self._recorded = self._written = 0

    def record(self, target: str, history: History, *entries: Entry) -> None:
        """Keep the newest history of a target, and its entries. Returns at once."""
        self._histories[target] = history
        self.note(*entries)

    def note(self, *entries: Entry) -> None:
        """Keep entries that are about no target."""
        self._entries.extend(entries)
        self._drop_oldest()
        self._recorded += 1
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="recorder")

    async def flush(self, deadline: timedelta) -> None:
        """Wait until everything recorded so far is durable.

        Returns without that when the store does not take it: an action is not held back by a full
        disk. `degraded` then says why.
        """
        wanted = self._recorded
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                while self._written < wanted and not self.degraded:
                    self._attempted.clear()
                    await self._attempted.wait()
        except TimeoutError:
            self._trouble(f"the store has not answered for {format_span(deadline)}")

    async def aclose(self, deadline: timedelta) -> None:
        """A last attempt to write everything, then close the store; a store that hangs is left."""
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                if self.degraded and self._recorded > self._written:
                    await self._end_writer()  # it may sleep until a retry that comes too late
                    await self._save()
                await self.flush(deadline)
                await self._end_writer()
                await self.store.aclose()
        except TimeoutError:
            self._trouble(f"the store could not be closed within {format_span(deadline)}")
            await self._end_writer()

    async def _end_writer(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        retry = FIRST_RETRY
        try:
            await self._clock.sleep(timedelta())  # what else is recorded in this moment joins
            while self._written < self._recorded:
                if await self._save():
                    retry = FIRST_RETRY
                else:
                    await self._clock.sleep(retry)
                    retry = min(2 * retry, LAST_RETRY)
        finally:
            self._writer = None

    async def _save(self) -> bool:
        mark = self._recorded
        histories, self._histories = self._histories, {}
        entries, self._entries = self._entries, deque()
        saved = False
        try:
            saved = bool(await guarded(self._saved(histories, entries), self._broken))
        finally:
            if not saved:
                self._histories = {**histories, **self._histories}
                self._entries = entries + self._entries
                self._drop_oldest()
            self._attempted.set()
        if saved:
            self._written = mark
            self._recovered()
        return saved

    async def _saved(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> bool:
        try:
            await self.store.save(histories, entries)
        except ScalerError as error:
            self._trouble(str(error))
            return False
        return True

    def _broken(self, error: Exception) -> None:
        self.bugs += 1
        self._trouble(f"a defect of scaler in the store: {type(error).__name__}: {error}")

    def _drop_oldest(self) -> None:
        while len(self._entries) > MOST_WAITING:
            self._entries.popleft()
            self._dropped += 1

    def _trouble(self, why: str) -> None:
        if not self.degraded:
            self._say(f"{why}; scaling goes on, and what happens is kept in memory", ok=False)
        self.degraded = why

    def _recovered(self) -> None:
        if self.degraded:
            self.degraded = ""
            lost = f"; {self._dropped} entries of the journal were lost" if self._dropped else ""
            self._dropped = 0
            self._say(f"the store can be written again{lost}", ok=not lost)

    def _say(self, summary: str, *, ok: bool) -> None:
        entry = Entry(at=self._clock.now(), kind=Kind.NOTICED, summary=summary, ok=ok)
        self._tell(entry)
        self.note(entry)
