"""What carries a label on a real engine."""

from pathlib import Path

import pytest

from scaler.clients import labelled
from scaler.clients.docker import Engine as Client
from scaler.errors import Unavailable
from scaler.interfaces import Labelled
from scaler.labels import AUTOHEAL, ENABLE
from tests.integration import swarms
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import until

pytestmark = pytest.mark.live
ASLEEP = ("--network", "none", BUSYBOX, "sleep", "600")


def run(engine: Engine, name: str, **labels: str) -> None:
    """Two underscores of a key are a dot."""
    written = [f"--label={key.replace('__', '.')}={value}" for key, value in labels.items()]
    engine.run(name, *written, *ASLEEP)


def compose(project: str, service: str, number: int = 1, oneoff: str = "False") -> dict[str, str]:
    return {
        "com__docker__compose__project": project,
        "com__docker__compose__service": service,
        "com__docker__compose__container-number": str(number),
        "com__docker__compose__oneoff": oneoff,
    }


async def listed(engine: Engine, label: str = ENABLE) -> list[Labelled]:
    client = Client(engine.url)
    try:
        return await labelled.containers(client, label)
    finally:
        await client.aclose()


async def test_services_once_each_and_then_single_containers(engine: Engine) -> None:
    on = {"scaler__enable": "true"}
    run(engine, "alone", **on, scaler__max="2")
    run(engine, "shop-web-1", **on, **compose("shop", "web"), scaler__cpu="70%")
    run(engine, "shop-web-2", **on, **compose("shop", "web", 2), scaler__cpu="70%")
    run(engine, "blog-web-1", **on, **compose("blog", "web"))
    run(engine, "shop-db-1", scaler__enable="false", **compose("shop", "db"))
    run(engine, "shop-web-run-1", **on, **compose("shop", "web", oneoff="True"))
    run(engine, "shop-cron-run-1", **on, **compose("shop", "cron", oneoff="True"))
    run(engine, "alone-2", **on, scaler__policy="alone")
    run(engine, "bystander")
    engine.docker("kill", "alone")
    found = await listed(engine)
    assert [(one.name, one.target) for one in found] == [
        ("blog-web", {"docker": {"service": "web", "project": "blog"}}),
        ("shop-web", {"docker": {"service": "web", "project": "shop"}}),
        ("alone", {"docker": {"container": "alone"}}),
    ]
    assert found[1].labels["scaler.cpu"] == "70%"
    assert found[2].labels["scaler.max"] == "2"


async def test_autoheal_is_a_label_like_another(engine: Engine) -> None:
    run(engine, "sick", autoheal="true", autoheal__stop__timeout="5")
    run(engine, "well", autoheal="false")
    found = await listed(engine, AUTOHEAL)
    assert [(one.name, one.labels["autoheal.stop.timeout"]) for one in found] == [("sick", "5")]


async def test_the_newest_replica_says_what_the_labels_are(engine: Engine) -> None:
    for number, most in ((1, "3"), (2, "5")):
        engine.docker(
            "create", "--name", f"shop-web-{number}", "--label", f"scaler.max={most}",
            *(f"--label={k.replace('__', '.')}={v}" for k, v in compose("shop", "web").items()),
            "--label", "scaler.enable=true", *ASLEEP,
        )  # fmt: skip
        next_second(engine)
    [found] = await listed(engine)
    assert found.labels["scaler.max"] == "5"


def next_second(engine: Engine) -> None:
    """The engine lists creations by the second."""
    engine.docker("run", "--rm", "--network", "none", BUSYBOX, "sleep", "1.1")


async def test_a_name_that_a_link_gives_is_not_the_name(engine: Engine) -> None:
    engine.run("store", "--label", "scaler.enable=true", BUSYBOX, "sleep", "600")
    engine.run("aa", "--link", "store:db", BUSYBOX, "sleep", "600")
    assert [one.name for one in await listed(engine)] == ["store"]


async def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    client = Client(f"unix://{tmp_path}/nobody")
    with pytest.raises(Unavailable):
        await labelled.containers(client, ENABLE)
    await client.aclose()


async def test_tasks_of_a_swarm_belong_to_their_service(engine: Engine) -> None:
    with swarms.started(engine) as swarm:
        swarm.create("web", "--container-label", "scaler.enable=true")
        until(lambda: engine.names("label=scaler.enable=true"), "a task of it")
        assert await listed(engine) == []
