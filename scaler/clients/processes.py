"""Processes of this machine: who they are, how they start and how they end.

A pid alone names nobody: it is used again within hours. Here a process is boot id, pid and start
ticks (field 22 of `/proc/PID/stat`), or a pidfd. Children that left their group or session are
found again by a marker in their environment, which every descendant inherits.
"""

import asyncio
import os
import pwd
import resource
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from scaler.clock import Clock
from scaler.errors import PermanentError

PROC: Final = Path("/proc")
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
INSTANCE, OWNER, SLOT, TEMPLATE = (
    "SCALER_INSTANCE",
    "SCALER_OWNER",
    "SCALER_SLOT",
    "SCALER_TEMPLATE",
)
_FILES: Final = resource.getrlimit(resource.RLIMIT_NOFILE)  # soft and hard, as it came
# Ended while we looked, or not for us to see. Any other error tells nothing about the process.
_UNSEEN: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
_ENVIRON_BYTES: Final = 1 << 20  # no more of an environment is read
_KILL_EVERY: Final = timedelta(seconds=1)
_KILLS: Final = 5  # rounds of SIGKILL before we say that something does not end
_LOOKS: Final = 3  # so often a process without a marker is looked at: it may be about to exec


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever."""

    boot_id: str
    pid: Annotated[int, Field(gt=1)]  # a damaged file must not make us signal everybody
    start_ticks: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What we wrote into the environment of a process."""

    instance: str  # a new one for every start
    owner: str = ""
    slot: int | None = None
    template: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as one scan saw it."""

    pid: int
    parent: int
    session: int
    state: str
    start_ticks: int
    own_ticks: int  # CPU of itself, ended threads included
    child_ticks: int  # CPU of children it has waited for, and of theirs
    rss_bytes: int
    marker: Marker | None = None

    @property
    def alive(self) -> bool:
        """Where nobody reaps, the dead stay on as zombies."""
        return self.state not in "ZXx"


class Snapshot:
    """All processes at one moment."""

    def __init__(
        self,
        processes: Iterable[Process],
        *,
        at: datetime,
        monotonic: timedelta,
        roots: Mapping[str, Identity] | None = None,
    ) -> None:
        self.at = at
        self.monotonic = monotonic
        self.by_pid = {process.pid: process for process in processes}
        self._roots = dict(roots or {})
        self._children: dict[int, list[Process]] = defaultdict(list)
        self._sessions: dict[int, list[Process]] = defaultdict(list)
        self._marked: dict[str, list[Process]] = defaultdict(list)
        for process in self.by_pid.values():
            self._children[process.parent].append(process)
            self._sessions[process.session].append(process)
            if process.marker:
                self._marked[process.marker.instance].append(process)

    def tree(self, instance: str) -> tuple[Process, ...]:
        """Everything that belongs to `instance`, zombies included.

        That is what carries its marker, what shares the session of its first process, and all
        descendants of these. A pid that is another process by now adds nothing.
        """
        todo = list(self._marked.get(instance, ()))
        root = self._root(instance)
        if root:
            todo += [*self._sessions.get(root.pid, ()), root]
        found: dict[int, Process] = {}
        while todo:
            process = todo.pop()
            if process.pid not in found and process.pid not in (1, os.getpid()):
                found[process.pid] = process
                todo += self._children.get(process.pid, ())
        return tuple(found.values())

    def _root(self, instance: str) -> Process | None:
        identity = self._roots.get(instance)
        root = self.by_pid.get(identity.pid) if identity else None
        return root if identity and root and root.start_ticks == identity.start_ticks else None

    def owned(self, owner: str) -> dict[str, Process]:
        """The first process of every living instance that carries the marker of `owner`."""
        found: dict[str, Process] = {}
        for instance, members in self._marked.items():
            ours = [p for p in members if p.alive and p.marker and p.marker.owner == owner]
            if ours:
                # A leader of its session is what we started; a helper that outlived it may not be.
                found[instance] = min(ours, key=lambda p: (p.session != p.pid, p.start_ticks))
        return found


class ProcessTable:
    """Scans of `/proc`, one at a time and shared by all who ask meanwhile."""

    def __init__(self, clock: Clock) -> None:
        self.roots: dict[str, Identity] = {}  # first processes, for programs that hide the marker
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: Snapshot | None = None
        self._markers: dict[tuple[int, int], Marker | int] = {}

    async def look(self, *, max_age: timedelta = timedelta()) -> Snapshot:
        """All processes at a moment no earlier than `max_age` before this call.

        Raises:
            OSError: we have too many files open.
        """
        oldest = self._clock.monotonic() - max_age
        async with self._lock:
            if self._last is None or self._last.monotonic < oldest:
                self._last = await asyncio.to_thread(self._scan, dict(self.roots))
            return self._last

    def _scan(self, roots: Mapping[str, Identity]) -> Snapshot:
        """One pass. A marker once seen is kept, though a program may overwrite its environment."""
        at, monotonic = self._clock.now(), self._clock.monotonic()
        found: list[Process] = []
        markers: dict[tuple[int, int], Marker | int] = {}
        for name in os.listdir(PROC):  # noqa: PTH208 - Path objects would double the time
            process = read_process(int(name)) if name.isdigit() else None
            if process is None:
                continue
            key = process.pid, process.start_ticks
            known = self._markers.get(key, 0)
            if isinstance(known, int) and known < _LOOKS:
                known = read_marker(process.pid) or known + 1
            markers[key] = known
            found.append(replace(process, marker=known) if isinstance(known, Marker) else process)
        self._markers = markers
        return Snapshot(found, at=at, monotonic=monotonic, roots=roots)


def read_process(pid: int) -> Process | None:
    """One process without its marker; None when there is none of this pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - see _scan
            return parse_stat(file.read(4096))
    except _UNSEEN:
        return None


