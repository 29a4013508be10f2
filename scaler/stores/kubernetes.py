"""A lease on Kubernetes: an object of coordination.k8s.io/v1, written the way client-go does.

Every write names the version it was made from, so of two that write only one succeeds. The times in
the object are for people: whoever waits for the end of a term measures it on its own clock, from
when it saw the object change last. `leaseTransitions` grows with each holder and is the fence.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Final

from scaler.clients.kubernetes import Api, Json, inside
from scaler.errors import Conflict, NotFound, Unavailable
from scaler.interfaces import Grant

USUAL_TERM: Final = 15  # seconds, when the object does not say; client-go's default
LONGEST_TERM: Final = 3600  # that is believed, whatever the object says
API_VERSION: Final = "coordination.k8s.io/v1"
WATCH_EVENTS: Final = ("ADDED", "MODIFIED", "DELETED")


class KubernetesLease:
    """One Lease object, in the daemon's own namespace unless another is named."""

    def __init__(self, at: Callable[[], Awaitable[Api]], *, name: str, namespace: str = "") -> None:
        """`at` finds the API server; it is asked at each use, for it may fail at first."""
        self.holder = ""
        self._at = at
        self._name = name
        self._namespace = namespace
        self._object: Json = {}  # as it was seen last; empty when there is none
        self._taken_by = ""  # also when the object has been deleted since
        self._taken_until = timedelta()  # on our clock, a term after it was seen to change last

    async def acquire(self, holder: str, ttl: timedelta) -> Grant | None:
        api = await self._at()
        asked_at = api.clock.monotonic()
        await self._look(api)
        spec = inside(self._object, "spec")
        if self._taken_by != holder and api.clock.monotonic() < self._taken_until:
            return None
        held = self.holder == holder
        fence = _number(spec.get("leaseTransitions"))
        if self._object and not held:
            fence += 1
        now = _micro(api.clock.now())
        mine = {
            "holderIdentity": holder,
            "leaseDurationSeconds": ceil(ttl.total_seconds()),
            "acquireTime": spec.get("acquireTime") if held else now,
            "renewTime": now,
            "leaseTransitions": fence,
        }
        try:
            await self._write(api, mine)
        except Conflict:
            return None  # somebody else was faster
        return Grant.asked(holder, fence, asked_at, ttl)

    async def renew(self, grant: Grant, ttl: timedelta) -> Grant | None:
        api = await self._at()
        asked_at = api.clock.monotonic()
        mine = {
            "leaseDurationSeconds": ceil(ttl.total_seconds()),
            "renewTime": _micro(api.clock.now()),
        }
        if not await self._rewrite(api, grant, mine):
            return None
        return Grant.asked(grant.holder, grant.fence, asked_at, ttl)

    async def release(self, grant: Grant) -> None:
        api = await self._at()
        now = _micro(api.clock.now())
        mine = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now}
        await self._rewrite(api, grant, {**mine, "acquireTime": now})

    async def _rewrite(self, api: Api, grant: Grant, mine: Json) -> bool:
        """Write while `grant` holds it; False when it does no more.

        A conflict is looked into once: somebody may have annotated it, or an answer got lost.
        """
        if not self._held(grant):
            return False
        try:
            await self._write(api, mine)
        except NotFound:
            self._see(api, {})
            return False
        except Conflict:
            await self._look(api)
            if not self._held(grant):
                return False
            await self._write(api, mine)
        return True

    def _held(self, grant: Grant) -> bool:
        spec = inside(self._object, "spec")
        return (self.holder, _number(spec.get("leaseTransitions"))) == (grant.holder, grant.fence)

    async def freed(self, patience: timedelta) -> None:
        """Follow the object itself: one stream, that costs the server nothing while all is well.

        A stream that never opens hides no end of a term: whoever was seen last has until then.
        """
        api = await self._at()
        end = api.clock.monotonic() + patience
        loop = asyncio.get_running_loop()

        def left_s() -> float:
            return (min(self._taken_until, end) - api.clock.monotonic()).total_seconds()

        events = api.watch(
            self._path(api),
            span=timedelta(seconds=ceil(patience.total_seconds()) + 1),
            fieldSelector=f"metadata.name={self._name}",
        )
        try:
            async with asyncio.timeout(left_s()) as limit, aclosing(events):
                async for event in events:
                    if event.get("type") in WATCH_EVENTS:
                        deleted = event.get("type") == "DELETED"
                        self._see(api, {} if deleted else inside(event, "object"))
                    limit.reschedule(loop.time() + left_s())
        except TimeoutError:
            return
        raise Unavailable(f"watching the lease {self._name}: the server has ended the stream")

    async def _look(self, api: Api) -> None:
        try:
            self._see(api, await api.get(f"{self._path(api)}/{self._name}"))
        except NotFound:
            self._see(api, {})

    def _see(self, api: Api, found: Json) -> None:
        """Take in what the server has. One that is deleted while it is held stays taken."""
        spec = inside(found, "spec")
        self.holder = str(spec.get("holderIdentity") or "")
        if found and _version(found) != _version(self._object):
            said = _number(spec.get("leaseDurationSeconds")) or USUAL_TERM
            term = timedelta(seconds=min(said, LONGEST_TERM) if self.holder else 0)
            self._taken_by, self._taken_until = self.holder, api.clock.monotonic() + term
        self._object = found

    async def _write(self, api: Api, mine: Json) -> None:
        path = self._path(api)
        spec = {**inside(self._object, "spec"), **mine}
        if self._object:
            body = {**self._object, "spec": spec}
            written = await api.send("PUT", f"{path}/{self._name}", body)
        else:
            body = {
                "apiVersion": API_VERSION,
                "kind": "Lease",
                "metadata": {"name": self._name},
                "spec": spec,
            }
            written = await api.send("POST", path, body)
        self._see(api, written)

    def _path(self, api: Api) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self._namespace or api.namespace}/leases"

    async def aclose(self) -> None:
        """The connection is shared, and closed by whoever opened it."""


def _number(found: object) -> int:
    return found if isinstance(found, int) and found > 0 else 0


def _version(item: Json) -> str:
    return str(inside(item, "metadata").get("resourceVersion", ""))


def _micro(moment: datetime) -> str:
    """A MicroTime; the server refuses other forms."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
