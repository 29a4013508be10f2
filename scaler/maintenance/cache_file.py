"""`caches.yaml` to rules, with file, line, column, field and remedy in every message."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scaler import mistakes, policyfile
from scaler.errors import ConfigError
from scaler.located import Document, Field, InvalidFiles, Problem, read
from scaler.maintenance.cache_rules import Cache
from scaler.validated import validated

TOP: Final = ("version", "caches")
MOST_CACHES: Final = 100  # each has a job
_SECRET: Final = re.compile(r"://[^\s\"]*@")  # the user and password of an address


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """The caches of one file by name."""

    file: Path
    caches: Mapping[str, Cache]

    def chosen(self, name: str | None) -> tuple[Cache, ...]:
        """The one that is named, else all of them.

        Raises:
            ConfigError: there is none of that name.
        """
        if name is None:
            return tuple(self.caches.values())
        if name not in self.caches:
            raise ConfigError(f"{self.file}: {mistakes.unknown(name, self.caches, 'cache')}")
        return (self.caches[name],)


def load_caches(path: Path) -> Caches:
    """The caches that the file at `path` holds.

    Raises:
        InvalidFiles: something in it is wrong; all mistakes are in the message.
    """
    document = read(path)
    caches = {}
    for name, raw in _top(document).items():
        cache = _cache(document, name, raw)
        if cache is not None:
            caches[name] = cache
    if document.problems:
        ordered = sorted(document.problems, key=lambda p: (p.place.line, p.place.column))
        raise InvalidFiles(tuple(map(_without_password, ordered)))
    return Caches(file=path, caches=caches)


def _without_password(problem: Problem) -> Problem:
    """A problem is shown with its line, unless an address may stand there."""
    hidden = any(mark in problem.source for mark in ("url", "://", "@"))
    message = _SECRET.sub("://***@", problem.message)
    return replace(problem, message=message, source="" if hidden else problem.source)


def _top(document: Document) -> Mapping[str, Any]:
    """The caches as they are written."""
    top = document.plain
    if document.problems and top is None:
        return {}
    if not isinstance(top, dict):
        document.add((), "must be a map that begins with caches:")
        return {}
    unknown = top.keys() - set(TOP)
    for key in unknown:
        document.add((key,), mistakes.unknown(key, TOP), document.place((key,), of_key=True))
    if top.get("version", 1) != 1:
        document.add(("version",), f"version {top['version']} is not known; write version: 1")
    written = top.get("caches")
    if isinstance(written, dict):
        if len(written) > MOST_CACHES:
            document.add(("caches",), f"holds {len(written)} caches; the most is {MOST_CACHES}")
        return written
    if "caches" in top:
        document.add(("caches",), "must be a map from names to caches")
    elif not unknown:
        document.add((), mistakes.missing("caches"))
    return {}


def _cache(document: Document, name: str, raw: object) -> Cache | None:
    path = ("caches", name)
    if not policyfile.NAME.fullmatch(name):
        remedy = "use lower case letters, digits and hyphens, at most 53"
        here = document.place(path, of_key=True)
        document.add(path, f'"{name}" cannot be a name; {remedy}', here)
    if not isinstance(raw, dict):
        document.add(path, "must be a map with at least url and prefixes")
        return None

    def add(path: Field, message: str, *, of_key: bool = False) -> None:
        document.add(path, message, document.place(path, of_key=of_key))

    if "name" in raw:
        add((*path, "name"), "the name stands before the colon above; remove it", of_key=True)
    return validated(Cache, {**raw, "name": name}, path, add)
