"""Calls to a manager of Docker Swarm: services, tasks, nodes, and one write that others may race.

Answers are the JSON of the engine as it stands; what it means is for the provider to say.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from scaler.clients.docker import Engine
from scaler.clock import Clock
from scaler.errors import Conflict, PermanentError, Unavailable, Unsupported

if TYPE_CHECKING:
    from docker.api.client import APIClient

MOST_TRIES: Final = 5  # of one write, when others write in between
FIRST_WAIT: Final = timedelta(milliseconds=20)  # doubled with each try
LIVE: Final = ("running", "ready")  # what tasks are meant to be that are meant to be

T = TypeVar("T")
Json = dict[str, Any]


async def find(engine: Engine, service: str, label: str) -> list[Json]:
    """The service of this name, or all that carry the label (`key` or `key=value`).

    Raises:
        NotFound: no service has this name.
        PermanentError: the engine is no manager.
    """
    if label:
        filters = {"label": label}
        doing = f'looking for services with label "{label}"'
        return await _list(engine, doing, lambda api: api.services(filters=filters))
    doing = f'looking for service "{service}"'
    return [await _call(engine, doing, lambda api: api.inspect_service(service))]


async def tasks(engine: Engine, service: str, *, live: bool) -> list[Json]:
    """Tasks of a service: those that are meant to run, or also up to five old ones of each slot."""
    filters: Json = {"service": service}
    if live:
        filters["desired-state"] = list(LIVE)
    return await _list(engine, "looking at tasks", lambda api: api.tasks(filters=filters))


async def nodes(engine: Engine) -> list[Json]:
    return await _list(engine, "looking at nodes", lambda api: api.nodes())


async def this_node(engine: Engine) -> str:
    """The id of the node that answers."""
    found = await _call(engine, "asking the engine who it is", lambda api: api.info())
    return str(found.get("Swarm", {}).get("NodeID", ""))


async def set_replicas(engine: Engine, clock: Clock, service: str, count: int) -> bool:
    """Have the service run so many; False when that is what it is meant to run already.

    The whole specification is sent back with one number changed, so nothing else of it is lost
    and no registry is asked. When somebody else writes in between it is read again.

    Raises:
        Conflict: others were faster each time.
        Unsupported: it runs one per node, or to an end.
    """
    wait = FIRST_WAIT
    for _ in range(MOST_TRIES):
        (found,) = await find(engine, service, "")
        if replicas(found) == count:
            return False
        spec = found["Spec"]
        spec["Mode"]["Replicated"]["Replicas"] = count
        try:
            await _update(engine, found["ID"], int(found["Version"]["Index"]), spec)
        except Conflict:
            await clock.sleep(wait)
            wait *= 2
        else:
            return True
    raise Conflict(f"others changed service {service} each of the {MOST_TRIES} times we tried to")


def replicas(service: Mapping[str, Any]) -> int:
    """How many it is meant to run.

    Raises:
        Unsupported: it runs one per node, or to an end.
    """
    spec = service["Spec"]
    if "Replicated" not in spec["Mode"]:
        mode = ", ".join(spec["Mode"]) or "unknown"
        remedy = "create it with --mode replicated to have it scaled"
        raise Unsupported(f"service {spec['Name']} has mode {mode.lower()}; {remedy}")
    return int(spec["Mode"]["Replicated"].get("Replicas", 1))


async def kill(engine: Engine, container: str) -> None:
    """End a container of this node.

    Raises:
        NotFound: this node has no such container.
    """
    doing = f"killing container {container[:12]}"
    with suppress(Conflict):  # it has just ended by itself
        await _call(engine, doing, lambda api: api.kill(container))


async def _update(engine: Engine, service: str, version: int, spec: Json) -> None:
    def send(api: "APIClient") -> None:
        from docker.errors import create_api_error_from_http_exception  # noqa: PLC0415
        from requests.exceptions import HTTPError  # noqa: PLC0415

        # The SDK's own call builds the specification anew and drops what it does not know.
        answer = api.request(
            "POST",
            f"{api.base_url}/v{api.api_version}/services/{service}/update",
            params={"version": version},
            json=spec,
            timeout=api.timeout,
        )
        try:
            answer.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)

    await _call(engine, f"updating service {spec['Name']}", send)


async def _call(engine: Engine, doing: str, function: Callable[["APIClient"], T]) -> T:
    try:
        return await engine.call(doing, function)
    except Unavailable as error:
        if "is not a swarm manager" not in str(error):
            raise
        raise PermanentError(
            f"{doing}: the engine at {engine.url} is no manager of a swarm; run "
            "`docker swarm init` there, or write the address of a manager as `engine`"
        ) from error


async def _list(
    engine: Engine, doing: str, function: Callable[["APIClient"], list[Json]]
) -> list[Json]:
    return await _call(engine, doing, function) or []


async def perhaps(call: Awaitable[T], otherwise: T) -> T:
    """What `call` returns, or `otherwise` when the engine keeps it away, as a socket proxy may."""
    try:
        return await call
    except PermanentError:
        return otherwise
