"""Redis: scripts with short deadlines, and its refusals in our words.

The library's defaults try ten times again; here whoever asks decides that, because an answer that
comes late is worth nothing to a lease.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis as Connection
from redis.asyncio.connection import DefaultParser
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scaler.errors import (
    ConfigError,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
    translate,
)

DEADLINE: Final = timedelta(seconds=2)  # for the connection, and for each answer
MOST_BYTES: Final = 1024 * 1024  # of one answer
ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {
    exceptions.AuthenticationError: Forbidden,
    exceptions.NoPermissionError: Forbidden,
    exceptions.BusyLoadingError: Unavailable,
    exceptions.ConnectionError: Unavailable,
    exceptions.TimeoutError: Unavailable,
    exceptions.ReadOnlyError: Unavailable,  # a replica, until it takes over
    exceptions.ClusterError: Unavailable,
    exceptions.AskError: NotFound,  # MOVED and ASK: another node of the cluster has the key
    exceptions.ResponseError: PermanentError,
    exceptions.RedisError: Unavailable,
    OSError: Unavailable,
}


class _Parser(DefaultParser):  # type: ignore[misc, valid-type]  # chosen by what is installed
    """Reads no answer that is longer than is good for us."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        self._left = MOST_BYTES
        try:
            return await super().read_response(*args, **options)
        except MemoryError as error:  # room is made for as many elements as an answer announces
            raise exceptions.InvalidResponse("the answer announces too many elements") from error

    async def read_from_socket(self) -> bool:
        data = await self._stream.read(self._read_size)
        if not data:
            raise exceptions.ConnectionError("the connection was closed by the server")
        self._left -= len(data)
        if self._left < 0:
            raise exceptions.InvalidResponse(f"the answer is longer than {MOST_BYTES} bytes")
        self._reader.feed(data)
        return True


def connected(url: str, deadline: timedelta, **more: Any) -> Connection:
    """A client that tries once. Raises ValueError or TypeError for what is no address."""
    seconds = deadline.total_seconds()
    return Connection.from_url(
        url,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,  # the next one hides that a password is missing
        **more,
    )


class Redis:
    """One server, connected to when it is first asked."""

    def __init__(self, url: str, *, deadline: timedelta = DEADLINE) -> None:
        """`url` as in `redis://:password@host:6379/0`, `rediss://...` or `unix:///run/redis.sock`.

        Raises:
            ConfigError: it is no such address.
        """
        try:
            self._connection = connected(
                url,
                deadline,
                decode_responses=True,
                encoding_errors="replace",  # names need not be text
                parser_class=_Parser,
            )
            self._connection.set_response_callback("INFO", _as_it_comes)
        except ValueError as error:
            raise ConfigError(f"the address of Redis cannot be used: {error}") from None

    async def run(self, script: str, keys: Sequence[str], *values: str | int) -> Any:
        """What a Lua script answers; nobody else changes anything while it runs.

        Raises:
            ScalerError: no answer in time, or a refusal.
        """
        with _asking():
            return await self._connection.eval(script, len(keys), *keys, *values)

    async def ask(self, *words: str | int) -> Any:
        """What one command answers, as it comes.

        Raises:
            ScalerError: no answer in time, a refusal, or an answer that is none of Redis;
                NotFound: another node of a cluster has the key, and its address is named.
        """
        with _asking():
            return await self._connection.execute_command(*words)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        await self._connection.aclose()


@contextmanager
def _asking() -> Iterator[None]:
    """Errors as ours. While connecting, the library hides a refusal in an error of the network."""
    with translate(ERRORS, doing="asking Redis"):
        try:
            yield
        except exceptions.ConnectionError as error:
            if isinstance(error.__cause__, exceptions.AuthenticationError):
                raise Forbidden(f"asking Redis: {error}") from error
            raise


def _as_it_comes(response: Any, **_: Any) -> Any:
    """In place of the library's reading of INFO, which guesses types."""
    return response
