"""What an engine lets us do, asked without doing anything.

A socket proxy answers 403 to what it keeps away; the engine itself answers 404 or 400 to the same
question about a container that does not exist. So every right can be tried harmlessly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scaler.clients.docker import Engine
from scaler.errors import ScalerError

if TYPE_CHECKING:
    from docker.api.client import APIClient

NOBODY: Final = "scaler-doctor-asks-for-nobody"
KEPT_AWAY: Final = (401, 403, 405)


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that is needed, and what a socket proxy calls it."""

    what_for: str
    method: str
    path: str
    switch: str


BASE: Final = (
    Right("look at containers", "GET", "/containers/json?limit=1", "CONTAINERS=1"),
    Right("hear of events", "GET", "/events?since=0&until=1", "EVENTS=1"),
)
CONTAINERS: Final = (
    Right("know the size of its machine", "GET", "/info", "INFO=1"),
    Right("create containers", "POST", "/containers/create", "POST=1"),
    Right("start containers", "POST", f"/containers/{NOBODY}/start", "POST=1"),
    Right("stop containers", "POST", f"/containers/{NOBODY}/kill", "POST=1"),
    Right("remove containers", "DELETE", f"/containers/{NOBODY}", "POST=1"),
    Right("connect networks", "POST", f"/networks/{NOBODY}/connect", "NETWORKS=1"),
    Right("run command probes", "POST", f"/containers/{NOBODY}/exec", "EXEC=1"),
)
SERVICES: Final = (
    Right("look at services", "GET", "/services", "SERVICES=1"),
    Right("look at tasks", "GET", "/tasks", "TASKS=1"),
    Right("know the size of nodes", "GET", "/nodes", "NODES=1"),
    Right("scale services", "POST", f"/services/{NOBODY}/update?version=1", "POST=1"),
)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found out about one engine."""

    about: str  # version and place
    missing: tuple[Right, ...] = ()
    trouble: str = ""  # why nothing is known


async def examine(engine: Engine, rights: Sequence[Right]) -> Examination:
    """Try each right on a container that does not exist."""
    try:
        about = await engine.call("asking for its version", _about)
        missing = await engine.call("trying rights", lambda api: _missing(api, rights))
    except ScalerError as error:
        return Examination("", trouble=str(error))
    return Examination(f"{about} at {engine.url}", tuple(missing))


def _about(api: "APIClient") -> str:
    known = api.version()
    return f"engine {known.get('Version', '?')}, API {known.get('ApiVersion', '?')}"


def _missing(api: "APIClient", rights: Sequence[Right]) -> list[Right]:
    """Swarm endpoints answer 503 on an engine that is no manager: that is not a missing right."""
    found = []
    for right in rights:
        answer = api.request(
            right.method, f"{api.base_url}/v{api.api_version}{right.path}", json={}, timeout=10
        )
        if answer.status_code in KEPT_AWAY:
            found.append(right)
    return found
