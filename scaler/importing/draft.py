"""A policy in the making, with what the manifest said that it cannot say."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Literal

from scaler.core.units import format_span, parse_quantity
from scaler.errors import ConfigError
from scaler.importing.manifests import Json, inside, word

Place = tuple[str | int, ...]

LONGEST_NAME: Final = 53
MOST: Final = 1000  # instances, as in core.policy
PROMETHEUS: Final = "http://prometheus.monitoring:9090"  # a guess, marked as one where it stands
PERIOD: Final = "15s"  # between two looks of the HPA
_PLAIN: Final = {
    "Deployment": "deployment",
    "StatefulSet": "statefulset",
    "ReplicaSet": "replicaset",
}
_SMALL: Final = {"n": 1e-9, "u": 1e-6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the person who translates has chosen."""

    exact: bool = False  # decide as the HPA does, to the number
    prometheus: str = ""  # where the metrics of adapters are asked for
    namespace: str = ""  # of manifests that name none
    context: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Something that did not map word by word, and what to do about it."""

    kind: Literal["lost", "todo", "differs"]  # lost and todo need a person
    field: str  # in the manifest
    message: str
    at: Place = ()  # in the policy; the whole of it when empty

    def text(self) -> str:
        return f"{self.kind}: {self.field}: {self.message}"


@dataclass(slots=True, kw_only=True)
class Draft:
    """One policy, as it stands so far."""

    name: str
    origin: str  # "HorizontalPodAutoscaler shop/web"
    options: Options
    fields: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def lost(self, where: str, message: str, *at: str | int) -> None:
        """Nothing stands for it."""
        self.remarks.append(Remark(kind="lost", field=where, message=message, at=at))

    def todo(self, where: str, message: str, *at: str | int) -> None:
        """Something stands for it that a person must look at."""
        self.remarks.append(Remark(kind="todo", field=where, message=message, at=at))

    def differs(self, where: str, message: str, *at: str | int) -> None:
        """Something stands for it that works in another way."""
        self.remarks.append(Remark(kind="differs", field=where, message=message, at=at))

    def activation(self, value: Any, where: str, at: Place) -> None:
        """Say that a threshold of KEDA below which nothing runs has no place in a query."""
        threshold = word(value, where, "0")
        if size(threshold, where):
            message = f"anything above zero keeps one instance here; subtract {threshold}"
            self.lost(where, f"{message} in the query", *at)

    @property
    def prometheus(self) -> str:
        return self.options.prometheus or PROMETHEUS

    @property
    def needs_somebody(self) -> bool:
        return any(remark.kind != "differs" for remark in self.remarks)

    def metric(self, metric: dict[str, Any], wanted_name: str) -> Place:
        """Add a metric under a name that no other has; where it stands.

        An HPA goes by the newest sample alone, and its rates and windows are made for that.
        """
        metrics: list[dict[str, Any]] = self.fields.setdefault("metrics", [])
        taken = {one.get("name") or ("cpu" if "cpu" in one else "memory") for one in metrics}
        name = _unique(metric_name(wanted_name), taken)
        short = {"cpu", "memory"} & metric.keys()
        named = metric if short and name == wanted_name else {"name": name, **metric}
        metrics.append({**named, "window": "0s"})
        return ("metrics", len(metrics) - 1)


def begin(manifest: Json, kind: str, options: Options) -> Draft:
    """A draft named after the manifest."""
    meta = inside(manifest, "metadata")
    name = word(meta.get("name"), "metadata.name", "unnamed")
    namespace = word(meta.get("namespace"), "metadata.namespace", options.namespace)
    origin = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
    return Draft(name=policy_name(name), origin=origin, options=options)


def policy_name(name: str) -> str:
    """A name that a policy can have, as near to `name` as can be."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())[:LONGEST_NAME].strip("-") or "unnamed"


def metric_name(name: str) -> str:
    """A name that a metric can have, as near to `name` as can be."""
    cut = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:56]
    return cut if re.match(r"[A-Za-z_]", cut) else f"_{cut}"


def _unique(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)


def name_apart(drafts: list[Draft]) -> None:
    """Give drafts of one name different ones."""
    taken: set[str] = set()
    for draft in drafts:
        if draft.name in taken:
            draft.name = _unique(draft.name[: LONGEST_NAME - 4], taken)
        taken.add(draft.name)


def target(draft: Draft, ref: Json, namespace: str) -> None:
    """What is scaled, from a `scaleTargetRef`."""
    kind = word(ref.get("kind"), "spec.scaleTargetRef.kind", "Deployment")
    name = word(ref.get("name"), "spec.scaleTargetRef.name", "")
    version = word(ref.get("apiVersion"), "spec.scaleTargetRef.apiVersion", "apps/v1")
    group = version.rpartition("/")[0]
    if not name:
        draft.lost("spec.scaleTargetRef", "it names nothing; write the workload by hand", "target")
    workload = f"{_PLAIN.get(kind, '')}/{name}"
    if kind == "ReplicationController":
        remedy = "replace it by a Deployment, which scaler can scale"
        draft.lost(
            "spec.scaleTargetRef.kind", f"a {kind} has no successor here; {remedy}", "target"
        )
        workload = f"deployment/{name}"
    elif kind not in _PLAIN or group not in ("apps", "extensions", ""):
        workload = f"{kind.lower()}s.{group}/{name}"
        message = f"the plural of {kind} is guessed; look it up with: kubectl api-resources"
        draft.todo("spec.scaleTargetRef.kind", message, "target")
    more = {"namespace": namespace, "context": draft.options.context}
    inner = {key: value for key, value in more.items() if value}
    draft.fields["target"] = {"kubernetes": {"workload": workload, **inner} if inner else workload}


def variable(draft: Draft, stem: str, where: str) -> str:
    """Of the environment, for the address in a trigger: each policy may ask another server."""
    number = int(where.rpartition("[")[2].rstrip("]"))  # of the trigger
    name = f"{stem}_{draft.name.upper().replace('-', '_')}"
    return f"{name}_{number + 1}" if number else name


def bounds(draft: Draft, low: int, high: int) -> dict[str, Any]:
    """The limits of a draft, with fewest and most instances in them."""
    limits: dict[str, Any] = draft.fields.setdefault("limits", {})
    for word_, count in (("min", low), ("max", high)):
        if count > MOST:
            message = f"{count} is more than {MOST}, the most that a policy may ask for"
            draft.lost(word_, f"{message}; it is lowered to that", "limits", word_)
    limits.update({"min": min(low, MOST), "max": max(1, min(high, MOST))})
    return limits


def span(seconds: int) -> str:
    """A span as policies write it."""
    return format_span(timedelta(seconds=max(0, min(seconds, 10**8))))


def quantity(value: Any, where: str, default: str = "0") -> str | int | float:
    """A quantity as policies write it: the same text, or a number for suffixes they lack."""
    written = word(value, where, default).strip()
    if written[-1:] in _SMALL:
        return _number(written[:-1], float, where) * _SMALL[written[-1]]
    if written.lstrip("-").isdecimal():
        return int(written)
    _number(written, parse_quantity, where)
    return written


def size(text: str, where: str) -> float:
    """How much a quantity is."""
    return _number(text, parse_quantity, where)


def _number(text: str, read: Callable[[str], float], where: str) -> float:
    try:
        return read(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
