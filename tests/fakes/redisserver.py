"""What speaks like Redis for as long as it takes to be asked, then answers as it likes."""

import asyncio
import shutil
import tempfile
from pathlib import Path


class FakeRedis:
    """On a socket of its own. `answer` is for every question; an empty one ends the connection."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))
        self.url = f"unix://{self._folder}/s"
        self.answer = b"+OK\r\n"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._folder / "s")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while words := await _command(reader):
                known = words[0].upper() in (b"CLIENT", b"SELECT", b"AUTH")
                if not known and not self.answer:
                    return
                writer.write(b"+OK\r\n" if known else self.answer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._open.discard(writer)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in tuple(self._open):
            writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readline() or b"*0")[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words
