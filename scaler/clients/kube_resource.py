"""What a policy calls a workload, and where it stands in the API."""

import re
from dataclasses import dataclass
from typing import Any, Final

from scaler.clients.kubernetes import Api, Json
from scaler.errors import NotFound, Unsupported

SELF: Final = "self"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_SHORT: Final = {
    "deployment": "deployments",
    "deploy": "deployments",
    "deployments": "deployments",
    "statefulset": "statefulsets",
    "sts": "statefulsets",
    "statefulsets": "statefulsets",
    "replicaset": "replicasets",
    "rs": "replicasets",
    "replicasets": "replicasets",
}
_KINDS: Final = {
    "deployments": "Deployment",
    "statefulsets": "StatefulSet",
    "replicasets": "ReplicaSet",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource with a scale subresource."""

    group: str
    version: str
    plural: str
    kind: str

    def path(self, namespace: str) -> str:
        return f"/apis/{self.group}/{self.version}/namespaces/{namespace}/{self.plural}"


@dataclass(frozen=True, slots=True)
class Written:
    """`deployment/web` or `rollouts.argoproj.io/web`, taken apart."""

    plural: str  # as written when the group is not `apps`
    group: str
    name: str


def parse(written: str) -> Written:
    """What a policy has under `workload`; a bare name means a Deployment.

    Raises:
        ValueError: it is no such thing; the message shows how it is written.
    """
    kind, _, name = written.rpartition("/")
    kind, _, group = (kind or "deployment").partition(".")
    if not _NAME.fullmatch(name):
        raise ValueError(f'"{name or written}" is no name; write deployment/web')
    if not group or group == "apps":
        if kind.lower() not in _SHORT:
            known = "deployment, statefulset, replicaset"
            raise ValueError(
                f'"{kind}" is none of {known}; another resource is written with its group: '
                f"{kind}.example.com/{name}"
            )
        return Written(_SHORT[kind.lower()], "apps", name)
    return Written(kind.lower(), group.lower(), name)


def of_kind(kind: str) -> Written | None:
    """What an owner reference calls `Deployment`; nothing when it is another's kind."""
    plural = _SHORT.get(kind.lower())
    return Written(plural, "apps", "") if plural else None


async def find(api: Api, written: Written) -> Resource:
    """Where the workload stands, asked of the server when it is none of its own.

    Raises:
        NotFound: the server knows no such resource.
        Unsupported: it has no count.
    """
    if written.group == "apps":
        return Resource("apps", "v1", written.plural, _KINDS[written.plural])
    try:
        about = await api.get(f"/apis/{written.group}")
    except NotFound as error:
        raise NotFound(
            f"the server knows no group {written.group}; is its definition installed?"
        ) from error
    version = str(_map(about.get("preferredVersion")).get("version", ""))
    listed = (await api.get(f"/apis/{written.group}/{version}")).get("resources")
    every = map(_map, listed if isinstance(listed, list) else ())
    resources = {str(one.get("name")): one for one in every}
    for plural, one in resources.items():
        names = (plural, str(one.get("singularName")), str(one.get("kind", "")).lower())
        if "/" not in plural and written.plural in names:
            if f"{plural}/scale" not in resources:
                raise Unsupported(
                    f"{plural}.{written.group} has no scale subresource, so nobody can change its "
                    "count; name what it controls, or give its definition one"
                )
            return Resource(written.group, version, plural, str(one.get("kind", "")))
    known = ", ".join(sorted(name for name in resources if "/" not in name)) or "nothing"
    raise NotFound(f"{written.group}/{version} has no {written.plural}; it has {known}")


def _map(found: Any) -> Json:
    return found if isinstance(found, dict) else {}
