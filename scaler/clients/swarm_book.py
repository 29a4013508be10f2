"""What we last asked of each service, on disk: who else changes the count can be told from us."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from scaler.errors import ScalerError, Unavailable, translate

ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {OSError: Unavailable}


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One service."""

    service: str  # its id: a new one of the same name is another
    asked: int
    before: int | None = None  # while we write, nobody knows which of both holds


class Book:
    """One small file for each policy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Note | None] = {}

    def read(self, policy: str) -> Note | None:
        """None when nothing was asked yet, or the file says nothing that we understand."""
        if policy not in self._known:
            try:
                self._known[policy] = Note(**json.loads(self._path(policy).read_text()))
            except (OSError, ValueError, TypeError):
                self._known[policy] = None
        return self._known[policy]

    def write(self, policy: str, note: Note) -> None:
        """Either the old note stays or the new one is there.

        Raises:
            Unavailable: it cannot be written; nothing has been asked yet.
        """
        if self.read(policy) == note:
            return
        path = self._path(policy)
        fresh = path.with_suffix(".new")
        with translate(ERRORS, doing=f"cannot keep files in {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("w") as file:
                json.dump(asdict(note), file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        self._known[policy] = note

    def _path(self, policy: str) -> Path:
        return self._folder / f"{policy}.json"
