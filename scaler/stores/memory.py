"""Keeps everything for as long as the process lives; for tests and simulation."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from scaler.core.journal import Entry, Kind
from scaler.core.model import History

MOST_ENTRIES: Final = 1_000_000  # the oldest go


class MemoryStore:
    """A store without a disk."""

    def __init__(self) -> None:
        self.histories: dict[str, History] = {}
        self.entries: list[Entry] = []

    async def load(self) -> dict[str, History]:
        return dict(self.histories)

    async def save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        self.histories.update(histories)
        self.entries.extend(entries)
        del self.entries[:-MOST_ENTRIES]

    async def read(
        self,
        *,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[Kind] = (),
        limit: int = 100,
    ) -> Sequence[Entry]:
        found = [
            entry
            for entry in self.entries
            if (target is None or entry.target == target)
            and (since is None or entry.at >= since)
            and (until is None or entry.at <= until)
            and (not kinds or entry.kind in kinds)
        ]
        found.sort(key=lambda entry: entry.at)
        return found[max(0, len(found) - limit) :]

    async def forget(self, *, before: datetime) -> int:
        kept = [entry for entry in self.entries if entry.at >= before]
        gone = len(self.entries) - len(kept)
        self.entries = kept
        return gone

    async def aclose(self) -> None:
        """Nothing is held."""
