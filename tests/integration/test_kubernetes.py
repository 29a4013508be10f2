"""The daemon on a cluster: a fake API server, with what controllers and kubelets would do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scaler.engine.watched import Condition
from tests.fakes.kube_cluster import COST, Cluster
from tests.fakes.kube_objects import Json
from tests.integration.kube_rig import Rig, rig
from tests.integration.running import eventually as until

WEB = """\
policies:
  web:
    every: 500ms
    target: {kubernetes: %s}
    metrics: [{cpu: 50%%, window: 0s}]
    limits: {max: %d, settle_down: 0s, grow: {at_most: 100, per: 1s}}
"""


def web(workload: str = "web", most: int = 10) -> str:
    return WEB % (workload, most)


def shared(cores: Callable[[], float], cluster: Callable[[], Cluster]) -> Callable[[Json], Any]:
    """A load that the ready pods share."""

    def load(pod: Json) -> tuple[float, int]:
        app = pod["metadata"]["labels"]["app"]
        ready = cluster().ready(app)
        mine = pod["metadata"]["name"] in {p["metadata"]["name"] for p in ready}
        return (cores() / max(1, len(ready)) if mine else 0.0), 64 << 20

    return load


class Busy(Rig):
    """With a load that tests change; each pod asks for half a core."""

    cores = 0.25

    @classmethod
    def of(cls, made: Rig) -> "Busy":
        made.__class__ = cls
        busy: Any = made
        made.cluster.load = shared(lambda: busy.cores, lambda: made.cluster)
        return busy  # type: ignore[no-any-return]


@pytest.fixture
async def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Busy]:
    async with rig(tmp_path, monkeypatch, metrics_every=1.0) as made:
        yield Busy.of(made)


async def test_load_makes_it_grow_and_shrink_and_events_tell_of_it(busy: Busy) -> None:
    busy.cluster.deploy()
    await busy.start(web())
    busy.cores = 1.5
    await until(lambda: busy.replicas() == 6)
    await until(lambda: len(busy.cluster.ready()) == 6)
    busy.cores = 0.5
    await until(lambda: busy.replicas() == 2)
    (event,) = await until(lambda: [e for e in busy.server.all("Event") if e["reason"] == "Scaled"])
    assert event["involvedObject"]["uid"] == busy.server.get("Deployment", "web")["metadata"]["uid"]
    assert "scale to" in event["message"]
    assert {call.manager for call in busy.server.writes("web")} == {"scaler"}
    versions = [
        call.body["metadata"]["resourceVersion"] for call in busy.server.writes() if call.body
    ]
    assert all(versions)


async def test_a_quiet_target_costs_no_requests_but_those_for_its_metrics(busy: Busy) -> None:
    busy.cluster.deploy()
    await busy.start(web())
    await until(busy.value)
    before = len(busy.server.audit)
    await busy.ticks(4)
    assert {c.group for c in busy.server.audit[before:]} <= {"metrics.k8s.io"}


async def test_what_an_autoscaler_owns_is_left_alone_until_it_is_gone(busy: Busy) -> None:
    busy.cluster.deploy()
    busy.server.put(
        {
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web-hpa"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
            },
        }
    )
    busy.cores = 2.0
    await busy.start(web())
    await until(lambda: busy.watched().decision)
    assert busy.watched().condition is Condition.ELSEWHERE
    assert "HorizontalPodAutoscaler web-hpa decides on the count" in busy.watched().trouble
    await until(busy.value)
    await busy.ticks(3)
    assert busy.server.writes() == []
    assert len(busy.said("managed elsewhere")) == 1
    busy.server.delete("HorizontalPodAutoscaler", "web-hpa")
    await until(lambda: busy.replicas() == 8)
    assert busy.watched().condition is Condition.OK


async def test_an_autoscaler_that_comes_later_stops_us(busy: Busy) -> None:
    busy.cluster.deploy()
    await busy.start(web())
    await until(lambda: busy.watched().decision)
    busy.server.put(
        {
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": "keda-hpa-web",
                "ownerReferences": [{"kind": "ScaledObject", "name": "web", "uid": "1"}],
            },
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
            },
        }
    )
    await until(lambda: busy.watched().condition is Condition.ELSEWHERE)
    assert "ScaledObject web decides" in busy.watched().trouble


async def test_a_foreign_writer_is_named_after_three_writes(busy: Busy) -> None:
    busy.cluster.deploy(replicas=1)
    busy.cores = 2.0
    await busy.start(web())
    while busy.watched().condition is not Condition.ELSEWHERE:
        await asyncio.sleep(0.2)
        busy.server.scale("Deployment", "web", 1, manager="argocd-controller")
        assert len(busy.server.writes()) <= 3
    assert len(busy.server.writes()) == 3
    assert "argocd-controller has set the count otherwise 3 times" in busy.watched().trouble
    await busy.ticks(3)
    assert len(busy.server.writes()) == 3


async def test_a_server_that_is_gone_shrinks_nothing_and_is_followed_again(busy: Busy) -> None:
    busy.cluster.deploy(replicas=4)
    busy.cores = 1.0
    await busy.start(web())
    await until(busy.value)
    await busy.server.down()
    await until(lambda: busy.watched().condition is Condition.DEGRADED)
    assert "API server" in busy.watched().trouble
    busy.cores = 2.0
    await busy.server.up()
    await until(lambda: busy.replicas() == 8)
    assert busy.watched().condition is Condition.OK
    assert all(c.body["spec"]["replicas"] >= 4 for c in busy.server.writes() if c.body)


@pytest.mark.parametrize("code", [500, 429])
async def test_a_server_that_refuses_shrinks_nothing(busy: Busy, code: int) -> None:
    busy.cluster.deploy(replicas=4)
    busy.cores = 1.0
    await busy.start(web())
    await until(busy.value)
    busy.server.faults.errors(code, retry_after=1)
    busy.server.faults.cut_watches()
    await until(lambda: busy.watched().condition is Condition.DEGRADED)
    busy.server.faults.clear()
    busy.cores = 2.0
    await until(lambda: busy.replicas() == 8)
    assert all(c.body["spec"]["replicas"] >= 4 for c in busy.server.writes() if c.body)


async def test_streams_that_are_cut_again_and_again_change_nothing(busy: Busy) -> None:
    busy.server.faults.cut_watches_every(timedelta(milliseconds=1200))
    busy.cluster.deploy(replicas=2)
    await busy.start(web())
    busy.cores = 1.5
    await until(lambda: busy.replicas() == 6)
    busy.cores = 0.5
    await until(lambda: busy.replicas() == 2)


async def test_numbers_that_stand_still_shrink_nothing(busy: Busy) -> None:
    busy.cluster.deploy(replicas=4)
    busy.cores = 1.0
    await busy.start(web())
    await until(busy.value)
    busy.server.faults.freeze_metrics()
    await until(lambda: "s old" in str(busy.watched().decision))
    busy.cores = 0.1
    await busy.ticks(3)
    assert busy.server.writes() == []


async def test_without_a_metrics_server_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path, monkeypatch, metrics_every=3600) as made:
        made.cluster.deploy(replicas=3)
        await made.start(web())
        await until(lambda: "install the metrics-server" in str(made.watched().decision))
        assert made.server.writes() == []


async def test_the_least_loaded_goes(busy: Busy) -> None:
    loads: dict[str, float] = {}
    busy.cluster.load = lambda pod: (loads.get(pod["metadata"]["name"], 0.25), 1 << 20)
    busy.cluster.deploy(replicas=4)
    await busy.start(web())
    pods = await until(lambda: len(busy.cluster.ready()) == 4 and busy.cluster.ready())
    idle = pods[2]["metadata"]["name"]
    loads.update({pod["metadata"]["name"]: 0.24 for pod in pods}, **{idle: 0.01})
    await until(lambda: busy.replicas() == 3)
    await until(lambda: len(busy.cluster.pods()) == 3)
    assert idle not in {pod["metadata"]["name"] for pod in busy.cluster.pods()}


async def test_a_mark_is_taken_off_again_and_foreign_ones_are_left(busy: Busy) -> None:
    busy.cores = 1.0  # all at their goal until the marks are there
    busy.cluster.deploy(replicas=4)
    await busy.start(web())
    pods = await until(lambda: len(busy.cluster.ready()) == 4 and busy.cluster.ready())
    marked, foreign = (pod["metadata"]["name"] for pod in pods[:2])
    for name, cost in ((marked, "-1000"), (foreign, "5")):
        busy.server.update(
            "Pod",
            name,
            lambda p, c=cost: p["metadata"].update(annotations={COST: c}),  # type: ignore[misc]
        )
    loads = {marked: 0.3, foreign: 0.2}
    busy.cluster.load = lambda pod: (loads.get(pod["metadata"]["name"], 0.01), 1 << 20)
    await until(lambda: busy.replicas() == 3)
    costs = {
        pod["metadata"]["name"]: pod["metadata"]["annotations"].get(COST)
        for pod in busy.cluster.pods()
    }
    assert costs[marked] is None
    assert costs[foreign] == "5"


async def test_the_highest_of_a_statefulset_goes(busy: Busy) -> None:
    loads = {"db-2": 0.3}
    busy.cluster.load = lambda pod: (loads.get(pod["metadata"]["name"], 0.01), 1 << 20)
    busy.cluster.deploy("db", 3, kind="StatefulSet")
    policy = web("statefulset/db").replace("  web:", "  db:").replace("{max:", "{min: 2, max:")
    await busy.start(policy)
    await until(lambda: busy.replicas("db", "StatefulSet") == 2)
    decided = next(e.decision for e in busy.told if e.decision and e.decision.remove)
    assert decided.remove == ("db-2",)
    assert busy.server.calls("patch", "pods") == []


async def test_while_a_deployment_is_in_progress_nothing_shrinks(busy: Busy) -> None:
    busy.cluster.deploy(replicas=8)
    busy.cores = 2.0
    await busy.start(web())
    await until(busy.value)
    busy.cluster.start_up = 3600.0  # the new ones never get ready
    busy.cluster.deploy(replicas=8, image="web:2")
    await until(busy.rollout)
    busy.cores = 0.5
    await until(lambda: "a deployment is in progress" in str(busy.watched().decision))
    fleet = busy.watched().fleet
    assert fleet is not None
    assert len(fleet.instances) <= 8
    assert busy.server.writes() == []


async def test_a_new_template_does_not_make_it_grow(busy: Busy) -> None:
    busy.cluster.deploy(replicas=4)
    busy.cores = 1.0
    await busy.start(web())
    await until(busy.value)
    busy.cluster.start_up = 0.5
    busy.cluster.deploy(replicas=4, image="web:2")
    await until(busy.rollout)
    await until(lambda: not busy.rollout())
    assert busy.server.writes() == []


async def test_pods_of_others_with_the_same_labels_disturb_nothing(busy: Busy) -> None:
    busy.cluster.deploy(replicas=2)
    for number in range(5):
        busy.server.put(
            {
                "kind": "Pod",
                "metadata": {"name": f"job-{number}", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "app"}]},
            }
        )
    await busy.start(web())
    await until(lambda: busy.watched().fleet)
    fleet = busy.watched().fleet
    assert fleet is not None
    assert all(i.id.startswith("web-") for i in fleet.instances)


async def test_whatever_has_a_scale_can_be_scaled(busy: Busy) -> None:
    kind = busy.server.objects.register(
        "argoproj.io", "v1alpha1", "rollouts", "Rollout", scale=True
    )
    labels = {"app": "canary"}
    busy.server.objects.create(
        kind,
        "default",
        {
            "metadata": {"name": "canary"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}},
        },
        "test",
    )
    busy.cluster.load = lambda _: (0.5, 1 << 20)
    for number in range(2):
        container = {"name": "app", "resources": {"requests": {"cpu": "500m"}}}
        busy.server.put(
            {
                "kind": "Pod",
                "metadata": {"name": f"canary-{number}", "labels": labels},
                "spec": {"containers": [container]},
            }
        )
    await busy.start(web("rollouts.argoproj.io/canary"))
    await until(lambda: busy.replicas("canary", "Rollout") == 4)


async def test_a_workload_that_is_not_there_is_parked_with_a_hint(busy: Busy) -> None:
    busy.cluster.deploy("webb")
    await busy.start(web())
    await until(lambda: busy.watched().condition is Condition.PARKED)
    assert 'has no Deployment web; did you mean "webb"?' in busy.watched().trouble


HEALTH = """\
policies:
  web:
    every: 500ms
    target: {kubernetes: {workload: web, restart: %s}}
    limits: {min: 3, max: 3}
    health:
      liveness: {tcp: {}, every: 200ms, fail_after: 2, timeout: 100ms}
      restart: {at_once: 100%%, brake: 100%%}
"""


@pytest.mark.parametrize("way", ["evict", "delete"])
async def test_the_sick_are_replaced(busy: Busy, way: str) -> None:
    listening: dict[str, asyncio.Server] = {}

    async def serve(address: str) -> None:
        listening[address] = await asyncio.start_server(
            lambda _, writer: writer.close(), address, 18080
        )

    busy.cluster.deploy(replicas=3, port=18080)
    await until(lambda: len(busy.cluster.ready()) == 3)
    for pod in busy.cluster.ready():
        await serve(pod["status"]["podIP"])
    await busy.start(HEALTH % way)
    await until(lambda: busy.healthy() == 3)
    sick = busy.cluster.ready()[0]
    listening[sick["status"]["podIP"]].close()
    name = sick["metadata"]["name"]
    await until(lambda: name not in {p["metadata"]["name"] for p in busy.cluster.pods()})
    verb, what = ("create", "pods/eviction") if way == "evict" else ("delete", "pods")
    assert [c.name for c in busy.server.calls(verb, what) if c.code < 300] == [name]
    for server in listening.values():
        server.close()
