"""What an engine says of its containers. A newer engine than that of the tests is a fake here."""

import asyncio
import json
import socketserver
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest

from scaler.clients import stats
from scaler.clients.cgroups import SHARED
from scaler.clients.docker import Engines
from scaler.clients.stats import Stats
from scaler.clock import SystemClock

READ: Final = "2026-01-01T00:00:01.123456789Z"
SAID: Final[dict[str, Any]] = {
    "read": READ,
    "preread": "0001-01-01T00:00:00Z",
    "pids_stats": {"current": 3},
    "networks": {"eth0": {"rx_bytes": 100, "tx_bytes": 7}, "eth1": {"rx_bytes": 1, "tx_bytes": 2}},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "op": "Read", "value": 10},
            {"major": 8, "op": "write", "value": 20},
            {"major": 9, "op": "read", "value": 1},
            {"major": 9, "op": "Total", "value": 99},
        ]
    },
    "cpu_stats": {
        "cpu_usage": {"total_usage": 2_500_000_000},
        "throttling_data": {"periods": 10, "throttled_periods": 4},
    },
    "memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 300, "inactive_file": 1}},
}


def without(*path: str, value: Any = None) -> dict[str, Any]:
    """The answer with something else, or nothing, at a place."""
    changed: dict[str, Any] = json.loads(json.dumps(SAID))
    here = changed
    for key in path[:-1]:
        here = here[key]
    if value is None:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("cpu", (2.5,)),
        ("throttle", (10, 4)),
        ("memory", (700,)),
        ("pids", (3,)),
        ("io", (11, 20)),
        ("net", (101, 9)),
    ],
)
def test_every_kind_of_number(kind: str, counts: tuple[float, ...]) -> None:
    now = datetime.now(UTC)
    told = stats.told((now, SAID), kind)
    assert told == (now, datetime(2026, 1, 1, 0, 0, 1, 123456, UTC) - stats.EPOCH, counts)


@pytest.mark.parametrize(
    ("kind", "said", "because"),
    [
        pytest.param("cpu", {}, "does not run", id="nothing at all"),
        pytest.param("cpu", [], "something else than an object", id="a list"),
        pytest.param("cpu", without("read", value="0001-01-01T00:00:00Z"), "not run", id="year 1"),
        pytest.param(
            "memory",
            {"read": READ, "memory_stats": {}, "pids_stats": {}, "cpu_stats": {}},
            "does not run",
            id="a stopped container",
        ),
        pytest.param("cpu", without("cpu_stats", "cpu_usage"), "not understood", id="no usage"),
        pytest.param("cpu", without("cpu_stats", value="x"), "not understood", id="a word"),
        pytest.param("cpu", without("read", value="soon"), "not understood", id="no moment"),
        pytest.param("net", without("networks"), "does not say net", id="no network"),
        pytest.param("memory", without("memory_stats", "usage"), "does not say", id="no memory"),
        pytest.param(
            "io",
            {**SAID, "blkio_stats": {"io_service_bytes_recursive": None}},
            "does not say io",
            id="no devices",
        ),
        pytest.param("pressure_cpu", SAID, "does not say pressure cpu", id="no pressure"),
    ],
)
def test_what_is_not_said_is_never_zero(kind: str, said: Any, because: str) -> None:
    told = stats.told((datetime.now(UTC), said), kind)
    assert isinstance(told, str)
    assert because in told


def test_idle_cache_above_the_usage_is_not_taken_off() -> None:
    said = without("memory_stats", "usage", value=200)
    told = stats.told((datetime.now(UTC), said), "memory")
    assert told[2] == (200,)


# --- an engine that answers at once ---


class FakeEngine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """API 1.45: just enough for `stats`."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: FakeEngine

    def do_GET(self) -> None:
        self.client_address = ("", 0)
        if self.path.endswith("/version"):
            self._say(200, {"ApiVersion": "1.45", "Version": "26.1.5"})
        elif self.path.endswith("/info"):
            self._say(200, {"NCPU": 16, "MemTotal": 2**34})
        else:
            self.server.asked.append(self.path)
            time.sleep(0.3)  # long enough for a second question to come meanwhile
            answer = self.server.answers.get(self.path.split("/")[3])
            if answer is None:
                self._say(404, {"message": "No such container"})
            else:
                self._say(200, answer)

    def _say(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


class Rig:
    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine(folder / "s")
        self.url = f"unix://{folder}/s"
        self.engines = Engines()
        self.stats = Stats(self.engines, SystemClock())


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="sf", dir="/tmp") as folder:  # short: sockets
        made = Rig(Path(folder))
        thread = threading.Thread(target=made.engine.serve_forever, args=(0.05,))
        thread.start()
        yield made
        await made.stats.aclose()
        await made.engines.aclose()
        made.engine.shutdown()
        thread.join()
        made.engine.server_close()


async def test_a_new_engine_is_asked_once_per_tick_and_container(rig: Rig) -> None:
    rig.engine.answers = {"a": SAID, "b": {}}
    lives = ["a@1", "b@1", "c@1"]
    cpu, memory = await asyncio.gather(
        rig.stats.read(rig.url, "cpu", lives), rig.stats.read(rig.url, "memory", lives)
    )
    assert cpu["a@1"][2] == (2.5,)
    assert memory["a@1"][2] == (700,)
    assert cpu["b@1"] == "it does not run"
    assert "No such container" in cpu["c@1"]
    asked = [path for path in rig.engine.asked if "/a/" in path]
    assert len(asked) == 1
    assert "one-shot=True" in asked[0]
    assert "stream=False" in asked[0]
    await rig.stats.read(rig.url, "pids", ["a@1"])
    await asyncio.sleep(2 * SHARED.total_seconds())
    await rig.stats.read(rig.url, "pids", ["a@1"])
    assert len([path for path in rig.engine.asked if "/a/" in path]) >= 2


async def test_the_host_is_the_one_of_the_engine(rig: Rig) -> None:
    assert await rig.stats.host(rig.url, "cpu") == 16
    assert await rig.stats.host(rig.url, "memory") == 2**34
