"""The text of a policy file with single fields set, all else as it was written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from scaler.core.document import Target
from scaler.errors import ConfigError
from scaler.located import Document, Field, Place, parse


def put(file: Path, text: str, path: Field, fields: Mapping[str, str]) -> str:
    """The text with these fields in the map at `path`, which is there.

    Raises:
        ConfigError: the map is written in a way that leaves no place for them.
    """
    for key, value in fields.items():
        text = _put(parse(file, text), text.splitlines(keepends=True), path, key, value)
    return text


def _put(document: Document, lines: list[str], path: Field, key: str, value: str) -> str:
    if (*path, key) in document.values:
        place = document.values[*path, key]
        line = lines[place.line - 1]
        before, after = line[: place.column - 1], line[place.column - 1 + place.width :]
        lines[place.line - 1] = f"{before}{value}{after}"
        return "".join(lines)
    here = document.place(path)
    line = lines[here.line - 1]
    if line[here.column - 1] == "{":
        rest = line[here.column :]
        comma = "" if rest.lstrip().startswith("}") else ", "
        lines[here.line - 1] = f"{line[: here.column]}{key}: {value}{comma}{rest}"
        return "".join(lines)
    first, inline = _first_line(document, lines, path)
    indent = " " * (first.column - 1)
    lines.insert(first.line - (0 if inline else 1), f"{indent}{key}: {value}\n")
    return "".join(lines)


def _first_line(document: Document, lines: list[str], path: Field) -> tuple[Place, bool]:
    """A key of the map that begins its line, or one after a dash with all of its value there."""
    keys = [p for p in document.keys if len(p) == len(path) + 1 and p[:-1] == path]
    for key in keys:
        place = document.keys[key]
        if not lines[place.line - 1][: place.column - 1].strip():
            return place, False
    for key in keys:
        if document.keys[key].line == document.values[key].line:
            return document.keys[key], True
    raise ConfigError(f"{document.file}: {'.'.join(map(str, path))} has no place for more fields")


def created(
    name: str, target: Target, limits: Mapping[str, str], metric: Sequence[str], said: str
) -> str:
    """A new file with one policy; `metric` are the lines of its only metric."""
    inside = target.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={"kind", "policy"}
    )
    return "\n".join(
        [
            "version: 1",
            "policies:",
            f"  {name}:",
            f"    target: {json.dumps({target.kind: inside})}",
            "    limits:",
            *(f"      {key}: {value}" for key, value in limits.items()),
            "    metrics:",
            f"      {said}",
            f"      - {metric[0]}",
            *(f"        {line}" for line in metric[1:]),
            "",
        ]
    )
