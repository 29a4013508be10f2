"""The simulated controllers do what real ones do, as far as an autoscaler meets it."""

from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.fakes.kube_cluster import COST, Cluster, is_ready
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server
from tests.integration.running import eventually as until


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Server() as server, Cluster(server, metrics_every=0.1) as made:
        yield made


def names(cluster: Cluster) -> list[str]:
    return [pod["metadata"]["name"] for pod in cluster.pods()]


async def test_a_deployment_gets_its_pods_and_loses_them(cluster: Cluster) -> None:
    cluster.deploy(replicas=3)
    await until(lambda: len(cluster.ready()) == 3)
    status = cluster.server.get("Deployment", "web")["status"]
    await until(lambda: cluster.server.get("Deployment", "web")["status"]["readyReplicas"] == 3)
    assert status["observedGeneration"] == 1
    cluster.server.scale("Deployment", "web", 1, manager="me")
    await until(lambda: len(cluster.server.all("Pod")) == 1)
    cluster.server.delete("Deployment", "web")
    await until(lambda: not cluster.server.all("Pod") and not cluster.server.all("ReplicaSet"))


async def test_the_cheapest_goes_first(cluster: Cluster) -> None:
    cluster.deploy(replicas=4)
    await until(lambda: len(cluster.ready()) == 4)
    chosen = names(cluster)[2]
    cluster.server.update(
        "Pod", chosen, lambda p: p["metadata"].setdefault("annotations", {}).update({COST: "-1000"})
    )
    cluster.server.scale("Deployment", "web", 3, manager="me")
    await until(lambda: len(cluster.pods()) == 3)
    assert chosen not in names(cluster)


async def test_a_rollout_replaces_all_and_keeps_enough(cluster: Cluster) -> None:
    cluster.deploy(replicas=4)
    await until(lambda: len(cluster.ready()) == 4)
    old = set(names(cluster))
    cluster.deploy(replicas=4, image="web:2")
    fewest, most = 9, 0

    def done() -> bool:
        nonlocal fewest, most
        fewest, most = min(fewest, len(cluster.ready())), max(most, len(cluster.pods()))
        return len(cluster.ready()) == 4 and not old & set(names(cluster))

    await until(done)
    assert fewest >= 3
    assert most == 5
    status = cluster.server.get("Deployment", "web")["status"]
    assert (status["updatedReplicas"], status["observedGeneration"]) == (4, 2)


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
async def test_a_statefulset_counts_up_and_down(cluster: Cluster, policy: str) -> None:
    cluster.deploy("db", 3, kind="StatefulSet", podManagementPolicy=policy)
    await until(lambda: len(cluster.ready("db")) == 3)
    assert [p["metadata"]["name"] for p in cluster.pods("db")] == ["db-0", "db-1", "db-2"]
    cluster.server.scale("StatefulSet", "db", 1, manager="me")
    await until(lambda: [p["metadata"]["name"] for p in cluster.server.all("Pod")] == ["db-0"])


async def test_what_is_deleted_comes_back(cluster: Cluster) -> None:
    cluster.deploy(replicas=2)
    cluster.deploy("db", 1, kind="StatefulSet")
    await until(lambda: len(cluster.ready()) == 2 and cluster.ready("db"))
    gone = names(cluster)[0]
    uid = cluster.pods("db")[0]["metadata"]["uid"]
    cluster.server.delete("Pod", gone)
    cluster.server.delete("Pod", "db-0")
    await until(lambda: len(cluster.ready()) == 2 and gone not in names(cluster))
    await until(lambda: cluster.ready("db") and cluster.ready("db")[0]["metadata"]["uid"] != uid)


async def test_a_container_that_ends_is_started_again(cluster: Cluster) -> None:
    cluster.deploy()
    await until(cluster.ready)
    name = names(cluster)[0]
    cluster.crash(name)
    assert not is_ready(cluster.server.get("Pod", name))
    await until(cluster.ready)
    cluster.crash(name)
    status = cluster.server.get("Pod", name)["status"]["containerStatuses"][0]
    assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    await until(cluster.ready)


async def test_without_room_pods_wait(cluster: Cluster) -> None:
    cluster.capacity = 2
    cluster.deploy(replicas=3)
    await until(lambda: len(cluster.ready()) == 2)
    waits = next(p for p in cluster.pods() if not is_ready(p))
    (condition,) = waits["status"]["conditions"]
    assert condition["reason"] == "Unschedulable"
    cluster.capacity = 3
    await until(lambda: len(cluster.ready()) == 3)


