"""Selectors of labels as a Scale has them: `app=web,tier in (a,b),!canary`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_PART: Final = re.compile(r",(?![^(]*\))")  # commas between requirements, not those in a set
_AMONG: Final = re.compile(r"(\S+)\s+(in|notin)\s+\(([^()]*)\)")
_KEY: Final = re.compile(r"[-A-Za-z0-9_./]+")


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the label `key` has to be. Without values: whether it is there."""

    key: str
    values: frozenset[str] | None = None
    negated: bool = False

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.values is None:
            return (value is not None) is not self.negated
        return (value in self.values) is not self.negated


def parse(text: str) -> tuple[Requirement, ...]:
    """All that has to hold of the labels; nothing when there is no selector.

    Raises:
        ValueError: it is written otherwise than a server writes it.
    """
    return tuple(_requirement(part.strip()) for part in _PART.split(text) if part.strip())


def matches(selector: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    return all(requirement.holds(labels) for requirement in selector)


def _requirement(part: str) -> Requirement:
    if found := _AMONG.fullmatch(part):
        key, how, inside = found.groups()
        values = frozenset(value.strip() for value in inside.split(","))
        return Requirement(_key(key), values, negated=how == "notin")
    for sign, negated in (("!=", True), ("==", False), ("=", False)):
        key, found_sign, value = part.partition(sign)
        if found_sign:
            return Requirement(_key(key), frozenset({value.strip()}), negated=negated)
    return Requirement(_key(part.removeprefix("!")), negated=part.startswith("!"))


def _key(written: str) -> str:
    key = written.strip()
    if not _KEY.fullmatch(key):
        raise ValueError(f'"{written}" is no name of a label')
    return key
