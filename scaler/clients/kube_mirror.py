"""What a list and the watch after it say, kept up to date and small.

A list gives a version, the watch goes on from it: events, and bookmarks that only move the version.
A version that the server has forgotten (410) and a list that failed mean a new list; what differs
from before is told as changes. All mirrors of one server wait for it together (`kube_gate`).
Source: client-go's reflector; Kubernetes API concepts, "Efficient detection of changes".
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from sys import intern
from typing import Any, Final, Generic, TypeVar

from scaler.clients.kubernetes import Api, Gone, Json, inside
from scaler.errors import PermanentError, ScalerError, TransientError, Unavailable

T = TypeVar("T")

CHANGES: Final = ("ADDED", "MODIFIED", "DELETED")
PAGE: Final = "500"  # objects per answer of a list
WATCH_FOR: Final = timedelta(minutes=4)  # plus up to as much again, so that not all end together
SHORTEST_WATCH: Final = timedelta(seconds=1)  # one that ends sooner is a server in trouble
REFUSED_PAUSE: Final = timedelta(seconds=30)  # a person must change something first


def _nothing(old: object, new: object) -> None:
    """Nobody listens."""


def _nobody() -> None:
    """Nobody waits."""


class Mirror(Generic[T]):
    """All objects of one kind in one namespace, trimmed to what is needed of each."""

    def __init__(
        self,
        api: Api,
        path: str,
        *,
        trim: Callable[[Json], T],
        changed: Callable[[T | None, T | None], None] = _nothing,
        restored: Callable[[], None] = _nobody,
        selector: str = "",
    ) -> None:
        """`changed` hears of each addition, change and end, as (old, new), at once.

        `restored` hears when the server is followed again after it was not.
        """
        self.items: Mapping[str, T] = {}
        self._api = api
        self._path = path
        self._trim = trim
        self._changed = changed
        self._restored = restored
        self._query = {"labelSelector": selector} if selector else {}
        self._items: dict[str, T] = {}
        self._trouble: ScalerError | None = None
        self._listed = asyncio.Event()
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name=f"mirror {path}")
        self._task.add_done_callback(self._ended)

    async def ready(self) -> None:
        """Return when the first list is in.

        Raises:
            ScalerError: what the list failed with; the mirror goes on trying.
        """
        while not self._listed.is_set():
            if self._trouble is not None:
                raise _again(self._trouble)
            await self.moved()

    async def moved(self) -> None:
        """Return at the next change of anything here."""
        self._moved.clear()
        await self._moved.wait()

    def insist(self) -> None:
        """Return when what stands here is what the server has now, as far as anybody can tell.

        Raises:
            ScalerError: it is not in touch with the server.
        """
        if self._trouble is not None:
            raise _again(self._trouble)
        if not self._listed.is_set():
            raise Unavailable(f"{self._path} has not been listed yet")

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        version = ""
        while True:
            await self._api.gate.enter()
            try:
                if not version:
                    version = await self._list()
                version = await self._watch(version)
            except Gone:
                version = ""
                self._api.gate.answered()
            except TransientError as error:
                self._fail(error)
                self._api.gate.failed(error)
            except ScalerError as error:
                self._fail(error)
                version = ""
                await self._api.clock.sleep(REFUSED_PAUSE * (1 + self._api.random.random()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """It ends by itself only by a defect, which must not look like a quiet server."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(PermanentError(f"a defect of scaler: {self._path}: {error!r}"))

    def _fail(self, error: ScalerError) -> None:
        self._trouble = error
        self._moved.set()

    def _in_touch(self) -> None:
        self._api.gate.answered()
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            self._restored()

    async def _list(self) -> str:
        """Everything, page by page; the version it was true at."""
        found: dict[str, T] = {}
        query = {**self._query, "limit": PAGE}
        while True:
            page = await self._api.get(self._path, **query)
            self._api.gate.answered()
            for item in _of(page, "items"):
                found[_name(item)] = self._trim(item)
            about = inside(page, "metadata")
            if not about.get("continue"):
                break
            query["continue"] = str(about["continue"])
        old, self._items = self._items, found
        self.items = found
        self._in_touch()
        self._listed.set()
        for name in old.keys() - found.keys():
            self._changed(old[name], None)
        for name, new in found.items():
            if (was := old.get(name)) != new:
                self._changed(was, new)
        self._moved.set()
        return str(about.get("resourceVersion", ""))

    async def _watch(self, version: str) -> str:
        """Follow the events from `version` until the stream ends; where to go on from."""
        span = WATCH_FOR * (1 + self._api.random.random())
        events = self._api.watch(
            self._path,
            span=span,
            resourceVersion=version,
            allowWatchBookmarks="true",
            **self._query,
        )
        began = self._api.clock.monotonic()
        async for event in events:
            self._in_touch()
            item = inside(event, "object")
            version = str(inside(item, "metadata").get("resourceVersion") or version)
            if event.get("type") in CHANGES:
                self._take(item, deleted=event.get("type") == "DELETED")
        if self._api.clock.monotonic() - began < SHORTEST_WATCH:
            raise Unavailable(f"watching {self._path}: the server ends each stream at once")
        return version

    def _take(self, item: Json, *, deleted: bool) -> None:
        name = _name(item)
        old = self._items.get(name)
        new = None if deleted else self._trim(item)
        if new is None:
            self._items.pop(name, None)
        else:
            self._items[name] = new
        if old != new:
            self._changed(old, new)
        self._moved.set()


def _again(error: ScalerError) -> ScalerError:
    """The same once more: a raised exception keeps growing its traceback."""
    if isinstance(error, TransientError):
        return type(error)(str(error), retry_after=error.retry_after)
    return type(error)(str(error))


def _of(item: Json, key: str) -> Iterable[Any]:
    found = item.get(key)
    return found if isinstance(found, list) else ()


def _name(item: Json) -> str:
    return intern(str(inside(item, "metadata").get("name", "")))
