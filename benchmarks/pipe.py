"""How long the event loop stands still while nobody reads stderr.

Two daemons run side by side for half a minute on policies that log without end: the stderr of one
is a pipe that is full from the start, that of the other is thrown away. Each is asked every 10 ms
whether it lives; the slowest answer is no less than the longest time its loop stood still.
"""

import fcntl
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from socket import AF_UNIX, socket
from typing import Any

from benchmarks.outcome import Outcome

SPAN_S = 30.0
ASK_S = 0.01
POLICY = """\
policies:
  crashes:
    every: 200ms
    target: {{local: {{command: ["false"], on_exit: stop}}}}
    limits: {{min: 10, max: 10}}
    health: {{restart: {{backoff: 100ms..200ms}}}}
"""


class Daemon:
    """One daemon with its own folder, and what its answers took."""

    def __init__(self, folder: Path, stderr: Any) -> None:
        self.socket = folder / "s"
        self.waits_ms: list[float] = []
        policies = folder / "policies"
        policies.mkdir(parents=True)
        (policies / "crashes.yaml").write_text(POLICY.format())
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("scaler")),
                "--socket",
                self.socket,
                "run",
                policies,
            ],
            env={
                **os.environ,
                "SCALER_STATE_DIR": str(folder / "state"),
                "SCALER_LOG__LEVEL": "debug",
            },
            stderr=stderr,
        )

    def ask(self, until: float) -> None:
        """Ask again and again on one connection."""
        connection = HTTPConnection("localhost", timeout=60)
        connection.sock = socket(AF_UNIX)
        connection.sock.connect(str(self.socket))
        while time.monotonic() < until:
            begin = time.monotonic()
            connection.request("GET", "/livez")
            connection.getresponse().read()
            self.waits_ms.append(1000 * (time.monotonic() - begin))
            time.sleep(ASK_S)
        connection.close()

    def stop(self) -> float:
        """Seconds that it took to end."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - begin


def full_pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x")
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def run() -> Outcome:
    reading, writing = full_pipe()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        blocked = Daemon(Path(folder) / "blocked", writing)
        free = Daemon(Path(folder) / "free", subprocess.DEVNULL)
        both = (blocked, free)
        while not all(daemon.socket.exists() for daemon in both):
            time.sleep(0.1)
        time.sleep(2)
        end = time.monotonic() + SPAN_S
        askers = [threading.Thread(target=daemon.ask, args=(end,)) for daemon in both]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        took = [daemon.stop() for daemon in both]
    os.close(reading)
    os.close(writing)
    outcome = Outcome()
    for name, daemon, stopped in zip(("blocked", "free"), both, took, strict=True):
        waits = sorted(daemon.waits_ms)
        outcome.figures |= {
            f"{name}_answers": len(waits),
            f"{name}_p50_ms": round(statistics.median(waits), 2),
            f"{name}_p99_ms": round(waits[int(0.99 * len(waits))], 2),
            f"{name}_slowest_ms": round(waits[-1], 2),
            f"{name}_stop_s": round(stopped, 2),
        }
    slowest = outcome.figures["blocked_slowest_ms"]
    outcome.goal("longest lag with stderr blocked for 30 s, in ms", slowest, most=50)
    return outcome
