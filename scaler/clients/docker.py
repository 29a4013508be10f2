"""The docker SDK: low-level calls in a bounded pool of threads, and what its errors mean to us.

The SDK blocks, so every call takes a thread; deadlines of callers end the waiting and not the call,
whose own time-out does. The engine itself starts three to five containers per second on two cores
however many are asked for at once, so a few threads lose nothing.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from scaler.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
)

if TYPE_CHECKING:
    from docker.api.client import APIClient

T = TypeVar("T")

DEFAULT_URL: Final = "unix:///var/run/docker.sock"
THREADS: Final = 8
TIMEOUT: Final = timedelta(seconds=20)
_OF_STATUS: Final[dict[int, type[ScalerError]]] = {
    400: PermanentError,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}


def default_url() -> str:
    """Where the engine is when nobody says: as for the command line of Docker."""
    return os.environ.get("DOCKER_HOST") or DEFAULT_URL


class Engines:
    """The connections of one process, one for each engine. Made as a part of `Context.shared`."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def at(self, url: str = "") -> "Engine":
        """The connection to the engine at `url`, or to the default one."""
        return self._engines.setdefault(url or default_url(), Engine(url or default_url()))

    async def aclose(self) -> None:
        for engine in self._engines.values():
            await engine.aclose()
        self._engines.clear()


class Engine:
    """A connection to one engine, opened with its first call."""

    def __init__(self, url: str, *, timeout: timedelta = TIMEOUT) -> None:
        self.url = url
        self.version: tuple[int, int] = (0, 0)  # of the API that both sides speak, once known
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="docker")
        self._opening = asyncio.Lock()
        self._client: APIClient | None = None

    async def call(self, doing: str, function: Callable[["APIClient"], T]) -> T:
        """What `function` returns, run in a thread. Nothing that takes long: threads are few.

        Raises:
            ScalerError: the engine does not answer or refuses; the message begins with `doing`.
        """
        client = await self._open()
        return await self._run(doing, lambda: function(client))

    async def _open(self) -> "APIClient":
        async with self._opening:
            if self._client is None:
                doing = "connecting to the Docker engine"
                opened = await self._run(doing, lambda: self.dial(self._timeout))
                major, _, minor = str(opened.api_version).partition(".")
                self.version = int(major), int(minor)
                self._client = opened
            return self._client

    async def _run(self, doing: str, work: Callable[[], T]) -> T:
        def guarded() -> T:
            with errors(doing):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)

    def dial(self, timeout: timedelta | None) -> "APIClient":
        """A client of its own, such as for a stream. Blocks; whoever calls closes it.

        `timeout` is for each read; None waits for ever.
        """
        from docker.api.client import APIClient  # noqa: PLC0415 - a host without Docker never does
        from docker.utils import kwargs_from_env  # noqa: PLC0415

        self._knock()
        given = {k: v for k, v in kwargs_from_env().items() if k != "base_url"}
        known = f"{self.version[0]}.{self.version[1]}" if self.version[0] else "auto"
        return APIClient(
            base_url=self.url,
            version=known,
            timeout=None if timeout is None else timeout.total_seconds(),
            max_pool_size=THREADS,
            **given,
        )

    def _knock(self) -> None:
        """A missing right and a missing socket look alike to the SDK, and need different hands."""
        if not self.url.startswith("unix://"):
            return
        with socket.socket(socket.AF_UNIX) as door:
            try:
                door.connect(self.url.removeprefix("unix://"))
            except PermissionError as error:
                remedy = "let the user of scaler join the group of the socket"
                raise Forbidden(f"permission denied for {self.url}; {remedy}") from error
            except OSError as error:
                remedy = "is the engine running?"
                raise Unavailable(f"nobody listens at {self.url}; {remedy}") from error

    async def aclose(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def errors(doing: str) -> Iterator[None]:
    """Raise the errors of the SDK and of what is below it as ours."""
    from docker.errors import APIError, DockerException, TLSParameterError  # noqa: PLC0415
    from requests.exceptions import ConnectionError as Unreachable  # noqa: PLC0415
    from requests.exceptions import RequestException, Timeout  # noqa: PLC0415

    try:
        yield
    except APIError as error:
        kind = _kind(error.status_code or 0, str(error.explanation))
        raise kind(f"{doing}: {_said(error)}") from error
    except TLSParameterError as error:
        raise PermanentError(f"{doing}: {error}") from error
    except Timeout as error:
        raise Unavailable(f"{doing}: the engine did not answer in time") from error
    except (Unreachable, DockerException, RequestException, OSError) as error:
        raise Unavailable(f"{doing}: {error}") from error


def _kind(status: int, explanation: str) -> type[ScalerError]:
    """Swarm answers 500 where it means that another writer was faster."""
    if "update out of sequence" in explanation:
        return Conflict
    return _OF_STATUS.get(status, PermanentError if 400 <= status < 500 else Unavailable)


def _said(error: Any) -> str:
    text = error.explanation or error
    return str(text.decode(errors="replace") if isinstance(text, bytes) else text).strip()


def is_local(url: str) -> bool:
    """Whether the engine is on this machine, so that its containers are processes we can see."""
    return url.startswith("unix://") and Path(url.removeprefix("unix://")).exists()


def answered(error: ScalerError) -> bool:
    """Whether the engine itself said so: it is there, and will hardly change its mind."""
    from docker.errors import APIError  # noqa: PLC0415

    return isinstance(error.__cause__, APIError)