def parse_stat(line: bytes) -> Process | None:
    """A line of `/proc/PID/stat`; the name in it may hold blanks and brackets. See proc(5)."""
    head, _, tail = line.rpartition(b")")
    fields = tail.split()
    if len(fields) < 22:
        return None
    return Process(
        pid=int(head.partition(b" ")[0]),
        state=fields[0].decode(),
        parent=int(fields[1]),
        session=int(fields[3]),
        own_ticks=int(fields[11]) + int(fields[12]),
        child_ticks=int(fields[13]) + int(fields[14]),
        start_ticks=int(fields[19]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def read_marker(pid: int) -> Marker | None:
    """What we wrote into its environment; None also when we may not read it."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - see _scan
            return parse_environ(file.read(_ENVIRON_BYTES))
    except _UNSEEN:
        return None


def parse_environ(block: bytes) -> Marker | None:
    if INSTANCE.encode() not in block:
        return None
    pairs = (part.partition(b"=") for part in block.split(b"\0"))
    values = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
    if not values.get(INSTANCE):
        return None
    return Marker(
        instance=values[INSTANCE],
        owner=values.get(OWNER, ""),
        slot=_number(values.get(SLOT, "")),
        template=values.get(TEMPLATE, ""),
        port=_number(values.get("PORT", "")),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def identity(process: Process) -> Identity:
    return Identity(boot_id(), process.pid, process.start_ticks)


def age(process: Process) -> timedelta:
    """For how long it has run."""
    uptime = float((PROC / "uptime").read_text().split()[0])
    return timedelta(seconds=max(0.0, uptime - process.start_ticks / TICKS_PER_S))


# --- starting ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start one process."""

    command: Sequence[str]
    env: Mapping[str, str]  # all of it: nothing is inherited
    directory: str = ""
    user: str = ""
    log: Path


def account(user: str) -> pwd.struct_passwd:
    """The entry of `user`; PermanentError when there is none, or we may not become it."""
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise PermanentError(
            f'user: there is no user "{user}" on this machine; create it or correct the name'
        ) from None
    if os.geteuid() not in (0, found.pw_uid):
        raise PermanentError(
            f'user: only root may start processes as "{user}"; run scaler as root or remove user'
        )
    return found


def spawn(launch: Launch) -> tuple[Identity, int]:
    """Start a process in a session of its own; its identity and a pidfd that the caller closes.

    Its output goes to a file, since a pipe would break when we end. Our files are closed by the
    exec itself, not before: a lock that we hold lasts until the environment of the new process can
    be read, even when we are killed between fork and exec.

    Raises:
        OSError: the machine refuses; the message of it names the file.
    """
    _close_on_exec()
    extra: dict[str, Any] = {}
    if launch.user and os.geteuid() == 0:
        who = account(launch.user)
        groups = os.getgrouplist(who.pw_name, who.pw_gid)
        extra = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": groups}
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.open(launch.log, flags, 0o640)
    try:
        child = subprocess.Popen(  # noqa: S603 - it is the task
            list(launch.command),
            env=dict(launch.env),
            cwd=launch.directory or None,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=False,
            start_new_session=True,
            **extra,
        )
    finally:
        os.close(log)
    # We wait by pidfd. Popen must neither reap it behind our back nor warn that it still runs.
    child.returncode = 0
    with suppress(OSError):  # what we may open is not what it may
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, _FILES)
    try:
        return _identified(child.pid)
    except OSError:  # out of files, most likely; one that we cannot watch must not run
        os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        raise


def _identified(pid: int) -> tuple[Identity, int]:
    seen = read_process(pid)  # at the least a zombie: nobody but us reaps it
    if seen is None:
        raise ProcessLookupError(f"pid {pid} was started and cannot be seen in {PROC}")
    return identity(seen), os.pidfd_open(pid)


def allow_files() -> None:
    """Open as many files as the machine lets us: each process takes one, and 1024 is usual."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES[1], _FILES[1]))


def _close_on_exec() -> None:
    """Mark the files that somebody handed to us; Python marks its own."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - only the numbers are needed
        with suppress(OSError):  # the listing's own has gone already
            if int(name) > 2 and os.get_inheritable(int(name)):
                os.set_inheritable(int(name), False)


# --- watching and ending ---


def hold(process: Identity) -> int | None:
    """A pidfd of exactly this process, which the caller closes; None when it has ended.

    Raises:
        OSError: we have too many files open; whether it has ended is not known.
    """
    return _hold(process.pid, process.start_ticks) if process.boot_id == boot_id() else None


def _hold(pid: int, start_ticks: int) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    seen = read_process(pid)  # after the opening: now the pid cannot change hands unnoticed
    if seen and seen.alive and seen.start_ticks == start_ticks:
        return pidfd
    os.close(pidfd)
    return None


def watch(pidfd: int, ended: Callable[[], None]) -> None:
    """Call `ended` once when the process has, child of ours or not."""
    loop = asyncio.get_running_loop()

    def once() -> None:
        loop.remove_reader(pidfd)
        ended()

    loop.add_reader(pidfd, once)


def let_go(pidfd: int) -> None:
    """Watch no more, and close it."""
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)


