"""A copy of a real container differs from it by nothing but what only one can have."""

import json
import random
import re
from collections.abc import Mapping
from typing import Any

import pytest

from scaler.clients import clone
from scaler.clients.clone import Template
from scaler.clients.docker import Engine as Client
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.ports import free_port, free_ports
from tests.integration.running import until

pytestmark = pytest.mark.live
COMPOSE = {
    "project": "shop", "service": "web", "container-number": "1", "oneoff": "False",
    "config-hash": "5f1d", "version": "2.24.5", "project.working_dir": "/srv/shop",
}  # fmt: skip
OURS = {"scaler.policy": "web", "scaler.instance": "a-uuid"}
ALLOWED = (
    r"Config\.Hostname",
    r"Config\.Image",
    r"Config\.MacAddress",
    r"Config\.Labels\.com\.docker\.compose\.container-number",
    r"Config\.Labels\.scaler\..*",
    r"HostConfig\.PortBindings\..*\.HostPort",
    r"Networks\.[^.]*\.IPAMConfig(\..*)?",
    r"Networks\.[^.]*\.Aliases(\..*)?",
)


def words(**labels: str) -> list[str]:
    return [
        w for key, value in labels.items() for w in ("--label", f"com.docker.compose.{key}={value}")
    ]


@pytest.fixture
def networks(engine: Engine) -> tuple[str, str]:
    """Two networks; the first with a subnet of its own, so that addresses can be given."""
    prefix = f"10.{random.randrange(150, 200)}.{random.randrange(256)}"
    engine.docker("network", "create", "--subnet", f"{prefix}.0/24", "front")
    engine.docker("network", "create", "back")
    return prefix, "back"


@pytest.fixture
def original(engine: Engine, networks: tuple[str, str]) -> str:
    """A container with about everything that a container can have."""
    engine.docker("volume", "create", "assets")
    engine.docker(
        "create", "--name", "shop-web-1", *words(**COMPOSE), "--label", "team=core",
        "--network", "front", "--ip", f"{networks[0]}.77", "--network-alias", "web",
        "--publish", f"127.0.0.1:{free_port()}:8000", "--expose", "9000",
        "--volume", "/scratch", "--volume", "assets:/assets:ro",
        "--mount", "type=volume,source=assets,target=/more,readonly",
        "--mount", "type=bind,source=/etc,target=/host,readonly",
        "--tmpfs", "/run:size=1m", "--shm-size", "8m",
        "--ulimit", "nofile=1024:2048", "--sysctl", "net.core.somaxconn=256",
        "--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--security-opt", "no-new-privileges",
        "--device", "/dev/null:/dev/other", "--group-add", "7", "--user", "0:0",
        "--log-opt", "max-size=1m", "--log-opt", "max-file=2",
        "--health-cmd", "true", "--health-interval", "1s", "--health-retries", "2",
        "--add-host", "db:10.9.9.9", "--dns", "10.9.9.8", "--dns-search", "shop.test",
        "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--oom-score-adj", "10",
        "--restart", "on-failure:3", "--init", "--read-only", "--stop-signal", "SIGINT",
        "--stop-timeout", "7", "--env", "MODE=test", "--workdir", "/tmp", "--domainname", "shop",
        BUSYBOX, "sleep", "600",
    )  # fmt: skip
    engine.docker("network", "connect", "--alias", "web", "--alias", "shop", "back", "shop-web-1")
    engine.docker("start", "shop-web-1")
    return "shop-web-1"


async def made(client: Client, template: Template, number: int, **ports: int) -> str:
    """A started copy, and its name."""
    name = clone.name_of(template, number)
    chosen = {f"{port.removeprefix('p')}/tcp": host for port, host in ports.items()}
    body, further = clone.body_of(template, labels=OURS, number=number, ports=chosen)

    def start(api: Any) -> None:
        api.create_container_from_config(body, name)
        for network, settings in further:
            url = api._url("/networks/{0}/connect", network)
            asked = {"Container": name, "EndpointConfig": settings}
            api._raise_for_status(api._post_json(url, data=asked))
        api.start(name)

    await client.call("making a copy", start)
    return name


def surprising(differences: list[str]) -> list[str]:
    return [d for d in differences if not any(re.fullmatch(a, d) for a in ALLOWED)]


