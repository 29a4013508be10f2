"""What the Kubernetes provider makes of workloads, on the fake server and the simulated cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients.kubernetes import Clusters
from scaler.clock import SystemClock
from scaler.core.model import Fleet, InstanceId, State
from scaler.errors import Conflict, ManagedElsewhere, NotFound, Unavailable
from scaler.interfaces import Context
from scaler.providers.kubernetes import KubernetesProvider, KubernetesTarget
from tests.fakes.kube_cluster import COST, Cluster
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import fleet_until

PATIENCE_S = 30.0


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


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    async with Server() as server, Cluster(server) as cluster:
        (tmp_path / "kubeconfig").write_text(kubeconfig(server))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        context = Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1))
        made = Shop(server, cluster, context)
        try:
            yield made
        finally:
            await made.provider.aclose()
            await context.shared[Clusters].aclose()


async def test_those_chosen_go_and_nobody_else(shop: Shop) -> None:
    shop.cluster.deploy(replicas=5)
    fleet = await shop.running(5)
    chosen = {fleet.instances[1].id, fleet.instances[3].id}  # neither the oldest nor the newest
    await shop.provider.scale(shop.target(), 3, remove=sorted(chosen))
    left = await shop.until(lambda f: len(f.instances) == 3)
    assert {i.id for i in left.instances} == {i.id for i in fleet.instances} - chosen
    assert {c.name for c in shop.server.calls("patch", "pods")} == chosen


async def test_a_mark_is_put_on_once_and_taken_off_who_is_no_longer_chosen(shop: Shop) -> None:
    shop.cluster.deploy(replicas=4)
    first, second, foreign, other = [i.id for i in (await shop.running(4)).instances]
    costs: dict[str, str] = {first: "-1000", foreign: "7"}
    for name, cost in costs.items():
        shop.server.update("Pod", name, _annotated(cost))
    await shop.until(lambda _: _mirrored(shop, costs))
    shop.server.faults.errors(500, "PATCH .*/scale")
    with pytest.raises(Unavailable):
        await shop.provider.scale(shop.target(), 3, remove=[second])
    assert shop.marks() == {second: "-1000", foreign: "7"}
    assert {c.name for c in shop.server.calls("patch", "pods")} == {first, second}
    await shop.until(lambda _: _mirrored(shop, {second: "-1000", foreign: "7"}))
    with pytest.raises(Unavailable):
        await shop.provider.scale(shop.target(), 3, remove=[second])
    assert len(shop.server.calls("patch", "pods")) == 2
    assert other not in shop.marks()


def _annotated(cost: str) -> Callable[[Json], None]:
    def change(pod: Json) -> None:
        pod["metadata"].setdefault("annotations", {})[COST] = cost

    return change


def _mirrored(shop: Shop, costs: dict[str, str]) -> bool:
    (desk,) = shop.provider._desks.values()
    return {pod.name: pod.cost for pod in desk.pods.items.values() if pod.cost} == costs


async def test_to_zero_nobody_is_marked_and_from_zero_all_come_back(shop: Shop) -> None:
    shop.cluster.deploy(replicas=3)
    fleet = await shop.running(3)
    await shop.provider.scale(shop.target(), 0, remove=[i.id for i in fleet.instances])
    empty = await shop.until(lambda f: not f.instances)
    assert empty.wanted == 0
    assert shop.server.calls("patch", "pods") == []
    await shop.provider.scale(shop.target(), 2)
    assert (await shop.running(2)).wanted == 2


async def test_a_statefulset_loses_its_highest_and_nobody_is_marked(shop: Shop) -> None:
    shop.cluster.deploy("db", 3, kind="StatefulSet")
    target = shop.target("sts/db")
    fleet = await shop.running(3, target)
    assert [(i.id, i.rank) for i in fleet.instances] == [("db-0", 0), ("db-1", 1), ("db-2", 2)]
    assert not fleet.renames
    await shop.provider.scale(target, 2, remove=[InstanceId("db-0")])
    left = await shop.until(lambda f: len(f.instances) == 2, target)
    assert [i.id for i in left.instances] == ["db-0", "db-1"]
    assert shop.server.calls("patch", "pods") == []


async def test_what_was_written_is_what_is_seen_before_any_watch_brings_it(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    await shop.running(1)
    await shop.provider.scale(shop.target(), 4)
    seen = await shop.provider.observe(shop.target())
    assert (seen.wanted, seen.set_by) == (4, "")


async def test_a_count_that_is_right_is_not_written(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    await shop.running(2)
    await shop.provider.scale(shop.target(), 2)
    assert shop.server.writes() == []


async def test_a_heartbeat_that_overtakes_a_write_only_makes_it_try_again(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    await shop.running(1)
    beat(shop)  # no watch has brought it yet
    await shop.provider.scale(shop.target(), 3)
    assert [c.code for c in shop.server.calls("patch", "deployments/scale")] == [409, 200]
    assert shop.count() == 3


def beat(shop: Shop) -> None:
    """A controller writes into the status, which makes a new version."""

    def change(deployment: Json) -> None:
        deployment["status"]["beat"] = deployment["status"].get("beat", 0) + 1

    shop.server.update("Deployment", "web", change)


async def test_a_write_that_is_overtaken_each_time_gives_up(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    await shop.running(1)
    shop.server.faults.slow(timedelta(milliseconds=50), "PATCH .*/scale")

    async def busy() -> None:
        while True:
            beat(shop)
            await asyncio.sleep(0.005)

    busily = asyncio.create_task(busy())
    with pytest.raises(Conflict, match="changes faster than its count can be written"):
        await shop.provider.scale(shop.target(), 3)
    busily.cancel()
    assert [c.code for c in shop.server.calls("patch", "deployments/scale")] == [409, 409, 409]
    assert shop.count() == 1


async def test_whoever_sets_the_count_during_our_write_wins(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    await shop.running(1)
    shop.server.faults.slow(timedelta(milliseconds=300), "PATCH .*/scale")
    writing = asyncio.create_task(shop.provider.scale(shop.target(), 3))
    await asyncio.sleep(0)
    shop.server.scale("Deployment", "web", 5, manager="kubectl")
    with pytest.raises(Conflict, match="kubectl set web from 1 to 5 meanwhile"):
        await writing
    assert shop.count() == 5


@pytest.mark.parametrize(
    ("references", "who"),
    [
        ([], "HorizontalPodAutoscaler web-hpa"),
        ([{"kind": "ScaledObject", "name": "web", "uid": "1"}], "ScaledObject web"),
    ],
)
async def test_what_another_autoscaler_owns_is_not_written(
    shop: Shop, references: list[Json], who: str
) -> None:
    shop.cluster.deploy(replicas=2)
    shop.cluster.deploy("other", replicas=1)
    shop.server.objects.register(
        "keda.sh", "v1alpha1", "scaledobjects", "ScaledObject", scale=False
    )
    await shop.running(2)
    shop.own("web", ownerReferences=references)
    await shop.until(lambda fleet: fleet.owner == who)
    with pytest.raises(ManagedElsewhere, match=f"{who} decides .*scaler adopt web.*mode: observe"):
        await shop.provider.scale(shop.target(), 3)
    assert shop.server.writes() == []
    other = shop.target("other")
    await shop.provider.scale(other, 2)
    assert shop.count(name="other") == 2
    shop.server.delete("HorizontalPodAutoscaler", "web-hpa")
    await shop.until(lambda fleet: not fleet.owner)
    await shop.provider.scale(shop.target(), 3)
    assert shop.count() == 3


def budget(shop: Shop, least: int) -> None:
    selector = {"matchLabels": {"app": "web"}}
    shop.server.put(
        {
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "most-of-web"},
            "spec": {"minAvailable": least, "selector": selector},
        }
    )


async def test_a_disruption_budget_holds_a_restart_back_and_is_named(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    pod = (await shop.running(2)).instances[0].id
    budget(shop, 2)
    with pytest.raises(Unavailable, match="most-of-web"):
        await shop.provider.restart(shop.target(), pod)
    assert pod in shop.names()
    budget(shop, 1)
    await shop.provider.restart(shop.target(), pod)
    assert pod not in shop.names()
    await shop.running(2)


async def test_delete_asks_no_budget(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    pod = (await shop.running(2)).instances[0].id
    budget(shop, 2)
    await shop.provider.restart(shop.target(restart="delete"), pod)
    assert pod not in shop.names()
    assert [c.name for c in shop.server.calls("delete", "pods")] == [pod]


@pytest.mark.parametrize("how", ["evict", "delete"])
async def test_a_pod_that_goes_already_is_not_restarted(shop: Shop, how: str) -> None:
    shop.cluster.stop = 600.0
    shop.cluster.deploy(replicas=1)
    pod = (await shop.running(1)).instances[0].id
    shop.server.delete("Pod", pod)
    await shop.until(lambda f: any(i.state is State.STOPPING for i in f.instances))
    await shop.provider.restart(shop.target(restart=how), pod)
    assert shop.server.calls("create", "pods/eviction") == []
    assert shop.server.calls("delete", "pods") == []


async def test_a_pod_nobody_knows_cannot_be_restarted(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    pod = (await shop.running(1)).instances[0].id
    with pytest.raises(NotFound, match=f"web has no pod web-x; it has {pod}"):
        await shop.provider.restart(shop.target(), InstanceId("web-x"))


@pytest.mark.parametrize("how", ["evict", "delete"])
async def test_a_pod_that_has_gone_meanwhile_needs_no_restart(shop: Shop, how: str) -> None:
    """Another one may have its name by now; that one must live."""
    shop.cluster.deploy("db", 1, kind="StatefulSet")
    target = shop.target("sts/db", restart=how)
    await shop.running(1, target)
    shop.server.objects.remove(shop.server.objects.kind("Pod"), "default", "db-0")
    shop.server.put(
        {
            "kind": "Pod",
            "metadata": {"name": "db-0", "labels": {"app": "db"}},
            "spec": {"containers": [{"name": "app"}]},
        }
    )
    new = shop.server.get("Pod", "db-0")["metadata"]["uid"]
    await shop.provider.restart(target, InstanceId("db-0"))
    assert shop.server.get("Pod", "db-0")["metadata"]["uid"] == new
    assert "deletionTimestamp" not in shop.server.get("Pod", "db-0")["metadata"]
