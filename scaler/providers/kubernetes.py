"""Workloads of Kubernetes: controllers run the pods, and we change how many they are to run.

What is looked at comes from mirrors that watches feed, so a quiet tick makes no request. A count is
written to the scale subresource with the version it was decided on: whoever changed it meanwhile
wins. Who is to go is marked by its deletion cost, which ReplicaSets honour.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final, Literal, NoReturn

from pydantic import field_validator

from scaler.clients import kube_events, kube_resource, kube_seen, kube_self
from scaler.clients.kube_desk import CATCH_UP, Desk, Desks, Seen
from scaler.clients.kube_resource import SELF, Resource, Written
from scaler.clients.kube_seen import CHOSEN, COST, Pod, Workload
from scaler.clients.kubernetes import MANAGER, MERGE, Api, Clusters, Invalid, Json, inside
from scaler.clients.notices import Notices
from scaler.core import elsewhere
from scaler.core.document import Target
from scaler.core.journal import Entry
from scaler.core.model import Fleet, InstanceId
from scaler.errors import Conflict, ManagedElsewhere, NotFound
from scaler.interfaces import Ability, Context

TRIES: Final = 3  # of a write whose version was overtaken by a heartbeat of the status
MARKS_AT_ONCE: Final = 10
NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class KubernetesTarget(Target):
    """A workload of Kubernetes: whatever has a scale subresource."""

    short = "workload"

    workload: str
    """`deployment/web`, `statefulset/db`, `replicaset/x`, `rollouts.argoproj.io/web` or, in a
    sidecar, `self`; a bare name is a Deployment's."""
    namespace: str = ""
    """Where it is; the pod's own or that of the kubeconfig's context when it is not given."""
    context: str = ""
    """A context of the kubeconfig; in a pod its own cluster when it is not given."""
    container: str = ""
    """Whose CPU and memory count; those of the whole pod when it is not given."""
    restart: Literal["evict", "delete"] = "evict"
    """How a pod is restarted: `evict` respects disruption budgets, `delete` does not."""

    @field_validator("workload")
    @classmethod
    def _is_a_workload(cls, written: str) -> str:
        if written != SELF:
            kube_resource.parse(written)
        return written

    @field_validator("namespace")
    @classmethod
    def _is_a_name(cls, written: str) -> str:
        if written and not NAMESPACE.fullmatch(written):
            raise ValueError(
                f'"{written}" is no name of a namespace; these have small letters, digits and -'
            )
        return written


class _Plugin:
    target = KubernetesTarget
    abilities = frozenset(Ability)

    def open(self, context: Context) -> "KubernetesProvider":
        return KubernetesProvider(context)


PLUGIN: Final = _Plugin()


class _Place:
    """Where a target is, found out once."""

    def __init__(self, desk: Desk, resource: Resource, name: str) -> None:
        self.desk = desk
        self.resource = resource
        self.name = name
        self.written = (0, 0)  # version and count of our last write

    @property
    def path(self) -> str:
        return f"{self.resource.path(self.desk.namespace)}/{self.name}"

    def count(self, found: Workload) -> int:
        """The count; as long as no watch has brought our own write, that write's."""
        version, count = self.written
        return count if kube_seen.order(found.version) < version else found.replicas


