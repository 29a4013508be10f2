"""Asking web servers for numbers: with credentials, whole, and never more than is good for us."""

import asyncio
import math
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from scaler.clients.http import Answer, HttpClient
from scaler.core.document import Source, Wrong, within
from scaler.core.units import Span
from scaler.errors import ConfigError, PermanentError, Unavailable

MOST_BYTES: Final = 1024 * 1024  # of one answer
MOST_SECRET: Final = 16 * 1024  # bytes of a file with a secret
AT_ONCE: Final = 64  # requests of one process
LONGEST_QUOTE: Final = 200  # characters of an answer that a message repeats
REDUCE: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "sum": math.fsum,
    "avg": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
}  # how several series become one number


class WebSource(Source):
    """How a web server is asked."""

    url: str
    """Address, beginning with `http://` or `https://`, without credentials."""
    timeout: Span = timedelta(seconds=2)
    """How long the whole answer may take, up to 1m."""
    user: Annotated[str, Field(pattern=r"^[^:]*$")] = ""
    """Name for basic authentication, with one of `password_file` and `password_env`."""
    password_file: str = ""
    """File with the password; read each time, so that it may be renewed."""
    password_env: str = ""
    """Environment variable with the password."""
    token_file: str = ""
    """File with a bearer token; read each time, so that it may be renewed."""
    token_env: str = ""
    """Environment variable with a bearer token."""
    ca_file: str = ""
    """Certificates (PEM) to trust in place of those of the system."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            known = False
        if not known:
            raise ValueError(f'"{url[:60]}" is not an address; write it like http://host:9090')
        if parts.username or parts.password:
            raise ValueError("it holds credentials; write user: and password_file: instead")
        return url

    @field_validator("timeout")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(milliseconds=50), timedelta(minutes=1))

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        tokens = [bool(self.token_file), bool(self.token_env)]
        passwords = [bool(self.password_file), bool(self.password_env)]
        if sum(tokens) + sum(passwords) > 1:
            raise ValueError("several secrets are given; keep one of them")
        if any(passwords) != bool(self.user):
            remedy = "write user: with password_file: or password_env:"
            raise Wrong(f"a user and a password belong together; {remedy}", "user")
        return self


class Web:
    """All requests for numbers of this process. Made as a part of `Context.shared`."""

    def __init__(self) -> None:
        self._client = HttpClient()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._trusted: dict[tuple[str, int], ssl.SSLContext] = {}

    async def get(self, source: WebSource, url: str, *, fine: tuple[int, ...] = (200,)) -> Answer:
        """The answer to one GET, within the time and size that `source` allows.

        Raises:
            Unavailable: no answer in time, or one with a status that is not `fine`.
            PermanentError: a secret is missing, or the answer is a redirect or too large.
        """
        headers = _credentials(source)
        trusted = self._trust(source.ca_file) if source.ca_file else None
        shown = url.partition("?")[0]
        try:
            async with asyncio.timeout(source.timeout.total_seconds()), self._room:
                answer = await self._client.fetch(
                    url, headers=headers, tls=trusted, most_bytes=MOST_BYTES
                )
        except TimeoutError as error:
            took = f"{source.timeout.total_seconds():g} s"
            raise Unavailable(f"{shown} did not answer within {took}") from error
        if 300 <= answer.status < 400:
            remedy = "redirects are not followed; write the address it leads to"
            raise PermanentError(f"{shown} answered {answer.status}; {remedy}")
        if answer.status not in fine:
            raise Unavailable(f"{shown} answered {answer.status}: {quoted(answer.body)}")
        return answer

    def _trust(self, file: str) -> ssl.SSLContext:
        """Read again when the file has changed."""
        try:
            key = file, Path(file).stat().st_mtime_ns
            if key not in self._trusted:
                made = ssl.create_default_context(cafile=file)
                self._trusted = {k: v for k, v in self._trusted.items() if k[0] != file}
                self._trusted[key] = made
            return self._trusted[key]
        except (OSError, ssl.SSLError) as error:
            raise PermanentError(f"certificates in {file} cannot be read: {error}") from error

    async def aclose(self) -> None:
        await self._client.aclose()


def quoted(body: bytes) -> str:
    """The beginning of an answer, on one line."""
    text = " ".join(body[: 4 * LONGEST_QUOTE].decode(errors="replace").split())
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."


def _credentials(source: WebSource) -> Mapping[str, str]:
    if source.user:
        password = secret(source.password_file, source.password_env)
        both = b64encode(f"{source.user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {both}"}
    if source.token_file or source.token_env:
        return {"Authorization": f"Bearer {secret(source.token_file, source.token_env)}"}
    return {}


def address(given: str, file: str, variable: str, wrong_with: Callable[[str], str]) -> str:
    """The address that a source was given, or where it is kept with its credentials.

    Raises:
        PermanentError: it cannot be read.
        ConfigError: it is none; the message does not repeat it.
    """
    if given:
        return given
    found = secret(file, variable)
    if problem := wrong_with(found):
        place = file or f"environment variable {variable}"
        raise ConfigError(f"the address in {place} cannot be used: {problem}")
    return found


def secret(file: str, variable: str = "") -> str:
    """What is in a file, else in an environment variable.

    Raises:
        PermanentError: it cannot be read, or is no secret.
    """
    if file:
        try:
            with Path(file).open("rb") as opened:
                secret = opened.read(MOST_SECRET).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PermanentError(f"the secret in {file} cannot be read: {error}") from error
    else:
        secret = os.environ.get(variable, "").strip()
    if not secret or not secret.isprintable():
        where = file or f"environment variable {variable}"
        raise PermanentError(f"{where} holds no secret on a single line")
    return secret
