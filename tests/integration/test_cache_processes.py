"""Many callers in several real processes: the backend is called once for all of them."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.integration.redises import RedisServer, serving_redis
from tests.integration.running import until

pytestmark = pytest.mark.live
PROCESSES, CALLERS = 4, 125


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with serving_redis() as made:
        yield made


def started(server: RedisServer, seconds: float, kind: str) -> list[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.integration.cache_caller"]
    given = [server.url, str(CALLERS), str(seconds), kind]
    made = [
        subprocess.Popen([*command, *given], stdout=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    until(lambda: server.ask("GET", "ready").strip() == str(PROCESSES), "all are ready")
    server.ask("SET", "go", "1")
    return made


@pytest.mark.parametrize("seconds", [0.05, 3], ids=["a fast backend", "one slower than a lease"])
def test_one_cold_key_is_one_call(server: RedisServer, seconds: float) -> None:
    for process in started(server, seconds, "answering"):
        assert process.communicate(timeout=60)[0].split() == [str(CALLERS), "0"]
    assert server.ask("GET", "backend calls").strip() == "1"


def test_one_failing_key_is_one_call(server: RedisServer) -> None:
    for process in started(server, 0.05, "failing"):
        assert process.communicate(timeout=60)[0].split() == ["0", str(CALLERS)]
    assert server.ask("GET", "backend calls").strip() == "1"


def test_a_process_that_is_killed_while_it_computes_is_replaced(server: RedisServer) -> None:
    processes = started(server, 1.5, "answering")
    until(lambda: server.ask("GET", "backend calls").strip() == "1", "somebody computes")
    holder = server.ask("KEYS", "many:*:lease").split()
    assert len(holder) == 1
    for process in processes[:2]:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    for process in processes[2:]:
        assert process.communicate(timeout=60)[0].split() == [str(CALLERS), "0"]
    assert int(server.ask("GET", "backend calls")) <= 2
