"""A provider on a simulated cluster, and what tests ask of both."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients.kubernetes import Clusters
from scaler.clock import Clock, SystemClock
from scaler.core.model import Fleet
from scaler.interfaces import Context
from scaler.providers.kubernetes import KubernetesProvider, KubernetesTarget
from tests.fakes.kube_cluster import COST, Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import fleet_until


class Shop:
    """A cluster with a provider on it."""

    def __init__(self, server: Server, cluster: Cluster, context: Context) -> None:
        self.server = server
        self.cluster = cluster
        self.provider = KubernetesProvider(context)

    def target(self, workload: str = "web", **fields: Any) -> KubernetesTarget:
        return KubernetesTarget(workload=workload, policy="web", kind="kubernetes", **fields)

    async def until(
        self, holds: Callable[[Fleet], object], target: KubernetesTarget | None = None
    ) -> Fleet:
        return await fleet_until(self.provider, target or self.target(), holds)

    async def running(self, count: int, target: KubernetesTarget | None = None) -> Fleet:
        """The fleet once so many are ready and nobody else is there."""
        return await self.until(ready(count), target)

    def names(self, app: str = "web") -> set[str]:
        return {pod["metadata"]["name"] for pod in self.cluster.pods(app)}

    def marks(self) -> dict[str, str]:
        """Deletion costs of all pods that have one."""
        costs = {
            pod["metadata"]["name"]: pod["metadata"].get("annotations", {}).get(COST)
            for pod in self.server.all("Pod")
        }
        return {name: cost for name, cost in costs.items() if cost is not None}

    def count(self, kind: str = "Deployment", name: str = "web") -> int:
        return int(self.server.get(kind, name)["spec"]["replicas"])

    def own(self, name: str = "web", **meta: Any) -> None:
        """A HorizontalPodAutoscaler for the Deployment of that name."""
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        self.server.put(
            {
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": f"{name}-hpa", **meta},
                "spec": {"scaleTargetRef": reference, "minReplicas": 2, "maxReplicas": 2},
            }
        )


def ready(count: int) -> Callable[[Fleet], bool]:
    def holds(fleet: Fleet) -> bool:
        return [i.ready for i in fleet.instances] == [True] * count

    return holds


@asynccontextmanager
async def opened(
    folder: Path, patch: pytest.MonkeyPatch, clock: Clock | None = None
) -> AsyncIterator[Shop]:
    async with Server() as server, Cluster(server) as cluster:
        (folder / "kubeconfig").write_text(kubeconfig(server))
        patch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        context = Context(clock=clock or SystemClock(), state_dir=folder, random=Random(1))
        made = Shop(server, cluster, context)
        try:
            yield made
        finally:
            await made.provider.aclose()
            await context.shared[Clusters].aclose()
