"""The ledger over HTTP, and how it starts and ends without losing a request."""

import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from aiohttp import web

from scaler.clock import Clock, SystemClock
from scaler.demo.ledger import asked
from scaler.demo.ledger.answers import Answers, body
from scaler.demo.ledger.asked import Invalid
from scaler.demo.ledger.pace import Pace
from scaler.demo.ledger.records import Outcome, Store
from scaler.errors import TransientError
from scaler.maintenance.cache import CacheManager
from scaler.maintenance.caching.calls import BackendFailed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOST_BODY: Final = 16 * 1024
BACKLOG: Final = 1024
FAREWELL: Final = timedelta(milliseconds=500)  # connections that are kept alive hear of the end
DRAIN: Final = timedelta(seconds=20)  # for requests that are under way
OF_KEEPERS: Final = frozenset({"/healthz", "/readyz", "/load"})  # neither counted nor slowed down
STATUS: Final = {
    Outcome.DONE: (201, ""),
    Outcome.REPEATED: (200, ""),
    Outcome.CONFLICT: (409, "this Idempotency-Key was used for another transfer; take a new one"),
    Outcome.UNKNOWN: (404, "there is no such account"),
    Outcome.INSUFFICIENT: (422, "the balance is not sufficient"),
}


class Ledger:
    """One instance, from `start` to `drain`. Several may share a port.

    With `pace` it answers no more than so many requests per second.
    """

    def __init__(
        self,
        store: Store,
        cache: CacheManager | None = None,
        *,
        clock: Clock | None = None,
        pace: float | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._store = store
        self._cache = cache
        self.answers = Answers(store, cache, self._clock)
        self.draining = False
        self.port = 0
        self._pace = Pace(self._clock, pace)
        self._app = web.Application(client_max_size=MOST_BODY, middlewares=[self._guarded])
        self._app.add_routes(
            [
                web.get("/accounts/{id}", self._account),
                web.get("/accounts/{id}/balance", self._balance),
                web.get("/transactions", self._transactions),
                web.post("/transfers", self._transfer),
                web.get("/reports/{month}", self._report),
                web.get("/quotes/{symbol}", self._quote),
                web.get("/healthz", self._health),
                web.get("/readyz", self._ready),
                web.get("/load", self._load),
            ]
        )
        self._runner = web.AppRunner(
            self._app, access_log=None, shutdown_timeout=DRAIN.total_seconds()
        )
        self._sites: list[web.SockSite] = []

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, shared: int | None = None
    ) -> None:
        """Requests are answered from here on. With port 0 the system chooses; see `port`.

        They are answered at the port `shared` too, which is for all instances.

        Raises:
            OSError: a port is taken by somebody who does not share it.
        """
        await self._runner.setup()
        self.port = await self._listen(host, port)
        if shared is not None:
            await self._listen(host, shared)

    async def _listen(self, host: str, port: int) -> int:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listening.bind((host, port))
        except OSError:
            listening.close()
            raise
        site = web.SockSite(self._runner, listening, backlog=BACKLOG)
        await site.start()
        self._sites.append(site)
        found: int = listening.getsockname()[1]
        return found

    async def drain(self, farewell: timedelta = FAREWELL) -> None:
        """End without a failed request.

        No connection is accepted any more; on those that are open, each answer says that it was
        the last, for as long as `farewell`; then what is under way is waited for.
        """
        self.draining = True
        sites, self._sites = self._sites, []
        if sites:
            await self._clock.sleep(timedelta())  # one turn: who has connected is accepted
            for site in sites:
                await site.stop()
            await self._clock.sleep(farewell)
        await self._runner.cleanup()
        if self._cache is not None:
            await self._cache.aclose()
        await self._store.aclose()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every answer is JSON, and what went wrong is in words."""
        try:
            if request.path not in OF_KEEPERS:
                await self._pace.turn()
            response = await handler(request)
        except Invalid as error:
            response = _refused(400, str(error))
        except (TransientError, BackendFailed):  # the latter is what another instance met
            response = _refused(503, "the database does not answer; try again with the same key")
            response.headers["Retry-After"] = "1"
        except web.HTTPRequestEntityTooLarge:
            response = _refused(413, f"the body is longer than {MOST_BODY} bytes")
        except web.HTTPException as error:
            response = _refused(error.status, error.reason.lower())
            if allowed := error.headers.get("Allow"):
                response.headers["Allow"] = allowed
        if self.draining:
            response.force_close()
        return response

    async def _account(self, request: web.Request) -> web.Response:
        return _found(await self.answers.account(asked.account(request.match_info["id"])))

    async def _balance(self, request: web.Request) -> web.Response:
        return _found(await self.answers.balance(asked.account(request.match_info["id"])))

    async def _transactions(self, request: web.Request) -> web.Response:
        return _found(await self.answers.lines(asked.lines(request.query)))

    async def _report(self, request: web.Request) -> web.Response:
        month = asked.month(request.match_info["month"], self._clock.now())
        return _found(await self.answers.report(month))

    async def _quote(self, request: web.Request) -> web.Response:
        return _found(await self.answers.quote(asked.symbol(request.match_info["symbol"])))

    async def _transfer(self, request: web.Request) -> web.Response:
        wanted = asked.transfer(request.headers.get("Idempotency-Key"), await request.read())
        made = await self.answers.transfer(wanted)
        status, trouble = STATUS[made.outcome]
        if trouble:
            return _refused(status, trouble)
        plain = {"id": made.id, "at": made.at, "from": wanted.source, "to": wanted.target,
                 "amount": wanted.amount}  # fmt: skip
        return _found(body(plain), status)

    async def _health(self, _: web.Request) -> web.Response:
        return _found(b'{"ok":true}')

    async def _load(self, _: web.Request) -> web.Response:
        return _found(body({"requests_per_second": self._pace.asked_per_second()}))

    async def _ready(self, _: web.Request) -> web.Response:
        if self.draining:
            return _refused(503, "ending")
        if not await self._store.ready():
            return _refused(503, "the database does not answer")
        return _found(b'{"ready":true}')


def _found(content: bytes | None, status: int = 200) -> web.Response:
    if content is None:
        return _refused(404, "there is nothing of that name")
    return web.Response(body=content, status=status, content_type="application/json")


def _refused(status: int, why: str) -> web.Response:
    return _found(body({"error": why}), status)
