"""A HAProxy of its own for a test, servers that can die at any moment, and clients that count."""

import asyncio
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from scaler.core.model import Instance, InstanceId, State

PATIENCE_S = 30.0
CONFIG = """\
global
    maxconn 500
    stats socket {folder}/s mode 600 level admin
    stats socket {folder}/operator mode 600 level operator
    stats socket fd@{admin} level admin
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 20s
    timeout server 20s
    timeout queue 20s
frontend front
    bind fd@{fd}
    default_backend web
backend web
    balance leastconn
    default-server inter 100ms fall 1 rise 1
    server theirs 127.0.0.1:9 disabled
backend fixed
    balance static-rr
"""


class Proxy:
    """One HAProxy and its front door, which stays open over a reload."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._door = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._admin = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._door.getsockname()[1]
        self.tcp = f"tcp://127.0.0.1:{self._admin.getsockname()[1]}"
        self.socket = folder / "s"
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start(self) -> None:
        """Begin, or begin anew: what ran before answers what it has and ends."""
        config = self.folder / "haproxy.cfg"
        door, admin = self._door.fileno(), self._admin.fileno()
        config.write_text(CONFIG.format(folder=self.folder, fd=door, admin=admin))
        before = [str(p.pid) for p in self._processes if p.poll() is None]
        soft = ["-sf", *before] if before else []
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(config), *soft],
            pass_fds=(door, admin),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while f"Pid: {process.pid}\n" not in await self.ask("show info"):
            assert process.poll() is None, config.read_text()
            assert asyncio.get_running_loop().time() < end
            await asyncio.sleep(0.02)

    async def ask(self, command: str) -> str:
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return ""
        try:
            writer.write(f"{command}\n".encode())
            return (await reader.read(-1)).decode()
        except OSError:
            return ""
        finally:
            writer.close()

    async def servers(self) -> dict[str, str]:
        """Status of every server of the backend."""
        lines = (await self.ask("show stat web 4 -1")).splitlines()
        return {line.split(",")[1]: line.split(",")[17] for line in lines[1:] if line}

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._door.close()
        self._admin.close()


@dataclass
class Backend:
    """A web server that answers after a while, and whose death breaks what it has open."""

    name: str
    delay: float
    served: int = 0
    busy: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self) -> "Backend":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                self.busy += 1
                try:
                    await asyncio.sleep(self.delay)
                finally:
                    self.busy -= 1
                self.served += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                await writer.drain()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    def kill(self) -> None:
        """As SIGKILL does: nobody listens any more, and what is open is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._open):
            writer.transport.abort()

    def instance(self, state: State = State.RUNNING, **more: object) -> Instance:
        known = {"host": "127.0.0.1", "port": self.port, "ready": True, **more}
        return Instance(id=InstanceId(self.name), state=state, **known)  # type: ignore[arg-type]


class Load:
    """Clients that ask without a pause, and count what went well and what did not."""

    def __init__(self, port: int, *, clients: int, most: int) -> None:
        self._port = port
        self._left = most
        self.well = 0
        self.failures: list[str] = []
        self._ending = False
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(clients)]

    async def _ask(self) -> None:
        while self._left > 0 and not self._ending:
            self._left -= 1
            try:
                async with asyncio.timeout(PATIENCE_S):
                    status = await get(self._port)
            except (OSError, IndexError, TimeoutError) as error:
                self.failures.append(repr(error))
            else:
                if status == "200":
                    self.well += 1
                else:
                    self.failures.append(status)

    async def end(self) -> None:
        self._ending = True
        await asyncio.gather(*self._tasks)


async def get(port: int, path: str = "/") -> str:
    """The status of one answer by a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read(-1)).decode().split(" ")[1]
    finally:
        writer.close()
