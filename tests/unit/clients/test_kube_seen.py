"""What a cluster says of pods and workloads, as instances and counts."""

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scaler.clients import kube_fleet, kube_seen
from scaler.clients.kube_seen import Pod, ReplicaSet, Workload
from scaler.core.model import Instance, State

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STAMP = "2026-01-01T12:00:00Z"
RUNS = {"running": {"startedAt": STAMP}}


def status(name: str = "app", *, restarts: int = 0, last: Any = None, **state: Any) -> Any:
    return {
        "name": name,
        "restartCount": restarts,
        "state": state or RUNS,
        "lastState": {"terminated": last} if last else {},
    }


def written(
    *statuses: Any,
    phase: str = "Running",
    ready: bool = True,
    meta: Any = None,
    spec: Any = None,
    **more: Any,
) -> Any:
    """A pod as a server has it."""
    return {
        "metadata": {
            "name": "web-1",
            "uid": "u1",
            "creationTimestamp": STAMP,
            "ownerReferences": [
                {"kind": "ReplicaSet", "name": "web-x", "uid": "set", "controller": True}
            ],
            **(meta or {}),
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "app"}], **(spec or {})},
        "status": {
            "phase": phase,
            "podIP": "10.0.0.1",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": STAMP,
                }
            ],
            "containerStatuses": list(statuses or (status(),)),
            **more,
        },
    }


def seen(item: Any, container: str = "") -> Instance:
    return kube_fleet.instance(kube_seen.pod(item), container, current=True, ranked=False)


def waiting(reason: str, message: str = "", *, last: Any = None, restarts: int = 0) -> Any:
    state = {"reason": reason, "message": message}
    return written(
        status(waiting=state, last=last, restarts=restarts), phase="Pending", ready=False
    )


UNSCHEDULED = written(
    phase="Pending",
    ready=False,
    containerStatuses=[],
    conditions=[
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }
    ],
)
INIT_FAILS = written(
    status(waiting={"reason": "PodInitializing"}),
    phase="Pending",
    ready=False,
    spec={"initContainers": [{"name": "migrate"}]},
    initContainerStatuses=[
        status("migrate", waiting={"reason": "CrashLoopBackOff"}, last={"exitCode": 1}, restarts=3)
    ],
)
INIT_DONE = written(
    spec={"initContainers": [{"name": "migrate"}]},
    initContainerStatuses=[status("migrate", terminated={"exitCode": 0, "reason": "Completed"})],
)
SIDECAR_DOWN = written(
    status(),
    spec={"initContainers": [{"name": "proxy", "restartPolicy": "Always"}]},
    initContainerStatuses=[status("proxy", terminated={"exitCode": 2, "reason": "Error"})],
    ready=False,
)


@pytest.mark.parametrize(
    ("item", "state", "because"),
    [
        pytest.param(written(), State.RUNNING, "", id="runs"),
        pytest.param(written(ready=False), State.RUNNING, "", id="runs and is not ready"),
        pytest.param(INIT_DONE, State.RUNNING, "", id="its init container is done"),
        pytest.param(waiting("ContainerCreating"), State.PENDING, "", id="is simply starting"),
        pytest.param(
            waiting("ImagePullBackOff", 'Back-off pulling image "web:9"'),
            State.PENDING,
            'app: ImagePullBackOff: Back-off pulling image "web:9"',
            id="has no image",
        ),
        pytest.param(
            waiting("CrashLoopBackOff", last={"exitCode": 137, "reason": "OOMKilled"}, restarts=4),
            State.PENDING,
            "app: CrashLoopBackOff: OOMKilled, killed by SIGKILL",
            id="runs out of memory again and again",
        ),
        pytest.param(
            waiting("CrashLoopBackOff", last={"exitCode": 3, "reason": "Error"}),
            State.PENDING,
            "app: CrashLoopBackOff: exit code 3",
            id="ends again and again",
        ),
        pytest.param(
            UNSCHEDULED,
            State.PENDING,
            "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu.",
            id="finds no node",
        ),
        pytest.param(
            INIT_FAILS,
            State.PENDING,
            "migrate: CrashLoopBackOff: exit code 1",
            id="its init container fails",
        ),
        pytest.param(
            SIDECAR_DOWN, State.PENDING, "proxy ended: exit code 2", id="its sidecar is down"
        ),
        pytest.param(
            written(phase="Failed", reason="Evicted", message="The node was low on memory."),
            State.PENDING,
            "Evicted: The node was low on memory.",
            id="was evicted and is being replaced",
        ),
        pytest.param(
            written(meta={"deletionTimestamp": STAMP}), State.STOPPING, "", id="is told to go"
        ),
    ],
)
def test_how_a_pod_is(item: Any, state: State, because: str) -> None:
    one = seen(item)
    assert (one.state, one.because) == (state, because)


