"""What carries a label on a Docker engine, and how a policy would name it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scaler.clients.docker import Engine
from scaler.interfaces import Labelled

PROJECT: Final = "com.docker.compose.project"
SERVICE: Final = "com.docker.compose.service"
ONEOFF: Final = "com.docker.compose.oneoff"
OF_SWARM: Final = "com.docker.swarm.service.id"
COPY: Final = "scaler.policy"  # what we have made carries it


async def containers(engine: Engine, label: str) -> list[Labelled]:
    """Services of compose, once each, then single containers; whatever their state.

    Copies made by scaler, one-off runs of compose and tasks of a Swarm are left out. When the
    replicas of a service differ, the labels of the newest count: an update makes new ones first.

    Raises:
        Unavailable: the engine does not answer.
        PermanentError: it refuses.
    """
    wanted = {"label": [f"{label}=true"]}
    doing = f"listing containers with the label {label}"
    found = await engine.call(doing, lambda api: api.containers(all=True, filters=wanted))
    newest_first = sorted(found, key=lambda one: (-int(one.get("Created") or 0), _name(one)))
    services: dict[tuple[str, str], Labelled] = {}
    single: list[Labelled] = []
    for one in newest_first:
        labels: Mapping[str, str] = one.get("Labels") or {}
        if COPY in labels or OF_SWARM in labels or labels.get(ONEOFF, "False") == "True":
            continue
        project, service = labels.get(PROJECT, ""), labels.get(SERVICE, "")
        if service:
            services.setdefault((project, service), _service(project, service, labels))
        elif name := _name(one):
            target = {"docker": {"container": name}}
            single.append(Labelled(name=name, target=target, labels=labels))
    return [*sorted(services.values(), key=_by_name), *sorted(single, key=_by_name)]


def _name(one: Mapping[str, Any]) -> str:
    """Not one by which a link of another container calls it; empty when it is half removed."""
    names: Sequence[str] = one.get("Names") or ()
    return next((name[1:] for name in names if "/" not in name[1:]), "")


def _service(project: str, service: str, labels: Mapping[str, str]) -> Labelled:
    """Named with its project: another project that comes later must not change its name."""
    target = {"docker": {"service": service, "project": project}}
    return Labelled(name=f"{project}-{service}", target=target, labels=labels)


def _by_name(one: Labelled) -> str:
    return one.name
