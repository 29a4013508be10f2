"""Policies as the YAML that a person would write, with a comment wherever somebody must look."""

import json
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

import yaml

from scaler.importing.draft import Draft, Place, Remark

SCHEMA: Final = "# yaml-language-server: $schema=../schema/policy.schema.json"
WIDTH: Final = 100
READABLE: Final = 72  # of a map on one line
ORDER: Final = (
    "mode",
    "compatibility",
    "target",
    "every",
    "limits",
    "metrics",
    "schedule",
    "missing",
)
OBSERVE: Final = "it only observes until what is marked below is looked at; then write: act"


def policies(drafts: Iterable[Draft], command: str) -> str:
    """A whole file of policies."""
    lines = [SCHEMA, f"# Made by: {command}", "version: 1", "policies:"]
    for draft in drafts:
        lines += _policy(draft)
    return "\n".join(lines) + "\n"


def fields(plain: Mapping[str, Any], remarks: Iterable[Remark]) -> list[str]:
    """Any other file, with the remarks where they belong."""
    return _Writer(_by_place(remarks)).mapping(plain, ())


def finished(draft: Draft) -> dict[str, Any]:
    """The fields of a policy in their order. What needs somebody changes nothing until then."""
    fields = dict(draft.fields)
    if draft.needs_somebody:
        fields["mode"] = "observe"
    return {key: fields[key] for key in ORDER if key in fields}


def _policy(draft: Draft) -> list[str]:
    remarks = _by_place(draft.remarks)
    if draft.needs_somebody:
        observe = Remark(kind="todo", field="mode", message=OBSERVE)
        remarks[("mode",)] = [observe, *remarks.get(("mode",), [])]
    head = [f"# from {draft.origin}"]
    head += [line for remark in remarks.pop((), []) for line in _comment(remark)]
    lines = [*_indented(head, 2), f"  {draft.name}:"]
    writer = _Writer(remarks)
    lines += _indented(writer.mapping(finished(draft), ()), 4)
    unplaced = [line for found in remarks.values() for one in found for line in _comment(one)]
    return lines + _indented(unplaced, 4)


def _by_place(remarks: Iterable[Remark]) -> dict[Place, list[Remark]]:
    found: dict[Place, list[Remark]] = {}
    for remark in remarks:
        found.setdefault(remark.at, []).append(remark)
    return found


def _comment(remark: Remark) -> list[str]:
    kind = remark.kind.upper() if remark.kind != "differs" else "note"
    text = (
        f"{kind}: {remark.message}"
        if remark.field == "mode"
        else f"{kind}: {remark.field}: {remark.message}"
    )
    printable = "".join(sign if sign.isprintable() else " " for sign in text)
    return [f"# {line}" for line in wrap(printable, WIDTH - 8, break_on_hyphens=False)]


def _indented(lines: Iterable[str], by: int) -> list[str]:
    return [" " * by + line for line in lines]


class _Writer:
    """Writes maps and lists: on one line where that is readable and nothing is to be said."""

    def __init__(self, remarks: dict[Place, list[Remark]]) -> None:
        self._remarks = remarks

    def mapping(self, fields: Mapping[str, Any], place: Place) -> list[str]:
        lines: list[str] = []
        for key, value in fields.items():
            lines += self._entry(f"{key}:", value, (*place, key))
        return lines

    def _entry(self, head: str, value: Any, place: Place) -> list[str]:
        comments = [line for one in self._remarks.pop(place, []) for line in _comment(one)]
        short = f"{head} {_flow(value)}"
        of_maps = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
        fits = len(short) < READABLE and not self._below(place) and not of_maps
        if fits or not isinstance(value, dict | list):
            return [*comments, short]
        if isinstance(value, dict):
            return [*comments, head, *_indented(self.mapping(value, place), 2)]
        return [*comments, head, *_indented(self._items(value, place), 2)]

    def _items(self, items: Sequence[Any], place: Place) -> list[str]:
        lines: list[str] = []
        for number, item in enumerate(items):
            here = (*place, number)
            lines += [line for one in self._remarks.pop(here, []) for line in _comment(one)]
            flow = _flow(item)
            if not isinstance(item, dict) or (len(flow) < READABLE and not self._below(here)):
                lines.append(f"- {flow}")
            else:
                first, *rest = self.mapping(item, here)
                lines += [f"- {first}", *_indented(rest, 2)]
        return lines

    def _below(self, place: Place) -> bool:
        return any(other[: len(place)] == place for other in self._remarks)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A scalar that reads the same in YAML 1.1 and 1.2, inside of braces too."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    plain = yaml.safe_dump(text, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    safe = plain == text and not set(text) & set("{}[],#&*!|>%@`\"'") - {"%"} and ": " not in text
    if safe and text[:1] not in "%-?:":
        return text
    if text.isprintable() and "'" not in text:
        return f"'{text}'"
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)
