"""Where the daemon is reached: a socket for people, and ports for whoever else may ask."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from scaler.errors import ConfigError, Refused


async def listen(
    socket: Path,
    application: web.Application,
    ports: Sequence[tuple[str, web.Application]],
    stack: AsyncExitStack,
) -> None:
    """Answer at a socket, and at addresses as they stand in the settings, until the stack closes.

    Raises:
        Refused: another daemon answers there.
        ConfigError: it cannot be opened.
    """
    if await _answers(socket):
        raise Refused(f"another scaler answers at {socket}; stop it, or set another socket")
    runners = [
        web.AppRunner(made, access_log=None, shutdown_timeout=1)
        for made in (application, *(made for _, made in ports))
    ]
    for runner in runners:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
    before = os.umask(0o117)  # 0660: the owner and the group may ask and command
    try:
        socket.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        await web.UnixSite(runners[0], str(socket)).start()
        for runner, (address, _) in zip(runners[1:], ports, strict=True):
            host, _, port = address.rpartition(":")
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        where = error.filename or " and ".join(address for address, _ in ports)
        raise ConfigError(f"cannot listen at {where}: {error}") from error
    finally:
        os.umask(before)
    stack.callback(socket.unlink, missing_ok=True)


async def _answers(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True
