"""What trees of processes use: CPU with every child that came and went, and memory."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scaler.clients.processes import PAGE_BYTES, TICKS_PER_S, Process

Key = tuple[int, int]  # pid and start ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU of one tree since it was first looked at. Never falls."""

    cpu_ticks: int = 0
    members: Mapping[Key, Process] = field(default_factory=dict)
    owed: Mapping[Key, int] = field(default_factory=dict)  # counted, still to arrive at the parent

    @property
    def cpu_s(self) -> float:
        return self.cpu_ticks / TICKS_PER_S


def measured(before: Usage | None, tree: Iterable[Process]) -> Usage:
    """`before`, and what the tree has used since.

    A child that ended and was waited for is in `child_ticks` of its parent, all of it at once;
    what was counted while it ran is taken off there. A scan is not one moment: a child may be gone
    from it before its parent shows its time, so this debt lives for one more look. Time of a child
    that nobody waited for stays counted.
    """
    members = {(p.pid, p.start_ticks): p for p in tree}
    if before is None:
        return Usage(cpu_ticks=sum(_total(p) for p in members.values()), members=members)
    absorbed = _absorbed(before, members)
    ticks, owed = before.cpu_ticks, {}
    for key, process in members.items():
        old = before.members.get(key)
        if old is None:
            ticks += _total(process)
            continue
        due = absorbed[key] + before.owed.get(key, 0)
        gained = process.child_ticks - old.child_ticks
        ticks += max(0, process.own_ticks - old.own_ticks) + max(0, gained - due)
        if gained < due:
            owed[key] = min(due - gained, absorbed[key])
    return Usage(cpu_ticks=ticks, members=members, owed=owed)


def _absorbed(before: Usage, members: Mapping[Key, Process]) -> Mapping[Key, int]:
    """What the nearest living ancestors may get from those that are gone, in ticks."""
    by_pid = {process.pid: process for process in before.members.values()}
    found: dict[Key, int] = defaultdict(int)
    for key, process in before.members.items():
        if key in members:
            continue
        heir = by_pid.get(process.parent)
        for _ in by_pid:  # a bound: pids that changed hands could form a ring
            if heir is None or (heir.pid, heir.start_ticks) in members:
                break
            heir = by_pid.get(heir.parent)
        if heir is not None:
            found[heir.pid, heir.start_ticks] += _total(process)
    return found


def _total(process: Process) -> int:
    return process.own_ticks + process.child_ticks


def memory_bytes(tree: Iterable[Process]) -> int:
    """Resident memory (RSS). Pages that processes share count once for each of them: exact
    shares (PSS) walk all page tables of a process, and a number too high errs towards growing.
    """
    return sum(process.rss_bytes for process in tree)


def memory_limit(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that we may use: the least of the machine's and those of our control groups."""
    limits = [os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES]
    with suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                base, name = mount, "memory.max"
            elif "memory" in controllers.split(","):
                base, name = mount / "memory", "memory.limit_in_bytes"
            else:
                continue
            folder = base / path.lstrip("/")
            for place in (folder, *folder.parents):
                with suppress(OSError, ValueError):  # not there, or "max"
                    limits.append(int((place / name).read_text()))
    return min(limits)
