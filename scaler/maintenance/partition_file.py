"""`partitions.yaml` to rules, with file, line, column, field and remedy in every message."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scaler import mistakes, policyfile
from scaler.errors import ConfigError
from scaler.located import Document, Field, InvalidFiles, Problem, read
from scaler.maintenance.partition_rules import Database
from scaler.validated import validated

TOP: Final = ("version", "databases")
MOST_DATABASES: Final = 100  # each has a connection
_SECRET: Final = re.compile(r"://[^\s\"]*@")  # the user and password of an address


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitions:
    """The databases of one file by name."""

    file: Path
    databases: Mapping[str, Database]

    def chosen(self, name: str | None) -> tuple[Database, ...]:
        """The one that is named, else all of them.

        Raises:
            ConfigError: there is none of that name.
        """
        if name is None:
            return tuple(self.databases.values())
        if name not in self.databases:
            raise ConfigError(f"{self.file}: {mistakes.unknown(name, self.databases, 'database')}")
        return (self.databases[name],)


def load_partitions(path: Path) -> Partitions:
    """The databases that the file at `path` holds.

    Raises:
        InvalidFiles: something in it is wrong; all mistakes are in the message.
    """
    document = read(path)
    databases = {}
    for name, raw in _top(document).items():
        database = _database(document, name, raw)
        if database is not None:
            databases[name] = database
    if document.problems:
        ordered = sorted(document.problems, key=lambda p: (p.place.line, p.place.column))
        raise InvalidFiles(tuple(map(_without_password, ordered)))
    return Partitions(file=path, databases=databases)


def _without_password(problem: Problem) -> Problem:
    """A problem is shown with its line, unless an address may stand there."""
    hidden = any(mark in problem.source for mark in ("dsn", "://", "@", "password"))
    message = _SECRET.sub("://***@", problem.message)
    return replace(problem, message=message, source="" if hidden else problem.source)


def _top(document: Document) -> Mapping[str, Any]:
    """The databases as they are written."""
    top = document.plain
    if document.problems and top is None:
        return {}
    if not isinstance(top, dict):
        document.add((), "must be a map that begins with databases:")
        return {}
    unknown = top.keys() - set(TOP)
    for key in unknown:
        document.add((key,), mistakes.unknown(key, TOP), document.place((key,), of_key=True))
    if top.get("version", 1) != 1:
        document.add(("version",), f"version {top['version']} is not known; write version: 1")
    written = top.get("databases")
    if isinstance(written, dict):
        if len(written) > MOST_DATABASES:
            document.add(
                ("databases",), f"holds {len(written)} databases; the most is {MOST_DATABASES}"
            )
        return written
    if "databases" in top:
        document.add(("databases",), "must be a map from names to databases")
    elif not unknown:
        document.add((), mistakes.missing("databases"))
    return {}


def _database(document: Document, name: str, raw: object) -> Database | None:
    path = ("databases", name)
    if not policyfile.NAME.fullmatch(name):
        remedy = "use lower case letters, digits and hyphens, at most 53"
        here = document.place(path, of_key=True)
        document.add(path, f'"{name}" cannot be a name; {remedy}', here)
    if not isinstance(raw, dict):
        document.add(path, "must be a map with at least dsn_env and partitions")
        return None

    def add(path: Field, message: str, *, of_key: bool = False) -> None:
        document.add(path, message, document.place(path, of_key=of_key))

    if "name" in raw:
        add((*path, "name"), "the name stands before the colon above; remove it", of_key=True)
    return validated(Database, {**raw, "name": name}, path, add)
