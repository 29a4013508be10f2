"""A server that does what its path says, all of it wrong but `/ok`; sockets on this machine."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
ANSWERS = {
    "/ok": OK,
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "/close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    "/length-close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "/garbage-after": OK + b"HTTP/1.1 500 Not asked\r\n\r\n",
    "/no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/error": b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    "/garbage": b"SSH-2.0-OpenSSH_9.2\r\n",
    "/incomplete": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "/half": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
    "/nothing": b"",
    "/eof": b"",
    "/reset": b"",
}
ENDS = {"/close", "/length-close", "/incomplete", "/eof", "/garbage"}


class FaultyServer:
    """Counts its connections and requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.frozen = asyncio.Event()  # cleared: everybody waits
        self.frozen.set()
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self.frozen.wait()
                method, path = head.split(b" ", 2)[:2]
                answer = ANSWERS.get(path.decode(), OK)
                if method == b"HEAD":
                    answer = answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                if path == b"/reset":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                    break
                writer.write(answer)
                await writer.drain()
                if path.decode() in ENDS:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.close()

    def abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def faulty_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultyServer]:
    faulty = FaultyServer()
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0, ssl=tls)
    faulty.port = server.sockets[0].getsockname()[1]
    try:
        yield faulty
    finally:
        server.close()
        faulty.abort()
        await asyncio.sleep(0)


@asynccontextmanager
async def deaf_port() -> AsyncIterator[int]:
    """A port whose queue of connections is full, so that no further one is made."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen(0)
        port = int(door.getsockname()[1])
        waiting = []
        for _ in range(8):
            knock = socket.socket()
            knock.setblocking(False)
            knock.connect_ex(("127.0.0.1", port))
            waiting.append(knock)
        await asyncio.sleep(0.05)
        try:
            yield port
        finally:
            for knock in waiting:
                knock.close()


async def forever() -> None:
    """Serve until killed, in a process of its own; the port is printed first."""
    async with faulty_server() as faulty:
        print(faulty.port, flush=True)
        await asyncio.Event().wait()
