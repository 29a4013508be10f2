"""What an API server must let us do: a row for each request that a run may make.

Pure. `scaler rbac` prints the rows as Roles and `scaler doctor` asks the server about each; a run
that makes another request is wrong, and so is a row that no run uses.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from scaler.clients import kube_resource
from scaler.clients.kube_resource import SELF, Written
from scaler.core.document import Target
from scaler.core.policy import Policy
from scaler.errors import ConfigError
from scaler.settings import Lease

KIND: Final = "kubernetes"
APPS: Final = "apps"
READ: Final = ("list", "watch")
CHOOSING: Final = ("deployments", "replicasets")  # whose pods can be told which is to go

SEE: Final = "how many there are, and how many are asked for"
PODS: Final = "how each pod is"
HPAS: Final = "whether an HPA or KEDA decides on the count already"
SCALE: Final = "set the count"
SCALE_READ: Final = "which pods belong to it"
CHOOSE: Final = "say which pod goes when it shrinks (pod-deletion-cost)"
EVICT: Final = "start a sick pod again, within its disruption budget"
DELETE: Final = "start a sick pod again, whatever its disruption budget"
EVENTS: Final = "write beside the workload what was done and why"
METRICS: Final = "CPU and memory, from metrics-server"
KUBELET: Final = "CPU and memory, from the kubelet of each node"
OWNER: Final = "find the workload of this pod"
LEAD: Final = "one of several daemons acts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One verb on one kind of object."""

    context: str = ""
    namespace: str = ""  # where the daemon is, when empty
    everywhere: bool = False  # in no namespace: for kinds of the cluster
    group: str
    resource: str
    subresource: str = ""
    verb: str
    name: str = ""  # of the only object that is meant; any when empty
    why: str

    @property
    def path(self) -> str:
        """The resource as a Role writes it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def text(self) -> str:
        """For people: `patch deployments/scale "web" in shop`."""
        group = f".{self.group}" if self.group else ""
        name = f' "{self.name}"' if self.name else ""
        where = " in the whole cluster" if self.everywhere else f" in {self.namespace or 'its own'}"
        return f"{self.verb} {self.path}{group}{name}{where}"


def needed(
    policies: Iterable[Policy], *, act: bool = True, own: str = "", lease: Iterable[Right] = ()
) -> list[Right]:
    """Every right that a run with these policies uses, each once.

    `own` is the workload that `self` stands for, `lease` what `of_lease` says where several daemons
    share one, and `act` is false for a daemon that only observes.

    Raises:
        ConfigError: a target names nothing that is known.
    """
    found: dict[Right, None] = {}
    for policy in policies:
        if policy.target.kind == KIND:
            found |= dict.fromkeys(_of_policy(policy, own, act=act))
    return list(found | dict.fromkeys(lease))


def _of_policy(policy: Policy, own: str, *, act: bool) -> list[Right]:
    target = policy.target
    context, namespace = _field(target, "context"), _field(target, "namespace")
    written = _field(target, "workload")
    if written == SELF and not own:
        raise ConfigError(
            f"policy {policy.name}: its target is the workload of its own pod; say which that is: "
            "--sidecar deployment/web"
        )
    meant = _parsed(own if written == SELF else written)
    rights = [*_looks(meant), *_measures(policy)]
    if act and policy.mode == "act":
        rights += _scales(meant)
    if act and policy.mode != "observe":
        rights += _restarts(policy) + _rights("", "events", ("create", "patch"), EVENTS)
    if written == SELF:
        rights += _rights("", "pods", ("get",), OWNER)
    return [
        replace(r, context=context, namespace="" if r.everywhere else namespace) for r in rights
    ]


def _parsed(written: str) -> Written:
    try:
        return kube_resource.parse(written)
    except ValueError as error:
        raise ConfigError(f'"{written}": {error}') from error


def _field(target: Target, name: str) -> str:
    return str(getattr(target, name, ""))


def _rights(group: str, path: str, verbs: Sequence[str], why: str, name: str = "") -> list[Right]:
    resource, _, inner = path.partition("/")
    return [
        Right(group=group, resource=resource, subresource=inner, verb=verb, name=name, why=why)
        for verb in verbs
    ]


def _looks(meant: Written) -> list[Right]:
    found = _rights(meant.group, meant.plural, READ, SEE)
    if meant.group != APPS:
        found += _rights(meant.group, f"{meant.plural}/scale", ("get",), SCALE_READ, meant.name)
    if meant.group == APPS and meant.plural == "deployments":
        found += _rights(APPS, "replicasets", READ, SEE)
    found += _rights("", "pods", READ, PODS)
    return found + _rights("autoscaling", "horizontalpodautoscalers", READ, HPAS)


def _measures(policy: Policy) -> list[Right]:
    kinds = {metric.source.kind for metric in policy.metrics}
    found = _rights("metrics.k8s.io", "pods", ("list",), METRICS) if "platform" in kinds else []
    if "kubelet" in kinds:
        rows = _rights("", "nodes/proxy", ("get",), KUBELET)
        found += [replace(row, everywhere=True) for row in rows]
    return found


def _scales(meant: Written) -> list[Right]:
    found = _rights(meant.group, f"{meant.plural}/scale", ("patch",), SCALE, meant.name)
    if meant.group == APPS and meant.plural in CHOOSING:
        found += _rights("", "pods", ("patch",), CHOOSE)
    return found


def _restarts(policy: Policy) -> list[Right]:
    """Kubernetes starts the dead again by itself; only the sick are ours."""
    if policy.health.liveness is None:
        return []
    if _field(policy.target, "restart") == "delete":
        return _rights("", "pods", ("delete",), DELETE)
    return _rights("", "pods/eviction", ("create",), EVICT)


def of_lease(lease: Lease, name: str = "") -> list[Right]:
    """What a candidate does with the Lease object; nothing where there is none.

    `name` stands for the one in the settings.
    """
    name = name or lease.on_kubernetes
    if not name:
        return []
    group, kind = "coordination.k8s.io", "leases"
    verbs = ("get", "watch", "update")
    found = [*_rights(group, kind, verbs, LEAD, name), *_rights(group, kind, ("create",), LEAD)]
    return [replace(r, context=lease.context, namespace=lease.namespace) for r in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a Role, and why it stands there."""

    group: str
    path: str
    verbs: tuple[str, ...]
    names: tuple[str, ...]
    why: str

    def plain(self) -> dict[str, Any]:
        rule: dict[str, Any] = {
            "apiGroups": [self.group],
            "resources": [self.path],
            "verbs": list(self.verbs),
        }
        return {**rule, "resourceNames": list(self.names)} if self.names else rule


def rules(rights: Iterable[Right]) -> list[Rule]:
    """Rights of one namespace as the rules of its Role."""
    verbs: dict[tuple[str, str, str, str], list[str]] = {}
    for right in rights:
        key = (right.group, right.path, right.why, right.name)
        verbs.setdefault(key, []).append(right.verb)
    names: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for (group, path, why, name), given in verbs.items():
        names.setdefault((group, path, why, tuple(given)), []).append(name)
    return [
        Rule(group=group, path=path, verbs=given, names=tuple(filter(None, named)), why=why)
        for (group, path, why, given), named in names.items()
    ]


def by_place(rights: Iterable[Right], own: str = "") -> Mapping[tuple[str, str, bool], list[Right]]:
    """Rights by context, namespace and whether they are of the whole cluster, each once.

    `own` is the namespace of the daemon. A policy that names it means the same place as one that
    names none: of two Roles with one name, the one that is applied last would be all there is.
    """
    found: dict[tuple[str, str, bool], dict[Right, None]] = {}
    for right in rights:
        namespace = "" if right.everywhere else right.namespace or own
        where = (right.context, namespace, right.everywhere)
        found.setdefault(where, {})[replace(right, namespace=namespace)] = None
    return {where: list(given) for where, given in found.items()}
