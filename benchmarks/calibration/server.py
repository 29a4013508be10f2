"""A real server with a known capacity: so many workers, each busy for a fixed time per request."""

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SOON = 10  # seconds until it must listen


@asynccontextmanager
async def pool(workers: int, service: float) -> AsyncIterator[str]:
    """Its URL while it runs, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, workers, service), daemon=True)
    process.start()
    try:
        if not await asyncio.to_thread(ours.poll, SOON):
            raise TimeoutError("the server does not listen")
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.join, SOON)


def _main(told: Connection, workers: int, service: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(told, workers, service))


async def _serve(told: Connection, workers: int, service: float) -> None:
    """A worker takes the oldest request. Its time ends when planned, so late timers add nothing."""
    loop = asyncio.get_running_loop()
    free = [0.0] * workers

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                first = min(range(workers), key=free.__getitem__)
                free[first] = max(free[first], loop.time()) + service
                await asyncio.sleep(free[first] - loop.time())
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    told.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()
