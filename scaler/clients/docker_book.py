"""What one policy means to have on an engine: the count, the template, and what is under way.

The file is written before anything is asked of the engine, by rename and fsync. Containers that
simply run are not in it: their labels tell of them. So a daemon that is killed at any moment finds
what it was about to do here and what it has done there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from scaler.clients import durable

VERSION: Final = 1
SLOTS_MOST: Final = 5000  # a file with more is not one of ours


class Phase(StrEnum):
    """What is under way with one name."""

    STARTING = "starting"  # to be created and started; perhaps it has been
    FAILED = "failed"  # nothing of it is left on the engine; waits for a restart
    STOPPING = "stopping"  # to be stopped and removed
    RESTARTING = "restarting"  # to be stopped if it runs, and started
    WARMING = "warming"  # a spare to be created, started and paused
    SPARE = "spare"  # paused, until it is needed
    JOINING = "joining"  # a spare that is to go on


SPARES: Final = (Phase.WARMING, Phase.SPARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One container by its name, and what is to become of it."""

    name: Annotated[str, Field(min_length=1)]
    number: int
    phase: Phase
    since: AwareDatetime
    instance: str  # of this start, also in its label; of others its id
    container: str = ""  # its id, once there is one
    ports: Mapping[str, int] = field(default_factory=dict)  # host port by "8080/tcp"
    because: str = ""
    failed_at: AwareDatetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """All that is meant for one policy."""

    wanted: Annotated[int, Field(ge=0)] | None = None  # None: never looked at
    slots: Annotated[Mapping[str, Slot], Field(max_length=SLOTS_MOST)] = field(default_factory=dict)
    template: Mapping[str, Any] | None = None
    origin: str = ""  # what the template was made from
    held: Annotated[Sequence[str], Field(max_length=SLOTS_MOST)] = ()  # incarnations left alone
    version: Literal[1] = VERSION


_BOOK: Final = TypeAdapter(Book)


def read(path: Path) -> Book:
    """A fresh book when there is no file; raises Broken when it is not one of ours."""
    book = durable.read(path, _BOOK) or Book()
    if any(name != slot.name for name, slot in book.slots.items()):
        raise durable.Broken(f"{path}: slots: one stands under another name than its own")
    return book


def write(path: Path, book: Book) -> None:
    """Either the old content stays or the new one is there, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(path, _BOOK.dump_json(book))
