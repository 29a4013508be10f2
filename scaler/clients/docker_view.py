"""The containers of one engine as they are now, for little: events say who has to be looked at.

A list shows all containers at once; an inspection shows one of them. While the stream of events is
alive nothing is asked of the engine but inspections of those to which something happened. While it
is not, each look takes a list.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from scaler.clients import docker_seen
from scaler.clients.docker import Engine, answered
from scaler.clients.docker_events import RESYNC_EVERY, Event, Events, Resync
from scaler.clients.docker_seen import Host, Seen
from scaler.clients.docker_self import own_id
from scaler.clock import Clock
from scaler.errors import Forbidden, NotFound, ScalerError

if TYPE_CHECKING:
    from docker.api.client import APIClient

Chosen = Callable[[str, Mapping[str, str]], bool]  # by name and labels

GONE_MOST: Final = 512  # removed containers that are remembered; the oldest are forgotten
DECIDING: Final = timedelta(seconds=1.5)  # a signal by hand, an end: then `stop` follows, or not
SHUTDOWN: Final = timedelta(seconds=20)  # an engine that ends gives its containers 15
OUTAGES_MOST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """A container that is no more."""

    id: str
    name: str
    labels: Mapping[str, str]
    exit_code: int | None  # None: nobody saw its end
    by_hand: bool


@dataclass(slots=True)
class _Entry:
    """What is known of one container. Events change it; looks fill it in."""

    id: str
    name: str
    labels: Mapping[str, str]
    key: tuple[str, ...] = ()
    seen: Seen | None = None
    dirty: bool = True
    told: bool = False  # `die` has said all that one look needs
    oom: bool = False  # the kernel was out of memory for it, since its start
    killed: bool = False  # somebody has sent it a signal since its start
    stopped: bool = False  # `stop` was heard since its start, or found among past events
    stopped_at: datetime | None = None  # when it was heard
    died_at: timedelta | None = None  # `die` was heard since its start; monotonic
    exit_code: int | None = None
    asked: bool = False  # how it ended, of what the engine remembers
    remembered: bool = False  # it does, so it ended in the present life of the engine


@dataclass(slots=True)
class Links:
    """Who wants to hear that something happened to a container."""

    heard: list[Callable[[str, str, Mapping[str, str]], None]] = field(default_factory=list)

    def tell(self, action: str, name: str, labels: Mapping[str, str]) -> None:
        for listener in self.heard:
            listener(action, name, labels)


class View:
    """All containers of one engine."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.links = Links()
        self.gone: dict[str, Gone] = {}  # by id, the oldest first
        self._clock = clock
        self._events = Events(engine, clock)
        self._entries: dict[str, _Entry] = {}
        self._stale = True
        self._listed_alive = False  # the last list was made while the stream was alive
        self._was_alive = False  # the stream, once
        self._listing = asyncio.Lock()
        self._changed: set[asyncio.Event] = set()
        self._host: Host | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._resync_at = clock.monotonic()
        self._outages: deque[tuple[datetime, datetime]] = deque(maxlen=OUTAGES_MOST)

    # --- looking ---

    async def look(self, chosen: Chosen) -> list[Seen]:
        """Every container that is `chosen`, as it is now.

        Raises:
            ScalerError: the engine does not answer; nothing is known.
        """
        self._follow()
        alive = self._events.alive
        if not alive or self._stale or not self._listed_alive:
            async with self._listing:
                await self._list(alive=alive)
        mine = [entry for entry in self._entries.values() if chosen(entry.name, entry.labels)]
        if own := own_id():  # we do not scale ourselves
            mine = [entry for entry in mine if not entry.id.startswith(own)]
        asked = [entry for entry in mine if entry.dirty and not entry.told]
        for entry in mine:
            entry.told = False
        await asyncio.gather(*(self._inspect(entry) for entry in asked))
        there = [self._judged(e) for e in mine if e.id in self._entries and e.seen is not None]
        return [s for s in there if chosen(s.name, s.labels)]

    async def host(self) -> Host:
        """The machine of the engine; zeros when a proxy keeps it away, which matters little."""
        if self._host is None:
            try:
                info = await self.engine.call("asking for its machine", lambda api: api.info())
            except Forbidden:
                info = {}
            self._host = Host(
                cores=float(info.get("NCPU") or 0), memory=float(info.get("MemTotal") or 0)
            )
        return self._host

    def touch(self, container: str) -> None:
        """We did something to this container: the next look inspects it."""
        entry = self._entries.get(container)
        if entry is None:
            self._stale = True
        else:
            entry.dirty = True
        self._wake()

    def has_ended(self, container: str) -> bool:
        """Whether events say so; False when they say nothing."""
        entry = self._entries.get(container)
        return container in self.gone or (entry is not None and entry.died_at is not None)

    async def wait(self, span: timedelta) -> None:
        """Until something happens to any container, but no longer than `span`."""
        news = asyncio.Event()
        self._changed.add(news)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(span.total_seconds()):
                    await news.wait()
        finally:
            self._changed.discard(news)

    async def aclose(self) -> None:
        tasks = [*self._tasks, *([self._following] if self._following else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._events.aclose()
        self._following = None

    async def _list(self, *, alive: bool) -> None:
        if alive and self._listed_alive and not self._stale:
            return  # somebody else was faster
        self._stale = False
        try:
            listed = await self.engine.call(
                "listing containers", lambda api: api.containers(all=True)
            )
        except ScalerError:
            self._stale = True
            raise
        self._listed_alive = alive
        self._was_alive |= alive
        there = {one["Id"] for one in listed}
        for container in [c for c in self._entries if c not in there]:
            self._forget(container)
        now = self._clock.now()
        for one in listed:
            self._take(one, now)

    def _take(self, one: Mapping[str, Any], now: Any) -> None:
        name = _own_name(one.get("Names") or ())
        labels = one.get("Labels") or {}
        entry = self._entries.get(one["Id"])
        key = docker_seen.key(one)
        if entry is None:
            entry = self._entries[one["Id"]] = _Entry(one["Id"], name, labels)
        elif entry.key and (
            entry.key != key
            or (entry.seen and docker_seen.restarted(entry.seen, one.get("Status", ""), now))
        ):
            entry.dirty = True
        entry.name, entry.labels, entry.key = name or entry.name, labels, key

    async def _inspect(self, entry: _Entry) -> None:
        entry.dirty = False
        try:
            found = await self.engine.call(
                f"inspecting {entry.name}", lambda api: api.inspect_container(entry.id)
            )
        except NotFound:
            self._forget(entry.id)
            return
        except ScalerError as error:
            entry.dirty = True
            if answered(error) and entry.seen is not None:
                return  # one that the engine cannot describe does not hide the others
            raise
        seen = docker_seen.seen(found)
        before = entry.seen
        if before is None or before.incarnation != seen.incarnation:
            entry.asked = False
        if before is not None:
            turned = before.health != seen.health
            at = self._clock.now() if turned else before.health_changed_at
            seen = replace(seen, health_changed_at=at)
        entry.seen, entry.name, entry.labels = seen, seen.name, seen.labels
        if seen.status == "exited" and entry.died_at is None and not entry.asked:
            told = await self._told(seen)
            entry.stopped |= "stop" in told
            entry.remembered = "die" in told
            entry.asked = True

    async def _told(self, seen: Seen) -> set[str]:
        """What the engine remembers of an end that we did not witness: `die`, and `stop` by hand.

        It remembers 256 events, and none from before its own start.
        """
        if seen.finished_at is None:
            return set()
        at = seen.finished_at.timestamp()
        asked = {"container": [seen.id], "event": ["stop", "die"]}

        def ask(api: "APIClient") -> set[str]:
            # `until` in the past ends the answer.
            told = api.events(
                since=f"{at - 1:.6f}", until=f"{at + 0.5:.6f}", filters=asked, decode=True
            )
            return {str(event.get("Action")) for event in told}

        return await self.engine.call(f"asking how {seen.name} ended", ask)

    def _judged(self, entry: _Entry) -> Seen:
        seen = entry.seen
        assert seen is not None  # noqa: S101 - the caller has asked
        if seen.status != "exited":
            return seen
        fresh = entry.died_at is not None and self._clock.monotonic() - entry.died_at < DECIDING
        return replace(
            seen,
            by_hand=entry.stopped,
            ending=entry.killed and fresh and not entry.stopped,
            with_engine=self._in_outage(seen)
            and not (entry.stopped or entry.remembered or entry.died_at is not None),
        )

    def _forget(self, container: str) -> None:
        entry = self._entries.pop(container, None)
        if entry is None:
            return
        self.gone[container] = Gone(
            id=container,
            name=entry.name,
            labels=entry.labels,
            exit_code=entry.exit_code,
            by_hand=entry.stopped or entry.killed,
        )
        if len(self.gone) > GONE_MOST:
            del self.gone[next(iter(self.gone))]

    # --- events ---

    def _follow(self) -> None:
        if self._following is None:
            self._following = asyncio.create_task(self._listen(), name="docker view")

    async def _listen(self) -> None:
        async for event in self._events.follow():
            if isinstance(event, Resync):
                self._missed()
            else:
                self._heard(event)
            self._wake()

    def _missed(self) -> None:
        """List anew. One that comes before its time tells of a new connection."""
        now, before = self._clock.monotonic(), self._resync_at
        self._stale, self._resync_at = True, now
        if self._was_alive and now - before < RESYNC_EVERY - DECIDING:
            until = self._clock.now()
            since = until - SHUTDOWN - (now - before)
            self._outages.append((since, until))
            self._doubt(since)
            self.links.tell("resync", "", {})

    def _doubt(self, since: datetime) -> None:
        """An engine that ends stops its containers as a person would.

        Whether it did is asked again of its past events: it forgets them when it ends.
        """
        for entry in self._entries.values():
            if entry.stopped_at is not None and entry.stopped_at >= since:
                entry.stopped, entry.stopped_at, entry.died_at = False, None, None
                entry.asked, entry.dirty = False, True

    def _in_outage(self, seen: Seen) -> bool:
        at = seen.finished_at
        return at is not None and any(low <= at <= high for low, high in self._outages)

    def _heard(self, event: Event) -> None:
        entry = self._entries.get(event.id)
        if entry is None:
            if event.action == "destroy":
                return
            entry = self._entries[event.id] = _Entry(event.id, event.name, event.attributes)
        entry.dirty = True
        match event.action:
            case "start":
                entry.killed = entry.stopped = entry.asked = entry.remembered = False
                entry.died_at = entry.exit_code = entry.stopped_at = None
                entry.oom = entry.told = False
            case "oom":
                entry.oom = True
            case "kill":
                entry.killed = True
            case "stop":
                entry.stopped, entry.stopped_at = True, self._clock.now()
            case "die":
                self._take_end(entry, event)
            case "rename":
                entry.name = event.name
            case "destroy":
                self._forget(event.id)
        self.links.tell(event.action, entry.name, entry.labels)

    def _take_end(self, entry: _Entry, event: Event) -> None:
        """Believe what the event says for one look.

        The engine answers no question about a container until it has taken its network down, which
        is three times as long as it took to tell of the end. Who has a restart policy is asked for:
        only the engine knows whether it starts again.
        """
        entry.died_at = self._clock.monotonic()
        code = event.attributes.get("exitCode", "")
        entry.exit_code = int(code) if code.isdigit() else None
        if entry.killed:
            self._later(entry)
        seen = entry.seen
        if seen is None or seen.status != "running" or seen.restart_policy or seen.auto_remove:
            return
        if entry.exit_code is not None:
            entry.seen = replace(
                seen,
                status="exited",
                exit_code=entry.exit_code,
                oom=entry.oom,
                finished_at=event.at,
                pid=None,
                health="",
            )
            entry.told = True

    def _later(self, entry: _Entry) -> None:
        """Tell once more when it shows whether a signal by hand was a stop."""

        async def tell() -> None:
            await self._clock.sleep(DECIDING)
            self.links.tell("ended", entry.name, entry.labels)

        task = asyncio.create_task(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _wake(self) -> None:
        for news in self._changed:
            news.set()


def _own_name(names: Any) -> str:
    """Links add names with a second slash to the list."""
    return next((str(n).lstrip("/") for n in names if n.count("/") == 1), "")
