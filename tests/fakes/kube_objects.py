"""What the fake Kubernetes API server keeps: objects with versions, their history, and patches."""

import re
import secrets
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

Json = dict[str, Any]
COST = "controller.kubernetes.io/pod-deletion-cost"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
KEPT = 200_000  # events that a watch may still ask for
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "ports": "containerPort",
    "conditions": "type",
    "ownerReferences": "uid",
}


@dataclass(frozen=True)
class Kind:
    """One resource of the API."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    scale: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("", "v1", "nodes", "Node", namespaced=False),
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "services", "Service"),
    Kind("", "v1", "events", "Event"),
    Kind("apps", "v1", "deployments", "Deployment", scale=True),
    Kind("apps", "v1", "replicasets", "ReplicaSet", scale=True),
    Kind("apps", "v1", "statefulsets", "StatefulSet", scale=True),
    Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
)


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.headers = (
            {"Retry-After": str(details.pop("retry_after"))} if "retry_after" in details else {}
        )
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


@dataclass
class Change:
    """One event of a watch, encoded once for all who watch."""

    version: int
    type: str
    kind: Kind
    new: Json
    old: Json | None
    lines: dict[str, bytes] = field(default_factory=dict)

    def line(self, type_: str) -> bytes:
        if type_ not in self.lines:
            event = {"type": type_, "object": self._last() if type_ == "DELETED" else self.new}
            self.lines[type_] = orjson.dumps(event) + b"\n"
        return self.lines[type_]

    def _last(self) -> Json:
        """What was seen last of it, with the version of its going (`cacher.go`)."""
        if self.old is None:
            return self.new
        meta = {**self.old["metadata"], "resourceVersion": str(self.version)}
        return {**self.old, "metadata": meta}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def copied(item: Json) -> Json:
    copy: Json = orjson.loads(orjson.dumps(item))
    return copy


class Objects:
    """All objects behind one counter. Objects are never changed in place."""

    def __init__(self) -> None:
        self.kinds = {(k.group, k.plural): k for k in KINDS}
        self.version = 1000
        self.floor = 0  # versions up to here are forgotten
        self.graceful = False  # pods are only marked; who runs them takes them away
        self.log: deque[Change] = deque(maxlen=KEPT)
        self._items: dict[Kind, dict[tuple[str, str], Json]] = {}
        self._listeners: list[Callable[[Change], None]] = []

    def register(self, group: str, version: str, plural: str, kind: str, *, scale: bool) -> Kind:
        """A kind of a custom resource."""
        made = Kind(group, version, plural, kind, scale=scale)
        self.kinds[group, plural] = made
        return made

    def kind(self, name: str) -> Kind:
        """By its name in manifests: `Deployment`."""
        return next(kind for kind in self.kinds.values() if kind.kind == name)

    def subscribe(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Hear of every change at once; what is returned ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def find(self, kind: Kind, namespace: str, name: str) -> Json | None:
        return self._items.get(kind, {}).get((namespace, name))

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        found = self.find(kind, namespace, name)
        if found is None:
            what = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
            raise Refused(
                404, "NotFound", f'{what} "{name}" not found', name=name, kind=kind.plural
            )
        return found

    def inside(self, kind: Kind, namespace: str = "") -> Iterator[Json]:
        found = [(k, i) for k, i in self._items.get(kind, {}).items() if namespace in ("", k[0])]
        yield from (item for _, item in sorted(found, key=lambda pair: pair[0]))

    def inside_at(self, kind: Kind, namespace: str, version: int) -> Iterator[Json]:
        """As it was at a version that is not forgotten: the later changes are taken back."""
        items = dict(self._items.get(kind, {}))
        for change in reversed(self.since(kind, version)):
            meta = change.new["metadata"]
            key = meta.get("namespace", ""), meta["name"]
            if change.old is None:
                items.pop(key, None)
            else:
                items[key] = change.old
        yield from (items[key] for key in sorted(items) if namespace in ("", key[0]))

    def each(self, kind: Kind) -> Iterator[Json]:
        """In any order, which is cheaper."""
        yield from tuple(self._items.get(kind, {}).values())

    def create(
        self, kind: Kind, namespace: str, item: Json, manager: str, *, dry: bool = False
    ) -> Json:
        item = copied(item)
        meta = item.setdefault("metadata", {})
        if "generateName" in meta and not meta.get("name"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        name = meta.get("name", "")
        if not name:
            raise Refused(422, "Invalid", f"{kind.kind} is invalid: metadata.name: Required value")
        if kind.namespaced:
            if self.find(self.kinds["", "namespaces"], "", namespace) is None:
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            meta["namespace"] = namespace
        if self.find(kind, namespace, name) is not None:
            what = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
            raise Refused(409, "AlreadyExists", f'{what} "{name}" already exists')
        item["apiVersion"], item["kind"] = kind.api_version, kind.kind
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = now()
        if "spec" in item:
            meta["generation"] = 1
        _defaults(kind, item)
        validate(kind, item)
        if "replicas" in item.get("spec", {}):
            _own_replicas(item, manager, "")
        return item if dry else self._keep(kind, "ADDED", item, None)

    def replace(
        self, kind: Kind, old: Json, item: Json, manager: str, *, sub: str = "", dry: bool = False
    ) -> Json:
        """Put `item` in the place of `old`, as an update or a patch leaves it."""
        meta, before = item["metadata"], old["metadata"]
        sent = meta.get("resourceVersion")
        if sent and sent != before["resourceVersion"]:
            raise conflict(kind, before["name"])
        if meta.get("uid") not in (None, "", before["uid"]):
            why = f'Invalid value: "{meta["uid"]}": field is immutable'
            raise _invalid(kind, item, "metadata.uid", why)
        item["apiVersion"], item["kind"] = kind.api_version, kind.kind
        for fixed in ("uid", "creationTimestamp", "name", "namespace", "managedFields"):
            if fixed in before:
                meta[fixed] = before[fixed]
        if sub != "status" and "status" in old:
            item["status"] = old["status"]
        validate(kind, item)
        meta["generation"] = before.get("generation", 1) + _respecified(kind, old, item)
        if "spec" not in item:
            meta.pop("generation")
        was, now_ = old.get("spec", {}).get("replicas"), item.get("spec", {}).get("replicas")
        if was != now_:
            _own_replicas(item, manager, sub)
        meta["resourceVersion"] = before["resourceVersion"]
        if dry or item == old:
            return item
        return self._keep(kind, "MODIFIED", item, old)

    def update(self, kind: Kind, namespace: str, name: str, change: Callable[[Json], None]) -> Json:
        """For controllers: `change` a copy of what is there; status and all."""
        old = self.get(kind, namespace, name)
        item = copied(old)
        change(item)
        if item == old:
            return old
        item["metadata"]["generation"] = old["metadata"].get("generation", 1) + _respecified(
            kind, old, item
        )
        return self._keep(kind, "MODIFIED", item, old)

    def delete(self, kind: Kind, namespace: str, name: str, *, grace: int | None = None) -> Json:
        old = self.get(kind, namespace, name)
        if kind.plural == "pods" and self.graceful and grace != 0:
            if old["metadata"].get("deletionTimestamp"):
                return old
            item = copied(old)
            item["metadata"]["deletionTimestamp"] = now()
            item["metadata"]["deletionGracePeriodSeconds"] = 30 if grace is None else grace
            return self._keep(kind, "MODIFIED", item, old)
        return self.remove(kind, namespace, name)

    def remove(self, kind: Kind, namespace: str, name: str) -> Json:
        """At once, whatever it is."""
        old = self._items[kind].pop((namespace, name))
        self.version += 1
        gone = {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
        self._tell(Change(self.version, "DELETED", kind, gone, old))
        return gone

    def _keep(self, kind: Kind, type_: str, item: Json, old: Json | None) -> Json:
        self.version += 1
        meta = item["metadata"]
        meta["resourceVersion"] = str(self.version)
        self._items.setdefault(kind, {})[meta.get("namespace", ""), meta["name"]] = item
        self._tell(Change(self.version, type_, kind, item, old))
        return item

    def _tell(self, change: Change) -> None:
        if len(self.log) == KEPT:
            self.floor = self.log[0].version
        self.log.append(change)
        for listener in tuple(self._listeners):
            listener(change)

    def compact(self) -> None:
        """Forget what was: a watch from an older version is told so."""
        self.floor = self.version
        self.log.clear()

    def since(self, kind: Kind, version: int) -> list[Change]:
        if version < self.floor:
            raise gone(version, self.floor)
        return [c for c in self.log if c.version > version and c.kind is kind]


def conflict(kind: Kind, name: str) -> Refused:
    what = f"{kind.plural}.{kind.group}" if kind.group else kind.plural
    return Refused(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {what} "{name}": the object has been modified; please '
        "apply your changes to the latest version and try again",
        name=name,
        kind=kind.plural,
    )


def gone(version: int, floor: int) -> Refused:
    return Refused(410, "Expired", f"too old resource version: {version} ({floor})")


def _defaults(kind: Kind, item: Json) -> None:
    if kind.scale and kind.group == "apps":
        item.setdefault("spec", {}).setdefault("replicas", 1)
    if kind.plural == "pods":
        item.setdefault("status", {"phase": "Pending"})
    if kind.plural == "namespaces":
        item.setdefault("status", {"phase": "Active"})


def _respecified(kind: Kind, old: Json, item: Json) -> int:
    """Deployments also count changed annotations, which end up on their ReplicaSets."""
    changed = old.get("spec") != item.get("spec")
    if kind.plural == "deployments":
        was, is_ = old["metadata"].get("annotations"), item["metadata"].get("annotations")
        changed = changed or (was or {}) != (is_ or {})
    return int(changed)


def _own_replicas(item: Json, manager: str, sub: str) -> None:
    """Who set `spec.replicas` last is its manager."""
    entry = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": item["apiVersion"],
        "time": now(),
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:replicas": {}}},
    }
    if sub:
        entry["subresource"] = sub
    item["metadata"]["managedFields"] = [entry]


def _invalid(kind: Kind, item: Json, field_: str, why: str) -> Refused:
    name = item["metadata"].get("name")
    shown = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    message = f'{shown} "{name}" is invalid: {field_}: {why}'
    return Refused(422, "Invalid", message, name=name, kind=kind.kind)


def validate(kind: Kind, item: Json) -> None:
    """The handful of rules that an autoscaler can run into."""
    name, spec = item["metadata"].get("name", ""), item.get("spec") or {}
    if len(name) > 253 or not SUBDOMAIN.fullmatch(name):
        why = f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case '
        why += "alphanumeric characters, '-' or '.'"
        raise _invalid(kind, item, "metadata.name", why)
    for key in ("labels", "annotations"):
        for value in (item["metadata"].get(key) or {}).values():
            if not isinstance(value, str):
                why = f"json: cannot unmarshal {key} of ObjectMeta into Go value of type string"
                raise _unreadable(kind, why)
    if kind.scale and kind.group == "apps":
        _validate_workload(kind, item)
    if kind.plural == "leases":
        _validate_lease(kind, item, spec)
    if kind.plural == "pods":
        _validate_pod(kind, item)
    if kind.plural == "events":
        about = item.get("involvedObject", {}).get("namespace", "")
        if (about or "default") != item["metadata"].get("namespace"):
            why = f'Invalid value: "{about}": does not match event.namespace'
            raise _invalid(kind, item, "involvedObject.namespace", why)


def _validate_workload(kind: Kind, item: Json) -> None:
    spec = item.get("spec") or {}
    if spec.get("replicas", 1) < 0:
        why = f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        raise _invalid(kind, item, "spec.replicas", why)
    labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
    wanted = spec.get("selector", {}).get("matchLabels", {})
    if not wanted.items() <= labels.items():
        why = "Invalid value: `selector` does not match template `labels`"
        raise _invalid(kind, item, "spec.template.metadata.labels", why)


def _validate_lease(kind: Kind, item: Json, spec: Json) -> None:
    """Times with six digits: `metav1.MicroTime` reads nothing else."""
    if spec.get("leaseDurationSeconds", 1) <= 0:
        raise _invalid(kind, item, "spec.leaseDurationSeconds", "must be greater than 0")
    if spec.get("leaseTransitions", 0) < 0:
        why = "must be greater than or equal to 0"
        raise _invalid(kind, item, "spec.leaseTransitions", why)
    for key in ("acquireTime", "renewTime"):
        said = spec.get(key)
        if said is not None and not MICRO_TIME.fullmatch(said):
            raise _unreadable(kind, f'parsing time "{said}" as "2006-01-02T15:04:05.000000Z07:00"')


def _validate_pod(kind: Kind, item: Json) -> None:
    cost = (item["metadata"].get("annotations") or {}).get(COST)
    if cost is None:
        return
    if not re.fullmatch(r"0|-?[1-9]\d*", cost) or not -(2**31) <= int(cost) < 2**31:
        why = f'Invalid value: "{cost}": must be a 32bit integer'
        raise _invalid(kind, item, f"metadata.annotations[{COST}]", why)


def _unreadable(kind: Kind, why: str) -> Refused:
    said = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}'
    return Refused(400, "BadRequest", said)


# Patches.


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, key: str = "") -> Any:
    """A merge patch in which some lists are merged by a key of their items."""
    if isinstance(patch, list) and key in MERGE_KEYS and isinstance(target, list):
        by = MERGE_KEYS[key]
        result = list(target)
        for item in patch:
            at = next((n for n, old in enumerate(result) if old.get(by) == item.get(by)), None)
            if item.get("$patch") == "delete":
                result = [old for old in result if old.get(by) != item.get(by)]
            elif at is None:
                result.append(item)
            else:
                result[at] = strategic(result[at], item)
        return result
    if not isinstance(patch, Mapping):
        return patch
    mixed = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            mixed.pop(name, None)
        else:
            mixed[name] = strategic(mixed.get(name), value, name)
    return mixed


def json_patched(target: Json, operations: list[Json]) -> Json:
    """RFC 6902: add, replace, remove and test."""
    result = copied(target)
    for operation in operations:
        *way, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        place: Any = result
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        _operate(place, last, operation)
    return result


def _operate(place: Any, last: str, operation: Json) -> None:
    key: Any = last
    if isinstance(place, list):
        key = len(place) if last == "-" else int(last)
    kind = operation["op"]
    if kind in ("replace", "remove", "test") and not isinstance(place, list) and key not in place:
        raise Refused(422, "Invalid", f"the path {operation['path']} does not exist")
    if kind == "test" and place[key] != operation["value"]:
        raise Refused(422, "Invalid", f"testing {operation['path']} failed")
    if kind == "remove":
        del place[key]
    elif kind == "add" and isinstance(place, list):
        place.insert(key, operation["value"])
    elif kind in ("add", "replace"):
        place[key] = operation["value"]


# Selectors.


def label_selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """`a=b,c!=d,e in (f,g),h,!i` as a question about labels."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for part in re.split(r",(?![^(]*\))", text):
        if not (part := part.strip()):
            continue
        if found := re.fullmatch(r"(\S+)\s+(in|notin)\s+\((.*)\)", part):
            key, how, inside = found.groups()
            values = {value.strip() for value in inside.split(",")}
            tests.append(_among(key, values, inside=how == "in"))
        elif "!=" in part:
            key, _, value = part.partition("!=")
            tests.append(lambda labels, k=key, v=value: labels.get(k) != v)  # type: ignore[misc]
        elif "=" in part:
            key, _, value = part.replace("==", "=").partition("=")
            tests.append(lambda labels, k=key, v=value: labels.get(k) == v)  # type: ignore[misc]
        elif part.startswith("!"):
            tests.append(lambda labels, k=part[1:]: k not in labels)  # type: ignore[misc]
        else:
            tests.append(lambda labels, k=part: k in labels)  # type: ignore[misc]
    return lambda labels: all(test(labels) for test in tests)


def _among(key: str, values: set[str], *, inside: bool) -> Callable[[Mapping[str, str]], bool]:
    if inside:
        return lambda labels: labels.get(key) in values
    return lambda labels: labels.get(key) not in values


def field_selector(text: str) -> Callable[[Json], bool]:
    """`metadata.name=web,status.phase!=Running` as a question about an object."""
    tests = []
    for part in filter(None, text.split(",")):
        differs = "!=" in part
        path, _, value = part.replace("!=", "=").replace("==", "=").partition("=")
        tests.append((path.split("."), value, differs))

    def holds(item: Json) -> bool:
        for way, value, differs in tests:
            place: Any = item
            for step in way:
                place = place.get(step) if isinstance(place, Mapping) else None
            if ((place or "") == value) is differs:
                return False
        return True

    return holds


def selector_text(selector: Json) -> str:
    """A LabelSelector as one line."""
    parts = [f"{key}={value}" for key, value in sorted(selector.get("matchLabels", {}).items())]
    for rule in selector.get("matchExpressions", []):
        key, how, values = rule["key"], rule["operator"], ",".join(rule.get("values", []))
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[how]
        )
    return ",".join(parts)
