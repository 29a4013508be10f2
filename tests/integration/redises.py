"""A Redis of its own for a test, on a socket in a folder."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.integration.running import until


class RedisServer:
    """One server that keeps nothing on disk, from `start` to `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        self._process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "",
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


def insist_on_redis() -> None:
    """Skip where there is no Redis; fail where there has to be one."""
    if not (shutil.which("redis-server") and shutil.which("redis-cli")):
        why = "needs redis-server; .ci/run installs it"
        if os.environ.get("SCALER_TEST_REQUIRE"):
            pytest.fail(why)
        pytest.skip(why)
