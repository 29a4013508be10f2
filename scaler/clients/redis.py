"""Redis: scripts with short deadlines, and its refusals in our words.

The library's defaults try ten times again; here whoever asks decides that, because an answer that
comes late is worth nothing to a lease.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis as Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from scaler.errors import (
    ConfigError,
    Forbidden,
    PermanentError,
    ScalerError,
    Unavailable,
    translate,
)

DEADLINE: Final = timedelta(seconds=2)  # for the connection, and for each answer
ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {
    exceptions.AuthenticationError: Forbidden,
    exceptions.NoPermissionError: Forbidden,
    exceptions.BusyLoadingError: Unavailable,
    exceptions.ConnectionError: Unavailable,
    exceptions.TimeoutError: Unavailable,
    exceptions.ReadOnlyError: Unavailable,  # a replica, until it takes over
    exceptions.ClusterError: Unavailable,
    exceptions.ResponseError: PermanentError,
    exceptions.RedisError: Unavailable,
    OSError: Unavailable,
}


class Redis:
    """One server, connected to when it is first asked."""

    def __init__(self, url: str, *, deadline: timedelta = DEADLINE) -> None:
        """`url` as in `redis://:password@host:6379/0`, `rediss://...` or `unix:///run/redis.sock`.

        Raises:
            ConfigError: it is no such address.
        """
        seconds = deadline.total_seconds()
        try:
            self._connection = Connection.from_url(
                url,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
                protocol=2,  # the next one hides that a password is missing
            )
        except ValueError as error:
            raise ConfigError(f"the address of Redis cannot be used: {error}") from None

    async def run(self, script: str, keys: Sequence[str], *values: str | int) -> Any:
        """What a Lua script answers; nobody else changes anything while it runs.

        Raises:
            ScalerError: no answer in time, or a refusal.
        """
        with translate(ERRORS, doing="asking Redis"):
            return await self._connection.eval(script, len(keys), *keys, *values)

    async def aclose(self) -> None:
        await self._connection.aclose()
