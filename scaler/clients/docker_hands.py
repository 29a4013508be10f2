"""What is done to containers of one engine: made, stopped, started again, removed.

Starts are few at a time, since an engine on two cores starts three to five per second whatever is
asked of it; stops are many, since each mostly waits for its grace. Nothing here holds a thread
while it waits.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from scaler.clients import clone, docker_seen
from scaler.clients.clone import Template
from scaler.clients.docker import answered
from scaler.clients.docker_seen import Seen
from scaler.clients.docker_view import View
from scaler.clock import Clock
from scaler.errors import Conflict, NotFound, ScalerError, Unavailable

if TYPE_CHECKING:
    from docker.api.client import APIClient

STARTS_AT_ONCE: Final = 4
STOPS_AT_ONCE: Final = 16
LOOK: Final = timedelta(seconds=1)  # for an end that no event has told of
AFTER_KILL: Final = timedelta(seconds=15)  # then a person has to look: the kernel keeps it
_TAKEN: Final = (
    "port is already allocated",
    "ports are allocated",
    "address already in use",
    "ports are not available",
    "port is already in use",
)


def is_port_taken(error: ScalerError) -> bool:
    """Whether somebody else has the host port."""
    return any(words in str(error).lower() for words in _TAKEN)


class Hands:
    """The hands on one engine."""

    def __init__(self, view: View, clock: Clock) -> None:
        self.starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self.stops = asyncio.Semaphore(STOPS_AT_ONCE)
        self._view, self._engine, self._clock = view, view.engine, clock

    async def find(self, name: str) -> Seen | None:
        """The container of this name or id, asked of the engine."""
        found = await self.inspect(name)
        return None if found is None else docker_seen.seen(found)

    async def inspect(self, name: str) -> Mapping[str, Any] | None:
        """All that the engine says of it; None when there is none."""
        try:
            return await self._engine.call(
                f"inspecting {name}", lambda api: api.inspect_container(name)
            )
        except NotFound:
            return None

    async def make(
        self,
        template: Template,
        name: str,
        *,
        labels: Mapping[str, str],
        number: int,
        ports: Mapping[str, int],
    ) -> str:
        """A new running container; its id. Of one that could not be started nothing is left.

        Raises:
            Conflict: the name is taken.
            ScalerError: the engine refuses or does not answer.
        """
        body, further = clone.body_of(template, labels=labels, number=number, ports=ports)
        made = await self._engine.call(
            f"creating {name}", lambda api: api.create_container_from_config(body, name)
        )
        container: str = made["Id"]
        try:
            for network, settings in further:
                await self._connect(container, name, network, settings)
            await self.start(container, name)
        except ScalerError as error:
            if answered(error):
                await self.remove(container, name)
            raise
        return container

    async def _connect(
        self, container: str, name: str, network: str, settings: Mapping[str, Any]
    ) -> None:
        """Raw, since the function of the SDK does not know every setting."""

        def connect(api: "APIClient") -> None:
            from docker.errors import create_api_error_from_http_exception  # noqa: PLC0415
            from requests.exceptions import HTTPError  # noqa: PLC0415

            base = f"{api.base_url}/v{api.api_version}"
            answer = api.post(
                f"{base}/networks/{quote(network, safe='')}/connect",
                json={"Container": container, "EndpointConfig": settings},
                timeout=api.timeout,
            )
            try:
                answer.raise_for_status()
            except HTTPError as error:
                create_api_error_from_http_exception(error)

        await self._engine.call(f"connecting {name} to network {network}", connect)

    async def start(self, container: str, name: str) -> None:
        try:
            await self._engine.call(f"starting {name}", lambda api: api.start(container))
        finally:
            self._view.touch(container)

    async def pause(self, container: str, name: str) -> None:
        await self._engine.call(f"pausing {name}", lambda api: api.pause(container))
        self._view.touch(container)

    async def go_on(self, container: str, name: str) -> None:
        await self._engine.call(f"unpausing {name}", lambda api: api.unpause(container))
        self._view.touch(container)

    async def end(self, one: Seen, grace: timedelta | None) -> None:
        """Stop signal, grace, SIGKILL. Returns when it has ended, or is gone.

        Raises:
            Unavailable: the engine does not answer, or the kernel does not let go of it.
        """
        until = self._clock.monotonic() + (one.grace if grace is None else grace)
        if await self._signal(one, one.stop_signal) and await self._ended(one, until):
            return
        until = self._clock.monotonic() + AFTER_KILL
        if await self._signal(one, "SIGKILL") and not await self._ended(one, until):
            raise Unavailable(f"{one.name} does not end although it was killed; look at dmesg")

    async def _signal(self, one: Seen, number: str) -> bool:
        """Whether it may still be running after that."""
        try:
            doing = f"sending {number} to {one.name}"
            await self._engine.call(doing, lambda api: api.kill(one.id, number))
        except (NotFound, Conflict):  # it has ended already
            return False
        return True

    async def _ended(self, one: Seen, until: timedelta) -> bool:
        """Whether it has by then."""
        asked = self._clock.monotonic()
        while not self._view.has_ended(one.id):
            now = self._clock.monotonic()
            if now >= until:
                return False
            if now - asked >= LOOK:  # not with every event: many may wait here
                asked = now
                found = await self.find(one.id)
                if found is None or found.status in ("exited", "dead", "removing"):
                    return True
            await self._view.wait(min(until - now, LOOK))
        return True

    async def remove(self, container: str, name: str) -> None:
        """Nothing is left of it, its anonymous volumes included."""
        try:
            await self._engine.call(
                f"removing {name}",
                lambda api: api.remove_container(container, v=True, force=True),
            )
        except NotFound:
            return
        except Conflict:  # somebody else removes it just now
            await self._view.wait(LOOK)
        finally:
            self._view.touch(container)
        until = self._clock.monotonic() + AFTER_KILL
        while await self.inspect(container) is not None:
            if self._clock.monotonic() > until:
                raise Unavailable(f"{name} was removed and is still there; look at the engine")
            await self._view.wait(LOOK)