def reap(pidfd: int) -> str:
    """How the process has ended, in words; our own child is reaped by that."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        result = None
    if result is None:
        return "ended; an earlier scaler had started it, so its exit code is unknown"
    if result.si_code == os.CLD_EXITED:
        return f"exit code {result.si_status}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(result.si_status).name}"
    return f"killed by signal {result.si_status}"


def send(processes: Iterable[Process], number: int) -> None:
    """Send a signal to each; those that have ended are left out, even if their pid lives on.

    Raises:
        OSError: we have too many files open.
    """
    for process in processes:
        pidfd = _hold(process.pid, process.start_ticks)
        if pidfd is None:
            continue
        with suppress(ProcessLookupError, PermissionError):  # who is still there is reported later
            signal.pidfd_send_signal(pidfd, number)
        os.close(pidfd)


async def wait_ended(processes: Iterable[Process], timeout: timedelta) -> None:
    """Until all of them have ended, or so long. Raises OSError as `send` does."""
    loop = asyncio.get_running_loop()
    fds: list[int] = []
    ends: list[asyncio.Future[None]] = []
    try:
        for process in processes:
            fd = _hold(process.pid, process.start_ticks)
            if fd is not None:
                fds.append(fd)
                end = loop.create_future()
                ends.append(end)
                watch(fd, lambda end=end: end.done() or end.set_result(None))  # type: ignore[misc]
        if ends:
            await asyncio.wait(ends, timeout=timeout.total_seconds())
    finally:
        for fd in fds:
            let_go(fd)


async def end_tree(
    table: ProcessTable, instance: str, *, number: int, kill_at: datetime, clock: Clock
) -> AsyncIterator[str]:
    """Ask everything of `instance` to stop, kill it at `kill_at`; yields whenever some withstand.

    Ends when nothing of it is left, however long that takes: a process that waits for a broken
    disk cannot be killed.
    """
    asked: set[tuple[int, int]] = set()
    kills = 0
    while True:
        try:
            tree = [p for p in (await table.look()).tree(instance) if p.alive]
            if not tree:
                return
            left = kill_at - clock.now()
            if left > timedelta():
                fresh = [p for p in tree if (p.pid, p.start_ticks) not in asked]
                send(fresh, number)
                send(fresh, signal.SIGCONT)  # a stopped one would not hear it
                asked |= {(p.pid, p.start_ticks) for p in fresh}
                await wait_ended(tree, left)
                continue
            send(tree, signal.SIGKILL)
            await wait_ended(tree, _KILL_EVERY)
        except OSError as error:
            yield f"cannot be looked for: {error}; let scaler open more files"
            await clock.sleep(_KILL_EVERY)
            continue
        kills += 1
        if kills % _KILLS == 0:
            pids = ", ".join(str(p.pid) for p in tree[:5])
            yield f"pid {pids} does not end though it was killed again and again"
