"""Where visitors come in: HAProxy where there is one, else a port that all instances share.

Whatever stands behind it carries a mark, so that nothing is left even when the demo is killed:
`watcher` ends all of it and removes the folder.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from scaler.clock import Clock
from scaler.demo.ledger.watcher import Server, dismissed, told, watching
from scaler.errors import ConfigError

OLDEST: Final = (2, 5)  # of HAProxy: servers can be added while it runs
PATIENCE: Final = timedelta(seconds=5)
LOOK: Final = timedelta(milliseconds=20)
BACKEND: Final = "ledger"
# A request that an instance has not answered goes to another: transfers have keys, so that twice is
# once. A hung instance is left out after two checks; who waits for it goes elsewhere after 2 s.
CONFIG: Final = """\
global
    maxconn 2000
    stats socket {folder}/admin mode 600 level admin
defaults
    mode http
    timeout connect 500ms
    timeout client 30s
    timeout queue 5s
    timeout server 2s
    timeout check 500ms
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response response-timeout
frontend door
    bind 127.0.0.1:{port}
    default_backend {backend}
backend {backend}
    balance roundrobin
    option httpchk GET /healthz
    default-server inter 200ms fall 2 rise 1
"""


class Door:
    """One address, from `open` to `close`."""

    def __init__(self, clock: Clock, port: int, *, haproxy: str | None = None) -> None:
        """`haproxy` is the program, None for the shared port."""
        self._clock = clock
        self._haproxy = haproxy
        self._watcher: subprocess.Popen[bytes] | None = None
        self.port = port
        self.folder = Path()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> Path | None:
        """The socket by which HAProxy is told of instances; None with a shared port."""
        return self.folder / "admin" if self._haproxy else None

    @property
    def words(self) -> str:
        return "HAProxy" if self._haproxy else "one port that all instances share"

    async def open(self) -> Self:
        """HAProxy answers, or all is left to the instances; so too when it does not run here."""
        self.folder = Path(tempfile.mkdtemp(prefix="door", dir="/tmp"))
        self._watch()
        if self._haproxy and not await self._answers():
            self._haproxy = None
        return self

    def _watch(self) -> None:
        """From here on all of it ends, whatever happens to us."""
        self._watcher = watching(self.folder)
        servers = []
        if self._haproxy:
            config = self.folder / "haproxy.cfg"
            text = CONFIG.format(folder=self.folder, port=self.port, backend=BACKEND)
            config.write_text(text)
            words = [self._haproxy, "-db", "-f", str(config)]
            servers = [Server(name="haproxy", command=words)]
        told(self._watcher, servers)

    async def _answers(self) -> bool:
        end = self._clock.monotonic() + PATIENCE
        while self._clock.monotonic() < end:
            with suppress(OSError):
                _, writer = await asyncio.open_unix_connection(self.folder / "admin")
                writer.close()
                return True
            await self._clock.sleep(LOOK)
        return False

    async def close(self) -> None:
        """Everything behind it has ended, and its folder is gone. Safe to repeat."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await asyncio.to_thread(dismissed, watcher, self.folder)


def haproxy() -> str | None:
    """The program, where there is one that is new enough."""
    program = shutil.which("haproxy")
    if program is None:
        return None
    try:
        said = subprocess.run(  # noqa: S603 - what PATH names
            [program, "-v"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version (\d+)\.(\d+)", said)
    return program if found and (int(found[1]), int(found[2])) >= OLDEST else None


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on.

    Each process begins to look elsewhere, so that two demos that start together do not meet.

    Raises:
        ConfigError: there are none.
    """
    blocks = list(range(18000, 30000, count))
    begin = os.getpid() % len(blocks)
    for first in blocks[begin:] + blocks[:begin]:
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise ConfigError("no free ports between 18000 and 30000; end what uses them")
