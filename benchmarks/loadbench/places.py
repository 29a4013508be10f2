"""Where things run: a server on one core, one client at a time on another."""

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.ports import free_port

SERVER_CORE, CLIENT_CORE = 0, (1 if (os.cpu_count() or 1) > 1 else 0)
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = """\
daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello, world\\n"; }} }}
}}
"""


class Server:
    """One process that can be frozen."""

    def __init__(
        self, process: subprocess.Popen[bytes], port: int, name: str, path: str = "/"
    ) -> None:
        self._process = process
        self.name = name
        self.url = f"http://127.0.0.1:{port}{path}"

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def ledger() -> Iterator[Server]:
    """The ledger, with everything in memory: an application in Python on one core."""
    port = free_port()
    words = [sys.executable, "-m", "scaler.demo.ledger", "serve", "--memory", "--port", str(port)]
    with _serving(words, port) as process:
        yield Server(process, port, "the ledger", "/accounts/1/balance")


@contextlib.contextmanager
def plain() -> Iterator[Server]:
    """nginx, or a small server of our own where there is none."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="lb", dir="/tmp") as folder:
        if NGINX:
            config = Path(folder) / "n.conf"
            config.write_text(CONFIG.format(folder=folder, port=port))
            words = [NGINX, "-p", folder, "-c", str(config)]
        else:
            words = [sys.executable, "-m", "benchmarks.loadbench.answering", str(port)]
        with _serving(words, port) as process:
            yield Server(process, port, "nginx" if NGINX else "a server of our own")


@contextlib.contextmanager
def _serving(words: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(pinned(words, SERVER_CORE), stdout=subprocess.DEVNULL)
    try:
        _until_it_listens(port)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _until_it_listens(port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("the server does not listen")


def pinned(words: list[str], core: int) -> list[str]:
    """The same command on one core, where util-linux is installed."""
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *words] if taskset else words


def client(words: list[str], given: str = "") -> tuple[str, float]:
    """What a client has printed, and the CPU seconds it took, start-up and all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        pinned(words, CLIENT_CORE),
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise RuntimeError(f"{words[:3]} ended with {ended.returncode}: {ended.stderr[-500:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return ended.stdout, cpu


def python_client(module: str, **order: Any) -> dict[str, Any]:
    """The figures that a module of this folder prints as its last line."""
    words = [sys.executable, "-m", f"benchmarks.loadbench.{module}", json.dumps(order)]
    found: dict[str, Any] = json.loads(client(words)[0].splitlines()[-1])
    return found
