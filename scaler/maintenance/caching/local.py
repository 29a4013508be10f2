"""The values that a process keeps itself, each until its deadline, in a bounded number of bytes.

It only ever holds what the shared cache had while changes to it were heard of; whoever fills it
sees to that. Moments are seconds of the event loop's clock. Other threads may read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

DECODED: Final = 5  # a decoded value takes about so many times its bytes; see the test
OVERHEAD: Final = 600  # bytes of an entry and its places in the tables


@dataclass(slots=True, eq=False)
class Held:
    """One value, or one failure of the backend."""

    value: Any
    error: Exception | None
    since: float
    fresh_until: float
    until: float  # until here it may be served stale
    refresh_at: float
    took_s: float  # the backend needed
    seal: bytes
    tags: tuple[str, ...]
    size: int
    hits: int = 0  # since it was filled
    told: int = 0  # of the hits, to the other processes
    again: bool = False  # hit since the hand of the clock came by

    def taken(self) -> Any:
        """The value for one more caller, or the failure raised."""
        self.hits += 1
        if self.error is not None:
            raise self.error
        return self.value


class Local:
    """Second chance: what was hit since the last round stays, of the rest the oldest goes."""

    def __init__(self, most_bytes: int) -> None:
        self.held: dict[str, Held] = {}
        self.bytes = 0
        self.evicted = 0
        self._most = most_bytes
        self._tagged: dict[str, set[str]] = {}

    def put(self, key: str, held: Held) -> None:
        """Keep it, unless it alone is more than an eighth of the room."""
        self.drop(key)
        held.size = held.size * DECODED + OVERHEAD
        if held.size > self._most // 8:
            return
        self.held[key] = held
        self.bytes += held.size
        for tag in held.tags:
            self._tagged.setdefault(tag, set()).add(key)
        while self.bytes > self._most:
            self._evict()

    def drop(self, key: str) -> None:
        held = self.held.pop(key, None)
        if held is None:
            return
        self.bytes -= held.size
        for tag in held.tags:
            keys = self._tagged[tag]
            keys.discard(key)
            if not keys:
                del self._tagged[tag]

    def drop_tag(self, tag: str) -> None:
        for key in list(self._tagged.get(tag, ())):
            self.drop(key)

    def clear(self) -> None:
        self.held.clear()
        self._tagged.clear()
        self.bytes = 0

    def forget(self, now: float) -> None:
        """Drop what is past its time."""
        for key in [key for key, held in self.held.items() if held.until <= now]:
            self.drop(key)

    def hottest(self, count: int) -> Iterable[tuple[str, Held]]:
        """Those with the most hits that have not been told of."""
        hit = [pair for pair in self.held.items() if pair[1].hits > pair[1].told]
        hit.sort(key=lambda pair: pair[1].hits - pair[1].told, reverse=True)
        return hit[:count]

    def _evict(self) -> None:
        key = next(iter(self.held))
        held = self.held[key]
        if held.again:
            held.again = False
            del self.held[key]
            self.held[key] = held  # to the end: it is the youngest now
            return
        self.drop(key)
        self.evicted += 1
