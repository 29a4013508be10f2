"""A ScaledObject of KEDA as a policy.

Source: keda.sh/v1alpha1 of KEDA 2.18. What its operator does between zero and one and the HPA does
above that is one rule here: as few as the metrics ask for, and zero when they ask for nothing.
"""

from typing import TYPE_CHECKING, Any, Final

from scaler.core.units import parse_span
from scaler.importing import behavior, cron, draft, keda_postgresql, keda_redis
from scaler.importing.draft import Draft, Options
from scaler.importing.hpa import containers, resource
from scaler.importing.manifests import Json, inside, mapping, sequence, whole, word

if TYPE_CHECKING:
    from collections.abc import Callable

KIND: Final = "ScaledObject"
POLLING_S: Final = 30
COOLDOWN_S: Final = 300
LONGEST_S: Final = 3600  # of a window
PAUSED: Final = "autoscaling.keda.sh/paused"


def policy(manifest: Json, options: Options) -> Draft:
    """The policy that decides as this ScaledObject does, as far as that can be said.

    Raises:
        ConfigError: a field has another type than the API says.
    """
    made = draft.begin(manifest, KIND, options)
    meta, spec = inside(manifest, "metadata"), inside(manifest, "spec")
    namespace = word(meta.get("namespace"), "metadata.namespace", options.namespace)
    draft.target(made, inside(spec, "scaleTargetRef"), namespace)
    low = whole(spec.get("minReplicaCount"), "spec.minReplicaCount", 0)
    high = whole(spec.get("maxReplicaCount"), "spec.maxReplicaCount", 100)
    draft.bounds(made, low, high)
    advanced = inside(spec, "advanced")
    shaped = inside(advanced, "horizontalPodAutoscalerConfig")
    behavior.limits(made, shaped, "spec.advanced.horizontalPodAutoscalerConfig.behavior")
    _activation(made, spec, low)
    triggers = sequence(spec.get("triggers"), "spec.triggers")
    containers(made, [_as_resource(trigger) for trigger in triggers])
    for number, trigger in enumerate(triggers):
        _trigger(made, trigger, f"spec.triggers[{number}]")
    _only_cron(made, triggers)
    _fallback(made, spec)
    _rest(made, spec, advanced)
    _paused(made, mapping(meta.get("annotations"), "metadata.annotations"))
    return made


def _activation(made: Draft, spec: Json, low: int) -> None:
    """What says when the count goes to zero."""
    cooldown = whole(spec.get("cooldownPeriod"), "spec.cooldownPeriod", COOLDOWN_S)
    limits = made.fields["limits"]
    if low == 0 and not made.options.exact:
        settled = parse_span(limits.get("settle_down", "0s")).total_seconds()
        if cooldown > LONGEST_S:
            message = f"{cooldown} s is more than the longest window, which is 1h"
            made.differs("spec.cooldownPeriod", message, "limits", "settle_down")
        limits["settle_down"] = draft.span(min(LONGEST_S, max(cooldown, int(settled))))
    if spec.get("idleReplicaCount") is not None:
        remedy = f"min stays {low}; write min: 0 if metrics may take it to zero"
        message = f"a count for idle times below min does not map: {remedy}"
        made.lost("spec.idleReplicaCount", message, "limits", "min")
    if whole(spec.get("initialCooldownPeriod"), "spec.initialCooldownPeriod", 0):
        message = "it does not map; a first look never shrinks, and settle_down counts from there"
        made.differs("spec.initialCooldownPeriod", message)


def _as_resource(trigger: Json) -> Json:
    """A trigger as the metric of an HPA that KEDA makes of it."""
    data = mapping(trigger.get("metadata"), "spec.triggers")
    if trigger.get("type") not in ("cpu", "memory"):
        return {"type": "External"}
    if data.get("containerName") is None:
        return {"type": "Resource"}
    return {
        "type": "ContainerResource",
        "containerResource": {"container": data.get("containerName")},
    }


def _trigger(made: Draft, trigger: Json, where: str) -> None:
    kind = word(trigger.get("type"), f"{where}.type")
    data = mapping(trigger.get("metadata"), f"{where}.metadata")
    translate: dict[str, Callable[[Draft, Json, Json, str], None]] = {
        "cpu": _platform,
        "memory": _platform,
        "prometheus": _prometheus,
        "cron": _cron,
        "postgresql": keda_postgresql.metric,
        **dict.fromkeys((*keda_redis.ONE_SERVER, *keda_redis.SEVERAL), keda_redis.metric),
    }
    if kind not in translate:
        remedy = "ask for it by Prometheus or HTTP, with a metric of its own"
        made.lost(where, f"trigger {kind} does not map: {remedy}", "metrics")
        return
    translate[kind](made, trigger, data, where)
    if kind in ("prometheus", "cron") and trigger.get("authenticationRef") is not None:
        message = "credentials do not map; write token_file, or user and password_file"
        made.lost(f"{where}.authenticationRef", message, "metrics")


def _platform(made: Draft, trigger: Json, data: Json, where: str) -> None:
    name, value = word(trigger.get("type"), where), data.get("value")
    given = word(trigger.get("metricType"), where) or word(data.get("type"), where, "Utilization")
    field = f"{where}.metadata.value"
    goal: dict[str, Any] = {"averageValue": value}
    if given == "Utilization":
        goal = {"averageUtilization": whole(value, field)}
    container = data.get("containerName")
    target = made.fields["target"]["kubernetes"]
    chosen = target.get("container") if isinstance(target, dict) else None
    if container is not None and chosen != container:
        message = (
            f"a policy measures whole pods or one container, so {container} does not map; "
            "measure it by a query to Prometheus"
        )
        made.lost(where, message, "metrics")
        return
    resource(made, {"name": name, "target": goal}, where)


