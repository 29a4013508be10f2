"""Labels of containers and services as policies: `scaler.enable=true`, `scaler.cpu=70%`.

A label is the way to a field of a policy, its value is YAML: `scaler.limits.settle_down=2m`. Who
may start a container may not thereby make scaler run commands or speak to other hosts, so only
some fields can be written, and the operator caps how many instances there may be.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scaler import located
from scaler.core.policy import Policy
from scaler.interfaces import Labelled
from scaler.located import Document, Field, Place, Problem
from scaler.policyfile import policies_of

PREFIX: Final = "scaler."
ENABLE: Final = "scaler.enable"
AUTOHEAL: Final = "autoheal"
STOP_TIMEOUT: Final = "autoheal.stop.timeout"  # seconds
LONGEST_NAME: Final = 53
SHORT: Final[Mapping[str, Field]] = {
    "min": ("limits", "min"),
    "max": ("limits", "max"),
    "settle_down": ("limits", "settle_down"),
    "settle_up": ("limits", "settle_up"),
    "cooldown": ("limits", "cooldown"),
}
METRICS: Final = ("cpu", "memory")
ALLOWED: Final = ("mode", "every", "limits", "metrics", "schedule", "missing", "health")
FORBIDDEN: Final = {
    "source": "its address would be asked by scaler",
    "command": "it would be run by scaler",
    "depends_on": "its address would be asked by scaler",
    "host": "its address would be asked by scaler",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The policies that labels make, and what is wrong with labels."""

    policies: Mapping[str, Policy]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()  # what the operator's cap has changed


class LabelReader:
    """Reads labels again and again; what fails keeps its last good policy."""

    def __init__(self, most: int) -> None:
        """`most` is the operator's cap on `limits.max`."""
        self._most = most
        self._good: dict[str, Policy] = {}

    def read(self, labelled: Iterable[Labelled], owner: Mapping[str, Path]) -> Found:
        """The policies of all that is labelled; `owner` names those that files hold already."""
        policies: dict[str, Policy] = {}
        problems: list[Problem] = []
        notes: list[str] = []
        known = dict(owner)
        for one in labelled:
            document = _document(one)
            made = policies_of(document, known)
            if document.problems:
                problems += document.problems
                kept = self._good.get(one.name)
                made = {} if kept is None or kept.name in known else {kept.name: kept}
            for name, policy in made.items():
                capped = self._capped(policy, one, notes)
                policies[name] = self._good[one.name] = capped
                known[name] = document.file
        return Found(policies=policies, problems=tuple(problems), notes=tuple(notes))

    def _capped(self, policy: Policy, one: Labelled, notes: list[str]) -> Policy:
        limits = policy.limits
        if limits.max <= self._most:
            return policy
        if "max" in limits.model_fields_set:
            notes.append(
                f"labels of {one.name}: max {limits.max} is lowered to {self._most}, "
                "the most that labels may ask for (labels.most in the settings)"
            )
        lower = {"max": self._most, "min": min(limits.min, self._most)}
        return policy.model_copy(update={"limits": limits.model_copy(update=lower)})


def _document(one: Labelled) -> Document:
    """The labels as a document of policies, a line each, so that mistakes point at the label."""
    chosen = {key: value for key, value in sorted(one.labels.items()) if _is_ours(key)}
    lines = [f"{key}={value}" for key, value in chosen.items()]
    document = Document(Path(f"labels of {one.name}"), lines)
    name = chosen.get(f"{PREFIX}name") or _name(one.name)
    policy: dict[str, Any] = {"target": dict(one.target)}
    for number, (key, value) in enumerate(chosen.items(), start=1):
        if key not in (ENABLE, f"{PREFIX}name") and key.startswith(PREFIX):
            place = Place(number, len(key) + 2, max(1, len(value)))
            _put(document, policy, ("policies", name), (key, value, place))
    if one.labels.get(ENABLE) != "true":
        policy.setdefault("mode", "heal")  # its count is somebody else's
    if (seconds := one.labels.get(STOP_TIMEOUT, "")).isdigit():
        for platform in policy["target"].values():
            platform.setdefault("grace", f"{seconds}s")
    document.plain = {"policies": {name: policy}}
    return document


def _name(name: str) -> str:
    """A name that a policy can have, as near to `name` as can be."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower())[:LONGEST_NAME].strip("-")


def _is_ours(key: str) -> bool:
    return key.startswith(PREFIX) or key in (AUTOHEAL, STOP_TIMEOUT)


def _put(
    document: Document, policy: dict[str, Any], root: Field, label: tuple[str, str, Place]
) -> None:
    """The value of one label at the field that its key names."""
    key, text, place = label
    words = key.removeprefix(PREFIX).replace("-", "_").split(".")
    path = SHORT.get(words[0], tuple(words)) if len(words) == 1 else tuple(words)
    inner = located.parse(document.file, text)
    if inner.problems and text:
        document.add((*root, *path), inner.problems[0].message, place)
        return
    if path[0] in METRICS and len(path) == 1:
        metrics = policy.setdefault("metrics", [])
        path = ("metrics", len(metrics), path[0])
        metrics.append({path[2]: inner.plain})
    else:
        reason = _refused(path, inner.plain)
        if reason or not _nested(policy, path, inner.plain):
            message = reason or "it is a value and has fields at the same time; keep one of them"
            document.add((*root, *path), message, place)
            return
    for length in range(1, len(path) + 1):
        document.keys.setdefault((*root, *path[:length]), Place(place.line, 1, len(key)))
    document.values[(*root, *path)] = place


def _nested(policy: dict[str, Any], path: Field, value: Any) -> bool:
    """Put a value at its path; whether there was room for it."""
    inner: Any = policy
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            return False
    if path[-1] in inner:
        return False
    inner[path[-1]] = value
    return True


def _refused(path: Field, value: Any) -> str:
    """Why a label may not say this; empty when it may."""
    if path[0] not in ALLOWED:
        return f"a label cannot set {path[0]}; it can set {', '.join((*SHORT, *METRICS, *ALLOWED))}"
    for word in (*path, *_keys(value)):
        if word in FORBIDDEN:
            return f"a label cannot set {word}: {FORBIDDEN[word]}; write a policy file"
    return ""


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *(key for inner in value.values() for key in _keys(inner))]
    if isinstance(value, list):
        return [key for inner in value for key in _keys(inner)]
    return []
