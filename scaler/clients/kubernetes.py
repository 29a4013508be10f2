"""The Kubernetes API in raw JSON: requests with deadlines, watches, and its refusals in our words.

The typed models of the official client cost ten times the CPU and twice the memory of this; its
default deadline is five minutes, and its watch connects again for ever without a pause. So only its
reading of kubeconfigs is used (`kube_login`), on the HTTP stack that everything here uses.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any, Final, NoReturn

import aiohttp
import orjson
import yarl

from scaler.clients import kube_login
from scaler.clients.kube_gate import Gate
from scaler.clients.kube_login import Login
from scaler.clock import Clock
from scaler.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    TransientError,
    Unavailable,
)

Json = Mapping[str, Any]

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
MANAGER: Final = "scaler"  # what the server writes beside each field that we set
DEADLINE: Final = timedelta(seconds=10)
CONNECT_S: Final = 5.0
MOST_BYTES: Final = 256 << 20  # of one answer; ten thousand pods are about forty MiB
MOST_LINE: Final = 4 << 20  # of one event; etcd keeps nothing above 1.5 MiB
CONNECTIONS: Final = 64  # at once; watches hold one each
FORBIDDEN_HINT: Final = "`scaler rbac` prints the Role that the policies need"
_NETWORK: Final = (aiohttp.ClientError, TimeoutError, OSError)


class Gone(TransientError):
    """The server has forgotten the version that was asked for; list again."""


class Invalid(PermanentError):
    """The server has understood the object and will not have it so."""


class Api:
    """One API server as one identity. Deadlines shorter than its own are the caller's."""

    def __init__(self, login: Login, clock: Clock, random: Random) -> None:
        self.clock = clock
        self.random = random
        self.gate = Gate(clock, random)  # for those who ask again and again
        self._login = login
        self._session: aiohttp.ClientSession | None = None

    @property
    def namespace(self) -> str:
        """Where things are when nobody says."""
        return self._login.namespace

    @property
    def about(self) -> str:
        """The server and how it was found, for people."""
        return f"{self._login.url} ({self._login.about})"

    async def get(self, path: str, **query: str) -> Json:
        return await self.send("GET", path, None, **query)

    async def send(
        self,
        method: str,
        path: str,
        body: Json | Sequence[Json] | None = None,
        *,
        content: str = JSON,
        **query: str,
    ) -> Json:
        """What the server answers.

        Raises:
            Unavailable: no answer, none in time, or that it is overloaded.
            Forbidden, NotFound, Conflict, Gone, PermanentError: as it says.
        """
        answer = await self._exchanged(method, path, body, content, query)
        return parsed(answer, f"{method} {path}")

    async def raw(self, path: str) -> bytes:
        """What the server answers, not looked into: `parsed` does that."""
        return await self._exchanged("GET", path, None, JSON, {})

    async def _exchanged(
        self,
        method: str,
        path: str,
        body: Json | Sequence[Json] | None,
        content: str,
        query: Mapping[str, str],
    ) -> bytes:
        data = None if body is None else orjson.dumps(body)
        try:
            async with (
                asyncio.timeout(DEADLINE.total_seconds()),
                await self._ask(method, path, query, data, content) as response,
            ):
                answer = await _body(response)
                if response.status >= 300:
                    _refuse(response, answer, f"{method} {path}")
        except _NETWORK as error:
            raise Unavailable(self._no_answer(f"{method} {path}", error)) from error
        return answer

    async def watch(
        self, path: str, *, span: timedelta, **query: str
    ) -> AsyncGenerator[Json, None]:
        """Events as they come, until the server ends the stream, after about `span`.

        The first is of type `OPENED` and ours: from here on the server tells what changes.

        Raises:
            Unavailable: the stream broke, or nothing ended it although `span` is over.
            Gone: the version asked for is too old; also when an event says so.
        """
        seconds = int(span.total_seconds())
        query = {**query, "watch": "true", "timeoutSeconds": str(seconds)}
        doing = f"watching {path}"
        try:
            async with asyncio.timeout(seconds + DEADLINE.total_seconds()):
                async with await self._ask("GET", path, query, None, JSON) as response:
                    if response.status >= 300:
                        _refuse(response, await _body(response), doing)
                    yield {"type": "OPENED"}
                    async for line in _lines(response):
                        event = parsed(line, doing)
                        if event.get("type") == "ERROR":
                            _refuse_status(inside(event, "object"), doing)
                        yield event
        except _NETWORK as error:
            raise Unavailable(self._no_answer(doing, error)) from error

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        data: bytes | None,
        content: str,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = _session(self._login)
        headers = {"Accept": JSON, **await self._login.headers()}
        if data is not None:
            headers["Content-Type"] = content
        return await self._session.request(
            method,
            yarl.URL(self._login.url + path).with_query(query),
            data=data,
            headers=headers,
            allow_redirects=False,
            proxy=self._login.proxy,
            server_hostname=self._login.server_name,
        )

    def _no_answer(self, doing: str, error: BaseException) -> str:
        why = "no answer in time" if isinstance(error, TimeoutError) else str(error)
        return f"{doing}: the API server {self._login.url}: {why or type(error).__name__}"

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Clusters:
    """Every API server that policies name, each opened when it is first needed."""

    def __init__(self, clock: Clock, random: Random) -> None:
        self._clock = clock
        self._random = random
        self._open: dict[str, Api] = {}
        self._opening = asyncio.Lock()

    async def at(self, context: str) -> Api:
        """The server of a kubeconfig context; an empty one means this pod's, else the current.

        Raises:
            ConfigError: no server is known, or the kubeconfig cannot be used.
        """
        async with self._opening:
            if context not in self._open:
                self._open[context] = Api(
                    await kube_login.login(context, self._clock), self._clock, self._random
                )
            return self._open[context]

    async def aclose(self) -> None:
        for api in self._open.values():
            await api.aclose()
        self._open = {}


