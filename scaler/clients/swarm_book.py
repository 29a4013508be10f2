"""What we last asked of each service, on disk: who else changes the count can be told from us."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from scaler.clients import durable

log = structlog.get_logger(__name__)


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

        A full or read-only disk must not keep services too small: then it is kept in memory.
        """
        if self.read(policy) == note:
            return
        self._known[policy] = note
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            durable.replace(self._path(policy), json.dumps(asdict(note)).encode())
        except OSError as error:
            log.warning("state.kept_in_memory", path=str(self._path(policy)), error=error.strerror)

    def _path(self, policy: str) -> Path:
        return self._folder / f"{policy}.json"
