"""What the kernel counts for containers, from the files of their control groups, version 1 or 2.

A path is what `/proc/PID/cgroup` says and only taken when the id of the container is in it, so a
number of a process that belongs to somebody else is never used. Files are opened once and read at
offset 0 from then on (1 µs in place of 12). When a group is removed, the kernel answers ENODEV for
its open files, also when the container has been started anew: two lives are never mixed.

Everything is for the thread of the loop: a read is too short to be worth a thread (docs of
`sources.docker`), and no lock has to keep a descriptor from being closed under a reader.
"""

import os
import resource
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from errno import EBADF, EMFILE, ENFILE, ENODEV
from functools import partial
from os import pread  # a name of this module is found sooner
from pathlib import Path
from typing import Final, Protocol

SHARED: Final = timedelta(milliseconds=250)  # one read serves all metrics of one tick
MOST_FILES: Final = 4096  # kept open, of all containers together
MOST_BYTES: Final = 16 * 1024  # of io.stat: a line per device
SMALL: Final = 64  # of a file with a single number; a buffer too large costs half a µs
SIZES: Final = {
    "memory.stat": 8192,
    "cpu.stat": 2048,
    "cpuacct.usage": SMALL,
    "pids.current": SMALL,
}
NEVER: Final = timedelta(-1)
SHORTEST_ID: Final = 12  # characters; a shorter one could be in the path of another
CLOSED: Final = -1  # no descriptor: reading it is EBADF
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


def after(name: bytes) -> Callable[[bytes], float]:
    """A parser for the number behind `name` in a file of lines `name number`.

    It raises a ValueError when there is no such line.
    """
    first, later = name + b" ", b"\n" + name + b" "
    skipped = len(later)

    def parse(text: bytes) -> float:
        start = len(first) if text.startswith(first) else text.index(later) + skipped
        return float(text[start : text.find(b"\n", start)])

    return parse


def _working_set(name: bytes) -> Callable[[bytes, bytes], Counts]:
    """A parser for usage without the cache that nobody has used lately, as `docker stats`."""
    before = b"\n" + name + b" "
    skipped = len(before)

    def parse(used: bytes, stat: bytes) -> Counts:
        start = stat.index(before) + skipped
        whole, idle = int(used), int(stat[start : stat.find(b"\n", start)])
        return (float(whole - idle if idle <= whole else whole),)

    return parse


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


_usage, _periods, _held = after(b"usage_usec"), after(b"nr_periods"), after(b"nr_throttled")
VERSION_1: Final[Mapping[str, Form]] = {
    "cpu": Form(("cpuacct.usage",), lambda t: (int(t) * NANO,), "cpuacct"),
    "throttle": Form(("cpu.stat",), lambda t: (_periods(t), _held(t)), "cpu"),
    "memory": Form(
        ("memory.usage_in_bytes", "memory.stat"),
        _working_set(b"total_inactive_file"),
        "memory",
    ),
    "pids": Form(("pids.current",), lambda t: (float(t),), "pids"),
    "io": Form(("blkio.throttle.io_service_bytes_recursive",), _io_of_1, "blkio"),
}
VERSION_2: Final[Mapping[str, Form]] = {
    "cpu": Form(("cpu.stat",), lambda t: (_usage(t) * MICRO,)),
    "throttle": Form(("cpu.stat",), lambda t: (_periods(t), _held(t))),
    "memory": Form(
        ("memory.current", "memory.stat"),
        _working_set(b"inactive_file"),
    ),
    "pids": Form(("pids.current",), lambda t: (float(t),)),
    "io": Form(("io.stat",), _io_of_2),
    "pressure_cpu": Form(("cpu.pressure",), _pressure),
    "pressure_memory": Form(("memory.pressure",), _pressure),
    "pressure_io": Form(("io.pressure",), _pressure),
}


class _Files:
    """One or two files that are read together, and what they said last."""

    __slots__ = ("at", "first", "more", "most", "second", "text")

    def __init__(self) -> None:
        self.first = CLOSED
        self.second = CLOSED
        self.most = MOST_BYTES  # of the last of them
        self.at = NEVER
        self.text = b""  # of the first
        self.more = b""  # of the second

    def close(self) -> int:
        """How many descriptors that were."""
        opened = [file for file in (self.first, self.second) if file != CLOSED]
        self.first = self.second = CLOSED
        for file in opened:
            os.close(file)
        return len(opened)


class _Group:
    """One life of one container."""

    __slots__ = ("container", "files", "folders", "network", "pid")

    def __init__(self, container: str, pid: int, folders: Mapping[str, str]) -> None:
        self.container = container
        self.pid = pid
        self.folders = folders  # by controller; "" is version 2
        self.files: dict[tuple[str, ...], _Files] = {}  # by folder and names
        self.network: str | None = None  # why there is none of its own; None: not looked yet

    def read_at(self) -> timedelta:
        return max((files.at for files in self.files.values()), default=NEVER)

    def close(self) -> int:
        return sum(files.close() for files in self.files.values())


class Reader(Protocol):
    """One kind of number of one life of a container, for as long as it lives."""

    def read(self, now: timedelta) -> tuple[timedelta, Counts]:
        """The numbers, and the monotonic moment they are of, which is at most 250 ms before `now`.

        Raises:
            OSError: the kernel refuses; ENODEV when the container has ended.
            ValueError: a file is not what it should be.
            LookupError: it is not to be had any more.
        """
        ...


