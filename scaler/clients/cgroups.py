"""What the kernel counts for containers, from the files of their control groups, version 1 or 2.

A path is what `/proc/PID/cgroup` says and only taken when the id of the container is in it, so a
number of a process that belongs to somebody else is never used. Files are opened once and read at
offset 0 from then on (1 µs in place of 12). When a group is removed, the kernel answers ENODEV for
its open files, also when the container has been started anew: two lives are never mixed.

Everything is for the thread of the loop: a read is too short to be worth a thread (docs of
`sources.docker`), and no lock has to keep a descriptor from being closed under a reader.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from errno import EMFILE, ENFILE, ENODEV
from pathlib import Path
from typing import Final

from scaler.clock import Clock

SHARED: Final = timedelta(milliseconds=250)  # one read serves all metrics of one tick
MOST_FILES: Final = 4096  # kept open, of all containers together
MOST_BYTES: Final = 16 * 1024  # of one file; memory.stat has 3 KiB, io.stat a line per device
NANO: Final = 1e-9
MICRO: Final = 1e-6

Counts = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """Why there is no number."""

    because: str
    elsewhere: bool = False  # the engine may know it


ENDED: Final = Absent("it has ended just now")


@dataclass(frozen=True, slots=True)
class Form:
    """Where one kind of number is, and how it is written."""

    files: tuple[str, ...]
    parse: Callable[..., Counts]
    controller: str = ""  # of version 1


def after(text: bytes, name: bytes) -> float:
    """The number behind `name` in a file of lines `name number`.

    Raises:
        ValueError: there is no such line.
    """
    start = 0 if text.startswith(name + b" ") else text.index(b"\n" + name + b" ") + 1
    start += len(name) + 1
    end = text.find(b"\n", start)
    return float(text[start : end if end >= 0 else None])


def _working_set(used: bytes, idle: float) -> Counts:
    whole = float(used)
    return (whole - idle if idle <= whole else whole,)


def _io_of_1(text: bytes) -> Counts:
    """Lines `8:0 Read 4096`."""
    sums = {b"Read": 0.0, b"Write": 0.0}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in sums:
            sums[words[1]] += float(words[2])
    return sums[b"Read"], sums[b"Write"]


def _io_of_2(text: bytes) -> Counts:
    """Lines `8:0 rbytes=4096 wbytes=0 rios=1 ...`."""
    sums = {b"rbytes": 0.0, b"wbytes": 0.0}
    for word in text.split():
        name, _, number = word.partition(b"=")
        if name in sums:
            sums[name] += float(number)
    return sums[b"rbytes"], sums[b"wbytes"]


def _pressure(text: bytes) -> Counts:
    """`some avg10=1.50 ...`: the share of the last ten seconds in which somebody waited."""
    start = text.index(b"avg10=") + 6
    return (float(text[start : text.index(b" ", start)]) / 100,)


def _network(text: bytes) -> Counts:
    """Bytes in and out of all interfaces but the loop."""
    came = went = 0.0
    found = False
    for line in text.splitlines()[2:]:
        name, _, numbers = line.partition(b":")
        if name.strip() != b"lo":
            words = numbers.split()
            came, went, found = came + float(words[0]), went + float(words[8]), True
    if not found:
        raise ValueError("it has no network of its own")
    return came, went


_IDLE_1, _IDLE_2 = b"total_inactive_file", b"inactive_file"
_THROTTLE = b"nr_periods", b"nr_throttled"
VERSION_1: Final[Mapping[str, Form]] = {
    "cpu": Form(("cpuacct.usage",), lambda t: (int(t) * NANO,), "cpuacct"),
    "throttle": Form(("cpu.stat",), lambda t: tuple(after(t, n) for n in _THROTTLE), "cpu"),
    "memory": Form(
        ("memory.usage_in_bytes", "memory.stat"),
        lambda used, stat: _working_set(used, after(stat, _IDLE_1)),
        "memory",
    ),
    "pids": Form(("pids.current",), lambda t: (float(t),), "pids"),
    "io": Form(("blkio.throttle.io_service_bytes_recursive",), _io_of_1, "blkio"),
}
VERSION_2: Final[Mapping[str, Form]] = {
    "cpu": Form(("cpu.stat",), lambda t: (after(t, b"usage_usec") * MICRO,)),
    "throttle": Form(("cpu.stat",), lambda t: tuple(after(t, n) for n in _THROTTLE)),
    "memory": Form(
        ("memory.current", "memory.stat"),
        lambda used, stat: _working_set(used, after(stat, _IDLE_2)),
    ),
    "pids": Form(("pids.current",), lambda t: (float(t),)),
    "io": Form(("io.stat",), _io_of_2),
    "pressure_cpu": Form(("cpu.pressure",), _pressure),
    "pressure_memory": Form(("memory.pressure",), _pressure),
    "pressure_io": Form(("io.pressure",), _pressure),
}


@dataclass(slots=True)
class _Group:
    """One life of one container."""

    container: str
    pid: int
    folders: Mapping[str, str]  # by controller; "" is version 2
    forms: dict[str, tuple[str, Form]] = field(default_factory=dict)  # with the folder
    files: dict[str, int] = field(default_factory=dict)
    texts: dict[str, tuple[timedelta, bytes]] = field(default_factory=dict)
    network: str | None = None  # why there is none of its own; None: not looked yet

    def close(self) -> None:
        for file in self.files.values():
            os.close(file)
        self.files.clear()


class Groups:
    """All control groups that are read by this process. Made as a part of `Context.shared`."""

    def __init__(
        self,
        clock: Clock,
        *,
        root: Path = Path("/sys/fs/cgroup"),
        proc: Path = Path("/proc"),
        most_files: int = MOST_FILES,
    ) -> None:
        self._clock = clock
        self._root = root
        self._proc = proc
        self._most_files = most_files
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._open = 0

    def read(self, kind: str, life: str, pid: int | None) -> tuple[timedelta, Counts] | Absent:
        """The numbers of one kind, and the monotonic moment they are of, at most 250 ms ago.

        `life` is the id of the container, "@" and what tells this start from others. The kinds:
        cpu (seconds), throttle (periods, throttled ones), memory (bytes without idle cache), pids,
        io and net (bytes read and written, in and out), pressure_cpu, _memory, _io (ratio).
        """
        group = self._groups.get(life)
        if group is None:
            found = self._find(life, pid)
            if isinstance(found, Absent):
                return found
            group = self._groups[life] = found
        else:
            self._groups.move_to_end(life)
        try:
            if kind == "net":
                return self._net(group)
            folder, form = group.forms.get(kind) or self._form(group, kind)
            files = form.files
            at, text = self._text(group, folder, files[0])
            if len(files) == 1:
                return at, form.parse(text)
            return at, form.parse(text, self._text(group, folder, files[1])[1])
        except OSError as error:
            return self._failed(life, error)
        except (LookupError, ValueError) as error:
            return Absent(f"{kind} cannot be read: {error}", elsewhere=True)

    def _text(self, group: _Group, folder: str, name: str) -> tuple[timedelta, bytes]:
        now = self._clock.monotonic()
        kept = group.texts.get(name)
        if kept is not None and now - kept[0] < SHARED:
            return kept
        path = f"{folder}/{name}"
        file = group.files.get(path)
        if file is None:
            file = self._opened(group, path)
        kept = group.texts[name] = now, os.pread(file, MOST_BYTES, 0)
        return kept

    def _opened(self, group: _Group, path: str) -> int:
        """Room is made by closing all of those that were not read for the longest time."""
        while self._open >= self._most_files and len(self._groups) > 1:
            self.drop(next(iter(self._groups)))
        file = group.files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open += 1
        return file

    def _failed(self, life: str, error: OSError) -> Absent:
        self.drop(life)
        if error.errno == ENODEV:
            return ENDED
        if error.errno in (EMFILE, ENFILE):
            return Absent("too many files are open; raise the limit of open files", elsewhere=True)
        return Absent(f"{error.filename or 'a control group'}: {error.strerror}", elsewhere=True)

    def drop(self, life: str) -> None:
        """Let go of what is open of one life; a removed group stays in memory while it is open."""
        group = self._groups.pop(life, None)
        if group is not None:
            self._open -= len(group.files)
            group.close()

    def aclose(self) -> None:
        for life in list(self._groups):
            self.drop(life)

    # --- finding ---

    def _find(self, life: str, pid: int | None) -> _Group | Absent:
        if not pid:
            return Absent("nobody says which process it is", elsewhere=True)
        container = life.partition("@")[0]
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            return Absent(f"its process {pid} cannot be seen from here", elsewhere=True)
        folders = {}
        for line in lines:
            _, controllers, path = line.split(":", 2)
            own = _up_to(path, container)
            if own:
                folders.update(dict.fromkeys(controllers.split(","), own))
        if not folders:
            return Absent(f"process {pid} is another one here", elsewhere=True)
        return _Group(container, pid, folders)

    def _form(self, group: _Group, kind: str) -> tuple[str, Form]:
        """Where a kind of number is for this group; found once.

        Raises:
            LookupError: this kernel does not say it.
            OSError: the folder is not there.
        """
        form = VERSION_1.get(kind)
        if form is not None and form.controller in group.folders:
            mount = self._root / form.controller
            folder = _located(mount, group.folders[form.controller], form.files[0])
        elif kind in VERSION_2 and "" in group.folders:
            form = VERSION_2[kind]
            hybrid = self._root / "unified"
            mount = hybrid if hybrid.is_dir() else self._root
            folder = _located(mount, group.folders[""], form.files[0])
        else:
            raise LookupError("this kernel measures it for control groups of version 2 only")
        found = group.forms[kind] = folder, form
        return found

    def _net(self, group: _Group) -> tuple[timedelta, Counts]:
        """Opened each time: an open file would keep the network of a dead container alive."""
        kept = group.texts.get("net")
        now = self._clock.monotonic()
        process = self._proc / str(group.pid)
        if kept is None or now - kept[0] >= SHARED:
            if group.network is None:
                group.network = self._shares_network(process)
            if group.network:
                raise ValueError(group.network)
            text = (process / "net/dev").read_bytes()
            if group.container not in (process / "cgroup").read_text():
                raise OSError(ENODEV, os.strerror(ENODEV))
            kept = group.texts["net"] = now, text
        return kept[0], _network(kept[1])

    def _shares_network(self, process: Path) -> str:
        own = (process / "ns/net").readlink()
        host = {self._proc / "1/ns/net", self._proc / "self/ns/net"}
        for other in host:
            with suppress(OSError):
                if other.readlink() == own:
                    return "it shares the network of the host"
        return ""


def _up_to(path: str, container: str) -> str:
    """The part of `path` that ends with the group of the container; it may have made groups inside.

    Empty when the path is not of this container.
    """
    parts = path.split("/")
    for number, part in enumerate(parts):
        if container in part:
            return "/".join(parts[: number + 1])
    return ""


def _located(mount: Path, path: str, file: str) -> str:
    """The folder of a group below the mount.

    From inside a container with its own view of groups, a path begins with `/..` and lacks the
    names above us; the id of the container makes it unique below the mount all the same.

    Raises:
        FileNotFoundError: it is not there.
    """
    inner = path.lstrip("/")
    if not inner.startswith(".."):
        return str(mount / inner)
    inner = "/".join(part for part in inner.split("/") if part != "..")
    for above in ("", "*/", "*/*/"):
        for found in mount.glob(f"{above}{inner}/{file}"):
            return str(found.parent)
    raise FileNotFoundError(2, "the control groups of the host are not mounted here", str(mount))
