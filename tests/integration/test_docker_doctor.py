"""What `scaler doctor` says about an engine: what it lets us do, and which switch is missing."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scaler.clients import docker_doctor
from scaler.clients.docker import Engine as Client
from scaler.clients.docker_doctor import BASE, CONTAINERS, SERVICES
from tests.integration.dockerd import Engine
from tests.integration.socket_proxy import SocketProxy

pytestmark = pytest.mark.live
ENOUGH = dict.fromkeys(("CONTAINERS", "POST", "EVENTS", "NETWORKS", "EXEC", "INFO"), True)
Proxied = Callable[..., str]


@pytest.fixture
def proxied(engine: Engine) -> Iterator[Proxied]:
    """The URL of the engine behind a proxy with these switches."""
    proxies = []

    def start(**switches: bool) -> str:
        proxy = SocketProxy(engine.socket, switches)
        proxies.append(proxy)
        proxy.start()
        return proxy.url

    yield start
    for proxy in proxies:
        proxy.stop()


async def examined(url: str, *rights: Any) -> docker_doctor.Examination:
    client = Client(url)
    try:
        return await docker_doctor.examine(client, rights)
    finally:
        await client.aclose()


async def test_an_engine_keeps_nothing_away_and_nothing_is_done_to_it(engine: Engine) -> None:
    engine.run("bystander", "--network", "none", "busybox:test", "sleep", "600")
    seen = await examined(engine.url, *BASE, *CONTAINERS, *SERVICES)
    assert (seen.missing, seen.trouble) == ((), "")
    assert seen.about.startswith("engine 20.10")
    assert engine.names() == ["bystander"]
    assert engine.docker("ps", "--quiet").stdout.strip()


async def test_behind_a_proxy_every_missing_right_is_named(proxied: Proxied) -> None:
    seen = await examined(proxied(**ENOUGH), *BASE, *CONTAINERS)
    assert seen.missing == ()
    some = proxied(CONTAINERS=True, EVENTS=True, INFO=True)
    reading = await examined(some, *BASE, *CONTAINERS)
    assert {right.method for right in reading.missing} == {"POST", "DELETE"}
    nothing = await examined(proxied(), *BASE, *CONTAINERS, *SERVICES)
    assert set(nothing.missing) == {*BASE, *CONTAINERS, *SERVICES}


async def test_an_engine_that_is_not_there_is_a_trouble() -> None:
    seen = await examined("unix:///no/such/socket", *BASE)
    assert "is the engine running" in seen.trouble


def test_doctor_looks_at_the_engine_that_labels_need(
    running: Any, engine: Engine, proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    monkeypatch.delenv("SCALER_SOCKET", raising=False)
    config = running.folder / "scaler.yaml"
    config.write_text("policies: [policies]\nlabels: {docker: true}\n")
    whole = json.loads(running.ask("--config", str(config), "doctor", "--json").stdout)
    details = [f["detail"] for f in whole["findings"] if f["subject"] == "docker"]
    assert "engine 20.10" in details[0]
    assert "is root on its host" in details[1]
    monkeypatch.setenv("DOCKER_HOST", proxied(CONTAINERS=True))
    ended = running.ask("--config", str(config), "doctor")
    assert ended.returncode == 1
    assert "may not create containers; in a socket proxy set POST=1" in ended.stdout
    assert "may not hear of events; in a socket proxy set EVENTS=1" in ended.stdout
