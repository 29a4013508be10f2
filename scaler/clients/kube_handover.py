"""The HorizontalPodAutoscalers of a namespace: which one is meant, and its end."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from scaler.clients.kube_resource import Written
from scaler.clients.kubernetes import Api, Json, inside
from scaler.errors import Conflict, NotFound

GROUP = "/apis/autoscaling/v2/namespaces"
OWN_FIELDS = ("name", "namespace", "labels", "annotations")  # of metadata that a person has written


@dataclass(frozen=True, slots=True)
class Hpa:
    """One HPA as it was read."""

    body: Json

    @property
    def name(self) -> str:
        return str(self._meta.get("name", ""))

    @property
    def namespace(self) -> str:
        return str(self._meta.get("namespace", ""))

    @property
    def uid(self) -> str:
        return str(self._meta.get("uid", ""))

    @property
    def workload(self) -> Written:
        """What it scales. All kinds that have a scale are named by adding an s."""
        ref = self.body.get("spec", {}).get("scaleTargetRef", {})
        group = str(ref.get("apiVersion", "")).rpartition("/")[0]
        plural = f"{str(ref.get('kind', '')).lower()}s"
        return Written(plural=plural, group=group, name=str(ref.get("name", "")))

    @property
    def desired(self) -> int:
        """What it asks for now; what runs when it has not said."""
        status = self.body.get("status") or {}
        return int(status.get("desiredReplicas") or status.get("currentReplicas") or 0)

    @property
    def _meta(self) -> Mapping[str, Any]:
        return inside(self.body, "metadata")

    def manifest(self) -> str:
        """What makes it again, as JSON, which `kubectl apply` reads."""
        meta = {key: self._meta[key] for key in OWN_FIELDS if key in self._meta}
        again = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
        plain = {**again, "metadata": meta, "spec": self.body.get("spec", {})}
        return orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode() + "\n"


async def named(api: Api, namespace: str, name: str) -> Hpa:
    """One HPA by its name.

    Raises:
        ScalerError: it is not there, or may not be read.
    """
    return Hpa(await api.get(f"{GROUP}/{namespace}/horizontalpodautoscalers/{name}"))


async def of(api: Api, namespace: str, meant: Written) -> Hpa:
    """The HPA of a workload.

    Raises:
        NotFound: it has none.
        Conflict: it has several.
    """
    listed = await api.get(f"{GROUP}/{namespace}/horizontalpodautoscalers")
    found = [hpa for item in listed.get("items") or () if (hpa := Hpa(item)).workload == meant]
    what = f"{meant.plural}/{meant.name} in {namespace}"
    if not found:
        raise NotFound(f"no HorizontalPodAutoscaler scales {what}; nothing is to be adopted")
    if len(found) > 1:
        names = ", ".join(hpa.name for hpa in found)
        raise Conflict(
            f"several HorizontalPodAutoscalers scale {what}: {names}; delete all but one"
        )
    return found[0]


async def delete(api: Api, seen: Hpa) -> None:
    """End an HPA, if it still says what it said when it was `seen`. The count stays as it is.

    Raises:
        Conflict: somebody has changed it meanwhile.
    """
    now = await named(api, seen.namespace, seen.name)
    if now.body.get("spec") != seen.body.get("spec") or now.uid != seen.uid:
        raise Conflict(f"HorizontalPodAutoscaler {seen.name} was changed meanwhile; run it again")
    meta = now.body["metadata"]
    only = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    path = f"{GROUP}/{now.namespace}/horizontalpodautoscalers/{now.name}"
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": only}
    await api.send("DELETE", path, options)
