"""The workload that owns the pod this process runs in, for sidecars."""

import os
from collections.abc import Mapping

from scaler.clients import kube_resource
from scaler.clients.kube_resource import Written
from scaler.clients.kubernetes import Api, Json, inside
from scaler.errors import NotFound, PermanentError


def pod_name(environ: Mapping[str, str] = os.environ) -> str:
    """Of the pod we run in: `POD_NAME` from the downward API, else the name of the host.

    Raises:
        PermanentError: neither is there.
    """
    name = environ.get("POD_NAME") or environ.get("HOSTNAME", "")
    if not name:
        raise PermanentError("which pod this is, nobody says; set POD_NAME by the downward API")
    return name


async def workload(api: Api, namespace: str) -> Written:
    """What controls our pod: its Deployment, or whatever stands at the end of its owners.

    Raises:
        NotFound: this is no pod of that namespace, or nothing controls it.
    """
    name = pod_name()
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    try:
        pod = await api.get(path)
    except NotFound as error:
        raise NotFound(
            f"workload: self is the owner of the pod we run in, and namespace {namespace} has no "
            f"pod {name}; set POD_NAME and POD_NAMESPACE by the downward API"
        ) from error
    kind, owner = _controller(pod)
    written = kube_resource.of_kind(kind)
    if written is not None and written.plural == "replicasets":
        return _beyond_set(owner, pod)
    if written is None:
        raise NotFound(f"pod {name} is controlled by {kind or 'nothing'}, which has no count")
    return Written(written.plural, written.group, owner)


def _beyond_set(name: str, pod: Json) -> Written:
    """A Deployment names its ReplicaSets after itself and the hash of their template.

    So the ReplicaSet need not be read, which is one right less.
    """
    digest = str(inside(inside(pod, "metadata"), "labels").get("pod-template-hash", ""))
    if digest and name.endswith(f"-{digest}"):
        return Written("deployments", "apps", name.removesuffix(f"-{digest}"))
    return Written("replicasets", "apps", name)


def _controller(pod: Json) -> tuple[str, str]:
    owners = inside(pod, "metadata").get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        if isinstance(owner, dict) and owner.get("controller"):
            return str(owner.get("kind", "")), str(owner.get("name", ""))
    return "", ""
