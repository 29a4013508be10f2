"""aiohttp as a client: one session, no redirects, nothing kept alive, bounded bodies."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import yarl

from scaler.errors import PermanentError, ScalerError, Unavailable, translate

MOST_BYTES: Final = 64 * 1024
_ERRORS: Final[Mapping[type[Exception], type[ScalerError]]] = {
    aiohttp.InvalidURL: PermanentError,
    aiohttp.ClientError: Unavailable,
    TimeoutError: Unavailable,
    OSError: Unavailable,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; a longer body is cut."""

    status: int
    body: bytes


class HttpClient:
    """Opened with its first request. Deadlines are the caller's, by `asyncio.timeout`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str) -> Answer:
        """The answer to one GET.

        Raises:
            Unavailable: nobody listens, or what answers is no HTTP server.
        """
        with translate(_ERRORS, doing=f"GET {url}"):
            async with self._open().get(url, allow_redirects=False) as response:
                return Answer(response.status, await response.content.read(MOST_BYTES))

    async def post(self, url: str, body: bytes) -> Answer:
        """The answer to one POST of JSON. The address may hold a secret and is in no message.

        Raises:
            Unavailable: nobody listens, or what answers is no HTTP server.
        """
        headers = {"Content-Type": "application/json"}
        with translate(_ERRORS, doing="POST"):
            sent = self._open().post(url, data=body, headers=headers, allow_redirects=False)
            async with sent as response:
                return Answer(response.status, await response.content.read(MOST_BYTES))

    async def fetch(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        tls: ssl.SSLContext | None,
        most_bytes: int,
    ) -> Answer:
        """The whole answer to one GET of an address that is encoded already.

        Raises:
            Unavailable: nobody listens, or what answers is no HTTP server.
            PermanentError: the answer is larger than `most_bytes`.
        """
        shown = url.partition("?")[0]
        asked = yarl.URL(url, encoded=True)
        with translate(_ERRORS, doing=f"GET {shown}"):
            async with self._open().get(
                asked,
                allow_redirects=False,
                headers={"Accept-Encoding": "identity", **headers},
                ssl=True if tls is None else tls,
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > most_bytes:
                        raise PermanentError(f"{shown} answers with more than {most_bytes} bytes")
                return Answer(response.status, bytes(body))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"User-Agent": "scaler"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
