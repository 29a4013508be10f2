"""A HorizontalPodAutoscaler as a policy.

Sources: autoscaling/v2 and v1 of Kubernetes 1.36. Metrics of the platform map word by word; those
that an adapter answers become a query to Prometheus that a person must look at.
"""

from typing import Any, Final

from scaler.errors import ConfigError
from scaler.importing import behavior, draft, queries
from scaler.importing.draft import Draft, Options
from scaler.importing.manifests import Json, inside, mapping, sequence, whole, word

KIND: Final = "HorizontalPodAutoscaler"
VERSIONS: Final = ("autoscaling/v2", "autoscaling/v2beta2", "autoscaling/v1")
NEWEST: Final = "kubectl get hpa.v2.autoscaling NAME -o yaml"
DEFAULT_CPU: Final = "80%"  # of the request, when no metric is given
OLD: Final = "autoscaling.alpha.kubernetes.io/"  # annotations in which v1 hides what it lacks
GUESSED: Final = "what the adapter answers is not in the manifest: look at url and query"


def policy(manifest: Json, options: Options) -> Draft:
    """The policy that decides as this HPA does, as far as that can be said.

    Raises:
        ConfigError: a field has another type than the API says.
    """
    version = word(manifest.get("apiVersion"), "apiVersion")
    if version not in VERSIONS:
        raise ConfigError(f"apiVersion: {version} is not known here; get it with: {NEWEST}")
    made = draft.begin(manifest, KIND, options)
    meta, spec = inside(manifest, "metadata"), inside(manifest, "spec")
    namespace = word(meta.get("namespace"), "metadata.namespace", options.namespace)
    owner = scaled_object(manifest)
    if owner:
        remedy = "import that instead: scaler import scaledobject FILE"
        made.lost("metadata.ownerReferences", f"KEDA makes it from ScaledObject {owner}; {remedy}")
    draft.target(made, inside(spec, "scaleTargetRef"), namespace)
    low = whole(spec.get("minReplicas"), "spec.minReplicas", 1)
    draft.bounds(made, low, whole(spec.get("maxReplicas"), "spec.maxReplicas"))
    behavior.limits(made, spec, "spec.behavior")
    if version == "autoscaling/v1":
        _version_one(made, meta, spec)
    else:
        metrics = sequence(spec.get("metrics"), "spec.metrics")
        if not metrics:
            made.metric({"cpu": DEFAULT_CPU, "of": "request"}, "cpu")
        containers(made, metrics)
        for number, metric in enumerate(metrics):
            _metric(made, metric, f"spec.metrics[{number}]")
    return made


def scaled_object(manifest: Json) -> str:
    """The ScaledObject that an HPA is made from; empty when there is none."""
    owners = sequence(inside(manifest, "metadata").get("ownerReferences"), "metadata")
    return next((str(o.get("name")) for o in owners if o.get("kind") == "ScaledObject"), "")


def _version_one(made: Draft, meta: Json, spec: Json) -> None:
    field = "spec.targetCPUUtilizationPercentage"
    percent = spec.get("targetCPUUtilizationPercentage")
    annotations = mapping(meta.get("annotations"), "metadata.annotations")
    hidden = [name for name in ("metrics", "behavior") if OLD + name in annotations]
    for name in hidden:
        message = f"version 1 hides it in an annotation; import what this prints: {NEWEST}"
        made.lost(f"metadata.annotations[{OLD}{name}]", message)
    if percent is not None:
        made.metric({"cpu": f"{whole(percent, field)}%", "of": "request"}, "cpu")
    elif "metrics" not in hidden:
        made.metric({"cpu": DEFAULT_CPU, "of": "request"}, "cpu")


def containers(made: Draft, metrics: Any) -> None:
    """Measure one container in place of whole pods, when all platform metrics name that one."""
    of_pods = any(metric.get("type") == "Resource" for metric in metrics)
    named = {
        word(mapping(metric.get("containerResource"), "spec.metrics").get("container"), "container")
        for metric in metrics
        if metric.get("type") == "ContainerResource"
    }
    if len(named) == 1 and not of_pods:
        target = made.fields["target"]["kubernetes"]
        inner = target if isinstance(target, dict) else {"workload": target}
        made.fields["target"] = {"kubernetes": {**inner, "container": named.pop()}}


