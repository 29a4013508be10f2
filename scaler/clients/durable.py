"""Small files that survive a power cut."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class Broken(Exception):
    """The file cannot be understood."""


def read(path: Path, form: TypeAdapter[T]) -> T | None:
    """What is in the file; None when there is none. Raises Broken when it is not one of ours."""
    try:
        return form.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in first["loc"])
        raise Broken(f"{path}: {place}{first['msg']}") from error


def replace(path: Path, content: bytes) -> None:
    """Either the old content stays or the new one is there. Blocks until it is on the disk."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def set_aside(path: Path) -> Path:
    """Keep a file that cannot be read for the person who wonders what was in it; the newest."""
    return path.replace(path.with_name(f"{path.name}.broken"))
