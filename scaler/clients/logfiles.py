"""Files that other processes write to: keeping them small without their help."""

import os
import shutil
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 20


def rotate_if_large(path: Path, *, max_bytes: int, keep: int) -> bool:
    """Move what was written to `path.1` and so on and empty it, when it is larger than that.

    The writer holds the file open, so it is copied and cut; opened with O_APPEND it goes on at
    the new end. What is written between copy and cut is lost, and of a file that grew far beyond
    `max_bytes` only the newest part is kept. It is cut even when it cannot be copied: a full disk
    must not stay full because of a log.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= max_bytes:
        return False
    try:
        if keep:
            _copy(path, max(0, size - max_bytes), keep)
    finally:
        os.truncate(path, 0)
    return True


def _copy(path: Path, start: int, keep: int) -> None:
    for number in range(keep - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    newest = path.with_name(f"{path.name}.1")
    try:
        with path.open("rb") as source, newest.open("wb") as copy:
            source.seek(start)
            shutil.copyfileobj(source, copy, _CHUNK_BYTES)
    except OSError:
        newest.unlink(missing_ok=True)
        raise
