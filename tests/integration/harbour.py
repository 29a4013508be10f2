"""Docker providers on a real engine, and compose as far as labels go."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from scaler.clients.docker import Engines
from scaler.clock import SystemClock
from scaler.core.model import Fleet, Instance, State
from scaler.interfaces import Context
from scaler.providers.docker import PLUGIN, DockerProvider, DockerTarget
from tests.integration.dockerd import BUSYBOX, Engine

SLEEP = (BUSYBOX, "sleep", "600")
ALONE = ("--network=none", "--stop-signal=KILL")  # starts and stops in no time


class Harbour:
    """One state directory, and the providers that were opened on it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._opened: list[tuple[DockerProvider, Context]] = []

    def connect(self) -> DockerProvider:
        """The provider of another daemon with the same state."""
        context = Context(clock=SystemClock(), state_dir=self.folder, random=Random(1))
        provider = PLUGIN.open(context)
        self._opened.append((provider, context))
        return provider

    def target(self, **fields: Any) -> DockerTarget:
        given = {"policy": "web", "kind": "docker", "engine": self.engine.url, **fields}
        return DockerTarget(**given)

    def compose(
        self, number: int, *words: str, config: str = "one", image: tuple[str, ...] = SLEEP
    ) -> str:
        """Container `number` of service web of project shop, as compose makes it; its name."""
        labels = {
            "com.docker.compose.project": "shop",
            "com.docker.compose.service": "web",
            "com.docker.compose.container-number": str(number),
            "com.docker.compose.config-hash": config,
            "com.docker.compose.oneoff": "False",
            "com.docker.compose.version": "2.24.5",
        }
        options = [f"--label={key}={value}" for key, value in labels.items()]
        name = f"shop-web-{number}"
        self.engine.run(name, *options, *(words or ALONE), *image)
        return name

    async def aclose(self) -> None:
        for provider, context in self._opened:
            await provider.aclose()
            await context.shared[Engines].aclose()


def all_running(count: int) -> Callable[[Fleet], bool]:
    def holds(fleet: Fleet) -> bool:
        return [i.state for i in fleet.instances] == [State.RUNNING] * count

    return holds


def one(fleet: Fleet, name: str) -> Instance:
    return next(i for i in fleet.instances if i.id == name)


def is_(name: str, state: State) -> Callable[[Fleet], bool]:
    def holds(fleet: Fleet) -> bool:
        return any(i.id == name and i.state is state for i in fleet.instances)

    return holds
