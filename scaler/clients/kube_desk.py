"""Everything known of one namespace: mirrors that all policies there share, found by owner.

A look at one of a thousand targets costs as much as it has pods, and no request.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, TypeVar

from scaler import mistakes
from scaler.clients import kube_fleet, kube_seen
from scaler.clients.kube_mirror import Mirror
from scaler.clients.kube_resource import Resource
from scaler.clients.kube_scales import Scales
from scaler.clients.kube_seen import Owner, Pod, ReplicaSet, Workload
from scaler.clients.kubernetes import Api, Json
from scaler.clients.notices import Notices
from scaler.core.model import Instance
from scaler.errors import NotFound, Unsupported

T = TypeVar("T")

CATCH_UP: Final = timedelta(seconds=1)  # for a watch to bring what the server has said already
SETS: Final = Resource("apps", "v1", "replicasets", "ReplicaSet")


@dataclass(frozen=True, slots=True)
class Seen:
    """One workload with its pods, as the mirrors have it."""

    workload: Workload
    instances: tuple[Instance, ...]
    pods: tuple[Pod, ...]
    rollout: str
    owner: str  # who else decides on its count


class Desk:
    """The mirrors of one namespace, each opened when a policy first needs it."""

    def __init__(self, api: Api, namespace: str, notices: Notices) -> None:
        self.api = api
        self.namespace = namespace
        self._notices = notices
        self._workloads: dict[Resource, Mirror[Workload]] = {}
        self._followers: defaultdict[str, set[str]] = defaultdict(set)  # policies by uid
        self._named: dict[tuple[str, str], set[str]] = {}  # and by resource and name
        self._pods: defaultdict[str, dict[str, Pod]] = defaultdict(dict)  # by owner's uid
        self._set_of: defaultdict[str, dict[str, ReplicaSet]] = defaultdict(dict)
        self._owner_of_set: dict[str, str] = {}
        self._owners: defaultdict[tuple[str, str, str], dict[str, Owner]] = defaultdict(dict)
        core = f"/api/v1/namespaces/{namespace}"
        scaling = f"/apis/autoscaling/v2/namespaces/{namespace}"
        self.pods = self._mirrored(f"{core}/pods", kube_seen.pod, self._pod_changed)
        self._autoscalers = self._mirrored(
            f"{scaling}/horizontalpodautoscalers", kube_seen.owner, self._owner_changed
        )
        self._scales = Scales(api, namespace, self.pods)
        self._sets: Mirror[ReplicaSet] | None = None

    async def look(
        self,
        resource: Resource,
        name: str,
        policy: str,
        container: str,
        count: Callable[[Workload], int],
    ) -> Seen:
        """One workload as it is now; `count` says how many it is to have.

        Raises:
            NotFound: there is none of this name.
            Unsupported: its count is not its own.
            ScalerError: nothing is known now.
        """
        mirror = await self._mirror(resource)
        found = mirror.items.get(name)
        if found is None:
            hint = mistakes.meant(name, mirror.items) or f"it has {_some(mirror.items)}"
            raise NotFound(f"namespace {self.namespace} has no {resource.kind} {name}; {hint}")
        if resource.kind == "ReplicaSet" and found.part_of:
            raise Unsupported(
                f"ReplicaSet {name} is a part of {found.part_of}, which sets its count; name that "
                "in the policy"
            )
        self._follow(resource, found, policy)
        if resource.group != "apps":
            found = await self._scaled(resource, mirror, found)
        found = replace(found, replicas=count(found))
        owners = self._owners.get((resource.group, resource.kind, name), {}).values()
        owner = " and ".join(sorted(one.words for one in owners))
        pods, instances, rollout = self._fleet(resource, found, container)
        return Seen(found, instances, tuple(pods), rollout, owner)

    def newest(self, resource: Resource, name: str) -> Workload | None:
        """As it stands in the mirror, without a look at anything else."""
        return self._workloads[resource].items.get(name)

    async def moved(self, resource: Resource) -> None:
        """Return when something has happened to a workload of this kind."""
        await self._workloads[resource].moved()

    async def _mirror(self, resource: Resource) -> Mirror[Workload]:
        if resource not in self._workloads:
            self._workloads[resource] = self._mirrored(
                resource.path(self.namespace), kube_seen.workload, self._workload_changed(resource)
            )
        if resource.kind == "Deployment" and self._sets is None:
            self._sets = self._mirrored(
                SETS.path(self.namespace), kube_seen.replica_set, self._set_changed
            )
        wanted: list[Mirror[Any]] = [self._workloads[resource], self.pods, self._autoscalers]
        if resource.kind == "Deployment" and self._sets is not None:
            wanted.append(self._sets)
        for mirror in wanted:
            await mirror.ready()
        for mirror in wanted:
            mirror.insist()
        return self._workloads[resource]

    def _mirrored(
        self, path: str, trim: Callable[[Json], T], changed: Callable[[T | None, T | None], None]
    ) -> Mirror[T]:
        return Mirror(self.api, path, trim=trim, changed=changed, restored=self._tell_all)

    async def _scaled(
        self, resource: Resource, mirror: Mirror[Workload], found: Workload
    ) -> Workload:
        """`found` as its Scale has it, which does not say who set the count: the mirror does.

        A Scale that is ahead of the mirror would name whoever set the count before.
        """
        scaled = await self._scales.read(resource, found)
        now: Workload | None = found
        try:
            async with asyncio.timeout(CATCH_UP.total_seconds()):
                while now is not None and kube_seen.newer(scaled.version, now.version):
                    await mirror.moved()
                    now = mirror.items.get(found.name)
        except TimeoutError:
            return scaled
        return replace(scaled, set_by=now.set_by) if now is not None else scaled

    def _fleet(
        self, resource: Resource, found: Workload, container: str
    ) -> tuple[Sequence[Pod], tuple[Instance, ...], str]:
        if resource.kind == "Deployment":
            sets = tuple(self._set_of.get(found.uid, {}).values())
            by_set = {one.uid: self._pods_of(one.uid) for one in sets}
            pods = [pod for some in by_set.values() for pod in some]
            return pods, *kube_fleet.of_deployment(found, sets, by_set, container)
        if resource.group == "apps":
            pods = self._pods_of(found.uid)
            if resource.kind == "StatefulSet":
                return pods, *kube_fleet.of_stateful_set(found, pods, container)
            return pods, kube_fleet.of_pods(found, pods, container), ""
        pods = self._scales.pods(found)
        return pods, kube_fleet.of_pods(found, pods, container), ""

    def _pods_of(self, uid: str) -> list[Pod]:
        return list(self._pods.get(uid, {}).values())

    def _follow(self, resource: Resource, found: Workload, policy: str) -> None:
        self._followers[found.uid].add(policy)
        self._named.setdefault((resource.kind, found.name), set()).add(policy)

    def _tell(self, uid: str) -> None:
        for policy in self._followers.get(uid, ()):
            self._notices.notify(policy)

    def _tell_all(self) -> None:
        """After a time without the server everybody may be behind."""
        for policy in {name for names in self._named.values() for name in names}:
            self._notices.notify(policy)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        pod = new or old
        assert pod is not None  # noqa: S101 - a change has at least one side
        if old is not None and (new is None or new.owner != old.owner):
            self._pods[old.owner].pop(old.name, None)
            if not self._pods[old.owner]:
                del self._pods[old.owner]
        if new is not None:
            self._pods[new.owner][new.name] = new
        self._tell(self._owner_of_set.get(pod.owner, pod.owner))
        for uid in self._scales.changed(old, new):
            self._tell(uid)

    def _set_changed(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        if old is not None:
            self._set_of[old.owner].pop(old.name, None)
            if not self._set_of[old.owner]:
                del self._set_of[old.owner]
            if new is None:
                self._owner_of_set.pop(old.uid, None)
        if new is not None:
            self._set_of[new.owner][new.name] = new
            self._owner_of_set[new.uid] = new.owner

    def _workload_changed(
        self, resource: Resource
    ) -> Callable[[Workload | None, Workload | None], None]:
        def changed(old: Workload | None, new: Workload | None) -> None:
            one = new or old
            assert one is not None  # noqa: S101 - a change has at least one side
            if new is None or old is None or new.uid != old.uid:
                for policy in self._named.get((resource.kind, one.name), ()):
                    self._notices.notify(policy)
                if old is not None:
                    self._followers.pop(old.uid, None)
                    self._scales.forget(old.uid)
            elif new.replicas != old.replicas:
                self._tell(one.uid)

        return changed

    def _owner_changed(self, old: Owner | None, new: Owner | None) -> None:
        for one in (old, new):
            if one is None:
                continue
            of_target = self._owners[one.group, one.kind, one.target]
            of_target.pop(one.name, None)
            if one is new:
                of_target[one.name] = one
            for policy in self._named.get((one.kind, one.target), ()):
                self._notices.notify(policy)

    async def aclose(self) -> None:
        every: list[Mirror[Any]] = [self.pods, self._autoscalers, *self._workloads.values()]
        if self._sets is not None:
            every.append(self._sets)
        await asyncio.gather(*(mirror.aclose() for mirror in every))


@dataclass(frozen=True, slots=True)
class Desks:
    """Those that are open, by context and namespace, as a part of `Context.shared`."""

    open: dict[tuple[str, str], Desk] = field(default_factory=dict)


def _some(names: Mapping[str, object]) -> str:
    shown = sorted(names)[:5]
    more = f" and {len(names) - 5} others" if len(names) > 5 else ""
    return ", ".join(shown) + more if shown else "none"