def _prometheus(made: Draft, trigger: Json, data: Json, where: str) -> None:
    address, default = f"{where}.metadata.serverAddress", made.prometheus
    url = word(data.get("serverAddress"), address, default)
    query = word(data.get("query"), f"{where}.metadata.query")
    field = f"{where}.metadata.threshold"
    threshold = draft.quantity(data.get("threshold"), field)
    by = "value" if word(trigger.get("metricType"), where) == "Value" else "per_instance"
    source = {"prometheus": {"url": url, "query": query}}
    name = word(trigger.get("name"), f"{where}.name", "") or "prometheus"
    place = made.metric({"source": source, "goal": {by: threshold}}, name)
    key = "activationThreshold"
    made.activation(data.get(key), f"{where}.metadata.{key}", place)
    if word(data.get("ignoreNullValues"), where, "true") == "true":
        message = (
            "KEDA takes no series for zero; here it is missing data, which never shrink anything. "
            "If it does mean zero, append to the query: or vector(0)"
        )
        made.differs(f"{where}.metadata.ignoreNullValues", message, *place)
    for key in ("authModes", "customHeaders", "queryParameters", "namespace", "unsafeSsl"):
        if data.get(key) is not None:
            message = "it does not map; see token_file, user, ca_file and url of the source"
            made.lost(f"{where}.metadata.{key}", message, *place)


def _cron(made: Draft, _: Json, data: Json, where: str) -> None:
    zone = word(data.get("timezone"), f"{where}.metadata.timezone", "UTC")
    count = whole(data.get("desiredReplicas"), f"{where}.metadata.desiredReplicas")
    try:
        found = cron.windows(
            word(data.get("start"), f"{where}.metadata.start"),
            word(data.get("end"), f"{where}.metadata.end"),
        )
    except ValueError as error:
        message = f"{error}; write windows with days, from and to by hand"
        made.lost(f"{where}.metadata", message, "schedule")
        return
    most = min(count, made.fields["limits"]["max"])
    named = {} if zone == "UTC" else {"zone": zone}
    schedule: list[dict[str, Any]] = made.fields.setdefault("schedule", [])
    schedule += [{**window, **named, "min": most} for window in found]


def _only_cron(made: Draft, triggers: Any) -> None:
    """Without a metric nothing asks for fewer: outside of its windows the count must be told."""
    scheduled = bool(made.fields.get("schedule"))
    if not scheduled or any(trigger.get("type") != "cron" for trigger in triggers):
        return
    low = made.fields["limits"]["min"]
    schedule = [{**window, "max": window["min"]} for window in made.fields["schedule"]]
    always = {"from": "00:00", "to": "24:00", "min": low, "max": low}
    made.fields["schedule"] = [*schedule, always]


def _fallback(made: Draft, spec: Json) -> None:
    """KEDA's fallback, which may also shrink; ours only ever grows."""
    field = "spec.fallback"
    if spec.get("fallback") is None:
        return
    rule = inside(spec, "fallback")
    kind = word(rule.get("behavior"), f"{field}.behavior", "static")
    count = whole(rule.get("replicas"), f"{field}.replicas", 0)
    failures = whole(rule.get("failureThreshold"), f"{field}.failureThreshold", 3)
    every = whole(spec.get("pollingInterval"), "spec.pollingInterval", POLLING_S)
    if kind in ("static", "currentReplicasIfHigher") and count > 0:
        most = min(count, made.fields["limits"]["max"])
        after = draft.span(max(1, failures) * every)
        made.fields["missing"] = {"do": "fallback", "count": most, "after": after}
        if kind == "static":
            message = f"it goes up to {most} and never down: missing data shrink nothing"
            made.differs(field, message, "missing")
    elif kind != "currentReplicas":
        message = f"behavior {kind} with {count} may shrink on missing data; the count is held"
        made.differs(field, message)


def _rest(made: Draft, spec: Json, advanced: Json) -> None:
    """Fields that change how KEDA works and have no place here."""
    if advanced.get("scalingModifiers"):
        message = "formulas do not map; write them into a query to Prometheus"
        made.lost("spec.advanced.scalingModifiers", message, "metrics")
    if advanced.get("restoreToOriginalReplicaCount"):
        message = "the count stays as it is when a policy is taken away"
        made.differs("spec.advanced.restoreToOriginalReplicaCount", message)
    if spec.get("pollingInterval") is not None and not made.options.exact:
        seconds = whole(spec["pollingInterval"], "spec.pollingInterval")
        made.fields["every"] = draft.span(max(1, min(seconds, LONGEST_S)))


def _paused(made: Draft, annotations: Json) -> None:
    """A pause stands in the object for KEDA and is a command here, so it becomes a mode or rule."""
    name = made.name
    for key, value in annotations.items():
        word_, said = key.removeprefix(PAUSED), word(value, f"metadata.annotations[{key}]")
        where = f"metadata.annotations[{key}]"
        if key == "autoscaling.keda.sh/force-activation" and said == "true":
            made.lost(where, "it does not map; write min: 1", "limits", "min")
        if not key.startswith(PAUSED) or said == "false":
            continue
        if word_ in ("-scale-in", "-scale-out"):
            direction = "shrink" if word_ == "-scale-in" else "grow"
            made.fields["limits"][direction] = {"pick": "none"}
            message = f"written as a rule; to take it back by hand: scaler pause {name} -{word_}"
            made.differs(where, message, "limits", direction)
        else:
            made.fields["mode"] = "observe"
            then = f"scaler pause {name}"
            if word_ == "-replicas":
                then = f"scaler scale {name} {said} --hold forever"
            message = (
                f"paused, so the policy observes; write mode: act to go on, or act and: {then}"
            )
            made.differs(where, message, "mode")
