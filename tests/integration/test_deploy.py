"""What stands in `deploy/` is enough for the daemon, and no more than it needs."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler.clients.docker_doctor import BASE, CONTAINERS, SERVICES, Right
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import Running, until
from tests.integration.socket_proxy import SocketProxy

DEPLOY = Path("deploy")


def services(file: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((DEPLOY / file).read_text())["services"]
    return found


def switches(file: str) -> set[str]:
    """Those of the socket proxy that are on, `POST=1`."""
    given = services(file)["docker-proxy"]["environment"]
    return {f"{name}={value}" for name, value in given.items()}


@pytest.mark.parametrize(
    ("file", "rights"),
    [
        pytest.param("compose.yaml", (*BASE, *CONTAINERS), id="beside containers"),
        pytest.param("swarm/stack.yaml", (*BASE, *SERVICES), id="on a manager of Swarm"),
    ],
)
def test_the_proxy_lets_through_what_is_needed_and_nothing_else(
    file: str, rights: tuple[Right, ...]
) -> None:
    assert switches(file) == {right.switch for right in rights}


@pytest.mark.parametrize("file", ["compose.yaml", "swarm/stack.yaml"])
def test_only_the_proxy_has_the_socket(file: str) -> None:
    for name, service in services(file).items():
        mounted = any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
        assert mounted == (name == "docker-proxy")


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    own = [line for line in lines if line.startswith("COPY ") and "--from" not in line]
    copied = [line.split()[1:-1] for line in own]
    for path in (path for paths in copied for path in paths):
        assert Path(path).exists(), path


@pytest.mark.live
async def test_behind_that_proxy_containers_are_scaled_healed_and_asked(
    engine: Engine, running: Running
) -> None:
    on = {switch.partition("=")[0]: True for switch in switches("compose.yaml")}
    proxy = SocketProxy(engine.socket, on)
    proxy.start()
    try:
        engine.run("web", "--network=none", BUSYBOX, "sleep", "600")
        running.write(
            "web",
            "policies:\n  web:\n    every: 500ms\n"
            f"    target: {{docker: {{container: web, engine: '{proxy.url}', grace: 0s}}}}\n"
            "    limits: {min: 3, max: 3}\n"
            "    health: {liveness: {command: [test, '!', -e, /tmp/sick], every: 500ms}}\n",
        )
        await asyncio.to_thread(running.start)
        until(lambda: len(running.instances("web")) == 3, "three run")
        until(
            lambda: [i["health"] for i in running.status()["web"]["instances"]] == ["healthy"] * 3,
            "all are well",
        )
        engine.docker("exec", "web-2", "touch", "/tmp/sick")
        until(
            lambda: "restart web-2" in running.ask("history", "web").stdout, "the sick is restarted"
        )
        engine.docker("kill", "web-3")
        until(
            lambda: "restart web-3" in running.ask("history", "web").stdout, "the dead is restarted"
        )
    finally:
        proxy.stop()
