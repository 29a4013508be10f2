"""Numbered slots for processes, and the file in which they are remembered.

The file is written before a process starts (what is meant to run) and after (which process it
is), by rename and fsync, so that a daemon that is killed at any moment finds all of it again.
"""

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from scaler.clients import durable
from scaler.clients.processes import Identity, Process, age, identity

VERSION: Final = 1
Port = Annotated[int, Field(ge=1, le=65535)]
Index = Annotated[int, Field(ge=0, le=99_999)]


class Phase(StrEnum):
    """Where a slot stands."""

    STARTING = "starting"  # meant to start; perhaps it has
    RUNNING = "running"
    STOPPING = "stopping"  # until it has ended, then the slot is gone
    RESTARTING = "restarting"  # until it has ended, then it starts again
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One numbered place for one process and all that it starts."""

    index: Index
    instance: Annotated[str, Field(min_length=1)]  # of this start; also in its environment
    phase: Phase
    template: str  # what it was made from
    created_at: AwareDatetime
    port: Port | None = None
    process: Identity | None = None
    started_at: AwareDatetime | None = None
    because: str = ""
    failed_at: AwareDatetime | None = None
    kill_at: AwareDatetime | None = None  # what is left of it by then is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """All slots of one policy."""

    wanted: Annotated[int, Field(ge=0)] = 0
    slots: Mapping[Index, Slot] = field(default_factory=dict)
    version: Literal[1] = VERSION


_BOOK: Final = TypeAdapter(Book)


def read(path: Path) -> Book | None:
    """None when there is no file; raises Broken when it is not one of ours."""
    book = durable.read(path, _BOOK)
    if book and any(index != slot.index for index, slot in book.slots.items()):
        raise durable.Broken(f"{path}: slots: a slot stands under another number than its own")
    return book


def write(path: Path, book: Book) -> None:
    """Either the old content stays or the new one is there, also after a power cut."""
    durable.replace(path, _BOOK.dump_json(book, exclude_none=True))


def plan_adoption(
    kept: Book | None, found: Mapping[str, Process], *, boot: str, now: datetime
) -> Book:
    """The slots as they are after a start of the daemon.

    `found` are first processes by instance. What was meant to start and has not is left out, so
    that the engine asks again; so is everything from before a restart of the machine.
    """
    book, unknown = kept or Book(), dict(found)
    after: dict[int, Slot] = {}
    for index, slot in book.slots.items():
        process = unknown.pop(slot.instance, None)
        if slot.phase is not Phase.STARTING:
            if slot.process is None or slot.process.boot_id == boot:
                after[index] = slot
        elif process:
            after[index] = _running(slot, process, now)
    for instance, process in unknown.items():
        marker = process.marker
        index = marker.slot if marker and marker.slot is not None else 0
        index = unused(after) if index in after else index
        slot = Slot(
            index=index,
            instance=instance,
            phase=Phase.RUNNING,
            template=marker.template if marker else "",
            created_at=now - age(process),
            port=marker.port if marker else None,
        )
        after[index] = _running(slot, process, now)
    return Book(wanted=len(after) if kept is None else book.wanted, slots=after)


def _running(slot: Slot, process: Process, now: datetime) -> Slot:
    started_at = now - age(process)
    return replace(slot, phase=Phase.RUNNING, process=identity(process), started_at=started_at)


def staying(book: Book) -> list[Slot]:
    return [slot for slot in book.slots.values() if slot.phase is not Phase.STOPPING]


def victims(present: Sequence[Slot], count: int, named: Container[int]) -> list[Slot]:
    """Those that were named, then what has failed, then the newest."""

    def missed(slot: Slot) -> tuple[object, ...]:
        born = slot.created_at.timestamp()
        return slot.index not in named, slot.phase is not Phase.FAILED, -born, -slot.index

    return sorted(present, key=missed)[: max(0, count)]


def changed(book: Book, changes: Mapping[int, Slot | None], wanted: int | None = None) -> Book:
    merged = {**book.slots, **changes}
    return Book(
        wanted=book.wanted if wanted is None else wanted,
        slots={index: slot for index, slot in merged.items() if slot is not None},
    )


def unused(used: Container[int]) -> int:
    return next(index for index in itertools.count() if index not in used)