def _session(login: Login) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=True if login.tls is None else login.tls, limit=CONNECTIONS
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"User-Agent": MANAGER},
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=1 << 18,
    )


async def _body(response: aiohttp.ClientResponse) -> bytes:
    chunks, length = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        length += len(chunk)
        if length > MOST_BYTES:
            raise PermanentError(f"{response.url.path} answers with more than {MOST_BYTES} bytes")
    return b"".join(chunks)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines, whole ones only: what is left of one at the end was cut."""
    rest = bytearray()
    async for chunk in response.content.iter_any():
        *lines, last = chunk.split(b"\n")
        for line in lines:
            rest += line
            if rest.strip():
                yield bytes(rest)
            rest.clear()
        rest += last
        if len(rest) > MOST_LINE:
            raise PermanentError(f"{response.url.path}: an event is larger than {MOST_LINE} bytes")


def parsed(text: bytes, doing: str) -> Json:
    """An answer as a map.

    Raises:
        Unavailable: it is none.
    """
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unavailable(f"{doing}: what answers is no Kubernetes API server: {error}") from error
    if not isinstance(answer, dict):
        raise Unavailable(f"{doing}: what answers is no Kubernetes API server")
    return answer


def inside(item: Json, key: str) -> Json:
    """The map under `key`; an empty one when there is none."""
    found = item.get(key)
    return found if isinstance(found, dict) else {}


def _refuse(response: aiohttp.ClientResponse, body: bytes, doing: str) -> NoReturn:
    """Raise what an answer that is not 2xx means."""
    try:
        status = parsed(body, doing)
    except ScalerError:
        status = {"message": response.reason or "no reason given"}
    after = response.headers.get("Retry-After", "")
    wait = timedelta(seconds=min(int(after), 60)) if after.isdigit() else None
    _refuse_status({**status, "code": response.status}, doing, wait)


def _refuse_status(status: Json, doing: str, wait: timedelta | None = None) -> NoReturn:
    """Raise what a `Status` means. A redirect is no answer: nothing here follows one."""
    code = status.get("code") or 0
    said = f"{doing}: {status.get('message') or status.get('reason') or f'HTTP {code}'}"
    if code == 429 and (cause := _cause(status)):
        said = f"{said} {cause}"
    if code in (401, 403):
        raise Forbidden(f"{said}; {FORBIDDEN_HINT}" if code == 403 else said)
    if code == 404:
        raise NotFound(said)
    if code == 409:
        raise Conflict(said)
    if code == 410:
        raise Gone(said)
    if code == 422:
        raise Invalid(said)
    if code in (400, 405, 406, 415):
        raise PermanentError(said)
    raise Unavailable(said, retry_after=wait)


def _cause(status: Json) -> str:
    """Which disruption budget forbids it: the message alone does not name it."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    first = causes[0] if isinstance(causes, list) and causes else None
    return str(first.get("message", "")) if isinstance(first, dict) else ""
