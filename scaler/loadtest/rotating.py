"""A transport over endpoints that come and go: each request goes to the next one in turn."""

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from scaler.errors import Refused
from scaler.loadtest.failures import Failure
from scaler.loadtest.hosts import PORTS, Origin
from scaler.loadtest.transport import Call, HttpTransport, Limits

LOOPBACK: Final = {"127.0.0.1": ("127.0.0.1",), "localhost": ("127.0.0.1", "::1"), "::1": ("::1",)}
MOST_KEPT: Final = 1000  # transports of endpoints, those gone included


class RotatingTransport:
    """What one endpoint does not take, because nobody listens there, is offered to the next."""

    def __init__(self, endpoints: Callable[[], Sequence[str]], limits: Limits) -> None:
        """`endpoints` are URLs on this machine, asked for at every request.

        Their paths are not used. `send` raises Refused for one that is elsewhere.
        """
        self._endpoints = endpoints
        self._limits = limits
        self._kept: dict[str, HttpTransport] = {}
        self._turn = 0
        self.retried = 0

    def send(self, call: Call) -> None:
        urls = list(self._endpoints())
        for url in urls:
            self._to(url)  # a strange one ends the run, and not the answer to some other request
        self._turn += 1
        first = self._turn % len(urls) if urls else 0
        self._offer(call, urls[first:] + urls[:first])

    def _offer(self, call: Call, urls: list[str]) -> None:
        if not urls:
            call.end(Failure.REFUSED)
            return
        url, *others = urls
        finish = call.done

        def done(tried: Call) -> None:
            tried.done = finish
            if tried.failure is Failure.REFUSED and others:
                tried.failure = None
                self.retried += 1
                self._offer(tried, others)
            else:
                finish(tried)

        call.done = done
        self._to(url).send(call)

    def _to(self, url: str) -> HttpTransport:
        kept = self._kept.get(url)
        if kept is None:
            parts = urlsplit(url)
            host = parts.hostname or ""
            if host not in LOOPBACK or parts.scheme != "http":
                raise Refused(f"{url} is not on this machine; load goes to http://127.0.0.1 only")
            if len(self._kept) >= MOST_KEPT:
                raise Refused(f"there have been {MOST_KEPT} endpoints; that is the most")
            origin = Origin("http", host, parts.port or PORTS["http"], LOOPBACK[host])
            kept = self._kept[url] = HttpTransport(origin, self._limits)
        return kept

    def expire(self, now: float) -> None:
        for transport in self._kept.values():
            transport.expire(now)

    def cut_off(self) -> None:
        for transport in self._kept.values():
            transport.cut_off()

    async def aclose(self) -> None:
        for transport in self._kept.values():
            await transport.aclose()
