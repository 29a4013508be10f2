"""A daemon in this process on a simulated cluster."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scaler.clock import SystemClock
from scaler.core.journal import Entry
from scaler.core.model import Health
from scaler.daemon import Daemon
from scaler.engine.watched import Watched
from scaler.settings import Settings
from scaler.stores.memory import MemoryStore
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import eventually as until


class Rig:
    """The daemon, the server, and what runs on it."""

    def __init__(self, server: Server, cluster: Cluster, folder: Path) -> None:
        self.server = server
        self.cluster = cluster
        self.folder = folder
        self.told: list[Entry] = []
        self.daemon: Daemon | None = None

    async def start(self, policies: str, **settings: Any) -> Daemon:
        (self.folder / "policies.yaml").write_text(policies)
        made = Settings(
            policies=(self.folder / "policies.yaml",),
            state_dir=self.folder / "state",
            socket=self.folder / "s",
            store="memory",
            **settings,
        )
        self.daemon = Daemon(made, clock=SystemClock(), store=MemoryStore(), tell=self.told.append)
        await self.daemon.start()
        self.daemon.begin()
        return self.daemon

    async def stop(self) -> None:
        if self.daemon is not None:
            await self.daemon.stop()
            self.daemon = None

    def watched(self, name: str = "web") -> Watched:
        assert self.daemon is not None
        return self.daemon.manager.watched[name]

    def value(self, name: str = "web") -> float | None:
        """What its first metric says, once it says anything."""
        decision = self.watched(name).decision
        return decision.wishes[0].value if decision else None

    def rollout(self, name: str = "web") -> str:
        fleet = self.watched(name).fleet
        return fleet.rollout if fleet else ""

    def healthy(self, name: str = "web") -> int:
        fleet = self.watched(name).fleet
        return sum(i.health is Health.HEALTHY for i in fleet.instances) if fleet else 0

    def replicas(self, name: str = "web", kind: str = "Deployment") -> int:
        return int(self.server.get(kind, name)["spec"]["replicas"])

    def said(self, words: str) -> list[str]:
        return [entry.summary for entry in self.told if words in entry.summary]

    async def ticks(self, count: int = 2, name: str = "web") -> None:
        """That many looks that begin after this."""
        assert self.daemon is not None
        for _ in range(count):
            before = self.watched(name).decision
            await until(lambda before=before: self.watched(name).decision is not before)  # type: ignore[misc]


@asynccontextmanager
async def rig(
    folder: Path, patch: pytest.MonkeyPatch, *, token: str = "", **cluster: Any
) -> AsyncIterator[Rig]:
    async with Server() as server, Cluster(server, **cluster) as made:
        one = Rig(server, made, folder)
        (folder / "kubeconfig").write_text(kubeconfig(server, token))
        patch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        try:
            yield one
        finally:
            await one.stop()
