"""What the Kubernetes provider makes of workloads, on the fake server and the simulated cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from scaler.core.model import Fleet, InstanceId, State
from scaler.errors import Conflict, ManagedElsewhere, NotFound, Unavailable, Unsupported
from tests.fakes.kube_cluster import COST
from tests.fakes.kube_objects import Json
from tests.integration.kube_shop import Shop, opened, ready

PATIENCE_S = 30.0


@pytest.fixture
async def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    async with opened(tmp_path, monkeypatch) as made:
        yield made


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


async def test_a_server_that_is_gone_is_unknown_and_not_empty_and_is_found_again(
    shop: Shop,
) -> None:
    shop.cluster.deploy(replicas=2)
    await shop.running(2)
    await shop.server.down()
    with pytest.raises(Unavailable):
        await shop.until(lambda _: False)
    with pytest.raises(Unavailable):
        await shop.provider.scale(shop.target(), 1)
    shop.server.scale("Deployment", "web", 3, manager="kubectl")
    await shop.server.up()
    fleet = await back(shop, ready(3))
    assert (fleet.wanted, fleet.set_by) == (3, "kubectl")
    await shop.provider.scale(shop.target(), 1)
    assert shop.count() == 1


async def back(shop: Shop, holds: Callable[[Fleet], bool]) -> Fleet:
    """The first fleet of that kind from a place that is not always there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await shop.until(holds)
            except (Unavailable, NotFound):
                await asyncio.sleep(0.02)