async def test_what_pods_use_is_published(cluster: Cluster) -> None:
    cluster.load = lambda _: (0.25, 64 << 20)
    cluster.deploy(replicas=2)
    await until(lambda: len(cluster.server.metrics) == 2)
    one = next(iter(cluster.server.metrics.values()))
    assert one["containers"] == [
        {"name": "app", "usage": {"cpu": "250000000n", "memory": "65536Ki"}}
    ]


def budget(cluster: Cluster, **spec: object) -> None:
    selector = {"matchLabels": {"app": "web"}}
    meta = {"name": "most"}
    cluster.server.put(
        {"kind": "PodDisruptionBudget", "metadata": meta, "spec": {"selector": selector, **spec}}
    )


def of_budget(cluster: Cluster) -> Json:
    """What the disruption controller says of it."""
    status: Json = cluster.server.get("PodDisruptionBudget", "most").get("status", {})
    return status


def allowed(cluster: Cluster) -> object:
    return of_budget(cluster).get("disruptionsAllowed")


async def evict(cluster: Cluster, name: str) -> str:
    """What the server says to it."""
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    headers = {"Authorization": f"Bearer {cluster.server.admin}"}
    body = {"kind": "Eviction", "metadata": {"name": name}}
    async with (
        aiohttp.ClientSession(cluster.server.url, headers=headers) as session,
        session.post(path, json=body) as response,
    ):
        answer = await response.json()
    causes = (answer.get("details") or {}).get("causes") or [{}]
    return f"{response.status} {causes[0].get('message', '')}".strip()


async def test_who_is_evicted_comes_back_under_another_name(cluster: Cluster) -> None:
    cluster.deploy(replicas=3)
    await until(lambda: len(cluster.ready()) == 3)
    gone, stays, _ = names(cluster)
    budget(cluster, maxUnavailable=1)
    await until(lambda: allowed(cluster) == 1)
    assert await evict(cluster, gone) == "201"
    assert await evict(cluster, stays) == (
        "429 The disruption budget most needs 2 healthy pods and has 2 currently"
    )
    await until(lambda: len(cluster.ready()) == 3 and gone not in names(cluster))
    await until(lambda: allowed(cluster) == 1)


async def test_a_sick_pod_goes_only_while_enough_others_are_well(cluster: Cluster) -> None:
    cluster.deploy(replicas=3)
    await until(lambda: len(cluster.ready()) == 3)
    first, second, _ = names(cluster)
    budget(cluster, minAvailable=2)
    cluster.sick(first)
    cluster.sick(second)
    await until(lambda: allowed(cluster) == 0)
    assert await evict(cluster, first) == (
        "429 The disruption budget most needs 2 healthy pods and has 1 currently"
    )
    cluster.sick(second, well=True)
    await until(lambda: of_budget(cluster).get("currentHealthy") == 2)
    assert await evict(cluster, first) == "201"


async def test_the_fullest_node_loses_first(cluster: Cluster) -> None:
    """Not the youngest pod, which here has a node for itself."""

    def on() -> Counter[str]:
        return Counter(pod["spec"].get("nodeName", "") for pod in cluster.pods())

    cluster.deploy(replicas=4)
    await until(lambda: len(cluster.ready()) == 4)
    alone = next(p for p in cluster.pods() if p["spec"]["nodeName"] == "node-2")
    cluster.server.delete("Pod", alone["metadata"]["name"])
    await until(lambda: len(cluster.ready()) == 4)
    assert on() == {"node-0": 1, "node-1": 2, "node-2": 1}
    cluster.server.scale("Deployment", "web", 3, manager="me")
    await until(lambda: len(cluster.pods()) == 3)
    assert on() == {"node-0": 1, "node-1": 1, "node-2": 1}


async def test_a_deployment_says_how_it_is(cluster: Cluster) -> None:
    def said() -> dict[str, str]:
        status = cluster.server.get("Deployment", "web").get("status", {})
        conditions = status.get("conditions", ())
        return {c["type"]: c["reason"] for c in conditions}

    cluster.start_up = 0.3
    cluster.deploy(replicas=1)
    await until(
        lambda: (
            said()
            == {"Available": "MinimumReplicasUnavailable", "Progressing": "ReplicaSetUpdated"}
        )
    )
    await until(
        lambda: (
            said()
            == {"Available": "MinimumReplicasAvailable", "Progressing": "NewReplicaSetAvailable"}
        )
    )
