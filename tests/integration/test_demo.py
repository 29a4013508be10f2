"""`scaler demo` as its first visitor runs it: all of it is shown, and nothing is left."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.postgreses import insist_on_postgres
from tests.integration.running import SCALER, until

pytestmark = pytest.mark.live
LONGEST_S = 180
# Where there is no library of PostgreSQL.
WITHOUT = "import sys; sys.modules['psycopg'] = None; from scaler.__main__ import main; main()"


class Shown:
    """One demo, and the processes that belong to it."""

    def __init__(self, folder: Path, words: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*words, "demo", "--short", "--folder", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", **environment},
        )
        self.said: list[str] = []

    def listen(self, words: str) -> None:
        """Read until a line has these words."""
        assert self.process.stdout is not None
        while not self.said or words not in self.said[-1]:
            self.said.append(self.process.stdout.readline())
            assert self.said[-1], "".join(self.said)

    def ended(self) -> str:
        """All that it has said."""
        rest, _ = self.process.communicate(timeout=LONGEST_S)
        return "".join(self.said) + rest

    def places(self) -> set[str]:
        """Its folders under /tmp, by what its processes were called with."""
        mine = {self.process.pid}
        for _ in range(3):
            mine |= {pid for pid, parent in parents().items() if parent in mine}
        text = b" ".join(
            read(f"/proc/{pid}/cmdline") + read(f"/proc/{pid}/environ") for pid in mine
        )
        return {found.decode() for found in re.findall(rb"/tmp/(?:door|ledger)[a-z0-9_]{8}", text)}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.communicate(timeout=60)


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        text = read(str(stat)).rpartition(b")")[2].split()
        if text:
            found[int(stat.parent.name)] = int(text[1])
    return found


def left(places: set[str]) -> set[str]:
    """Processes and folders that still belong to it."""
    found = {place for place in places if Path(place).exists()}
    for process in Path("/proc").glob("[0-9]*"):
        text = read(f"{process}/cmdline") + read(f"{process}/environ")
        found |= {process.name for place in places if place.encode() in text}
    return found


@pytest.fixture
def shows(tmp_path: Path) -> Iterator[list[Shown]]:
    begun: list[Shown] = []
    yield begun
    for one in begun:
        one.end()


def begin(shows: list[Shown], folder: Path, *words: str, path: str = "") -> Shown:
    environment = {"PATH": path} if path else {}
    shows.append(Shown(folder / "out", list(words) or [SCALER], environment))
    return shows[-1]


def row(said: str, name: str) -> str:
    return next(line for line in said.splitlines() if line.startswith(name))


@pytest.mark.timeout(300)
def test_everything_is_shown_and_nothing_is_left(shows: list[Shown], tmp_path: Path) -> None:
    insist_on_postgres()
    show = begin(shows, tmp_path)
    show.listen("measuring what one instance carries")
    places = show.places()
    assert len(places) == 2
    said = show.ended()
    assert show.process.returncode == 0, said
    for accident in ("kill -9 of", "hangs and answers nobody", "Redis stands still", "a script"):
        assert accident in said, said
    assert "killed by SIGKILL" in said
    assert "liveness probe" in said
    assert "history moved into its months" in row(said, "partitions")
    assert "right to the cent" in row(said, "books")
    assert "keys" in row(said, "hygiene")
    assert "questions answered from it" in row(said, "cache")
    assert row(said, "calibration")
    assert row(said, "Redis away")
    assert re.search(r"^ +1 → [23456]", said, re.MULTILINE), said
    assert not left(places)
    there = {path.name for path in show.folder.iterdir()}
    assert there == {"caches.yaml", "partitions.yaml", "policies", "report.html", "state"}


def test_ctrl_c_ends_all_of_it(shows: list[Shown], tmp_path: Path) -> None:
    insist_on_postgres()
    show = begin(shows, tmp_path)
    show.listen("measuring what one instance carries")
    places = show.places()
    show.process.send_signal(signal.SIGINT)
    said = show.ended()
    assert (show.process.returncode, "interrupted" in said) == (130, True), said
    assert len(places) == 2
    assert not left(places)


def test_a_demo_that_is_killed_leaves_no_process(shows: list[Shown], tmp_path: Path) -> None:
    insist_on_postgres()
    show = begin(shows, tmp_path)
    show.listen("measuring what one instance carries")
    places = show.places()
    assert len(places) == 2
    show.process.kill()
    show.ended()
    until(lambda: not left(places), "instances and servers end")


def test_without_servers_and_haproxy_one_line_says_so(shows: list[Shown], tmp_path: Path) -> None:
    show = begin(shows, tmp_path, sys.executable, "-c", WITHOUT, path=str(tmp_path))
    show.listen("measuring what one instance carries")
    said = "".join(show.said)
    assert said.count("all is kept in memory: psycopg is missing") == 1
    assert "by one port that all instances share" in said
    show.process.send_signal(signal.SIGINT)
    show.ended()
    assert show.process.returncode == 130
