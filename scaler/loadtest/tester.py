"""LoadTester: sends requests when they are due, and counts latency from that moment.

A tester that waits for answers before it sends the next request measures a service that hangs as
quick (coordinated omission). Here every request has its moment, and one that could not be sent in
time is late in the figures and not left out.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from scaler.clock import Clock
from scaler.errors import Refused
from scaler.loadtest.histogram import Histogram

LATE: Final = 0.1  # seconds after which a send counts as late through our own fault
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(slots=True)
class Result:
    """What came of the requests; latencies in seconds, of those that were answered well."""

    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by what went wrong
    latency: Histogram = field(default_factory=Histogram)
    retried: int = 0  # sent again to another endpoint, because the first did not take it
    late: int = 0  # sent late because this tester was too slow, not the service
    dropped: int = 0  # not sent: too many were under way

    @property
    def failed(self) -> int:
        return self.failures.total()

    def to_dict(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "failed": self.failed,
            "failures": dict(self.failures),
            "retried": self.retried,
            "late": self.late,
            "dropped": self.dropped,
            "seconds": {
                "p50": self.latency.percentile(0.5),
                "p90": self.latency.percentile(0.9),
                "p99": self.latency.percentile(0.99),
                "max": self.latency.highest,
            },
        }


class LoadTester:
    """Open load on whatever endpoints there are at each moment, in turn."""

    def __init__(
        self,
        *,
        endpoints: Callable[[], Sequence[str]],
        clock: Clock,
        timeout: timedelta = timedelta(seconds=10),
        at_once: int = 500,
    ) -> None:
        """`endpoints` are URLs on this machine; no more than `at_once` requests are under way.

        A request that was due longer than `timeout` ago is a failure.
        """
        self._endpoints = endpoints
        self._clock = clock
        self._timeout = timeout
        self._at_once = at_once
        self._turn = 0
        self.result = Result()

    async def run(self, arrivals: Iterable[float]) -> Result:
        """Send a request at each of these seconds from now, and wait for the last answer."""
        begin = self._clock.monotonic()
        under_way: set[asyncio.Task[None]] = set()
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            for arrival in arrivals:
                due = begin + timedelta(seconds=arrival)
                wait = due - self._clock.monotonic()
                if wait > timedelta():
                    await self._clock.sleep(wait)
                elif -wait.total_seconds() > LATE:
                    self.result.late += 1
                self.result.sent += 1
                if len(under_way) >= self._at_once:
                    self.result.dropped += 1
                    self.result.failures["too many under way"] += 1
                    await self._clock.sleep(timedelta())
                    continue
                task = asyncio.create_task(self._request(session, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await asyncio.gather(*under_way)
        return self.result

    async def _request(self, session: aiohttp.ClientSession, due: timedelta) -> None:
        left = due + self._timeout - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left.total_seconds())):
                why = await self._send(session)
        except TimeoutError:
            why = "no answer in time"
        if why:
            self.result.failures[why] += 1
        else:
            self.result.latency.add((self._clock.monotonic() - due).total_seconds())

    async def _send(self, session: aiohttp.ClientSession) -> str:
        """Why it failed, or nothing. Not taken by one endpoint, it is offered to the next."""
        tried = 0
        for url in self._in_turn():
            self.result.retried += tried
            tried = 1
            try:
                async with session.get(url) as response:
                    await response.read()
                    return "" if response.status < 500 else f"status {response.status}"
            except aiohttp.ClientConnectorError:
                continue  # nobody listens: no request was made there
            except aiohttp.ClientError:
                return "the connection broke"
        return "nobody listens"

    def _in_turn(self) -> Sequence[str]:
        urls = list(self._endpoints())
        for url in urls:
            if urlsplit(url).hostname not in LOOPBACK:
                raise Refused(f"{url} is not on this machine; load goes to 127.0.0.1 only")
        if not urls:
            return []
        self._turn += 1
        first = self._turn % len(urls)
        return urls[first:] + urls[:first]
