"""Objects of Kubernetes, trimmed to what a decision needs of them.

Ten thousand pods are kept in memory, so what many share (shapes of pods, labels, names of nodes) is
kept once. What an API server may leave out or write strangely becomes nothing, never an exception.
"""

import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from sys import intern
from typing import Any, Final

from scaler.clients import kube_quantity
from scaler.clients.kubernetes import MANAGER, Json, inside

COST: Final = "controller.kubernetes.io/pod-deletion-cost"
CHOSEN: Final = "-1000"  # the deletion cost of a pod that was chosen to go
PROTECTED: Final = "scaler.protected"
_REVISION: Final = "deployment.kubernetes.io/revision"
_STATEFUL_HASH: Final = "controller-revision-hash"
_STARTING: Final = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True, slots=True)
class Container:
    """One that runs as long as its pod: what it may use, and where it listens."""

    name: str
    cpu: float | None = None  # requested, in cores
    memory: float | None = None  # requested, in bytes
    cpu_limit: float | None = None
    memory_limit: float | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """What has a count: a Deployment, a StatefulSet, or another with a scale subresource."""

    name: str
    uid: str
    replicas: int
    version: str = field(compare=False)  # grows with every heartbeat of a status
    set_by: str = ""  # who set `replicas` last; empty when we did
    part_of: str = ""  # what controls it, and so its count: "Deployment web"
    revision: str = ""  # of a StatefulSet: its newest template
    kept: int = 0  # of a StatefulSet: pods that an update leaves alone
    first: int = 0  # of a StatefulSet: its lowest ordinal


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """One template of a Deployment."""

    name: str
    uid: str
    owner: str
    revision: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod. Moments are aware."""

    name: str
    uid: str
    owner: str  # uid of its controller
    phase: str
    node: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None  # the youngest of its containers
    ready: bool = False
    ready_at: datetime | None = None  # since when that is so
    going: bool = False
    starts: int = 0  # of containers that were started again
    waits: str = ""  # why it does not run
    revision: str = ""  # of a StatefulSet's pod: its template
    address: str = ""
    cost: str = ""  # of its deletion
    protected: bool = False
    containers: tuple[Container, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Owner:
    """A HorizontalPodAutoscaler: who decides on the count of what."""

    name: str
    kind: str
    group: str
    target: str
    words: str  # for people: "HorizontalPodAutoscaler web"


def workload(item: Json) -> Workload:
    meta, spec, status = inside(item, "metadata"), inside(item, "spec"), inside(item, "status")
    controller, replicas = _controller(meta), spec.get("replicas")
    return Workload(
        name=_text(meta, "name"),
        uid=_text(meta, "uid"),
        replicas=1 if replicas is None else _number(spec, "replicas"),
        version=_text(meta, "resourceVersion"),
        set_by=_set_by(meta),
        part_of=f"{_text(controller, 'kind')} {_text(controller, 'name')}" if controller else "",
        revision=intern(_text(status, "updateRevision")),
        kept=_kept(inside(spec, "updateStrategy")),
        first=_number(inside(spec, "ordinals"), "start"),
    )


def _kept(update: Json) -> int:
    """Pods that stay at their template until somebody deletes them or moves the partition."""
    if update.get("type") == "OnDelete":
        return sys.maxsize
    return _number(inside(update, "rollingUpdate"), "partition")


def _set_by(meta: Json) -> str:
    """The field manager that owns `spec.replicas`; the newest when there are several."""
    found = [
        (_text(entry, "time"), _text(entry, "manager"))
        for entry in _items(meta, "managedFields")
        if "f:replicas" in inside(inside(entry, "fieldsV1"), "f:spec")
    ]
    manager = max(found, default=("", ""))[1]
    return "" if manager == MANAGER else intern(manager)


def order(version: str) -> int:
    """A version as a number; since 1.35 they are documented to be ordered like that."""
    return int(version) if version.isdecimal() else 0


def newer(version: str, known: str) -> bool:
    """Whether it is another than `known`, and not an older one as far as anybody can tell."""
    return version != known and order(version) >= order(known)


def replica_set(item: Json) -> ReplicaSet:
    meta = inside(item, "metadata")
    revision = _text(inside(meta, "annotations"), _REVISION)
    return ReplicaSet(
        name=_text(meta, "name"),
        uid=_text(meta, "uid"),
        owner=intern(_text(_controller(meta), "uid")),
        revision=int(revision) if revision.isdigit() else 0,
        replicas=_number(inside(item, "spec"), "replicas"),
    )


def owner(item: Json) -> Owner:
    meta, spec = inside(item, "metadata"), inside(item, "spec")
    target = inside(spec, "scaleTargetRef")
    name = _text(meta, "name")
    words = f"HorizontalPodAutoscaler {name}"
    for reference in _items(meta, "ownerReferences"):
        if reference.get("kind") == "ScaledObject":
            words = f"ScaledObject {_text(reference, 'name')}"
    return Owner(
        name=name,
        kind=_text(target, "kind"),
        group=_text(target, "apiVersion").rpartition("/")[0],
        target=_text(target, "name"),
        words=words,
    )


def pod(item: Json) -> Pod:
    meta, spec, status = inside(item, "metadata"), inside(item, "spec"), inside(item, "status")
    conditions = {_text(c, "type"): c for c in _items(status, "conditions")}
    ready = conditions.get("Ready", {})
    statuses = [
        *_items(status, "containerStatuses"),
        *(s for s in _items(status, "initContainerStatuses") if _is_sidecar(s, spec)),
    ]
    begun = [
        m for s in statuses if (m := _moment(inside(inside(s, "state"), "running"), "startedAt"))
    ]
    annotations = inside(meta, "annotations")
    labels = _labels(meta, "labels")
    return Pod(
        name=intern(_text(meta, "name")),
        uid=_text(meta, "uid"),
        owner=intern(_text(_controller(meta), "uid")),
        phase=intern(_text(status, "phase")),
        node=intern(_text(spec, "nodeName")),
        created_at=_moment(meta, "creationTimestamp"),
        started_at=max(begun, default=None),
        ready=ready.get("status") == "True",
        ready_at=_moment(ready, "lastTransitionTime"),
        going="deletionTimestamp" in meta,
        starts=sum(_number(s, "restartCount") for s in statuses),
        waits=_waits(status, [*_first(status, spec), *statuses], conditions),
        revision=intern(labels.get(_STATEFUL_HASH, "")),
        address=_text(status, "podIP"),
        cost=intern(_text(annotations, COST)),
        protected=annotations.get(PROTECTED) == "true",
        containers=_containers(spec),
        labels=_shared(tuple(sorted(labels.items()))),
    )


def _first(status: Json, spec: Json) -> list[Json]:
    """Init containers that have not done their work yet, for which all others wait."""
    found = [s for s in _items(status, "initContainerStatuses") if not _is_sidecar(s, spec)]
    return [s for s in found if inside(inside(s, "state"), "terminated").get("exitCode") != 0]


def _is_sidecar(status: Json, spec: Json) -> bool:
    name = status.get("name")
    return any(
        c.get("name") == name and c.get("restartPolicy") == "Always"
        for c in _items(spec, "initContainers")
    )


def _containers(spec: Json) -> tuple[Container, ...]:
    """The application's first, then native sidecars: init containers that are never done."""
    found = [*_items(spec, "containers")]
    found += [c for c in _items(spec, "initContainers") if c.get("restartPolicy") == "Always"]
    return _shape(
        tuple(
            (
                _text(one, "name"),
                *(
                    _text(inside(inside(one, "resources"), which), what)
                    for which in ("requests", "limits")
                    for what in ("cpu", "memory")
                ),
                next((_number(port, "containerPort") for port in _items(one, "ports")), 0),
            )
            for one in found
        )
    )


