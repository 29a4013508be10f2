"""What controllers, kubelets and the metrics-server do, on top of the fake API server.

They react to changes at once and keep the real order of things: ReplicaSets that delete pods by
rank and deletion cost, deployments that roll, StatefulSets that go one after the other, pods that
take their time to start and to end.
Source: kubernetes 1.36, `pkg/controller/{deployment,replicaset,statefulset}`.
"""

import asyncio
import hashlib
import os
import random
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self

import orjson

from tests.fakes import kube_objects as objects
from tests.fakes.kube_objects import Change, Json
from tests.fakes.kubernetes import Server, usage

COST = objects.COST
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
STATEFUL_HASH = "controller-revision-hash"
BROKEN = "/no/such/program"
LETTERS = "bcdfghjklmnpqrstvwxz2456789"
CONTROLLERS = ("Deployment", "ReplicaSet", "StatefulSet")
BUDGET = "PodDisruptionBudget"
NET = 2 + os.getpid() % 240  # so that tests beside each other can serve at the addresses of pods
Key = tuple[str, str, str]  # kind, namespace, name
Load = Callable[[Json], tuple[float, int]]  # cores and bytes of a pod


def no_load(_: Json) -> tuple[float, int]:
    return 0.01, 32 << 20


class Cluster:
    """Runs while the context is open."""

    def __init__(
        self,
        server: Server,
        *,
        start_up: float | Callable[[Json], float] = 0.05,
        stop: float = 0.02,
        metrics_every: float = 15.0,
        load: Load = no_load,
        capacity: int | None = None,
    ) -> None:
        """Spans are seconds: from a pod's first run until it is ready, and until it has ended."""
        self.server = server
        self.start_up = start_up
        self.stop = stop
        self.metrics_every = metrics_every
        self.load = load
        self.capacity = capacity  # pods that find a place
        self.again_after = 0.02  # from the first end of a container until it is started again
        self.scraped: Callable[[], None] = lambda: None  # told after each look at all pods
        self._random = random.Random(7)
        self._owned: dict[str, set[tuple[str, str]]] = defaultdict(set)  # by the owner's uid
        self._budgets: dict[str, set[str]] = defaultdict(set)  # names by namespace
        self._dirty: dict[Key, None] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._timers: set[asyncio.TimerHandle] = set()
        self._addresses = 0
        self._placed: set[str] = set()

    async def __aenter__(self) -> Self:
        self.server.objects.graceful = True
        self._forget = self.server.objects.subscribe(self._heard)
        for kind in (*CONTROLLERS, "Pod", BUDGET):
            for item in self.server.objects.each(self.server.objects.kind(kind)):
                self._heard(Change(0, "ADDED", self.server.objects.kind(kind), item, None))
        self._tasks = [
            asyncio.create_task(self._reconcile(), name="controllers"),
            asyncio.create_task(self._scrape(), name="metrics-server"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._forget()
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    # What a test or benchmark asks for.

    def deploy(
        self,
        name: str = "web",
        replicas: int = 1,
        *,
        namespace: str = "default",
        kind: str = "Deployment",
        cpu: str = "500m",
        memory: str = "256Mi",
        port: int = 8080,
        command: str = "/app",
        image: str = "web:1",
        labels: dict[str, str] | None = None,
        **spec: Any,
    ) -> Json:
        """A workload of one container with requests; an existing one is changed to this."""
        labels = labels or {"app": name}
        container = {
            "name": "app",
            "image": image,
            "command": [command],
            "ports": [{"containerPort": port}],
            "resources": {"requests": {"cpu": cpu, "memory": memory}},
        }
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        return self.server.put(
            {
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": labels},
                    "template": template,
                    **spec,
                },
            }
        )

    def pods(self, app: str = "web", namespace: str = "default") -> list[Json]:
        """Those that are not on their way out, by their label `app`."""
        return [
            pod
            for pod in self.server.all("Pod", namespace)
            if pod["metadata"].get("labels", {}).get("app") == app and not _going(pod)
        ]

    def ready(self, app: str = "web", namespace: str = "default") -> list[Json]:
        return [pod for pod in self.pods(app, namespace) if is_ready(pod)]

    def crash(self, name: str, namespace: str = "default", *, code: int = 137) -> None:
        """The container ends and is started again, after a pause from the second time on."""
        ended = {"exitCode": code, "reason": "Error", "finishedAt": objects.now()}

        def change(pod: Json) -> None:
            status = pod["status"]["containerStatuses"][0]
            status["restartCount"] += 1
            status["ready"] = False
            status["lastState"] = {"terminated": ended}
            why = "CrashLoopBackOff" if status["restartCount"] > 1 else "ContainerCreating"
            status["state"] = {"waiting": {"reason": why}}
            _condition(pod, "Ready", on=False)

        self.server.update("Pod", name, change, namespace)
        pod = self.server.get("Pod", name, namespace)
        again = pod["status"]["containerStatuses"][0]["restartCount"] - 1
        self._later(
            self.again_after + 0.5 * again,
            lambda: self._run(namespace, name, pod["metadata"]["uid"]),
        )

    def sick(self, name: str, namespace: str = "default", *, well: bool = False) -> None:
        """Its readiness probe fails from now on."""
        self.server.update("Pod", name, lambda p: _condition(p, "Ready", on=well), namespace)

    # Kubelet and scheduler.

    def _later(self, span: float, then: Callable[[], None]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            then()

        timer = asyncio.get_running_loop().call_later(span, run)
        self._timers.add(timer)

    def _heard(self, change: Change) -> None:
        kind, item, meta = change.kind.kind, change.new, change.new["metadata"]
        namespace, gone = meta.get("namespace", ""), change.type == "DELETED"
        if kind in ("Pod", "ReplicaSet"):
            for owner in meta.get("ownerReferences", ()):
                mine = self._owned[owner["uid"]]
                (mine.discard if gone else mine.add)((namespace, meta["name"]))
        if kind == "Pod":
            self._heard_pod(change)
            for name in self._budgets.get(namespace, ()):
                self._mark(BUDGET, namespace, name)
        elif kind == BUDGET:
            mine_ = self._budgets[namespace]
            (mine_.discard if gone else mine_.add)(meta["name"])
            self._mark(BUDGET, namespace, meta["name"])
        elif kind in CONTROLLERS:
            self._mark(kind, namespace, meta["name"])
            if gone:
                self._collect(kind, item)
        for owner in meta.get("ownerReferences", ()):
            if owner["kind"] in CONTROLLERS:
                self._mark(owner["kind"], namespace, owner["name"])

    def _heard_pod(self, change: Change) -> None:
        meta = change.new["metadata"]
        key = meta["namespace"], meta["name"]
        if change.type == "DELETED":
            self._placed.discard(meta["uid"])
        elif change.old is None:
            self._later(0.005, lambda: self._place(*key, meta["uid"]))
        elif meta.get("deletionTimestamp") and not change.old["metadata"].get("deletionTimestamp"):
            self._later(self.stop, lambda: self._end(*key, meta["uid"]))

    def _pod(self, namespace: str, name: str, uid: str) -> Json | None:
        pod = self.server.objects.find(self.server.objects.kind("Pod"), namespace, name)
        return pod if pod is not None and pod["metadata"]["uid"] == uid else None

    def _place(self, namespace: str, name: str, uid: str) -> None:
        """A node, if there is room on one, and the first run."""
        pod = self._pod(namespace, name, uid)
        if pod is None or _going(pod):
            return
        if self.capacity is not None and len(self._placed) >= self.capacity:

            def refuse(pod: Json) -> None:
                why = "0/3 nodes are available: 3 Insufficient cpu."
                _condition(pod, "PodScheduled", on=False, reason="Unschedulable", message=why)

            self.server.update("Pod", name, refuse, namespace)
            self._later(0.2, lambda: self._place(namespace, name, uid))
            return
        self._placed.add(uid)
        self._addresses += 1
        n = self._addresses

        def place(pod: Json) -> None:
            pod["spec"]["nodeName"] = f"node-{n % 3}"
            pod["status"]["podIP"] = f"127.{NET + n // 60000}.{n // 250 % 240}.{1 + n % 250}"
            pod["status"]["startTime"] = objects.now()
            _condition(pod, "PodScheduled", on=True)

        self.server.update("Pod", name, place, namespace)
        self._later(0.01, lambda: self._run(namespace, name, uid))

    def _run(self, namespace: str, name: str, uid: str) -> None:
        pod = self._pod(namespace, name, uid)
        if pod is None or _going(pod):
            return
        if pod["spec"]["containers"][0].get("command") == [BROKEN]:
            self._refuse(namespace, name)
            return

        def run(pod: Json) -> None:
            status = pod["status"]
            status["phase"] = "Running"
            old = {s["name"]: s for s in status.get("containerStatuses", ())}
            status["containerStatuses"] = [
                {
                    "name": c["name"],
                    "image": c.get("image", ""),
                    "imageID": "",
                    "ready": False,
                    "restartCount": old.get(c["name"], {}).get("restartCount", 0),
                    "lastState": old.get(c["name"], {}).get("lastState", {}),
                    "state": {"running": {"startedAt": objects.now()}},
                }
                for c in pod["spec"]["containers"]
            ]
            _condition(pod, "Ready", on=False)

        self.server.update("Pod", name, run, namespace)
        span = self.start_up(pod) if callable(self.start_up) else self.start_up
        self._later(span, lambda: self._get_ready(namespace, name, uid))

    def _refuse(self, namespace: str, name: str) -> None:
        """As containerd says it of a program that is not there."""
        said = f'exec: "{BROKEN}": stat {BROKEN}: no such file or directory: unknown'

        def refuse(pod: Json) -> None:
            state = {"waiting": {"reason": "RunContainerError", "message": said}}
            one = {"name": "app", "ready": False, "restartCount": 0, "lastState": {}}
            pod["status"]["containerStatuses"] = [{**one, "state": state}]

        self.server.update("Pod", name, refuse, namespace)

    def _get_ready(self, namespace: str, name: str, uid: str) -> None:
        pod = self._pod(namespace, name, uid)
        if pod is None or _going(pod) or pod["status"]["phase"] != "Running":
            return
        if any("waiting" in s["state"] for s in pod["status"]["containerStatuses"]):
            return

        def ready(pod: Json) -> None:
            for status in pod["status"]["containerStatuses"]:
                status["ready"] = True
            _condition(pod, "Ready", on=True)

        self.server.update("Pod", name, ready, namespace)

    def _end(self, namespace: str, name: str, uid: str) -> None:
        if self._pod(namespace, name, uid) is not None:
            self.server.objects.remove(self.server.objects.kind("Pod"), namespace, name)

    # Controllers.

    def _mark(self, kind: str, namespace: str, name: str) -> None:
        self._dirty[kind, namespace, name] = None
        self._news.set()

    async def _reconcile(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch = 0
            while self._dirty:
                kind, namespace, name = next(iter(self._dirty))
                del self._dirty[kind, namespace, name]
                item = self.server.objects.find(self.server.objects.kind(kind), namespace, name)
                if item is not None:
                    getattr(self, f"_{kind.lower()}")(item)
                batch += 1
                if batch % 50 == 0:
                    await asyncio.sleep(0)

    def _collect(self, kind: str, owner: Json) -> None:
        """What an owner that is gone has left."""
        for item in self._owned_by(owner, "ReplicaSet" if kind == "Deployment" else "Pod"):
            if not _going(item):
                known = self.server.objects.kind(item["kind"])
                self.server.objects.delete(
                    known, item["metadata"]["namespace"], item["metadata"]["name"]
                )
        self._owned.pop(_uid(owner), None)

    def _owned_by(self, owner: Json, kind: str) -> list[Json]:
        known = self.server.objects.kind(kind)
        keys = sorted(self._owned.get(_uid(owner), ()))
        found = (self.server.objects.find(known, *key) for key in keys)
        return [item for item in found if item is not None]

    def _pods_of(self, owner: Json) -> list[Json]:
        return self._owned_by(owner, "Pod")

    def _deployment(self, deployment: Json) -> None:
        meta, spec = deployment["metadata"], deployment["spec"]
        namespace, wanted = meta["namespace"], spec["replicas"]
        digest = _digest(spec["template"])
        sets = self._owned_by(deployment, "ReplicaSet")
        new = next((s for s in sets if s["metadata"]["labels"].get(HASH) == digest), None)
        old = [s for s in sets if s is not new]
        if new is None:
            count = wanted if not old else 0
            new = self._new_set(deployment, digest, count, 1 + max(map(_revision, old), default=0))
        running = [s for s in old if s["spec"]["replicas"] or s["status"].get("replicas")]
        if not running:
            self._set_count("ReplicaSet", new, wanted)
        else:
            self._roll(deployment, new, running)
        new = self.server.get("ReplicaSet", new["metadata"]["name"], namespace)
        every = [s["status"] for s in (new, *running)]
        updated = new["status"]
        self._status(
            "Deployment",
            deployment,
            {
                "observedGeneration": meta["generation"],
                "replicas": sum(s.get("replicas", 0) for s in every),
                "updatedReplicas": updated.get("replicas", 0),
                "readyReplicas": sum(s.get("readyReplicas", 0) for s in every),
                "availableReplicas": sum(s.get("readyReplicas", 0) for s in every),
            },
            _progress(wanted, updated, every, _lost(deployment["spec"])),
        )

    def _new_set(self, deployment: Json, digest: str, count: int, revision: int) -> Json:
        meta, spec = deployment["metadata"], deployment["spec"]
        labels = {**spec["template"]["metadata"]["labels"], HASH: digest}
        template = {**spec["template"], "metadata": {"labels": labels}}
        return self.server.put(
            {
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{meta['name']}-{digest}",
                    "namespace": meta["namespace"],
                    "labels": labels,
                    "annotations": {REVISION: str(revision)},
                    "ownerReferences": [_owner("Deployment", deployment)],
                },
                "spec": {
                    "replicas": count,
                    "selector": {"matchLabels": labels},
                    "template": template,
                },
                "status": {},
            },
            manager="kube-controller-manager",
        )

    def _roll(self, deployment: Json, new: Json, old: list[Json]) -> None:
        """One step of a rolling update."""
        spec = deployment["spec"]
        wanted = spec["replicas"]
        rolling = spec.get("strategy", {}).get("rollingUpdate", {})
        surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
        lost = _lost(spec)
        total = sum(s["spec"]["replicas"] for s in (new, *old))
        more = max(0, wanted + surge - total)
        count = min(wanted, new["spec"]["replicas"] + more)
        self._set_count("ReplicaSet", new, count)
        total = count + sum(s["spec"]["replicas"] for s in old)
        unready = count - new["status"].get("readyReplicas", 0)
        spare = total - (wanted - lost) - max(0, unready)
        for each in sorted(old, key=_revision):
            less = min(max(0, spare), each["spec"]["replicas"])
            self._set_count("ReplicaSet", each, each["spec"]["replicas"] - less)
            spare -= less

    def _set_count(self, kind: str, item: Json, count: int) -> None:
        meta = item["metadata"]

        def change(fresh: Json) -> None:
            fresh["spec"]["replicas"] = count

        self.server.update(kind, meta["name"], change, meta["namespace"])

    def _replicaset(self, each: Json) -> None:
        meta, wanted = each["metadata"], each["spec"]["replicas"]
        pods = [p for p in self._pods_of(each) if not _going(p) and not _over(p)]
        for _ in range(wanted - len(pods)):
            name = f"{meta['name']}-{''.join(self._random.choices(LETTERS, k=5))}"
            self._new_pod(each, name, {})
        crowd = Counter(p["spec"].get("nodeName", "") for p in pods)
        ranked = sorted(pods, key=lambda pod: deletion_rank(pod, crowd))
        for pod in ranked[: max(0, len(pods) - wanted)]:
            self.server.delete("Pod", pod["metadata"]["name"], meta["namespace"])
        pods = [p for p in self._pods_of(each) if not _going(p) and not _over(p)]
        self._status(
            "ReplicaSet",
            each,
            {
                "observedGeneration": meta["generation"],
                "replicas": len(pods),
                "readyReplicas": sum(map(is_ready, pods)),
                "availableReplicas": sum(map(is_ready, pods)),
            },
        )

    def _new_pod(self, owner: Json, name: str, labels: dict[str, str]) -> None:
        template = owner["spec"]["template"]
        self.server.put(
            {
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": owner["metadata"]["namespace"],
                    "labels": {**template["metadata"]["labels"], **labels},
                    "annotations": dict(template["metadata"].get("annotations", {})),
                    "ownerReferences": [_owner(owner["kind"], owner)],
                },
                "spec": objects.copied(template["spec"]),
                "status": {"phase": "Pending"},
            },
            manager="kube-controller-manager",
        )

    def _statefulset(self, each: Json) -> None:
        meta, spec = each["metadata"], each["spec"]
        parallel = spec.get("podManagementPolicy") == "Parallel"
        digest = f"{meta['name']}-{_digest(spec['template'])}"
        there = {_ordinal(p): p for p in self._pods_of(each)}
        for ordinal in range(spec["replicas"]):
            pod = there.get(ordinal)
            if pod is None:
                self._new_pod(each, f"{meta['name']}-{ordinal}", {STATEFUL_HASH: digest})
            if not parallel and (pod is None or _going(pod) or not is_ready(pod)):
                break
        else:
            self._shrink(each, there, digest, parallel=parallel)
        if parallel:
            self._shrink(each, there, digest, parallel=True)
        pods = [p for p in self._pods_of(each) if not _going(p)]
        fresh = [p for p in pods if p["metadata"]["labels"].get(STATEFUL_HASH) == digest]
        self._status(
            "StatefulSet",
            each,
            {
                "observedGeneration": meta["generation"],
                "replicas": len(pods),
                "readyReplicas": sum(map(is_ready, pods)),
                "updatedReplicas": len(fresh),
                "updateRevision": digest,
                "currentRevision": digest if len(fresh) == len(pods) else "older",
            },
        )

    def _shrink(self, each: Json, there: dict[int, Json], digest: str, *, parallel: bool) -> None:
        """The highest goes first, then those of an older template, the highest first."""
        namespace, wanted = each["metadata"]["namespace"], each["spec"]["replicas"]
        beyond = sorted((n for n in there if n >= wanted), reverse=True)
        if beyond:
            for ordinal in beyond if parallel else beyond[:1]:
                self.server.delete("Pod", there[ordinal]["metadata"]["name"], namespace)
            return
        if any(_going(p) or not is_ready(p) for p in there.values()):
            return
        for ordinal in sorted(there, reverse=True):
            pod = there[ordinal]
            if pod["metadata"]["labels"].get(STATEFUL_HASH) != digest:
                self.server.delete("Pod", pod["metadata"]["name"], namespace)
                return

    def _poddisruptionbudget(self, budget: Json) -> None:
        """How many may go now. Source: `pkg/controller/disruption`."""
        meta, spec = budget["metadata"], budget["spec"]
        picks = objects.label_selector(objects.selector_text(spec.get("selector") or {}))
        pods = [
            pod
            for pod in self.server.all("Pod", meta["namespace"])
            if picks(pod["metadata"].get("labels") or {}) and not _over(pod)
        ]
        spent = {
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["name"] in budget.get("status", {}).get("disruptedPods", {})
            and not _going(pod)
        }
        healthy = sum(
            is_ready(pod) and not _going(pod) and pod["metadata"]["name"] not in spent
            for pod in pods
        )
        expected = self._expected(pods)
        if isinstance(least := spec.get("minAvailable"), int):
            needed, expected = least, len(pods)
        elif least is not None:
            needed = _share(least, expected, up=True)
        else:
            needed = max(0, expected - _share(spec.get("maxUnavailable", 0), expected, up=True))
        old = budget.get("status", {}).get("disruptedPods", {})
        status = {
            "observedGeneration": meta["generation"],
            "expectedPods": expected,
            "desiredHealthy": needed,
            "currentHealthy": healthy,
            "disruptionsAllowed": max(0, healthy - needed) if expected else 0,
            "disruptedPods": {name: at for name, at in old.items() if name in spent},
        }
        self._status(BUDGET, budget, status)

    def _expected(self, pods: list[Json]) -> int:
        """As many as their workloads ask for."""
        found: dict[str, int] = {}
        for pod in pods:
            owner = self._owner_of(pod)
            above = self._owner_of(owner) if owner else None
            for item in (above or owner,):
                if item is not None:
                    found[_uid(item)] = item["spec"]["replicas"]
        return sum(found.values())

    def _owner_of(self, item: Json) -> Json | None:
        namespace = item["metadata"]["namespace"]
        for owner in item["metadata"].get("ownerReferences", ()):
            if owner["kind"] in CONTROLLERS:
                known = self.server.objects.kind(owner["kind"])
                return self.server.objects.find(known, namespace, owner["name"])
        return None

    def _status(
        self,
        kind: str,
        item: Json,
        status: Json,
        conditions: tuple[tuple[str, bool, str], ...] = (),
    ) -> None:
        meta = item["metadata"]

        def change(fresh: Json) -> None:
            fresh["status"] = {**fresh.get("status", {}), **status}
            for type_, on, reason in conditions:
                _condition(fresh, type_, on=on, reason=reason)

        self.server.update(kind, meta["name"], change, meta["namespace"])

    # The metrics-server.

    async def _scrape(self) -> None:
        while True:
            await asyncio.sleep(self.metrics_every)
            found: dict[str, list[Json]] = defaultdict(list)
            at = objects.now()
            for pod in self.server.objects.each(self.server.objects.kind("Pod")):
                if pod["status"].get("phase") == "Running" and not _going(pod):
                    meta, load = pod["metadata"], self.load(pod)
                    names = [c["name"] for c in pod["spec"]["containers"]]
                    loads = {n: load if n == names[0] else (0.001, 8 << 20) for n in names}
                    window = f"{self.metrics_every:g}s"
                    found[meta["namespace"]].append(
                        usage(meta["namespace"], meta["name"], loads, at=at, window=window)
                    )
            for namespace, metrics in found.items():
                self.server.publish(namespace, metrics)
            self.scraped()


def _uid(item: Json) -> str:
    return str(item["metadata"]["uid"])


def _owner(kind: str, item: Json) -> Json:
    return {
        "apiVersion": item["apiVersion"],
        "kind": kind,
        "name": item["metadata"]["name"],
        "uid": _uid(item),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _digest(template: Json) -> str:
    digest = hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return digest[:9].translate(str.maketrans(string.hexdigits[:16], LETTERS[:16]))


def _revision(item: Json) -> int:
    return int(item["metadata"].get("annotations", {}).get(REVISION, 0))


def _share(value: int | str, whole: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    part = whole * int(value.rstrip("%"))
    return -(-part // 100) if up else part // 100


def _lost(spec: Json) -> int:
    """How many may be missing while a deployment rolls; one when neither more nor less may be."""
    rolling = spec.get("strategy", {}).get("rollingUpdate", {})
    lost = _share(rolling.get("maxUnavailable", "25%"), spec["replicas"], up=False)
    surge = _share(rolling.get("maxSurge", "25%"), spec["replicas"], up=True)
    return lost if lost or surge else 1


def _progress(
    wanted: int, updated: Json, every: list[Json], lost: int
) -> tuple[tuple[str, bool, str], ...]:
    """What a Deployment says of itself."""
    ready = sum(s.get("readyReplicas", 0) for s in every)
    enough = ready >= wanted - lost
    done = updated.get("readyReplicas", 0) >= wanted and len(every) == 1
    missing = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
    return (
        ("Available", enough, missing),
        ("Progressing", True, "NewReplicaSetAvailable" if done else "ReplicaSetUpdated"),
    )


def _ordinal(pod: Json) -> int:
    return int(pod["metadata"]["name"].rpartition("-")[2])


def _going(item: Json) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


def _over(pod: Json) -> bool:
    return pod["status"].get("phase") in ("Failed", "Succeeded")


def is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _condition(pod: Json, type_: str, *, on: bool, **fields: str) -> None:
    conditions = [c for c in pod["status"].get("conditions", ()) if c["type"] != type_]
    known: list[Json] = pod["status"].get("conditions", [])
    old: Json = next((c for c in known if c["type"] == type_), {})
    status = "True" if on else "False"
    since = old["lastTransitionTime"] if old.get("status") == status else objects.now()
    made = {"type": type_, "status": status, "lastTransitionTime": since, **fields}
    pod["status"]["conditions"] = [*conditions, made]


def deletion_rank(pod: Json, crowd: Mapping[str, int]) -> tuple[object, ...]:
    """Who goes first when a ReplicaSet shrinks.

    Source: `ActivePodsWithRanks.Less`: unassigned, pending, not ready, cheaper, on the
    fuller node, younger; `crowd` is how many there are on each node.
    """
    status, meta = pod["status"], pod["metadata"]
    phases = {"Pending": 0, "Unknown": 1, "Running": 2}
    conditions: list[Json] = status.get("conditions", [])
    ready: Json = next((c for c in conditions if c["type"] == "Ready"), {})
    since = ready.get("lastTransitionTime", meta["creationTimestamp"])
    return (
        bool(pod["spec"].get("nodeName")),
        phases.get(status.get("phase", ""), 0),
        is_ready(pod),
        int(meta.get("annotations", {}).get(COST, 0)),
        -crowd[pod["spec"].get("nodeName", "")],
        -datetime.fromisoformat(since).timestamp(),
        -sum(s.get("restartCount", 0) for s in status.get("containerStatuses", ())),
        -int(meta["resourceVersion"]),
    )