async def test_a_copy_differs_only_by_what_one_container_can_have(
    engine: Engine, original: str
) -> None:
    client = Client(engine.url)
    first = engine.inspect(original)
    template = clone.template(first, shared_volumes=False, has_ports=True)
    assert template.ports == ("8000/tcp",)
    name = await made(client, template, 2, p8000=free_port())
    await client.aclose()
    assert name == "shop-web-2"
    second: Any = engine.inspect(name)
    differences = clone.difference(first, second)
    assert surprising(differences) == []
    assert "Config.Hostname" in differences, "the comparison sees something at all"
    assert second["State"]["Running"]
    assert set(second["NetworkSettings"]["Networks"]) == {"front", "back"}
    assert "web" in second["NetworkSettings"]["Networks"]["front"]["Aliases"]
    scratch = {m["Destination"]: m["Name"] for m in second["Mounts"] if m["Type"] == "volume"}
    assert scratch["/scratch"] not in json.dumps(first["Mounts"]), "its scratch is its own"
    assert until(
        lambda: (
            engine.docker("inspect", "-f", "{{.State.Health.Status}}", name).stdout.strip()
            == "healthy"
        ),
        "the copy passes the health check of the original",
    )


async def test_a_copy_of_a_copy_is_the_same(engine: Engine, original: str) -> None:
    client = Client(engine.url)
    template = clone.template(engine.inspect(original), shared_volumes=False, has_ports=True)
    kept = Template.from_dict(json.loads(json.dumps(template.to_dict())))
    name = await made(client, kept, 2, p8000=free_port())
    again = clone.template(engine.inspect(name), shared_volumes=False, has_ports=True)
    assert again == template
    assert await made(client, again, 3, p8000=free_port()) == "shop-web-3"
    await client.aclose()
    assert surprising(clone.difference(engine.inspect(name), engine.inspect("shop-web-3"))) == []


PLAIN: Mapping[str, list[str]] = {
    "the default bridge": [],
    "no network": ["--network", "none"],
    "the network of the host": ["--network", "host"],
    "a port the engine chooses": ["--publish", "127.0.0.1::8000"],
    "removed by itself": ["--rm"],
}


@pytest.mark.parametrize("given", PLAIN.values(), ids=PLAIN.keys())
async def test_a_plain_container_is_copied(engine: Engine, given: list[str]) -> None:
    engine.run("plain", *given, BUSYBOX, "sleep", "600")
    client = Client(engine.url)
    first = engine.inspect("plain")
    template = clone.template(first, shared_volumes=False, has_ports=False)
    name = await made(client, template, 2)
    await client.aclose()
    assert name == "plain-2"
    second = engine.inspect(name)
    assert surprising(clone.difference(first, second)) == []
    assert clone.template(second, shared_volumes=False, has_ports=False) == template


@pytest.fixture
def linked(engine: Engine) -> str:
    engine.run("store", BUSYBOX, "sleep", "600")
    return engine.run("linked", "--link", "store:db", BUSYBOX, "sleep", "600")


async def test_a_link_of_old_is_copied(engine: Engine, linked: str) -> None:
    client = Client(engine.url)
    template = clone.template(engine.inspect("linked"), shared_volumes=False, has_ports=False)
    name = await made(client, template, 2)
    await client.aclose()
    hosts = engine.docker("exec", name, "cat", "/etc/hosts").stdout
    assert "db" in hosts
    assert clone.template(engine.inspect(name), shared_volumes=False, has_ports=False) == template


async def test_a_range_of_ports_is_left_to_the_engine(engine: Engine) -> None:
    low = free_ports(10)
    engine.run("web", "--publish", f"127.0.0.1:{low}-{low + 9}:8000", BUSYBOX, "sleep", "600")
    client = Client(engine.url)
    template = clone.template(engine.inspect("web"), shared_volumes=False, has_ports=False)
    name = await made(client, template, 2)
    await client.aclose()
    port = int(engine.docker("port", name, "8000").stdout.strip().rpartition(":")[2])
    assert low < port <= low + 9


async def test_an_address_of_its_own_is_not_copied(engine: Engine) -> None:
    """Two with one hardware address in a network take each other's packets."""
    address = "02:42:0a:00:00:4d"
    client = Client(engine.url)
    asked = {"Image": BUSYBOX, "Cmd": ["sleep", "600"], "MacAddress": address}
    await client.call("creating", lambda api: api.create_container_from_config(asked, "plain"))
    engine.docker("start", "plain")
    first: Any = engine.inspect("plain")
    assert first["NetworkSettings"]["Networks"]["bridge"]["MacAddress"] == address
    template = clone.template(first, shared_volumes=False, has_ports=False)
    second: Any = engine.inspect(await made(client, template, 2))
    await client.aclose()
    assert second["NetworkSettings"]["Networks"]["bridge"]["MacAddress"] != address
    assert surprising(clone.difference(first, second)) == []