@lru_cache(maxsize=4096)
def _shape(written: tuple[tuple[Any, ...], ...]) -> tuple[Container, ...]:
    return tuple(
        Container(
            name=name,
            cpu=_quantity(cpu),
            memory=_quantity(memory),
            cpu_limit=_quantity(cpu_limit),
            memory_limit=_quantity(memory_limit),
            port=port or None,
        )
        for name, cpu, memory, cpu_limit, memory_limit, port in written
    )


def _quantity(written: str) -> float | None:
    try:
        return kube_quantity.parse(written) if written else None
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _shared(labels: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(labels)


def _waits(status: Json, statuses: Iterable[Json], conditions: Mapping[str, Json]) -> str:
    """Why it does not run, in the platform's words; empty when it does or is simply starting."""
    if status.get("phase") in ("Failed", "Unknown"):
        said = _text(status, "message")
        return ": ".join(filter(None, (_text(status, "reason"), said))) or "it failed"
    for one in statuses:
        state = inside(one, "state")
        waiting, ended = inside(state, "waiting"), inside(state, "terminated")
        if ended:
            return f"{_text(one, 'name')} ended: {_end(ended)}"
        if waiting:
            reason = _text(waiting, "reason")
            last = inside(inside(one, "lastState"), "terminated")
            said = _end(last) if last else _text(waiting, "message")
            parts = ("" if reason in _STARTING else reason, said)
            if words := ": ".join(filter(None, parts)):
                return f"{_text(one, 'name')}: {words}"
    placed = conditions.get("PodScheduled", {})
    if placed.get("status") == "False":
        return ": ".join(filter(None, (_text(placed, "reason"), _text(placed, "message"))))
    return ""


def _end(ended: Json) -> str:
    """How a container ended."""
    code, reason = _number(ended, "exitCode"), _text(ended, "reason")
    number = _number(ended, "signal") or (code - 128 if code > 128 else 0)
    how = f"exit code {code}"
    if number in set(signal.Signals):
        how = f"killed by {signal.Signals(number).name}"
    return how if reason in ("", "Error", "Completed") else f"{reason}, {how}"


def _controller(meta: Json) -> Json:
    owners = _items(meta, "ownerReferences")
    return next((owner for owner in owners if owner.get("controller") is True), {})


def _moment(item: Json, key: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(_text(item, key))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _labels(item: Json, key: str) -> dict[str, str]:
    return {intern(str(k)): intern(str(v)) for k, v in inside(item, key).items()}


def _items(item: Json, key: str) -> list[Json]:
    found = item.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _text(item: Json, key: str) -> str:
    found = item.get(key)
    return found if isinstance(found, str) else ""


def _number(item: Json, key: str) -> int:
    found = item.get(key)
    return found if isinstance(found, int) else 0
