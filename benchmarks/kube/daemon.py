"""A daemon in a process of its own, on a fake API server in this one, as it would run in a pod."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.docker import cpu_s
from benchmarks.start import AS_INSTALLED, rss_mib
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server
from tests.integration import pods
from tests.integration.running import SCALER


@asynccontextmanager
async def served(**cluster: Any) -> AsyncIterator[tuple[Server, Cluster, Path]]:
    """A server with TLS, a cluster on it, and a folder that holds its authority."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Server(tls=pods.certified(folder)) as server, Cluster(server, **cluster) as made:
            yield server, made, folder


class Daemon:
    """Runs from `start` to `stop`."""

    def __init__(self, folder: Path, server: Server, policies: str, authority: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policies").mkdir()
        (folder / "policies" / "all.yaml").write_text(policies)
        pods.account(folder, authority, server.admin)
        self._server = server
        self._socket = str(folder / "s.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "SCALER_STATE_DIR": str(self.folder / "state"),
            "KUBERNETES_SERVICE_HOST": self._server.host,
            "KUBERNETES_SERVICE_PORT": str(self._server.port),
        }
        mount = pods.MOUNT.replace("ACCOUNT_FILES", str(self.folder / "account"))
        command = [sys.executable, "-c", AS_INSTALLED, "--socket", self._socket, "run"]
        script = f"{mount}\nexec {shlex.join([*command, str(self.folder / 'policies')])}"
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script], env=environment, stderr=log
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    @property
    def rss_mib(self) -> float:
        return rss_mib(self.pid)

    async def status(self) -> list[dict[str, Any]]:
        """Every target; none while it does not answer."""
        process = await asyncio.create_subprocess_exec(
            *(SCALER, "--socket", self._socket, "status", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
        return list(json.loads(output)["targets"]) if output else []

    async def ready(self, count: int, patience_s: float = 180) -> None:
        """Return when `count` targets have been looked at and have numbers."""
        async with asyncio.timeout(patience_s):
            while True:
                targets = await self.status()
                known = [
                    t for t in targets if t["metrics"] and t["metrics"][0]["value"] is not None
                ]
                if len(known) >= count:
                    return
                await asyncio.sleep(1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None
