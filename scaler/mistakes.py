"""What is wrong with a value, in the words of whoever wrote the file."""

import re
from collections.abc import Iterable

from pydantic_core import ErrorDetails


def missing(name: str, remedy: str = "") -> str:
    return f'"{name}" is missing; {remedy or f"add {name}:"}'


def unknown(key: str, known: Iterable[str], what: str = "key") -> str:
    names = sorted(known)
    remedy = meant(key, names) or f"known are {', '.join(names)}"
    return f'unknown {what} "{key}"; {remedy}'


def meant(word: str, known: Iterable[str]) -> str:
    """A guess at which of the known words was meant; empty when none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - start-up time

    near = get_close_matches(word, list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else ""


def message(detail: ErrorDetails) -> str:
    """A pydantic message in the words of whoever wrote the file."""
    kind, given, more = detail["type"], detail["input"], detail.get("ctx", {})
    shown = _shown(given)
    table = {
        "value_error": lambda: str(more["error"]),
        "int_type": lambda: f"{shown} is not a whole number; write one such as 3",
        "int_parsing": lambda: f"{shown} is not a whole number; write one such as 3",
        "int_from_float": lambda: f"{shown} is not a whole number; write one such as 3",
        "float_type": lambda: f"{shown} is not a number; write one such as 0.5",
        "float_parsing": lambda: f"{shown} is not a number; write one such as 0.5",
        "bool_type": lambda: f"{shown} is neither true nor false; write one of them",
        "bool_parsing": lambda: f"{shown} is neither true nor false; write one of them",
        "string_type": lambda: f"{shown} is not text; put it in quotes",
        "greater_than_equal": lambda: f"{shown} is too low; write {more['ge']} or more",
        "greater_than": lambda: f"{shown} is too low; write more than {more['gt']}",
        "less_than_equal": lambda: f"{shown} is too high; write {more['le']} or less",
        "less_than": lambda: f"{shown} is too high; write less than {more['lt']}",
        "literal_error": lambda: _not_one_of(given, str(more["expected"])),
        "tuple_type": lambda: f"{shown} is not a list; write [one, two] or lines with dashes",
        "list_type": lambda: f"{shown} is not a list; write [one, two] or lines with dashes",
        "dict_type": lambda: f"{shown} is not a map; write key: value below it",
        "model_type": lambda: f"{shown} is not a map; write key: value below it",
        "model_attributes_type": lambda: f"{shown} is not a map; write key: value below it",
        "string_pattern_mismatch": lambda: f"{shown} does not fit the pattern {more['pattern']}",
        "too_short": lambda: f"holds too few entries; the least is {more['min_length']}",
    }
    return table[kind]() if kind in table else f"{shown}: {detail['msg']}"


def _shown(given: object) -> str:
    if given is None:
        return "nothing"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, str):
        return f'"{given[:60]}"'
    if isinstance(given, dict | list | tuple):
        return "a map" if isinstance(given, dict) else "a list"
    return str(given)[:60]


def _not_one_of(given: object, expected: str) -> str:
    allowed = re.findall(r"'([^']*)'", expected)
    remedy = meant(str(given), allowed) or f"write one of {', '.join(allowed)}"
    return f"{_shown(given)} is not known here; {remedy}"
