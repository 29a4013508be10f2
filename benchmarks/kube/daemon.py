"""A daemon in a process of its own, on a fake API server in this one."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.docker import cpu_s
from benchmarks.start import AS_INSTALLED, rss_mib
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import SCALER


class Daemon:
    """Runs from `start` to `stop`."""

    def __init__(self, folder: Path, server: Server, policies: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "policies").mkdir()
        (folder / "policies" / "all.yaml").write_text(policies)
        (folder / "kubeconfig").write_text(kubeconfig(server))
        self._socket = str(folder / "s.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {
            **os.environ,
            "SCALER_STATE_DIR": str(self.folder / "state"),
            "KUBECONFIG": str(self.folder / "kubeconfig"),
        }
        command = [sys.executable, "-c", AS_INSTALLED, "--socket", self._socket, "run"]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(self.folder / "policies")], env=environment, stderr=log
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


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)] if ordered else 0.0
