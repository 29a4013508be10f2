"""A command inside a container: its exit code, and the end of it when nobody waits any more."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from scaler.clients.docker import Engine, errors, is_local
from scaler.errors import NotFound, ScalerError, Unavailable

if TYPE_CHECKING:
    from docker.api.client import APIClient

OUTPUT_MOST: Final = 64 * 1024  # bytes; what comes after is read and dropped
AT_ONCE: Final = 16  # threads that wait for a command
SILENCE_MOST: Final = timedelta(minutes=10)  # of a command; probes give up long before
_room = threading.BoundedSemaphore(AT_ONCE)


async def execute(engine: Engine, container: str, command: Sequence[str]) -> tuple[int, str]:
    """Exit code and output. A cancelled one is killed, on an engine of this machine.

    Raises:
        ScalerError: it could not be run; 126 and 127 of the engine count as that.
    """
    doing = f"running {command[0]} in {container}"
    made = await engine.call(doing, lambda api: api.exec_create(container, list(command)))
    name: str = made["Id"]
    if not _room.acquire(blocking=False):
        raise Unavailable(f"{doing}: {AT_ONCE} commands run already")
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[bytes, ScalerError | None]] = loop.create_future()

    def run() -> None:
        try:
            outcome = _run(engine, name, doing)
        finally:
            _room.release()
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
            loop.call_soon_threadsafe(_settle, ended, outcome)

    threading.Thread(target=run, name="docker-exec", daemon=True).start()
    try:
        output, error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.ensure_future(_kill(engine, name, doing)))
        raise
    if error is not None:
        raise error
    found = await engine.call(doing, lambda api: api.exec_inspect(name))
    code, text = found.get("ExitCode"), output.decode(errors="replace")
    if code in (126, 127) and "OCI runtime exec failed" in text:
        raise NotFound(f"{doing}: {text.strip()}")
    if code is None:
        raise Unavailable(f"{doing}: the engine does not say how it ended")
    return int(code), text


def _settle(ended: "asyncio.Future[Any]", outcome: object) -> None:
    if not ended.done():
        ended.set_result(outcome)


def _run(engine: Engine, name: str, doing: str) -> tuple[bytes, ScalerError | None]:
    """Runs in a thread; what goes wrong is a value."""
    kept = bytearray()
    try:
        with errors(doing), contextlib.closing(engine.dial(SILENCE_MOST)) as api:
            for chunk in _output(api, name):
                kept += chunk[: OUTPUT_MOST - len(kept)]
    except ScalerError as error:
        return bytes(kept), error
    return bytes(kept), None


def _output(api: "APIClient", name: str) -> Iterator[bytes]:
    stream = api.exec_start(name, stream=True)
    try:
        yield from stream
    finally:
        stream.close()


async def _kill(engine: Engine, name: str, doing: str) -> None:
    """Of a process in a container only its pid on the host is known; the engine has no call."""
    if not is_local(engine.url):
        return
    with contextlib.suppress(ScalerError, ProcessLookupError, PermissionError):
        found = await engine.call(doing, lambda api: api.exec_inspect(name))
        if found.get("Running") and found.get("Pid"):
            os.kill(found["Pid"], signal.SIGKILL)
