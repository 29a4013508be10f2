"""A swarm of one node on the private engine, which nothing else of the machine notices.

It listens on a loopback address of its own, so that several engines can have one at a time, and
`docker_gwbridge`, which would be one for all of them, is made beforehand under another name.
"""

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.dockerd import BUSYBOX, Engine


class Swarm:
    """One node, a manager."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def create(self, name: str, *words: str, run: tuple[str, ...] = ("sleep", "600")) -> None:
        """A service of busybox whose tasks end at once when they are told to."""
        quiet = ("--detach", "--no-resolve-image", "--quiet", "--stop-grace-period", "100ms")
        self.engine.docker("service", "create", *quiet, "--name", name, *words, BUSYBOX, *run)

    def update(self, name: str, *words: str) -> None:
        quiet = ("--detach", "--no-resolve-image", "--quiet")
        self.engine.docker("service", "update", *quiet, *words, name)

    def inspect(self, name: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(
            self.engine.docker("service", "inspect", name).stdout
        )
        return found[0]


@contextmanager
def started(engine: Engine) -> Iterator[Swarm]:
    number = random.randrange(1, 1 << 22)
    address = f"127.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255 or 1}"
    bridge = f"sg{os.getpid() % 100_000}x{number % 1000}"
    name = f"com.docker.network.bridge.name={bridge}"
    engine.docker("network", "create", "--opt", name, "docker_gwbridge")
    engine.docker("swarm", "init", f"--advertise-addr={address}", f"--listen-addr={address}:2377")
    try:
        yield Swarm(engine)
    finally:
        engine.docker("swarm", "leave", "--force", check=False)
        engine.remove_all()
