"""The way to one value in a JSON document: `$.queue["a.b"].depths[0]`, and nothing else."""

import re
from collections.abc import Iterable
from typing import Any, Final

STEP: Final = re.compile(r'\.([A-Za-z_][\w-]*)|\[(-?\d{1,9})\]|\["((?:[^"\\]|\\.){1,200})"\]')
MOST_STEPS: Final = 32

Path = tuple[str | int, ...]


def parse(written: str) -> Path:
    """The keys and places that lead to the value.

    Raises:
        ValueError: it cannot be read; the message says what can.
    """
    path: list[str | int] = []
    at = 1
    while written.startswith("$") and at < len(written) and len(path) < MOST_STEPS:
        step = STEP.match(written, at)
        if step is None:
            break
        name, place, key = step.groups()
        path.append(name or (int(place) if place else re.sub(r"\\(.)", r"\1", key)))
        at = step.end()
    if not written.startswith("$") or at != len(written):
        example = 'write it like $.queue.depth, $.queues[0].depth or $["a key"]'
        raise ValueError(f'"{written[:60]}" is not a path; {example}')
    return tuple(path)


def find(document: Any, path: Path) -> Any:
    """The value at `path`.

    Raises:
        LookupError: it is not there; the message says how far the path leads.
    """
    here = document
    for number, step in enumerate(path):
        if isinstance(step, str):
            known = isinstance(here, dict) and step in here
        else:
            known = isinstance(here, list) and -len(here) <= step < len(here)
        if not known:
            raise LookupError(f"{shown(path[:number])} has no {_step(step)}; {_instead(here)}")
        here = here[step]
    return here


def shown(path: Iterable[str | int]) -> str:
    return "$" + "".join(_step(step) for step in path)


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{step}" if re.fullmatch(r"[A-Za-z_][\w-]*", step) else f'["{step}"]'


def _instead(here: Any) -> str:
    if isinstance(here, dict):
        some = ", ".join(str(key)[:40] for key in list(here)[:5])
        return f"there are {some}" if some else "it is empty"
    if isinstance(here, list):
        return f"it is a list of {len(here)}"
    return f"it is {str(here)[:40]!r}"
