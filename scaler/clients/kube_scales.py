"""Resources of somebody's own kind, as their Scale subresource has them.

Where such a kind keeps its count, and how its pods are found, only its definition says; the Scale
is what everybody can read. It is asked again when the resource has changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from scaler.clients import kube_seen, kube_selector
from scaler.clients.kube_mirror import Mirror
from scaler.clients.kube_resource import Resource
from scaler.clients.kube_seen import Pod, Workload
from scaler.clients.kube_selector import Requirement
from scaler.clients.kubernetes import Api, inside
from scaler.errors import Unavailable, Unsupported


@dataclass(slots=True)
class _Scale:
    """What was answered last, and the pods that it means."""

    version: str
    replicas: int
    selector: tuple[Requirement, ...]
    pods: dict[str, Pod] = field(default_factory=dict)


class Scales:
    """Those of one namespace."""

    def __init__(self, api: Api, namespace: str, pods: Mirror[Pod]) -> None:
        self._api = api
        self._namespace = namespace
        self._every = pods
        self._known: dict[str, _Scale] = {}  # by uid

    async def read(self, resource: Resource, found: Workload) -> Workload:
        """`found` with the count and the version that its Scale has.

        Raises:
            ScalerError: the server does not say.
        """
        known = self._known.get(found.uid)
        if known is None or kube_seen.newer(found.version, known.version):
            known = self._take(found.uid, await self._ask(resource, found))
        return replace(found, replicas=known.replicas, version=known.version)

    def pods(self, found: Workload) -> list[Pod]:
        return list(self._known[found.uid].pods.values())

    def changed(self, old: Pod | None, new: Pod | None) -> Iterator[str]:
        """Uids of those that a change of a pod concerns."""
        for uid, scale in self._known.items():
            was = old is not None and scale.pods.pop(old.name, None) is not None
            if new is not None and kube_selector.matches(scale.selector, new.labels):
                scale.pods[new.name] = new
                yield uid
            elif was:
                yield uid

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)

    async def _ask(self, resource: Resource, found: Workload) -> _Scale:
        what = f"{resource.kind} {found.name}"
        path = f"{resource.path(self._namespace)}/{found.name}/scale"
        scale = await self._api.get(path)
        text = inside(scale, "status").get("selector")
        if not isinstance(text, str) or not text:
            raise Unavailable(
                f"{what} does not say yet which pods are its own: status.selector of its scale is "
                "empty; its controller fills it in"
            )
        try:
            selector = kube_selector.parse(text)
        except ValueError as error:
            raise Unsupported(f"{what} selects its pods by {text}: {error}") from error
        count = inside(scale, "spec").get("replicas", 0)
        version = str(inside(scale, "metadata").get("resourceVersion") or found.version)
        return _Scale(version, count if isinstance(count, int) else 0, selector)

    def _take(self, uid: str, scale: _Scale) -> _Scale:
        known = self._known.get(uid)
        if known is not None and known.selector == scale.selector:
            scale.pods = known.pods
        else:
            every = self._every.items.values()
            own = (pod for pod in every if kube_selector.matches(scale.selector, pod.labels))
            scale.pods = {pod.name: pod for pod in own}
        self._known[uid] = scale
        return scale
