"""Keeps servers of a demo alive for as long as whoever started it holds its standard input.

`python -m scaler.demo.ledger.watcher FOLDER` reads one line (`line`), starts the servers, and waits
for the end of its input. That comes when its parent says so and when the parent was killed: then
the servers are ended, and whatever has `DEMO=FOLDER` in its environment, and the folder is removed.
Should this process be killed itself, the kernel ends the servers. The standard library only, so
that it starts at once.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 10.0  # for a server to end before it is killed
LOOK_S: Final = 0.05
MARK: Final = "DEMO"  # the variable by which others are known that end with the servers
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server: how it is started and how it is asked to end."""

    name: str
    command: Sequence[str]
    ends_by: int = signal.SIGTERM
    uid: int | None = None  # who it runs as; None for the same as here
    gid: int | None = None


def line(servers: Sequence[Server]) -> bytes:
    """What a watcher is told."""
    return json.dumps([asdict(server) for server in servers]).encode() + b"\n"


def watching(folder: Path) -> subprocess.Popen[bytes]:
    """A watcher; from here on the folder is removed, whatever happens to us."""
    return subprocess.Popen(  # noqa: S603 - this very program
        [sys.executable, "-m", "scaler.demo.ledger.watcher", str(folder)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def told(watcher: subprocess.Popen[bytes], servers: Sequence[Server]) -> None:
    """Have it start these."""
    assert watcher.stdin is not None  # noqa: S101 - `watching` has asked for it
    watcher.stdin.write(line(servers))
    watcher.stdin.flush()


def dismissed(watcher: subprocess.Popen[bytes], folder: Path) -> None:
    """Have it end its servers and remove `folder`, and wait until it has."""
    if watcher.stdin is not None:
        with suppress(BrokenPipeError):
            watcher.stdin.close()
    watcher.wait()
    shutil.rmtree(folder, ignore_errors=True)  # when the watcher was killed


def parsed(text: str) -> list[Server]:
    return [Server(**plain) for plain in json.loads(text)]


def start(server: Server, folder: Path) -> subprocess.Popen[bytes]:
    """It runs in a group of its own, so that Ctrl-C in a terminal does not end it before us."""
    libc = ctypes.CDLL(None)
    watcher = os.getpid()

    def dies_with_us() -> None:
        # After the change of user, which would take the setting back.
        libc.prctl(_PR_SET_PDEATHSIG, server.ends_by)
        if os.getppid() != watcher:
            os._exit(1)

    with (folder / f"{server.name}.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - it is the task
            list(server.command),
            user=server.uid,
            group=server.gid,
            extra_groups=None if server.uid is None else [],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=dies_with_us,  # noqa: PLW1509 - there is one thread
        )


def end(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, and kill whatever of its group is left."""
    if process.poll() is None:
        process.send_signal(server.ends_by)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def marked(folder: Path) -> list[int]:
    """Processes with the folder in their environment, as far as it can be read."""
    mark = f"{MARK}={folder}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def end_marked(folder: Path) -> None:
    """Ask them to end, and kill those that have not in time."""
    left = marked(folder)
    for pid in left:
        _signal(pid, signal.SIGTERM)
    end_at = time.monotonic() + PATIENCE_S  # noqa: TID251 - nothing of scaler is imported here
    while (left := marked(folder)) and time.monotonic() < end_at:  # noqa: TID251
        time.sleep(LOOK_S)  # noqa: TID251
    for pid in left:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the input is the one way to end
    folder = Path(sys.argv[1])
    running: list[tuple[Server, subprocess.Popen[bytes]]] = []
    try:
        told = sys.stdin.readline()  # nothing when the parent is gone before it knew what to start
        for server in parsed(told) if told else ():
            running.append((server, start(server, folder)))  # noqa: PERF401 - the rest may fail
        sys.stdin.read()
    finally:
        end_marked(folder)
        for server, process in reversed(running):
            end(server, process)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