def test_a_start_that_is_not_over_is_no_start() -> None:
    one = seen(waiting("ContainerCreating"))
    assert (one.started_at, one.ready, one.ready_changed_at) == (None, None, None)


def test_what_is_known_of_one_that_runs() -> None:
    one = seen(written(status(restarts=2), ready=False))
    assert one.created_at == one.started_at == one.ready_changed_at == NOON
    assert one.ready is False
    assert one.incarnation == "u1/2"
    assert one.host == "10.0.0.1"


@pytest.mark.parametrize(
    ("annotations", "protected"),
    [
        ({"scaler.protected": "true"}, True),
        ({"scaler.protected": "yes"}, False),
        ({"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}, False),
    ],
)
def test_only_a_word_to_us_protects(annotations: Any, protected: bool) -> None:
    assert seen(written(meta={"annotations": annotations})).protected is protected


def using(name: str, port: int = 0, **resources: Any) -> Any:
    ports = {"ports": [{"containerPort": port}]} if port else {}
    return {"name": name, "resources": resources, **ports}


APP = using("app", 8080, requests={"cpu": "500m", "memory": "256Mi"}, limits={"memory": "1Gi"})
PROXY = using("proxy", 15001, requests={"cpu": "100m", "memory": "64Mi"})
NATIVE = {**PROXY, "restartPolicy": "Always"}
MIGRATE = using("migrate", requests={"cpu": "4"})
MI = float(1 << 20)


@pytest.mark.parametrize(
    ("spec", "container", "bases", "port"),
    [
        pytest.param(
            {"containers": [APP]},
            "",
            {"cpu": 0.5, "memory": 256 * MI, "memory_limit": 1024 * MI},
            8080,
            id="one container",
        ),
        pytest.param(
            {"containers": [APP, PROXY]},
            "",
            {"cpu": 0.6, "memory": 320 * MI},
            8080,
            id="the sum; a limit that one lacks is none",
        ),
        pytest.param(
            {"containers": [APP], "initContainers": [MIGRATE, NATIVE]},
            "",
            {"cpu": 0.6, "memory": 320 * MI},
            8080,
            id="a native sidecar counts, an init container does not",
        ),
        pytest.param(
            {"containers": [APP, PROXY]},
            "proxy",
            {"cpu": 0.1, "memory": 64 * MI},
            15001,
            id="the chosen one",
        ),
        pytest.param({"containers": [APP, using("bare")]}, "", {}, 8080, id="one without any"),
        pytest.param({"containers": [APP]}, "nobody", {}, None, id="one that is not there"),
        pytest.param(
            {"containers": [using("app", requests={"cpu": "much"})]}, "", {}, None, id="nonsense"
        ),
    ],
)
def test_what_is_whole(spec: Any, container: str, bases: Any, port: int | None) -> None:
    one = seen(written(spec=spec), container)
    assert one.bases == pytest.approx(bases)
    assert one.port == port


STRANGE = [
    {},
    {"metadata": None, "spec": None, "status": None},
    {"metadata": {"name": 3, "ownerReferences": [None, 7], "annotations": []}},
    {"metadata": {"creationTimestamp": "yesterday", "labels": {"a": None}}},
    {"status": {"conditions": [{}], "containerStatuses": [{"state": {"running": None}}]}},
    {"status": {"containerStatuses": [{"restartCount": "many", "state": []}]}},
    {"spec": {"replicas": "three", "containers": [{"resources": None, "ports": [None]}]}},
]


@pytest.mark.parametrize("item", STRANGE)
def test_what_is_written_strangely_is_nothing(item: Any) -> None:
    kube_fleet.instance(kube_seen.pod(item), "", current=True, ranked=True)
    kube_seen.workload(item)
    kube_seen.replica_set(item)
    kube_seen.owner(item)


def test_ten_thousand_pods_fit() -> None:
    """In 30 MiB; what a server sends of them is ten times that."""

    def one(number: int) -> Any:
        labels = {"app": f"web-{number // 10}", "pod-template-hash": f"{number // 10:x}"}
        meta = {"name": f"web-{number // 10}-5d9c7b-{number}", "labels": labels}
        address: Any = {"podIP": f"10.{number % 250}.0.{number // 250}"}
        spec = {"containers": [APP], "nodeName": f"node-{number % 100}"}
        return written(meta={**meta, "uid": f"{number:036}"}, spec=spec, **address)

    tracemalloc.start()
    kept = [kube_seen.pod(one(number)) for number in range(2000)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 2000
    assert size * 5 < 30 << 20


# --- workloads ---


def managed(*entries: tuple[str, str]) -> Any:
    fields: Any = {"f:spec": {"f:replicas": {}}}
    return [{"manager": who, "time": at, "fieldsV1": fields} for who, at in entries]


@pytest.mark.parametrize(
    ("entries", "who"),
    [
        ([], ""),
        (managed(("kubectl", STAMP)), "kubectl"),
        (managed(("scaler", STAMP)), ""),
        (managed(("kubectl", "2026-01-01T11:00:00Z"), ("scaler", STAMP)), ""),
        (managed(("argocd", STAMP), ("scaler", "2026-01-01T11:00:00Z")), "argocd"),
        ([{"manager": "web", "time": STAMP, "fieldsV1": {"f:status": {}}}], ""),
    ],
)
def test_who_set_the_count(entries: Any, who: str) -> None:
    assert kube_seen.workload({"metadata": {"managedFields": entries}}).set_by == who


@pytest.mark.parametrize(("spec", "count"), [({}, 1), ({"replicas": 0}, 0), ({"replicas": 4}, 4)])
def test_the_count_that_nobody_wrote_is_one(spec: Any, count: int) -> None:
    assert kube_seen.workload({"spec": spec}).replicas == count


def test_a_heartbeat_of_the_status_is_no_change() -> None:
    def version(written: str) -> Workload:
        return kube_seen.workload({"metadata": {"name": "web", "resourceVersion": written}})

    assert version("7") == version("8")


@pytest.mark.parametrize(
    ("version", "known", "is_newer"),
    [("8", "7", True), ("7", "7", False), ("9", "10", False), ("b", "a", True), ("a", "a", False)],
)
def test_newer_versions(version: str, known: str, is_newer: bool) -> None:
    assert kube_seen.newer(version, known) is is_newer


@pytest.mark.parametrize(
    ("references", "words"),
    [
        ([], "HorizontalPodAutoscaler web"),
        ([{"kind": "ScaledObject", "name": "web-so"}], "ScaledObject web-so"),
    ],
)
def test_who_decides(references: Any, words: str) -> None:
    target = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "web"}
    meta = {"name": "web", "ownerReferences": references}
    one = kube_seen.owner({"metadata": meta, "spec": {"scaleTargetRef": target}})
    assert (one.words, one.group, one.kind, one.target) == (words, "argoproj.io", "Rollout", "web")


# --- fleets ---


def pod(name: str, owner: str = "new", **more: Any) -> Pod:
    """One that runs and is ready unless its name ends in `!`."""
    given: dict[str, Any] = {
        "name": name.rstrip("!"),
        "uid": name,
        "owner": owner,
        "phase": "Running",
        "node": "n",
        "ready": not name.endswith("!"),
        "created_at": NOON,
        "started_at": NOON,
        "ready_at": NOON,
    }
    return Pod(**{**given, **more})


def deployment(count: int) -> Workload:
    return Workload(name="web", uid="d", replicas=count, version="1")


def rolled(
    count: int, old: tuple[Pod, ...], new: tuple[Pod, ...], spare: int = 0
) -> tuple[list[str], str]:
    """The names of those that count, `-` before those that are going, and the rollout."""
    sets = (
        ReplicaSet("web-a", "old", "d", 1, spare or len([p for p in old if not p.going])),
        ReplicaSet("web-b", "new", "d", 2, len(new)),
    )
    pods = {"old": old, "new": new}
    instances, rollout = kube_fleet.of_deployment(deployment(count), sets, pods, "")
    return [f"{'-' * (i.state is State.STOPPING)}{i.id}" for i in instances], rollout


def olds(*names: str, **more: Any) -> tuple[Pod, ...]:
    return tuple(pod(name, "old", **more) for name in names)


def news(*names: str) -> tuple[Pod, ...]:
    return tuple(pod(name) for name in names)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(rolled(2, (), news("a", "b")), (["a", "b"], ""), id="at rest"),
        pytest.param(
            rolled(3, olds("a", "b", "c"), news("d!")),
            (["a", "b", "c"], "1 of 3 pods updated"),
            id="who is not ready yet and one too many is left out",
        ),
        pytest.param(
            rolled(3, olds("a", "b"), news("c", "d!")),
            (["a", "b", "c"], "2 of 3 pods updated"),
            id="half way",
        ),
        pytest.param(
            rolled(3, olds("a", "b"), news("c!")),
            (["a", "b", "c"], "1 of 3 pods updated"),
            id="who has a place counts although it is not ready",
        ),
        pytest.param(
            rolled(2, olds("a", going=True), news("b", "c")),
            (["-a", "b", "c"], ""),
            id="over when the last old one is going",
        ),
        pytest.param(
            rolled(2, (), news("b", "c"), spare=1),
            (["b", "c"], "2 of 2 pods updated"),
            id="not over while an old template is to have pods",
        ),
        pytest.param(
            rolled(2, (), (*news("a", "b"), pod("c", phase="Failed"))),
            (["a", "b"], ""),
            id="who failed has been replaced",
        ),
        pytest.param(
            rolled(1, (), news("a", "b!")), (["a", "-b"], ""), id="who will be chosen is going"
        ),
    ],
)
def test_pods_of_a_deployment(found: Any, expected: Any) -> None:
    assert found == expected