def _metric(made: Draft, metric: Json, where: str) -> None:
    kind = word(metric.get("type"), f"{where}.type")
    key = kind[:1].lower() + kind[1:]
    translate = {
        "Resource": resource,
        "ContainerResource": _of_container,
        "Pods": _of_pods,
        "Object": _of_object,
        "External": _external,
    }.get(kind)
    if translate is None:
        made.lost(f"{where}.type", f'"{kind}" is no kind of metric that is known here')
        return
    translate(made, mapping(metric.get(key), f"{where}.{key}"), f"{where}.{key}")


def resource(made: Draft, inner: Json, where: str) -> None:
    """CPU or memory of whole pods."""
    name = word(inner.get("name"), f"{where}.name")
    if name not in ("cpu", "memory"):
        remedy = "the platform measures cpu and memory; write a metric with a source by hand"
        made.lost(f"{where}.name", f"{name} does not map: {remedy}", "metrics")
        return
    goal = inside(inner, "target")
    if goal.get("averageUtilization") is not None:
        percent = whole(goal["averageUtilization"], f"{where}.target.averageUtilization")
        made.metric({name: f"{percent}%", "of": "request"}, name)
    else:
        amount = draft.quantity(goal.get("averageValue"), f"{where}.target.averageValue")
        made.metric({"goal": {"per_instance": amount}}, name)


def _of_container(made: Draft, inner: Json, where: str) -> None:
    container = word(inner.get("container"), f"{where}.container")
    target = made.fields["target"]["kubernetes"]
    if isinstance(target, dict) and target.get("container") == container:
        resource(made, inner, where)
        return
    message = (
        f"a policy measures whole pods or one container, so container {container} does not map; "
        "measure it by a query to Prometheus, or drop the metrics of whole pods"
    )
    made.lost(where, message, "metrics")


def _of_pods(made: Draft, inner: Json, where: str) -> None:
    name, chosen = _named(inner, where)
    query = queries.series(name, [*queries.of_pods(made), *chosen])
    goal = draft.quantity(
        inside(inner, "target").get("averageValue"), f"{where}.target.averageValue"
    )
    source = {"url": made.prometheus, "query": query, "instance_label": "pod"}
    metric = {"source": {"prometheus": source}, "goal": {"per_instance": goal}}
    _guessed(made, metric, name, where)


def _of_object(made: Draft, inner: Json, where: str) -> None:
    name, chosen = _named(inner, where)
    described = inside(inner, "describedObject")
    kind = word(described.get("kind"), f"{where}.describedObject.kind").lower()
    object_name = word(described.get("name"), f"{where}.describedObject.name")
    of_object = [] if kind == "namespace" else [f'{kind}="{object_name}"']
    query = queries.series(name, [*queries.of_namespace(made), *of_object, *chosen])
    _whole(made, f"sum({query})", inner, (name, where))


def _external(made: Draft, inner: Json, where: str) -> None:
    name, chosen = _named(inner, where)
    _whole(made, f"sum({queries.series(name, chosen)})", inner, (name, where))


def _whole(made: Draft, query: str, inner: Json, named: tuple[str, str]) -> None:
    """A metric that one number speaks for: its value, or so much of it for each instance."""
    name, where = named
    goal = inside(inner, "target")
    by = "value" if goal.get("value") is not None else "averageValue"
    amount = draft.quantity(goal.get(by), f"{where}.target.{by}")
    source = {"prometheus": {"url": made.prometheus, "query": query}}
    kept = {"value" if by == "value" else "per_instance": amount}
    _guessed(made, {"source": source, "goal": kept}, name, where)


def _named(inner: Json, where: str) -> tuple[str, list[str]]:
    metric = inside(inner, "metric")
    chosen = queries.matchers(inside(metric, "selector"), f"{where}.metric.selector")
    return word(metric.get("name"), f"{where}.metric.name"), chosen


def _guessed(made: Draft, metric: dict[str, Any], name: str, where: str) -> None:
    place = made.metric(metric, name)
    made.todo(where, GUESSED, *place)