async def test_what_happened_while_streams_were_cut_is_seen(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    await shop.running(2)
    for count in (4, 1, 3):
        shop.server.faults.cut_watches()
        shop.server.scale("Deployment", "web", count, manager="kubectl")
        await back(shop, ready(count))
    shop.server.faults.cut_watches()
    shop.server.delete("Pod", next(iter(shop.names())))
    fleet = await back(shop, lambda f: {i.id for i in f.instances if i.ready} == shop.names())
    assert len(fleet.instances) == 3


async def test_a_version_the_server_has_forgotten_means_a_new_list(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    await shop.running(2)
    await shop.server.down()
    shop.server.scale("Deployment", "web", 0, manager="kubectl")
    shop.server.objects.compact()
    await shop.server.up()
    assert (await back(shop, lambda fleet: not fleet.instances)).wanted == 0


async def test_pods_with_equal_labels_and_another_owner_are_nobodys(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    shop.cluster.deploy("twin", replicas=3, labels={"app": "web"})
    container = {"name": "app"}
    pod: Json = {
        "kind": "Pod",
        "metadata": {"name": "job-1", "labels": {"app": "web"}},
        "spec": {"containers": [container]},
    }
    shop.server.put(pod)
    await shop.until(lambda _: len(shop.cluster.ready()) == 6)
    fleet = await shop.running(2)
    assert all(i.id.startswith("web-") for i in fleet.instances)
    assert (await shop.running(3, shop.target("twin"))).wanted == 3


async def test_while_a_template_is_rolled_out_the_count_stands_still(shop: Shop) -> None:
    shop.cluster.deploy(replicas=4)
    before = {i.id for i in (await shop.running(4)).instances}
    shop.cluster.start_up = 0.1
    shop.cluster.deploy(replicas=4, image="web:2")
    seen: list[Fleet] = []

    def over(fleet: Fleet) -> bool:
        if seen or fleet.rollout:
            seen.append(fleet)
        return bool(seen) and not fleet.rollout and ready(4)(fleet)

    after = await shop.until(over)
    assert {i.id for i in after.instances}.isdisjoint(before)
    for fleet in seen:
        staying = [i for i in fleet.instances if i.state is not State.STOPPING]
        assert fleet.wanted == 4
        serving = sum(i.ready is True for i in staying)
        assert serving >= 3
        assert len(staying) <= max(4, serving)  # one too many counts when it serves
        assert {i.id for i in staying if not i.current} <= before
    words = [fleet.rollout for fleet in seen if fleet.rollout]
    assert words[0].endswith("of 4 pods updated")
    assert len(set(words)) > 1


def custom(shop: Shop, *, scale: bool = True) -> None:
    """A resource of somebody's own, with pods that only labels tie to it."""
    kind = shop.server.objects.register(
        "argoproj.io", "v1alpha1", "rollouts", "Rollout", scale=scale
    )
    labels = {"app": "canary"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}}
    item = {"metadata": {"name": "canary"}, "spec": spec}
    shop.server.objects.create(kind, "default", item, "test")
    for number in range(2):
        shop.server.put(
            {
                "kind": "Pod",
                "metadata": {"name": f"canary-{number}", "labels": labels},
                "spec": {"containers": [{"name": "app"}]},
            }
        )


@pytest.mark.parametrize("written", ["rollouts", "rollout"])
async def test_whatever_has_a_scale_is_scaled(shop: Shop, written: str) -> None:
    custom(shop)
    shop.cluster.deploy("web", 1)
    target = shop.target(f"{written}.argoproj.io/canary")
    fleet = await shop.running(2, target)
    assert [i.id for i in fleet.instances] == ["canary-0", "canary-1"]
    await shop.provider.scale(target, 5)
    assert (await shop.provider.observe(target)).wanted == 5
    await shop.provider.scale(target, 0)
    assert shop.count("Rollout", "canary") == 0
    shop.server.scale("Rollout", "canary", 3, manager="argo")
    seen = await shop.until(lambda f: f.wanted == 3, target)
    assert seen.set_by == "argo"


@pytest.mark.parametrize(
    ("workload", "error", "words"),
    [
        pytest.param(
            "rollouts.argoproj.io/canary", Unsupported, "no scale subresource", id="without a scale"
        ),
        pytest.param(
            "canaries.argoproj.io/canary", NotFound, "has no canaries; it has rollouts", id="plural"
        ),
        pytest.param("things.example.com/x", NotFound, "no group example.com", id="group"),
        pytest.param("wbe", NotFound, 'no Deployment wbe; did you mean "web"', id="name"),
        pytest.param("sts/web", NotFound, "no StatefulSet web; it has none", id="kind"),
    ],
)
async def test_what_is_not_there_is_told_with_what_is(
    shop: Shop, workload: str, error: type[Exception], words: str
) -> None:
    custom(shop, scale=False)
    shop.cluster.deploy("web")
    with pytest.raises(error, match=words):
        await shop.provider.observe(shop.target(workload))


async def test_a_set_of_a_deployment_is_not_scaled_by_itself(shop: Shop) -> None:
    shop.cluster.deploy(replicas=1)
    owned = (await shop.running(1)).instances[0].id.rpartition("-")[0]
    with pytest.raises(Unsupported, match="a part of Deployment web, which sets its count"):
        await shop.provider.observe(shop.target(f"rs/{owned}"))


async def test_one_deleted_and_made_again_is_another(shop: Shop) -> None:
    shop.cluster.deploy(replicas=3)
    before = await shop.running(3)
    await shop.provider.scale(shop.target(), 2)
    shop.server.delete("Deployment", "web")
    with pytest.raises(NotFound):
        await shop.until(lambda _: False)
    shop.cluster.deploy(replicas=1)
    after = await back(shop, ready(1))
    assert after.wanted == 1
    assert {i.id for i in after.instances}.isdisjoint(i.id for i in before.instances)


@pytest.mark.parametrize(
    ("workload", "kind", "variable"),
    [
        pytest.param("deployment/web", "Deployment", "POD_NAME", id="deployment"),
        pytest.param("sts/web", "StatefulSet", "POD_NAME", id="stateful set"),
        pytest.param("rs/web", "ReplicaSet", "POD_NAME", id="set without a deployment"),
        pytest.param("deployment/web", "Deployment", "HOSTNAME", id="by the name of the host"),
    ],
)
async def test_self_is_what_owns_our_pod(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, workload: str, kind: str, variable: str
) -> None:
    shop.cluster.deploy(replicas=2, kind=kind)
    fleet = await shop.running(2, shop.target(workload))
    for name in ("POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, fleet.instances[0].id)
    own = shop.target("self")
    assert (await shop.provider.observe(own)).instances == fleet.instances
    await shop.provider.scale(own, 3)
    assert shop.count(kind) == 3
    asked = [(c.verb, c.what) for c in shop.server.audit if c.verb == "get"]
    assert asked == [("get", "pods")]  # a sidecar has no other right to get anything


async def test_self_outside_of_a_workload_says_what_is_missing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", "laptop")
    with pytest.raises(NotFound, match="no pod laptop; set POD_NAME"):
        await shop.provider.observe(shop.target("self"))
    bare = {"kind": "Pod", "metadata": {"name": "laptop"}, "spec": {"containers": []}}
    shop.server.put(bare)
    with pytest.raises(NotFound, match="controlled by nothing"):
        await shop.provider.observe(shop.target("self"))


async def test_what_matters_is_told_at_once_and_heartbeats_are_not(shop: Shop) -> None:
    shop.cluster.deploy(replicas=2)
    pod = (await shop.running(2)).instances[0].id
    changes = shop.provider.changes()
    (desk,) = shop.provider._desks.values()
    resource = shop.provider._places[shop.target()].resource

    news = asyncio.ensure_future(anext(changes))
    beat(shop)
    version = shop.server.get("Deployment", "web")["metadata"]["resourceVersion"]
    while (newest := desk.newest(resource, "web")) is None or newest.version != version:
        await asyncio.sleep(0.01)
    assert not news.done()
    disturbances: tuple[Callable[[], object], ...] = (
        lambda: shop.cluster.sick(pod),
        lambda: shop.cluster.sick(pod, well=True),
        lambda: shop.cluster.crash(pod),
        lambda: shop.server.scale("Deployment", "web", 1, manager="kubectl"),
        lambda: shop.own("web"),
    )
    for disturb in disturbances:
        disturb()
        async with asyncio.timeout(PATIENCE_S):
            assert await news == "web"
        news = asyncio.ensure_future(anext(changes))
    news.cancel()
