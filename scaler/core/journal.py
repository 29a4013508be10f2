"""What is written down: one Entry for every fact, from which logs, `explain` and `status` derive.

An entry about a decision carries the facts it was made from, so replaying them through `decide`
gives the same count again. The JSON form leaves defaults out; no `version` in it means 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter

from scaler.core.model import Decision, Fleet, History, Reading

VERSION: Final = 1


class Kind(StrEnum):
    """What an entry is about."""

    DECIDED = "decided"  # a decision that changes something, or a heartbeat
    ACTED = "acted"  # how an action ended
    DEFERRED = "deferred"  # the platform did not answer; the next tick is the retry
    PARKED = "parked"  # a person must change something
    COMMANDED = "commanded"  # pause, resume, hold, restart: by a person
    RELOADED = "reloaded"  # policies were read again
    STARTED = "started"
    STOPPED = "stopped"
    NOTICED = "noticed"  # degraded, recovered, clock stepped, late: about the daemon itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that `decide` was given."""

    policy: Mapping[str, Any]  # as `Policy.model_dump(mode="json")` wrote it
    fleet: Fleet
    readings: Mapping[str, Reading]
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal."""

    at: datetime
    kind: Kind
    target: str = ""  # empty: the daemon itself
    summary: str  # for the person on call: one line, no abbreviations
    ok: bool = True
    by: str = ""  # the person or rule behind it
    decision: Decision | None = None
    facts: Facts | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION


_ENTRY: Final = TypeAdapter(Entry)
_HISTORY: Final = TypeAdapter(History)


def entry_to_json(entry: Entry) -> bytes:
    return _ENTRY.dump_json(entry, exclude_defaults=True)


def entry_from_json(text: bytes | str) -> Entry:
    """The entry that `text` holds.

    Raises:
        ValueError: it is not one, or of an unknown version.
    """
    return _ENTRY.validate_json(text)


def history_to_json(history: History) -> bytes:
    return _HISTORY.dump_json(history, exclude_defaults=True)


def history_from_json(text: bytes | str) -> History:
    return _HISTORY.validate_json(text)
