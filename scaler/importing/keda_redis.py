"""Triggers of KEDA that ask Redis, as metrics with the source `redis`.

Source: the scalers `redis` and `redis-streams` of KEDA 2.18, with their defaults.
"""

from typing import Any, Final

from scaler.importing import draft
from scaler.importing.draft import Draft, Place
from scaler.importing.manifests import Json, word

ONE_SERVER: Final = ("redis", "redis-streams")
SEVERAL: Final = (
    "redis-cluster",
    "redis-sentinel",
    "redis-cluster-streams",
    "redis-sentinel-streams",
)
PORT: Final = "6379"
ENTRIES: Final = "5"  # for each instance, when a trigger names no number
CREDENTIALS: Final = ("username", "usernameFromEnv", "password", "passwordFromEnv")
FROM_ENV: Final = ("addressFromEnv", "hostFromEnv", "portFromEnv")


def metric(made: Draft, trigger: Json, data: Json, where: str) -> None:
    """Add the metric, or say what a person has to do."""
    kind = word(trigger.get("type"), where)
    if kind in SEVERAL:
        message = (
            f"trigger {kind} does not map: no cluster or sentinel is followed; write the source "
            "redis with the address of the server that has the key, and change it when that moves"
        )
        made.lost(where, message, "metrics")
        return
    asked, field = _list(data, where) if kind == "redis" else _stream(data, where)
    if not all(asked.values()):
        named = next(key for key, value in asked.items() if not value)
        made.lost(f"{where}.metadata", f"the name of the {named} is missing; add it", "metrics")
        return
    by = "value" if word(trigger.get("metricType"), where) == "Value" else "per_instance"
    goal = {by: draft.quantity(data.get(field), f"{where}.metadata.{field}", ENTRIES)}
    name = word(trigger.get("name"), f"{where}.name", "") or kind
    variable = draft.variable(made, "REDIS_URL", where)
    address = _address(trigger, data, where, variable)
    place = made.metric({"source": {"redis": {**address, **asked}}, "goal": goal}, name)
    _elsewhere(made, data, where, place)
    if "url_env" in address:
        _credentials(made, trigger, data, where, place, variable)
    if "group" in asked:
        counted = "what is not delivered yet" if field == "lagCount" else "what is pending"
        message = f"KEDA counts only {counted}; here both count, since both wait to be done"
        made.differs(f"{where}.metadata.{field}", message, *place)


def _list(data: Json, where: str) -> tuple[dict[str, Any], str]:
    """What is asked for, and the field with the goal."""
    return {"list": word(data.get("listName"), f"{where}.metadata.listName")}, "listLength"


def _stream(data: Json, where: str) -> tuple[dict[str, Any], str]:
    asked = {"stream": word(data.get("stream"), f"{where}.metadata.stream")}
    group = word(data.get("consumerGroup"), f"{where}.metadata.consumerGroup", "")
    if not group:
        return asked, "streamLength"
    lag = data.get("lagCount") is not None
    return {**asked, "group": group}, "lagCount" if lag else "pendingEntriesCount"


def _address(trigger: Json, data: Json, where: str, variable: str) -> dict[str, str]:
    """Where it is asked; what may hold credentials comes from the environment."""
    url = _url(data, where)
    secret = trigger.get("authenticationRef") is not None or any(map(data.get, CREDENTIALS))
    return {"url": url} if url and not secret else {"url_env": variable}


def _url(data: Json, where: str) -> str:
    """The address without credentials; empty when the manifest does not hold it."""
    host = word(data.get("host"), f"{where}.metadata.host", "")
    port = word(data.get("port"), f"{where}.metadata.port", PORT)
    address = word(data.get("address"), f"{where}.metadata.address", "")
    address = address or (f"{host}:{port}" if host else "")
    if not address or "@" in address or "/" in address:
        return ""
    tls = word(data.get("enableTLS"), f"{where}.metadata.enableTLS", "false") == "true"
    number = word(data.get("databaseIndex"), f"{where}.metadata.databaseIndex", "0")
    return f"redis{'s' if tls else ''}://{address}" + (f"/{number}" if number != "0" else "")


def _credentials(
    made: Draft, trigger: Json, data: Json, where: str, place: Place, variable: str
) -> None:
    """Say which variable a person has to set."""
    example = _url(data, where) or "redis://host:6379"
    example = example.replace("://", "://user:password@", 1)
    reason = "credentials or the address are not in the manifest"
    message = f"{reason}; give scaler the variable {variable}, such as {example}"
    named = (key for key in (*FROM_ENV, *CREDENTIALS) if data.get(key) is not None)
    field = f"metadata.{next(named, 'address')}"
    if trigger.get("authenticationRef") is not None:
        field = "authenticationRef"
    made.todo(f"{where}.{field}", message, *place)


def _elsewhere(made: Draft, data: Json, where: str, place: Place) -> None:
    """Fields that have no place here."""
    for key in ("activationListLength", "activationLagCount"):
        threshold = word(data.get(key), f"{where}.metadata.{key}", "0")
        if threshold != "0":
            message = f"anything above zero keeps one instance here, not above {threshold}"
            made.lost(f"{where}.metadata.{key}", message, *place)
    if word(data.get("unsafeSsl"), f"{where}.metadata.unsafeSsl", "false") == "true":
        message = "certificates are always checked; write ?ssl_ca_certs=FILE after the address"
        made.lost(f"{where}.metadata.unsafeSsl", message, *place)
