"""A real daemon in a folder of its own, asked through the real command line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from scaler.core.document import Target
from scaler.core.model import Fleet
from scaler.interfaces import Provider

PATIENCE_S = 30.0
SCALER = str(Path(sys.executable).with_name("scaler"))
SERVICE = str(Path("scaler/demo/service.py").resolve())
SLEEPER = """\
policies:
  {name}:
    every: 500ms
    target: {{local: {{command: [sleep, "600"], grace: 2s}}}}
    limits: {{min: {count}, max: 10}}
"""


def without(why: str) -> NoReturn:
    """Skip where something is not installed; fail where it has to be."""
    if os.environ.get("SCALER_TEST_REQUIRE"):
        pytest.fail(why)
    pytest.skip(why)


def until(true: Callable[[], Any], what: str, patience: float = PATIENCE_S) -> Any:
    """Whatever `true` returns once it is so."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {patience:g} s: {what}")


async def eventually(true: Callable[[], Any], what: str = "") -> Any:
    """The same while others go on in this loop."""
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not (found := true()):
        assert asyncio.get_running_loop().time() < end, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.01)
    return found


async def fleet_until(
    provider: Provider[Any], target: Target, holds: Callable[[Fleet], object]
) -> Fleet:
    """The first fleet for which that is so."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not holds(fleet := await provider.observe(target)):
        assert asyncio.get_running_loop().time() < deadline, fleet
        await asyncio.sleep(0.02)
    return fleet


class Running:
    """One folder with policies, and the daemons that were started on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        self.policies.mkdir()
        self.socket = Path(os.path.relpath(folder / "s"))
        self.state = folder / "state"
        self.daemon: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> Path:
        path = self.policies / f"{name}.yaml"
        path.write_text(text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SCALER_", "NOTIFY"))}
        return {**kept, "SCALER_STATE_DIR": str(self.state), "NO_COLOR": "1"}

    def start(self, *options: str, stderr: Any = subprocess.DEVNULL, ready: bool = True) -> None:
        self.daemon = subprocess.Popen(
            [SCALER, "--socket", str(self.socket), "run", *options, str(self.policies)],
            env=self.environment,
            stderr=stderr,
        )
        if ready:
            until(lambda: self.ask("status").returncode == 0, "the daemon answers")

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCALER, "--socket", str(self.socket), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self) -> dict[str, dict[str, Any]]:
        """Every target by name."""
        answer = json.loads(self.ask("status", "--json").stdout)
        return {target["name"]: target for target in answer["targets"]}

    def instances(self, name: str) -> dict[str, int]:
        """Pids of the running instances of one target, as the daemon knows them."""
        return {
            i["id"]: i["pid"] for i in self.status()[name]["instances"] if i["state"] == "running"
        }

    def marked(self) -> set[int]:
        """Pids of all first processes that carry the mark of this folder, whoever knows them."""
        found = set()
        mark = f"SCALER_OWNER={self.state}/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.add(int(process.name))
            except OSError:
                continue
        return found

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(PATIENCE_S)

    def clear(self) -> None:
        """Nothing of this folder runs on."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.kill()
        while found := self.marked():
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)
