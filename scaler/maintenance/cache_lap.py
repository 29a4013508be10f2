"""What a walk over the keys adds up to, and how fast it may go: no clock, no server."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from scaler.clients.redis_scan import Chunk, shown
from scaler.core.units import Per
from scaler.maintenance.cache_facts import BigKey, Group

MOST_GROUPS: Final = 5_000  # more are added up as "(others)" of their prefix
MOST_BIG: Final = 100  # the largest ones
MOST_EXAMPLES: Final = 3  # of each kind and prefix
FEWEST: Final = 10  # keys in a call
MOST_COUNT: Final = 100  # a thousand are no faster, and others wait seven times as long
GROW_BY: Final = 10


class Lap:
    """Sums over the chunks of one walk; it can be left and gone on with."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.seen = self.outside = 0
        self.whole = False  # it has come back to where SCAN begins, having begun there
        self.ended = False
        self.idle_known = True
        self._from_start = cursor == 0
        self._groups: dict[str, Group] = {}
        self._big: dict[str, BigKey] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}

    def add(self, chunk: Chunk, prefixes: Iterable[str]) -> None:
        self.cursor = chunk.cursor
        self.seen += chunk.seen
        self.outside += chunk.outside
        self.idle_known = self.idle_known and chunk.idle_known
        self.ended = chunk.cursor == 0
        self.whole = self.ended and self._from_start
        for part in chunk.groups:
            self._add_group(
                Group(
                    prefix=part.prefix,
                    name=part.name,
                    version=part.version,
                    keys=part.keys,
                    bytes=part.bytes,
                    no_ttl=part.no_ttl,
                    idle=part.idle,
                )
            )
        for big, type_, size in chunk.big:
            self._big[big] = BigKey(name=big, type=type_, bytes=size)
        if len(self._big) > 2 * MOST_BIG:
            self._big = {key.name: key for key in self.big}
        for kind, names in (("no_ttl", chunk.no_ttl), ("idle", chunk.idle)):
            for name in names:
                self._add_example(kind, name, prefixes)

    def _add_group(self, group: Group) -> None:
        if group.name not in self._groups and len(self._groups) >= MOST_GROUPS:
            others = f"{group.prefix}(others)"
            group = Group(prefix=group.prefix, name=others) + group
        known = self._groups.get(group.name)
        self._groups[group.name] = group if known is None else known + group

    def _add_example(self, kind: str, name: bytes, prefixes: Iterable[str]) -> None:
        for prefix in prefixes:
            if name.startswith(prefix.encode()):
                kept = self._examples.setdefault((kind, prefix), [])
                if len(kept) < MOST_EXAMPLES:
                    kept.append(shown(name))

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._groups.values())

    @property
    def big(self) -> tuple[BigKey, ...]:
        """The largest keys, the largest first."""
        largest = sorted(self._big.values(), key=lambda key: (-key.bytes, key.name))
        return tuple(largest[:MOST_BIG])

    @property
    def examples(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """Names of keys by what they are an example of (`no_ttl`, `idle`) and their prefix."""
        return {key: tuple(names) for key, names in self._examples.items()}


class Pace:
    """How many keys the next call looks at, and how long to wait before it.

    A server that does not say how long it has worked is taken to have worked for what a call takes
    beyond an empty one: it may have been less, so both limits are kept.
    """

    def __init__(self, step: timedelta, share: float, empty: timedelta) -> None:
        """`step` is the longest a call may keep others waiting, `share` that of a core."""
        self.count = MOST_COUNT // 2
        self.busy = timedelta()
        self._step = step
        self._share = share
        self._empty = empty

    def took(self, span: timedelta, worked: timedelta | None) -> timedelta:
        """Take in how long a call took and the server worked; the wait before the next one."""
        busy = max(span - self._empty, timedelta()) if worked is None else worked
        self.busy += busy
        if busy > self._step:
            self.count = max(FEWEST, self.count // 2)
        elif busy < self._step / 2:
            self.count = min(MOST_COUNT, self.count + GROW_BY)
        return busy * (1 / self._share - 1)


class Bucket:
    """Tokens for changes: at most so many per span, in batches of a tenth of a second or less."""

    def __init__(self, per: Per, most: int) -> None:
        """`most` is the largest batch."""
        self._gap = per.span / per.count  # between two keys
        self.batch = max(1, min(most, int(timedelta(seconds=0.1) / self._gap)))
        self._next: timedelta | None = None

    def take(self, now: timedelta, keys: int) -> timedelta:
        """How long to wait before `keys` may be changed; they count as changed then.

        Time that was lost to a slow answer is made up for by one batch at most.
        """
        due = now if self._next is None else max(self._next, now - self._gap * self.batch)
        self._next = due + self._gap * keys
        return max(due - now, timedelta())