def test_pods_of_an_older_template_are_not_current() -> None:
    sets = (ReplicaSet("a", "old", "d", 1, 1), ReplicaSet("b", "new", "d", 2, 1))
    pods = {"old": olds("a"), "new": news("b")}
    instances, _ = kube_fleet.of_deployment(deployment(2), sets, pods, "")
    assert {i.id: i.current for i in instances} == {"a": False, "b": True}


def test_a_roll_back_makes_the_old_template_the_newest() -> None:
    sets = (ReplicaSet("a", "old", "d", 3, 1), ReplicaSet("b", "new", "d", 2, 1))
    pods = {"old": olds("a"), "new": news("b")}
    instances, _ = kube_fleet.of_deployment(deployment(2), sets, pods, "")
    assert {i.id: i.current for i in instances} == {"a": True, "b": False}


@pytest.mark.parametrize(
    ("less", "goes"),
    [
        pytest.param({"node": ""}, "b", id="without a node"),
        pytest.param({"phase": "Pending"}, "b", id="not running"),
        pytest.param({"ready": False}, "b", id="not ready"),
        pytest.param({"cost": "-1000"}, "b", id="chosen"),
        pytest.param({"cost": "7"}, "a", id="dear"),
        pytest.param({"ready_at": NOON + timedelta(1)}, "b", id="younger"),
        pytest.param({"starts": 3}, "b", id="started again more often"),
    ],
)
def test_whom_a_controller_will_choose(less: Any, goes: str) -> None:
    pods = [pod("a"), pod("b", **less), pod("c", cost="9")]
    found = kube_fleet.of_pods(deployment(2), pods, "")
    assert [i.id for i in found if i.state is State.STOPPING] == [goes]