class KubernetesProvider:
    """All workloads that policies name, of whatever clusters."""

    abilities = _Plugin.abilities

    def __init__(self, context: Context) -> None:
        shared = context.shared
        self._clock = context.clock
        self._clusters: Clusters = shared.setdefault(
            Clusters, Clusters(context.clock, context.random)
        )
        self._notices: Notices = shared.setdefault(Notices, Notices())
        self._desks = shared.setdefault(Desks, Desks()).open
        self._places: dict[KubernetesTarget, _Place] = {}
        self._events = kube_events.Events(context.clock)

    async def observe(self, target: KubernetesTarget) -> Fleet:
        place = await self._place(target)
        seen = await self._look(place, target)
        fresh = kube_seen.order(seen.workload.version) >= place.written[0]
        return Fleet(
            target=target.policy,
            at=self._clock.now(),
            wanted=seen.workload.replicas,
            instances=seen.instances,
            rollout=seen.rollout,
            owner=seen.owner,
            set_by=seen.workload.set_by if fresh else "",
            renames=place.resource.kind != "StatefulSet",
        )

    async def scale(
        self, target: KubernetesTarget, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        place = await self._place(target)
        seen = await self._look(place, target)
        count = seen.workload.replicas
        if seen.owner:
            raise ManagedElsewhere(elsewhere.owned(seen.owner, target.policy))
        if count == desired:
            return
        if 0 < desired < count and place.resource.kind in ("Deployment", "ReplicaSet"):
            await self._mark(place, seen, frozenset(remove))
        await self._write(place, target, count, desired)

    async def _write(
        self, place: _Place, target: KubernetesTarget, count: int, desired: int
    ) -> None:
        """Set the count if it still is `count`; heartbeats of the status may overtake us."""
        for _ in range(TRIES):
            seen = await self._look(place, target)
            if seen.workload.replicas != count:
                self._overtaken(seen, target, count)
            known = seen.workload.version
            version = max(known, str(place.written[0]), key=kube_seen.order)
            body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": desired}}
            try:
                scale = await place.desk.api.send(
                    "PATCH", f"{place.path}/scale", body, content=MERGE, fieldManager=MANAGER
                )
            except Conflict:
                await self._caught_up(place, known)
            else:
                place.written = kube_seen.order(_version(scale)), desired
                return
        raise Conflict(f"{target.workload} changes faster than its count can be written")

    def _overtaken(self, seen: Seen, target: KubernetesTarget, count: int) -> NoReturn:
        who = seen.workload.set_by or "somebody"
        raise Conflict(
            f"{who} set {target.workload} from {count} to {seen.workload.replicas} meanwhile"
        )

    async def _caught_up(self, place: _Place, version: str) -> None:
        """Return when the watch has brought a newer state, or has not for a while."""
        try:
            async with asyncio.timeout(CATCH_UP.total_seconds()):
                while True:
                    newest = place.desk.newest(place.resource, place.name)
                    if newest is None or kube_seen.newer(newest.version, version):
                        return
                    await place.desk.moved(place.resource)
        except TimeoutError:
            return

    async def _mark(self, place: _Place, seen: Seen, chosen: frozenset[InstanceId]) -> None:
        """Our deletion cost on those that were chosen, and on nobody else."""
        live = [pod for pod in seen.pods if not pod.going]
        changes: list[tuple[Pod, str | None]]
        changes = [(pod, CHOSEN) for pod in live if pod.name in chosen and not pod.cost]
        changes += [(p, None) for p in live if p.name not in chosen and p.cost == CHOSEN]
        for begin in range(0, len(changes), MARKS_AT_ONCE):
            part = changes[begin : begin + MARKS_AT_ONCE]
            await asyncio.gather(*(self._cost(place.desk, pod, cost) for pod, cost in part))

    async def _cost(self, desk: Desk, pod: Pod, cost: str | None) -> None:
        body = {"metadata": {"uid": pod.uid, "annotations": {COST: cost}}}
        path = f"/api/v1/namespaces/{desk.namespace}/pods/{pod.name}"
        try:
            await desk.api.send("PATCH", path, body, content=MERGE, fieldManager=MANAGER)
        except (NotFound, Conflict, Invalid):
            return  # it has gone by itself, or another has its name

    async def restart(self, target: KubernetesTarget, instance: InstanceId) -> None:
        """A controller puts another pod in its place."""
        place = await self._place(target)
        seen = await self._look(place, target)
        pods = {pod.name: pod for pod in seen.pods}
        pod = pods.get(instance)
        if pod is None:
            there = ", ".join(sorted(pods)) or "none"
            raise NotFound(f"{target.workload} has no pod {instance}; it has {there}")
        if pod.going:
            return
        try:
            await self._take_away(place.desk, pod, target.restart)
        except (NotFound, Conflict):
            return  # it has gone by itself, or another has its name

    async def _take_away(self, desk: Desk, pod: Pod, how: str) -> None:
        options = {"preconditions": {"uid": pod.uid}}
        path = f"/api/v1/namespaces/{desk.namespace}/pods/{pod.name}"
        if how == "delete":
            await desk.api.send("DELETE", path, options)
            return
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": desk.namespace},
            "deleteOptions": options,
        }
        await desk.api.send("POST", f"{path}/eviction", body)

    def changes(self) -> AsyncIterator[str]:
        return self._notices.changes()

    def announce(self, target: KubernetesTarget, entry: Entry) -> None:
        place = self._places.get(target)
        if place is not None:
            self._events.announce(place.desk, place.resource, place.name, target.policy, entry)

    async def aclose(self) -> None:
        await self._events.aclose()
        for desk in self._desks.values():
            await desk.aclose()

    async def _look(self, place: _Place, target: KubernetesTarget) -> Seen:
        return await place.desk.look(
            place.resource, place.name, target.policy, target.container, place.count
        )

    async def _place(self, target: KubernetesTarget) -> _Place:
        if target not in self._places:
            api = await self._clusters.at(target.context)
            namespace = target.namespace or api.namespace
            written = await _written(api, namespace, target)
            resource = await kube_resource.find(api, written)
            key = target.context, namespace
            if key not in self._desks:
                self._desks[key] = Desk(api, namespace, self._notices)
            self._places[target] = _Place(self._desks[key], resource, written.name)
        return self._places[target]


async def _written(api: Api, namespace: str, target: KubernetesTarget) -> Written:
    if target.workload == SELF:
        return await kube_self.workload(api, namespace)
    return kube_resource.parse(target.workload)


def _version(scale: Json) -> str:
    return str(inside(scale, "metadata").get("resourceVersion", ""))
