"""Tells people, by a POST to an address of theirs, what they would want to be woken for.

The text goes under one key of a JSON object, as chat services take it. What happens while a POST
is under way goes out together with the next one, so a bad night is a few messages and not a
thousand; nothing here delays the daemon, and an address that does not answer loses messages only.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from scaler.clients.http import HttpClient
from scaler.clock import Clock
from scaler.core.journal import Entry, Kind
from scaler.errors import ScalerError, Unavailable

MOST_WAITING: Final = 100  # lines; the oldest go first
LINES_AT_ONCE: Final = 20
DEADLINE: Final = timedelta(seconds=10)
RETRIES: Final = (timedelta(seconds=2), timedelta(seconds=10), timedelta(seconds=60))


def matters(entry: Entry) -> bool:
    """Whether somebody is to be told: restarts, what needs a person, and that it is over."""
    restarts = entry.decision is not None and bool(entry.decision.restarts)
    return restarts or entry.kind in (Kind.PARKED, Kind.NOTICED)


class Webhook:
    """One address. `tell` returns at once; `aclose` sends what is left."""

    def __init__(
        self, url: str, key: str, clock: Clock, trouble: Callable[[str], None] = lambda _: None
    ) -> None:
        """`trouble` hears, once for each message that is lost, why."""
        self._url = url
        self._key = key
        self._clock = clock
        self._trouble = trouble
        self._client = HttpClient()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._sender: asyncio.Task[None] | None = None

    def tell(self, entry: Entry) -> None:
        """Take an entry, if it matters to people."""
        if not matters(entry):
            return
        self._lines.append(entry.summary)
        if len(self._lines) > MOST_WAITING:
            self._lines.popleft()
            self._dropped += 1
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="webhook")

    async def _send_all(self) -> None:
        while self._lines:
            count = min(len(self._lines), LINES_AT_ONCE)
            lines = [self._lines.popleft() for _ in range(count)]
            if self._dropped:
                lines.append(f"and {self._dropped} older messages that could not be sent in time")
                self._dropped = 0
            await self._send("\n".join(lines))

    async def _send(self, text: str) -> None:
        for wait in (*RETRIES, None):
            try:
                await self._post(text)
            except ScalerError as error:
                if wait is None or not isinstance(error, Unavailable):
                    self._trouble(f"a message could not be sent: {error}")
                    return
                await self._clock.sleep(wait)
            else:
                return

    async def _post(self, text: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                answer = await self._client.post(self._url, json.dumps({self._key: text}).encode())
        except TimeoutError as error:
            raise Unavailable("no answer in time") from error
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(f"answered {answer.status}")
        if answer.status >= 300:
            raise ScalerError(f"answered {answer.status}; look at notify.url in the settings")

    async def aclose(self) -> None:
        """Send what is left, but wait no longer than for one answer."""
        if self._sender is not None:
            _, late = await asyncio.wait([self._sender], timeout=DEADLINE.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._client.aclose()
