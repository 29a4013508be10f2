"""YAML with the place of every key and value, without the surprises of YAML 1.1.

`no`, `on`, `1:30`, `012` and dates are strings here, as in YAML 1.2; a key that stands twice, a
merge key, a tab that indents and a bomb of aliases are problems with a place and a remedy.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from scaler.errors import ConfigError

Field = tuple[str | int, ...]

SECRET: Final = re.compile(r"(?<=://)[^\s]*(?=@)|(password\s*=\s*)(?:'[^']*'|[^\s&\"']+)")
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_NODES: Final = 200_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; both count from 1."""

    line: int
    column: int
    width: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a file: where, what, and how to mend it."""

    file: Path
    place: Place
    field: str
    message: str
    source: str = ""  # the line as it stands in the file

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": str(self.file),
            "line": self.place.line,
            "column": self.place.column,
            "field": self.field,
            "message": self.message,
            "text": self.text(),
        }

    def text(self) -> str:
        """As it is shown: place, field, message, then the line with a caret under it."""
        where = f"{self.file}:{self.place.line}:{self.place.column}: error: "
        head = where + (f"{self.field}: " if self.field else "") + self.message
        if not self.source.strip():
            return head
        number = f"{self.place.line:>5} | "
        margin = " " * (len(number) - 2) + "| "
        caret = " " * (self.place.column - 1) + "^" * self.place.width
        return f"{head}\n{number}{self.source}\n{margin}{caret}"


class InvalidFiles(ConfigError):
    """Files with problems; the message shows all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(["invalid files", *(problem.text() for problem in problems)]))
        self.problems = problems


def _masked(text: str) -> str:
    """The same length without the credentials of addresses: messages end up in logs."""
    return SECRET.sub(lambda found: (found[1] or "").ljust(len(found[0]), "*"), text)


@dataclass(slots=True)
class Document:
    """The plain values of one file, and where each one stands."""

    file: Path
    lines: list[str]
    plain: Any = None
    keys: dict[Field, Place] = field(default_factory=dict)  # where a key stands
    values: dict[Field, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Field, message: str, place: Place | None = None) -> None:
        """A problem with the field at `path`, or with the nearest one above it that exists.

        Of several at one place the first is kept: the others follow from it.
        """
        path = self._as_written(path)
        if place is None:
            place = self.place(path)
        if any((p.place.line, p.place.column) == (place.line, place.column) for p in self.problems):
            return
        line = self.lines[place.line - 1] if 0 < place.line <= len(self.lines) else ""
        source, message = _masked(line), _masked(message)
        width = max(1, min(place.width, len(source) - place.column + 1))
        place = Place(place.line, place.column, width)
        problem = Problem(
            file=self.file, place=place, field=dotted(path), message=message, source=source
        )
        self.problems.append(problem)

    def _as_written(self, path: Field) -> Field:
        """`path` without the index of a list that was written as its only entry."""
        real: list[str | int] = []
        for part in path:
            single = isinstance(part, int) and (*real, part) not in self.values
            if not (single and tuple(real) in self.values):
                real.append(part)
        return tuple(real)

    def place(self, path: Field, *, of_key: bool = False) -> Place:
        path = self._as_written(path)
        first, second = (self.keys, self.values) if of_key else (self.values, self.keys)
        for length in range(len(path), 0, -1):
            near = path[:length]
            found = first.get(near) if length == len(path) else self.keys.get(near)
            found = found or second.get(near) or self.values.get(near)
            if found is not None:
                return found
        return Place(1, 1)


def dotted(path: Field) -> str:
    """`policies.web.metrics[1].cpu`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class _Loader(yaml.SafeLoader):
    """The scalars of YAML 1.2 and no others."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )

_OLD_OCTAL: Final = re.compile(r"0[0-9]+")
_KNOWN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map", "seq")
)


def read(file: Path) -> Document:
    """The document in `file`; what is wrong with it stands in its `problems`."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        document = Document(file, [])
        document.add((), f"cannot be read: {error.strerror}; check its name and its permissions")
        return document
    if len(raw) > MOST_BYTES:
        document = Document(file, [])
        document.add((), f"is {len(raw)} bytes long, the most is {MOST_BYTES}; split it")
        return document
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        document = Document(file, [])
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        document.add((), "is not UTF-8 text; save it as UTF-8", Place(line, column))
        return document
    return parse(file, text)


def parse(file: Path, text: str) -> Document:
    """The document in `text`, as if it stood in `file`."""
    document = Document(file, text.splitlines())
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        _broken(document, error)
        return document
    except RecursionError:
        document.add((), "is nested too deeply; a policy needs no more than ten levels")
        return document
    finally:
        if loader is not None:
            loader.dispose()
    if node is None:
        document.add((), "is empty; it needs a map named policies")
        return document
    try:
        document.plain = _Reader(document).value(node, ())
    except RecursionError:
        document.add((), "contains itself by an alias; write the part out")
    return document


def _broken(document: Document, error: yaml.YAMLError) -> None:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    place = Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    line = document.lines[place.line - 1] if place.line <= len(document.lines) else ""
    if "found character '\\t'" in said or "\t" in line[: len(line) - len(line.lstrip())]:
        tab = line.find("\t") + 1
        place = Place(place.line, tab or place.column)
        said = "a tab indents this line; use spaces"
    elif "another document" in said or "single document" in said:
        said = "a second document begins here; put it into its own file"
    elif "mapping values are not allowed" in said:
        said = "a key cannot stand here; quote the text before it, or begin a new line"
    elif "undefined alias" in said:
        said += "; define it with & before it is used"
    elif isinstance(error, yaml.reader.ReaderError):
        said = "a control character stands in the file; remove it"
        before = "".join(f"{text}\n" for text in document.lines)[: error.position]
        place = Place(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
    else:
        said = f"is no valid YAML: {said}; check indentation, quotes and brackets"
    document.add((), said, place)


class _Reader:
    """Nodes to plain values; remembers where each stands."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def value(self, node: yaml.Node, path: Field) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            if self._nodes == MOST_NODES + 1:
                self._document.add(path, "aliases make it too large; write less of it")
            return None
        self._document.values[path] = _place(node)
        if node.tag not in _KNOWN_TAGS:
            self._document.add(path, f"the tag {node.tag} means nothing here; remove it")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._map(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        if (
            isinstance(node, yaml.ScalarNode)
            and node.style is None
            and _OLD_OCTAL.fullmatch(node.value)
        ):
            plain = node.value.lstrip("0")
            message = f'{node.value} is octal to some programs; write {plain} or "{node.value}"'
            self._document.add(path, message)
        return _scalar(node)

    def _map(self, node: yaml.MappingNode, path: Field) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._document.add(path, "a key must be a single word", place)
                continue
            key = str(key_node.value)
            if key == "<<":
                remedy = "merge keys are not read here; use defaults: at the top of the file"
                self._document.add((*path, key), remedy, place)
                continue
            if key in plain:
                first = self._document.keys[*path, key]
                message = f'"{key}" stands twice, first in line {first.line}; remove one'
                self._document.add((*path, key), message, place)
                continue
            self._document.keys[*path, key] = place
            plain[key] = self.value(value_node, (*path, key))
        return plain


def _place(node: yaml.Node) -> Place:
    begin, end = node.start_mark, node.end_mark
    width = end.column - begin.column if end.line == begin.line else 1
    return Place(begin.line + 1, begin.column + 1, max(1, width))


def _scalar(node: yaml.Node) -> Any:
    kind = node.tag.rpartition(":")[2]
    text = str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int" and len(text) < 20:
        return int(text)
    if kind == "float":
        return float(text)
    return text
