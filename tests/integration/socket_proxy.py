"""A socket proxy as people put before Docker: HAProxy that lets through what switches allow.

It follows the rules of the usual one (tecnativa/docker-socket-proxy): nothing but GET without
POST=1, and each path by the switch of its first word.
"""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.integration.running import until

WORDS = (
    "containers", "events", "exec", "images", "info",
    "networks", "nodes", "services", "swarm", "tasks",
)  # fmt: skip
ALWAYS = ("_ping", "version")
CONFIG = """\
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 10m
    timeout server 10m
frontend proxy
    bind unix@{socket}
    {rules}
    http-request deny
    default_backend engine
backend engine
    server engine unix@{engine}
"""


class SocketProxy:
    """One proxy before one engine, from `start` to `stop`."""

    def __init__(self, engine: Path, switches: Mapping[str, bool]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sp", dir="/tmp"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        rules = [] if switches.get("POST") else ["http-request deny unless METH_GET"]
        allowed = [*ALWAYS, *(word for word in WORDS if switches.get(word.upper()))]
        rules += [
            rf"http-request allow if {{ path -m reg ^(/v[\d.]+)?/{word} }}" for word in allowed
        ]
        text = CONFIG.format(socket=self.socket, engine=engine, rules="\n    ".join(rules))
        (self.folder / "haproxy.cfg").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["haproxy", "-f", self.folder / "haproxy.cfg"], stdout=log, stderr=log
            )
        until(self.socket.exists, f"the proxy listens: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()
