"""A file with one map of named things to rules, with file, line, column and field in every message.

`caches.yaml` and `partitions.yaml` are such files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from scaler import mistakes, policyfile
from scaler.errors import ConfigError
from scaler.located import Document, Field, InvalidFiles, Problem, read
from scaler.validated import validated

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[R]):
    """What such a file holds."""

    rules: type[R]  # of one of them
    key: str  # of the map: "caches"
    one: str  # what one of them is called: "cache"
    needs: str  # in words, the fields that each has to have
    secret: tuple[str, ...]  # marks of lines that may hold a password
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Named(Generic[R]):
    """The rules of one file by name."""

    file: Path
    one: str
    rules: Mapping[str, R]

    def chosen(self, name: str | None) -> tuple[R, ...]:
        """Those that are named so, else all of them.

        Raises:
            ConfigError: there are none of that name.
        """
        if name is None:
            return tuple(self.rules.values())
        if name not in self.rules:
            raise ConfigError(f"{self.file}: {mistakes.unknown(name, self.rules, self.one)}")
        return (self.rules[name],)


def load(path: Path, form: Form[R]) -> Named[R]:
    """What the file at `path` holds.

    Raises:
        InvalidFiles: something in it is wrong; all mistakes are in the message.
    """
    document = read(path)
    rules = {}
    for name, raw in _top(document, form).items():
        found = _rules(document, form, name, raw)
        if found is not None:
            rules[name] = found
    if document.problems:
        ordered = sorted(document.problems, key=lambda p: (p.place.line, p.place.column))
        raise InvalidFiles(tuple(_without_password(problem, form) for problem in ordered))
    return Named(file=path, one=form.one, rules=rules)


def _without_password(problem: Problem, form: Form[R]) -> Problem:
    """A problem is shown with its line, unless a password may stand there in any form."""
    hidden = any(mark in problem.source for mark in form.secret)
    return replace(problem, source="") if hidden else problem


def _top(document: Document, form: Form[R]) -> Mapping[str, Any]:
    """The map as it is written."""
    top, key, known = document.plain, form.key, ("version", form.key)
    if document.problems and top is None:
        return {}
    if not isinstance(top, dict):
        document.add((), f"must be a map that begins with {key}:")
        return {}
    unknown = top.keys() - set(known)
    for wrong in unknown:
        here = document.place((wrong,), of_key=True)
        document.add((wrong,), mistakes.unknown(wrong, known), here)
    if top.get("version", 1) != 1:
        document.add(("version",), f"version {top['version']} is not known; write version: 1")
    written = top.get(key)
    if isinstance(written, dict):
        if len(written) > form.most:
            document.add((key,), f"holds {len(written)} {key}; the most is {form.most}")
        return written
    if key in top:
        document.add((key,), f"must be a map from names to {key}")
    elif not unknown:
        document.add((), mistakes.missing(key))
    return {}


def _rules(document: Document, form: Form[R], name: str, raw: object) -> R | None:
    path = (form.key, name)
    if not policyfile.NAME.fullmatch(name):
        remedy = "use lower case letters, digits and hyphens, at most 53"
        here = document.place(path, of_key=True)
        document.add(path, f'"{name}" cannot be a name; {remedy}', here)
    if not isinstance(raw, dict):
        document.add(path, f"must be a map with at least {form.needs}")
        return None

    def add(path: Field, message: str, *, of_key: bool = False) -> None:
        document.add(path, message, document.place(path, of_key=of_key))

    if "name" in raw:
        add((*path, "name"), "the name stands before the colon above; remove it", of_key=True)
    return validated(form.rules, {**raw, "name": name}, path, add)
