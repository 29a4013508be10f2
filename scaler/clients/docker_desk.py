"""The book of one policy on an engine, and what all who write in it need.

What cannot be written down is not done, with one exception: a full or read-only disk must not keep
services too small, so then the book is kept in memory. Containers carry labels, so what a crash
loses meanwhile is the newest count, and that is asked for again.
"""

import asyncio
import errno
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog

from scaler.clients import docker_book, durable
from scaler.clients.clone import Template
from scaler.clients.docker_book import Book, Phase, Slot
from scaler.clients.docker_hands import Hands
from scaler.clients.docker_seen import Seen
from scaler.clients.docker_view import View
from scaler.clients.ports import Ports
from scaler.clock import Clock
from scaler.errors import Forbidden, ScalerError, Unavailable, translate

log = structlog.get_logger(__name__)

ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {
    PermissionError: Forbidden,
    OSError: Unavailable,
}
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
NEWS_FOR: Final = timedelta(minutes=1)  # so long a look repeats it; the engine tells it once
NEWS_MOST: Final = 20
PORT_AGAIN: Final = timedelta(minutes=1)  # after somebody else was found to have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Which containers a policy means, and what it allows."""

    policy: str
    what: str  # in words: `compose service "web"`
    short: str  # in one word: `web`
    compose: bool
    chosen: Callable[[str, Mapping[str, str]], bool]  # by name and labels
    check: Callable[[Sequence[Seen]], None]  # raises when they cannot all be meant
    ports: Ports | None = None
    port: int | None = None  # of the container
    grace: timedelta | None = None  # None: its own
    shared_volumes: bool = False
    other_addresses: bool = False  # copies may have others than a fixed one
    remove_any: bool = False
    spares: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """What all policies on one engine share."""

    view: View
    hands: Hands
    clock: Clock
    folder: Path
    notify: Callable[[str], None]  # something has happened to the containers of this policy
    desks: dict[str, "Desk"] = field(default_factory=dict)
    refused: dict[int, timedelta] = field(default_factory=dict)  # ports that others have; until

    def taken(self) -> set[int]:
        """Host ports that are not to be chosen; the ranges of policies may overlap."""
        now = self.clock.monotonic()
        for port in [port for port, until in self.refused.items() if until <= now]:
            del self.refused[port]
        slots = (slot for desk in self.desks.values() for slot in desk.book.slots.values())
        found = {port for slot in slots for port in slot.ports.values()}
        return found.union(self.refused, *(desk.published for desk in self.desks.values()))


class Desk:
    """The book of one policy."""

    def __init__(self, orders: Orders, yard: Yard) -> None:
        self.orders, self.yard = orders, yard
        self.book = Book()
        self.template: Template | None = None
        self.refusal = ""  # why there can be no copies
        self.published: frozenset[int] = frozenset()  # host ports of what is there
        self.lock = asyncio.Lock()  # one writer of the book at a time
        self.path = yard.folder / f"{quote(orders.policy, safe='')}.json"
        self.spares_after = timedelta()  # monotonic; none is made before
        self._opened = False
        self._complained = False
        self._news: dict[str, timedelta] = {}  # until when, monotonic; the oldest first

    async def open(self) -> None:
        """Read the book once.

        Raises:
            ScalerError: it is there and cannot be read.
        """
        if not self._opened:
            with translate(ERRORS, doing=f"cannot read {self.path}"):
                self.book, self.template = await asyncio.to_thread(self._read)
            self._opened = True

    def _read(self) -> tuple[Book, Template | None]:
        try:
            book = docker_book.read(self.path)
            kept = book.template
            return book, None if kept is None else Template.from_dict(kept)
        except (durable.Broken, ValueError) as error:
            aside = durable.set_aside(self.path)
            log.warning("state.set_aside", path=str(aside), error=str(error))
            return Book(), None

    async def write(
        self,
        changes: Mapping[str, Slot | None],
        *,
        wanted: int | None = None,
        held: Sequence[str] | None = None,
    ) -> None:
        """To the file first, then to memory. The caller holds the lock.

        Raises:
            ScalerError: it was not written, so nothing has changed.
        """
        merged = {**self.book.slots, **changes}
        book = replace(
            self.book, slots={name: slot for name, slot in merged.items() if slot is not None}
        )
        if wanted is not None:
            book = replace(book, wanted=wanted)
        if held is not None:
            book = replace(book, held=held)
        await self._keep(book)

    async def forget_wanted(self) -> None:
        """What is there when it is seen again is what is wanted. The caller holds the lock."""
        await self._keep(replace(self.book, wanted=None))

    async def adopt(self, template: Template, origin: str) -> None:
        """From now on copies are made by this template. The caller holds the lock."""
        if self.template != template:
            await self._keep(replace(self.book, template=template.to_dict(), origin=origin))
        self.template = template

    async def _keep(self, book: Book) -> None:
        with translate(ERRORS, doing=f"cannot write {self.path}, so nothing was changed"):
            try:
                await asyncio.to_thread(docker_book.write, self.path, book)
                self._complained = False
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not self._complained:
                    log.warning("state.kept_in_memory", path=str(self.path), error=error.strerror)
                self._complained = True
        self.book = book

    # --- slots ---

    def slot(self, seen: Seen, phase: Phase) -> Slot:
        """What is to become of a container."""
        return Slot(
            name=seen.name,
            number=seen.number,
            phase=phase,
            since=self.yard.clock.now(),
            instance=seen.incarnation,
            container=seen.id,
        )

    def fresh(
        self, name: str, number: int, ports: Mapping[str, int], phase: Phase = Phase.STARTING
    ) -> Slot:
        """One to be made."""
        return Slot(
            name=name,
            number=number,
            phase=phase,
            since=self.yard.clock.now(),
            instance=uuid.uuid4().hex,
            ports=ports,
        )

    def failed(self, slot: Slot, because: str) -> Slot:
        """Nothing of it is left, and why."""
        now = self.yard.clock.now()
        return replace(slot, phase=Phase.FAILED, container="", because=because, failed_at=now)

    # --- news ---

    def say(self, words: str) -> None:
        """Something that a person should hear of."""
        self._news.pop(words, None)
        self._news[words] = self.yard.clock.monotonic() + NEWS_FOR
        if len(self._news) > NEWS_MOST:
            del self._news[next(iter(self._news))]

    def news(self) -> tuple[str, ...]:
        """What was said lately."""
        now = self.yard.clock.monotonic()
        self._news = {words: until for words, until in self._news.items() if until > now}
        return tuple(self._news)
