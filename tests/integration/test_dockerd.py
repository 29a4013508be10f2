"""The engine that the tests of Docker run on."""

import urllib.request

import pytest

from scaler.clients.docker import Engine as Client
from tests.integration.dockerd import PYTHON, Engine
from tests.integration.running import until

pytestmark = pytest.mark.live


def answers(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            body: bytes = response.read()
            return body
    except OSError:
        return None


async def test_a_container_of_the_tests_serves_on_a_published_port(engine: Engine) -> None:
    engine.run("web", "--publish", "127.0.0.1::8000", "--env", "PORT=8000", PYTHON)
    port = engine.docker("port", "web", "8000").stdout.strip().rpartition(":")[2]
    assert until(lambda: answers(f"http://127.0.0.1:{port}/work"), "it answers")
    client = Client(engine.url)
    listed = await client.call("listing", lambda api: api.containers())
    assert [container["Names"] for container in listed] == [["/web"]]
    assert client.version >= (1, 41)
    await client.aclose()
