"""Pods as instances, and whether a deployment is in progress."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from scaler.clients.kube_seen import Container, Pod, ReplicaSet, Workload
from scaler.core.model import Instance, InstanceId, State

_EPOCH: Final = datetime.min.replace(tzinfo=UTC)


def of_deployment(
    found: Workload, sets: Sequence[ReplicaSet], pods: Mapping[str, Sequence[Pod]], container: str
) -> tuple[tuple[Instance, ...], str]:
    """The instances of a Deployment and its rollout in words; `pods` by the uid of their set.

    While a deployment is in progress there are more pods than were asked for. Those of them that
    are not ready yet are left out: they carry nothing, and will take the place of others.
    """
    newest = max(sets, key=lambda one: (one.revision, one.name), default=None)
    there = [pod for one in sets for pod in pods.get(one.uid, ()) if not _over(pod)]
    old = [p for p in there if not p.going and newest is not None and p.owner != newest.uid]
    moving = bool(old) or any(one.replicas for one in sets if one is not newest)
    if not moving:
        return _instances(_settled(there, found.replicas), container), ""
    assert newest is not None  # noqa: S101 - what is old is older than something
    updated = sum(not p.going and p.owner == newest.uid for p in there)
    surplus = sum(not p.going for p in there) - found.replicas
    young = sorted(
        (p for p in there if not p.going and not p.ready and p.owner == newest.uid),
        key=lambda p: (str(p.created_at), p.name),
        reverse=True,
    )
    left_out = {p.uid for p in young[: max(0, surplus)]}
    kept = [p for p in there if p.uid not in left_out]
    outdated = frozenset(p.uid for p in old)
    words = f"{min(updated, found.replicas)} of {found.replicas} pods updated"
    return _instances(kept, container, outdated), words


def of_stateful_set(
    found: Workload, pods: Sequence[Pod], container: str
) -> tuple[tuple[Instance, ...], str]:
    """The instances of a StatefulSet, which loses the highest ordinal first, and its rollout."""
    meant = max(0, found.replicas - found.kept)
    there = [p for p in pods if not p.going]
    old = frozenset(p.uid for p in there if found.revision and p.revision != found.revision)
    updated = len(there) - len(old)
    words = f"{updated} of {meant} pods updated" if old and updated < meant else ""
    end = found.first + found.replicas
    kept = [replace(p, going=p.going or not found.first <= _ordinal(p) < end) for p in pods]
    return _instances(kept, container, old, ranked=True), words


def of_pods(found: Workload, pods: Sequence[Pod], container: str) -> tuple[Instance, ...]:
    """The instances of whatever else has a count."""
    live = [pod for pod in pods if not _over(pod)]
    return _instances(_settled(live, found.replicas), container)


def _settled(pods: Sequence[Pod], count: int) -> list[Pod]:
    """A controller needs a moment to choose who goes; whom it will choose counts as going."""
    live = sorted((pod for pod in pods if not pod.going), key=_cheapness)
    chosen = {pod.uid for pod in live[: max(0, len(live) - count)]}
    return [replace(pod, going=True) if pod.uid in chosen else pod for pod in pods]


def _cheapness(pod: Pod) -> tuple[object, ...]:
    """The order in which a ReplicaSet loses pods.

    Source: `ActivePodsWithRanks.Less` in kubernetes' `pkg/controller/controller_utils.go`.
    """
    since = pod.ready_at or pod.created_at or _EPOCH
    return (
        bool(pod.node),
        pod.phase == "Running",
        pod.ready,
        int(pod.cost) if pod.cost.lstrip("-").isdigit() else 0,
        -(since - _EPOCH).total_seconds(),
        -pod.starts,
        pod.name,
    )


def _over(pod: Pod) -> bool:
    """Its controller has another in its place already."""
    return pod.phase in ("Failed", "Succeeded")


def _instances(
    pods: Sequence[Pod],
    container: str,
    outdated: frozenset[str] = frozenset(),
    *,
    ranked: bool = False,
) -> tuple[Instance, ...]:
    """In a lasting order: by age, or by ordinal."""
    if ranked:
        order = sorted(pods, key=lambda pod: (_ordinal(pod), pod.name))
    else:
        order = sorted(pods, key=lambda pod: (pod.created_at or _EPOCH, pod.name))
    return tuple(
        instance(pod, container, current=pod.uid not in outdated, ranked=ranked) for pod in order
    )


def instance(pod: Pod, container: str, *, current: bool, ranked: bool) -> Instance:
    chosen = tuple(c for c in pod.containers if container in ("", c.name))
    ports = [c.port for c in chosen if c.port is not None]
    runs = pod.phase == "Running" and pod.started_at is not None and not pod.waits
    state = State.RUNNING if runs else State.PENDING
    return Instance(
        id=InstanceId(pod.name),
        state=State.STOPPING if pod.going else state,
        incarnation=f"{pod.uid}/{pod.starts}",
        created_at=pod.created_at,
        started_at=pod.started_at if runs else None,
        ready=pod.ready if runs else None,
        ready_changed_at=pod.ready_at if runs else None,
        because=pod.waits,
        current=current,
        protected=pod.protected,
        rank=_ordinal(pod) if ranked else None,
        bases=bases(chosen),
        host=pod.address,
        port=ports[0] if ports else None,
    )


@lru_cache(maxsize=4096)
def bases(containers: tuple[Container, ...]) -> Mapping[str, float]:
    """Requests as `cpu` and `memory`, limits as `cpu_limit` and `memory_limit`.

    A container without one makes that of the pod unknown: no share of it would be true.
    """
    found = {}
    for name in ("cpu", "memory", "cpu_limit", "memory_limit"):
        amounts = [getattr(container, name) for container in containers]
        if amounts and None not in amounts and sum(amounts) > 0:
            found[name] = float(sum(amounts))
    return found


def _ordinal(pod: Pod) -> int:
    last = pod.name.rpartition("-")[2]
    return int(last) if last.isdigit() else 0
