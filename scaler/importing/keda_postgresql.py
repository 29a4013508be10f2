"""Triggers of KEDA that ask PostgreSQL, as metrics with the source `postgres`.

Source: the scaler `postgresql` of KEDA 2.18, with its defaults.
"""

from typing import Final
from urllib.parse import quote

from scaler.importing import draft
from scaler.importing.draft import Draft, Place
from scaler.importing.manifests import Json, word

PORT: Final = "5432"
PLACES: Final = ("host", "port", "userName", "dbName", "sslmode")
SECRET: Final = ("connection", "connectionFromEnv", "password", "passwordFromEnv")


def metric(made: Draft, trigger: Json, data: Json, where: str) -> None:
    """Add the metric, or say what a person has to do."""
    for key in ("query", "targetQueryValue"):
        if data.get(key) is None:
            made.lost(f"{where}.metadata", f"{key} is missing; add it", "metrics")
            return
    query = word(data.get("query"), f"{where}.metadata.query")
    field = f"{where}.metadata.targetQueryValue"
    by = "value" if word(trigger.get("metricType"), where) == "Value" else "per_instance"
    goal = {by: draft.quantity(data.get("targetQueryValue"), field)}
    name = word(trigger.get("name"), f"{where}.name", "") or "postgresql"
    plain = _plain(trigger, data, where)
    variable = draft.variable(made, "POSTGRES_DSN", where)
    source = {"dsn": plain} if plain else {"dsn_env": variable}
    place = made.metric({"source": {"postgres": {**source, "query": query}}, "goal": goal}, name)
    if not plain:
        _credentials(made, trigger, data, where, place, variable)
    key = "activationTargetQueryValue"
    made.activation(data.get(key), f"{where}.metadata.{key}", place)


def _plain(trigger: Json, data: Json, where: str) -> str:
    """The address, when nothing secret belongs to it and the manifest holds it."""
    secret = trigger.get("authenticationRef") is not None or any(map(data.get, SECRET))
    return "" if secret else _dsn(data, where, password="")


def _dsn(data: Json, where: str, password: str) -> str:
    """Empty when the manifest does not name the host."""
    host, port, user, database, tls = (
        word(data.get(key), f"{where}.metadata.{key}", "") for key in PLACES
    )
    if not host:
        return ""
    who = f"{quote(user or 'user', safe='')}{password}@" if user or password else ""
    mode = f"?sslmode={quote(tls, safe='')}" if tls else ""
    return f"postgresql://{who}{host}:{port or PORT}/{quote(database, safe='')}{mode}"


def _credentials(
    made: Draft, trigger: Json, data: Json, where: str, place: Place, variable: str
) -> None:
    """Say which variable a person has to set."""
    example = _dsn(data, where, ":password") or "postgresql://user:password@host:5432/database"
    reason = "a password or the address is not in the manifest"
    message = f"{reason}; give scaler the variable {variable}, such as {example}"
    named = (key for key in SECRET if data.get(key) is not None)
    field = f"metadata.{next(named, 'host')}"
    if trigger.get("authenticationRef") is not None:
        field = "authenticationRef"
    made.todo(f"{where}.{field}", message, *place)
