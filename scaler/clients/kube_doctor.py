"""What an API server lets us do, asked without doing anything.

`SelfSubjectAccessReview` answers for one verb on one kind of object; whoever has logged in may ask.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from scaler.clients.kube_rights import Right, rules
from scaler.clients.kubernetes import Api
from scaler.errors import NotFound, ScalerError

REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
METRICS: Final = "/apis/metrics.k8s.io/v1beta1"
AT_ONCE: Final = 8  # questions
SLOW: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found out about one cluster."""

    about: str = ""  # version, place, and how long it took to answer
    slow: bool = False
    asked: int = 0
    missing: tuple[Right, ...] = ()
    metrics: str = ""  # why CPU and memory cannot be measured; empty when they can
    trouble: str = ""  # why nothing more is known


async def examine(api: Api, rights: Sequence[Right]) -> Examination:
    """Whether the server answers, and whether it gives each of these rights."""
    try:
        began = api.clock.monotonic()
        version = await api.get("/version")
        took = api.clock.monotonic() - began
        missing = await _missing(api, rights)
        measures = any(right.group == "metrics.k8s.io" for right in rights)
        metrics = await _metrics(api) if measures else ""
    except ScalerError as error:
        return Examination(trouble=str(error))
    ms = took / timedelta(milliseconds=1)
    return Examination(
        about=f"{version.get('gitVersion', '?')} at {api.about}, answers in {ms:.0f} ms",
        slow=took > SLOW,
        asked=len(rights),
        missing=tuple(missing),
        metrics=metrics,
    )


async def _missing(api: Api, rights: Sequence[Right]) -> list[Right]:
    room = asyncio.Semaphore(AT_ONCE)

    async def given(right: Right) -> bool:
        async with room:
            answer = await api.send("POST", REVIEWS, _question(api, right))
        status = answer.get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    answers = await asyncio.gather(*(given(right) for right in rights))
    return [right for right, fine in zip(rights, answers, strict=True) if not fine]


def _question(api: Api, right: Right) -> Mapping[str, Any]:
    asked = {
        "namespace": "" if right.everywhere else right.namespace or api.namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
        "name": right.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }


async def _metrics(api: Api) -> str:
    try:
        await api.get(METRICS)
    except NotFound:
        return "metrics-server is not installed, so nobody measures CPU and memory of pods"
    except ScalerError as error:
        return f"metrics-server does not answer: {error}"
    return ""


def lines(missing: Iterable[Right]) -> list[str]:
    """What is missing as it would stand in a Role, each with its reason and where."""
    found = []
    places: dict[tuple[str, bool], list[Right]] = {}
    for right in missing:
        places.setdefault((right.namespace, right.everywhere), []).append(right)
    for (namespace, everywhere), rights in places.items():
        role = "ClusterRole" if everywhere else f"Role in {namespace or 'its own namespace'}"
        for rule in rules(rights):
            parts = ", ".join(f"{key}: {_words(value)}" for key, value in rule.plain().items())
            found.append(f"the {role} lacks: - {{{parts}}}   # {rule.why}")
    return found


def _words(values: Sequence[str]) -> str:
    return "[" + ", ".join(value or '""' for value in values) + "]"