def stateful(count: int, pods: str, **more: Any) -> tuple[list[str], str]:
    """Pods as `0=a 1=b`: ordinal and template; the newest is `b`."""
    there = [
        pod(f"db-{n}", revision=revision) for n, revision in (p.split("=") for p in pods.split())
    ]
    found = Workload(name="db", uid="s", replicas=count, version="1", revision="b", **more)
    instances, rollout = kube_fleet.of_stateful_set(found, there, "")
    return [f"{'-' * (i.state is State.STOPPING)}{i.rank}" for i in instances], rollout


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            stateful(3, "10=b 2=b 0=b", first=0),
            (["0", "2", "-10"], ""),
            id="in the order of numbers, and beyond the count they are going",
        ),
        pytest.param(
            stateful(2, "5=b 6=b 7=b", first=5), (["5", "6", "-7"], ""), id="counted from five"
        ),
        pytest.param(
            stateful(3, "0=a 1=a 2=b"), (["0", "1", "2"], "1 of 3 pods updated"), id="a rollout"
        ),
        pytest.param(
            stateful(3, "0=a 1=a 2=b", kept=2), (["0", "1", "2"], ""), id="held by a partition"
        ),
        pytest.param(
            stateful(3, "0=a 1=a 2=a", kept=2),
            (["0", "1", "2"], "0 of 1 pods updated"),
            id="in progress above a partition",
        ),
    ],
)
def test_pods_of_a_stateful_set(found: Any, expected: Any) -> None:
    assert found == expected


def test_templates_that_a_person_replaces_by_hand_are_no_rollout() -> None:
    update = {"updateStrategy": {"type": "OnDelete"}, "replicas": 3}
    found = kube_seen.workload({"spec": update, "status": {"updateRevision": "b"}})
    instances, rollout = kube_fleet.of_stateful_set(found, [pod("db-0", revision="a")], "")
    assert (rollout, instances[0].current) == ("", False)
