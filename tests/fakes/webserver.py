"""A web server that answers with what a test says, or does what no good server would."""

import asyncio
import ssl
from contextlib import suppress


class WebServer:
    """On a port of 127.0.0.1 that the system chooses. Paths without an answer are 404."""

    def __init__(self) -> None:
        self.port = 0
        self.answers: dict[str, bytes] = {}
        self.heads: list[str] = []  # of all requests, with their headers
        self.doing = ""  # instead of what the last word of a path says
        self.most_at_once = 0
        self._at_once = 0
        self._server: asyncio.Server | None = None
        self._over = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._over.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            path = head.split()[1].partition("?")[0]
            await self._answer(path, writer)
        self._at_once -= 1
        writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        doing = self.doing or path.rpartition("/")[2]
        if path in self.answers:
            writer.write(plain(self.answers[path]))
        elif doing == "hang":
            await self._over.wait()
        elif doing == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not self._over.is_set():
                writer.write(b" ")
                await writer.drain()
                await self._pause()
        elif doing == "flood":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(100):
                writer.write(bytes(2**20))
                await writer.drain()
        elif doing == "cut":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"status": "succ')
        elif doing == "redirect":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
        elif doing == "noise":
            writer.write(b"\x00\x01\x02 what is this\r\n\r\n")
        else:
            status = doing if doing.isdigit() else "404"
            writer.write(plain(b"it is broken", status))
        await writer.drain()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), 0.02)


def plain(body: bytes, status: str = "200") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
