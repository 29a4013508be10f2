"""A proxy before the socket of an engine that can misbehave: hold streams, add events, hang."""

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path


class UnixProxy:
    """Bytes go through, until told otherwise. Two threads for each connection."""

    def __init__(self, engine: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="up", dir="/tmp"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self.silent = False  # nothing of a stream of events is passed on any more
        self.hung = False  # no request is passed on
        self.requests = 0
        self.before: Callable[[str], None] = lambda _: None  # told each request line
        self._engine = engine
        self._door = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []
        self._streams: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        self._door.bind(str(self.socket))
        self._door.listen(64)
        self._run(self._accept)

    def stop(self) -> None:
        self.hung = False
        with self._lock:
            for each in (self._door, *self._open):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        self._door.close()
        self.socket.unlink()
        self.folder.rmdir()

    def _run(self, work: Callable[..., None], *given: socket.socket) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._engine))
            with self._lock:
                self._open += [client, server]
            self._run(self._there, client, server)
            self._run(self._back, client, server)

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                line = data.split(b"\r\n", 1)[0].decode(errors="replace")
                if line.endswith("HTTP/1.1"):
                    self.requests += 1
                    self.before(line)
                    if "/events" in line and "until" not in line:
                        self._streams.append(client)
                while self.hung:
                    time.sleep(0.02)
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not (self.silent and client in self._streams):
                    client.sendall(data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for each in (client, server):
                self._open.remove(each)
                each.close()
            if client in self._streams:
                self._streams.remove(client)

    def add_events(self, count: int) -> None:
        """So many events of containers that nobody knows, on every stream."""
        for number in range(count):
            event = {
                "Type": "container",
                "Action": "start",
                "Actor": {
                    "ID": f"{number:064x}",
                    "Attributes": {"name": f"stranger-{number}", "image": "none"},
                },
                "time": 1,
                "timeNano": 1_000_000_000 + number,
            }
            line = json.dumps(event).encode() + b"\n"
            for stream in self._streams:
                stream.sendall(f"{len(line):x}\r\n".encode() + line + b"\r\n")
