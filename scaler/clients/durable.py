"""Small files that survive a power cut."""

import os
from pathlib import Path


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
