"""What the other containers of this pod use, for a scaler that runs beside them.

With `shareProcessNamespace` the processes of all containers are in our `/proc`, and behind the root
of each of them is what its container sees: its own control group. A process of another user keeps
its root to itself; then its lines in `/proc`, which everybody may read, are summed up.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scaler.clients import usage
from scaler.clients.cgroups import VERSION_1, VERSION_2
from scaler.clients.processes import PROC, Process, parse_stat

MOST_PROCESSES: Final = 4096  # of a pod; more are the processes of a machine
MOST_BYTES: Final = 64 * 1024  # of a file
TRIES: Final = 3  # processes of one container whose root is looked through
PAUSE: Final = "pause"  # holds the namespaces of a pod together
KTHREADD: Final = (2, "kthreadd")  # the kernel's, in no namespace but the machine's


@dataclass(frozen=True, slots=True)
class Used:
    """By one life of one container since it began."""

    cpu_s: float
    memory_bytes: float  # working set, or resident memory where that cannot be seen


class PodUsage:
    """Looks at the pod around us. What it keeps is for sums over processes that end meanwhile."""

    def __init__(
        self, *, proc: Path = PROC, pids: Callable[[], Iterable[int]] | None = None, ours: str = ""
    ) -> None:
        """`pids` says who is there, `ours` is our own control groups; both found in `proc`."""
        self._proc = proc
        self._pids = pids or self._all
        self._ours = ours
        self._sums: dict[str, usage.Usage] = {}

    def look(self) -> Mapping[str, Used]:
        """What each container has used, by what tells its lives from each other. Blocks.

        Raises:
            LookupError: nothing is known, and what to do about it.
        """
        found: dict[str, Used] = {}
        sums: dict[str, usage.Usage] = {}
        for groups, processes in self._containers().items():
            for process in processes[:TRIES]:
                try:
                    life, used = self._of_group(process.pid)
                except (OSError, ValueError, LookupError):
                    continue  # the next one may let us in
                found[life] = used
                break
            else:
                sums[groups] = measured = usage.measured(self._sums.get(groups), processes)
                memory = usage.memory_bytes(processes)
                found[f"processes {groups}"] = Used(measured.cpu_s, float(memory))
        self._sums = sums
        if not found:
            raise LookupError(
                "no other container of this pod can be seen; set shareProcessNamespace: true in "
                "the pod template"
            )
        return found

    # --- who is there ---

    def _containers(self) -> Mapping[str, list[Process]]:
        """All processes but ours, by their control groups, oldest first."""
        ours = self._ours or self._groups("self")
        found: dict[str, list[Process]] = defaultdict(list)
        for number, pid in enumerate(self._pids()):
            if number >= MOST_PROCESSES:
                raise LookupError(f"more than {MOST_PROCESSES} processes are in this pod")
            try:
                groups = self._groups(str(pid))
                line = self._read(f"{pid}/stat")
            except OSError:
                continue  # it has ended
            process, name = parse_stat(line), _name(line)
            if (pid, name) == KTHREADD:
                raise LookupError(
                    "with hostPID the processes of all pods are seen here; set "
                    "shareProcessNamespace: true in its place"
                )
            if process is not None and groups != ours and (pid, name) != (1, PAUSE):
                found[groups].append(process)
        return found

    def _all(self) -> Iterable[int]:
        names = os.listdir(self._proc)  # noqa: PTH208 - Path objects would double the time
        return sorted(int(name) for name in names if name.isdigit())

    def _groups(self, process: str) -> str:
        return self._read(f"{process}/cgroup").decode(errors="replace")

    def _read(self, path: str) -> bytes:
        with open(self._proc / path, "rb", buffering=0) as file:  # noqa: PTH123 - see _all
            return file.read(MOST_BYTES)

    # --- control groups ---

    def _of_group(self, pid: int) -> tuple[str, Used]:
        """Of the container around a process, as that container sees itself.

        A process with the groups of the whole machine in its root is not in the topmost of them,
        so numbers of others are never taken for its own.
        """
        mount = self._proc / str(pid) / "root/sys/fs/cgroup"
        forms = VERSION_2 if (mount / "cgroup.controllers").exists() else VERSION_1
        numbers = []
        life = ""
        for kind in ("cpu", "memory"):
            form = forms[kind]
            with _opened(mount / form.controller, os.O_DIRECTORY) as folder:
                members = _text("cgroup.procs", folder).split()
                if str(pid).encode() not in members:
                    raise LookupError(f"process {pid} is not in the group that it sees")
                numbers.append(form.parse(*(_text(name, folder) for name in form.files))[0])
                life = f"group {os.fstat(folder).st_ino}"
        return life, Used(*numbers)


@contextmanager
def _opened(path: Path | str, flags: int, folder: int | None = None) -> Iterator[int]:
    """A descriptor; nothing that a stranger has put there makes us wait."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags, dir_fd=folder)
    try:
        yield file
    finally:
        os.close(file)


def _text(name: str, folder: int) -> bytes:
    parts = []
    left = MOST_BYTES
    with _opened(name, os.O_NOFOLLOW, folder) as file:
        while left > 0 and (part := os.read(file, left)):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def _name(line: bytes) -> str:
    """From a line of `/proc/PID/stat`, where it stands in brackets and may hold some."""
    return line.partition(b"(")[2].rpartition(b")")[0].decode(errors="replace")