class _FileReader:
    """A plain object: a closure is spread over ten pieces of memory, each of them cold by then."""

    __slots__ = ("again", "double", "files", "parse")

    def __init__(self, files: _Files, form: Form, again: Callable[[], Reader]) -> None:
        self.files = files
        self.parse = form.parse
        self.double = len(form.files) > 1
        self.again = again

    def read(self, now: timedelta) -> tuple[timedelta, Counts]:
        files = self.files
        if now - files.at >= SHARED:
            try:
                if self.double:
                    files.text = pread(files.first, SMALL, 0)
                    files.more = pread(files.second, files.most, 0)
                else:
                    files.text = pread(files.first, files.most, 0)
            except OSError as error:
                if error.errno != EBADF:
                    raise
                return self.again().read(now)  # it was closed to make room
            files.at = now
        if self.double:
            return files.at, self.parse(files.text, files.more)
        return files.at, self.parse(files.text)


class _NetworkReader:
    """Opens its file each time: an open one would keep the network of a dead container alive."""

    __slots__ = ("container", "files", "process")

    def __init__(self, files: _Files, process: Path, container: str) -> None:
        self.files = files
        self.process = process
        self.container = container

    def read(self, now: timedelta) -> tuple[timedelta, Counts]:
        files = self.files
        if now - files.at >= SHARED:
            text = (self.process / "net/dev").read_bytes()
            if self.container not in (self.process / "cgroup").read_text():
                raise OSError(ENODEV, os.strerror(ENODEV))
            files.text, files.at = text, now
        return files.at, _network(files.text)


class Groups:
    """All control groups that are read by this process. Made as a part of `Context.shared`."""

    def __init__(
        self,
        *,
        root: Path = Path("/sys/fs/cgroup"),
        proc: Path = Path("/proc"),
        most_files: int = 0,
    ) -> None:
        """`most_files` are kept open; by default half of what this process may open."""
        self._root = root
        self._proc = proc
        self._most_files = most_files or min(MOST_FILES, _allowed() // 2)
        self._groups: dict[str, _Group] = {}
        self._open = 0

    def reader(self, kind: str, life: str, pid: int | None) -> Reader:
        """How to read one kind of number of one life, good for as long as it lives.

        `life` is the id of the container, "@" and what tells this start from others. The kinds:
        cpu (seconds), throttle (periods, throttled ones), memory (bytes without idle cache), pids,
        io and net (bytes read and written, in and out), pressure_cpu, _memory, _io (ratio).

        Raises:
            LookupError: it is not to be had here.
            OSError: the kernel refuses; `failed` says what that means.
        """
        group = self._groups.get(life)
        if group is None:
            group = self._find(life, pid)
            self._groups[life] = group
        if kind == "net":
            return self._network_reader(group)
        folder, form = self._form(group, kind)
        files = self._files(group, folder, form)
        return _FileReader(files, form, partial(self.reader, kind, life, pid))

    def _files(self, group: _Group, folder: str, form: Form) -> _Files:
        key = (folder, *form.files)
        files = group.files.get(key)
        if files is None:
            files = _Files()
            try:
                files.first = self._opened(group, f"{folder}/{form.files[0]}")
                for name in form.files[1:]:
                    files.second = self._opened(group, f"{folder}/{name}")
            except OSError:
                self._open -= files.close()
                raise
            files.most = SIZES.get(form.files[-1], MOST_BYTES)
            group.files[key] = files
        return files

    def _opened(self, group: _Group, path: str) -> int:
        """Room is made by closing all files of the container that was read longest ago."""
        while self._open >= self._most_files and len(self._groups) > 1:
            others = (life for life, other in self._groups.items() if other is not group)
            self.drop(min(others, key=lambda life: self._groups[life].read_at()))
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open += 1
        return file

    def failed(self, kind: str, life: str, error: Exception) -> Absent:
        """What an error of `reader` or of what it returned means."""
        if not isinstance(error, OSError):
            return Absent(f"{kind.replace('_', ' ')} cannot be read: {error}", elsewhere=True)
        if error.errno == ENODEV:
            self.drop(life)
            return ENDED
        if error.errno in (EMFILE, ENFILE):
            return Absent("too many files are open; raise the limit of open files", elsewhere=True)
        return Absent(f"{error.filename or 'a control group'}: {error.strerror}", elsewhere=True)

    def drop(self, life: str) -> None:
        """Let go of what is open of one life; a removed group stays in memory while it is open."""
        group = self._groups.pop(life, None)
        if group is not None:
            self._open -= group.close()

    async def aclose(self) -> None:
        for life in list(self._groups):
            self.drop(life)

    # --- finding ---

    def _find(self, life: str, pid: int | None) -> _Group:
        if not pid:
            raise LookupError("nobody says which process it is")
        container = life.partition("@")[0]
        if len(container) < SHORTEST_ID:
            raise LookupError("nobody says which container it is")
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError as error:
            raise LookupError(f"its process {pid} cannot be seen from here") from error
        folders = {}
        for line in lines:
            _, controllers, path = line.split(":", 2)
            own = _up_to(path, container)
            if own:
                folders.update(dict.fromkeys(controllers.split(","), own))
        if not folders:
            raise LookupError(f"process {pid} is another one here")
        return _Group(container, pid, folders)

    def _form(self, group: _Group, kind: str) -> tuple[str, Form]:
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
        return folder, form

    def _network_reader(self, group: _Group) -> Reader:
        process = self._proc / str(group.pid)
        if group.network is None:
            group.network = self._shares_network(process)
        if group.network:
            raise LookupError(group.network)
        files = group.files.setdefault(("net",), _Files())
        return _NetworkReader(files, process, group.container)

    def _shares_network(self, process: Path) -> str:
        own = (process / "ns/net").readlink()
        host = {self._proc / "1/ns/net", self._proc / "self/ns/net"}
        for other in host:
            with suppress(OSError):
                if other.readlink() == own:
                    return "it shares the network of the host"
        return ""


def _allowed() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2 * MOST_FILES if soft == resource.RLIM_INFINITY else soft


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
