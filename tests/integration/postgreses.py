"""A PostgreSQL of its own for a test, on a socket in a folder. The system's is left alone."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.integration.running import until, without

BINARIES = Path("/usr/lib/postgresql")
OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB",
           "max_connections=50", "autovacuum=off", "listen_addresses=", "log_min_messages=warning",
           "timezone=Asia/Kolkata", "datestyle=SQL, DMY")  # fmt: skip


def binaries() -> Path | None:
    """The folder of the newest server that is installed, or of the one that is asked for."""
    if asked := os.environ.get("SCALER_TEST_POSTGRES"):
        return Path(asked)
    found = [path for path in BINARIES.glob("*/bin") if (path / "postgres").exists()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def found_binaries() -> Path:
    found = binaries()
    assert found is not None
    return found


def _user() -> str | None:
    """Who the server runs as: it refuses to be root."""
    return "postgres" if os.geteuid() == 0 else None


class PostgresServer:
    """One cluster, from `start` to `stop`. Sessions begin in an odd zone and an odd date style.

    It keeps its data over `kill` and another `start`. `programs` are those of another server than
    the system's; they are copied to where the user of the server may read them.
    """

    def __init__(
        self,
        *options: str,
        programs: Path | None = None,
        follows: "PostgresServer | None" = None,
    ) -> None:
        """With `follows` it is a replica of that one, which has to be running."""
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        self.data = self.folder / "d"
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None
        if user := _user():
            found = pwd.getpwnam(user)
            os.chown(self.folder, found.pw_uid, found.pw_gid)
        self.folder.chmod(0o755)
        self.programs = self._copied(programs) if programs else found_binaries()
        if follows is None:
            self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "-N",
                      "--no-locale", "-E", "UTF8")  # fmt: skip
        else:
            self._run("pg_basebackup", "-D", str(self.data), "-h", str(follows.folder),
                      "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "-N")  # fmt: skip

    def _copied(self, programs: Path) -> Path:
        """The same, with the libraries that a wheel puts beside its package."""
        package = programs.parents[1]
        for folder in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(folder, self.folder / folder.name, symlinks=True)
        return self.folder / programs.relative_to(package.parent)

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [str(self.programs / program), *words],
            user=_user(),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *options: str) -> None:
        settings = [f"unix_socket_directories={self.folder}", *OPTIONS, *self.options, *options]
        words = [str(self.programs / "postgres"), "-D", str(self.data)]
        for setting in settings:
            words += ["-c", setting]
        self._launch(words)
        until(lambda: self._answers(words), "PostgreSQL answers")

    def _launch(self, words: list[str]) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                words, user=_user(), cwd="/", stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self, words: list[str]) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            # the last processes of one that was killed may still be there
            assert "is still in use" in self.log()[-400:], self.log()
            self._launch(words)
        ready = subprocess.run(
            [str(self.programs / "pg_isready"), "-h", str(self.folder), "-U", "postgres"],
            stdout=subprocess.DEVNULL,
            check=False,
        )
        return ready.returncode == 0

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"host={self.folder} dbname={database} user={user}"

    def psql(self, statement: str, database: str = "postgres", user: str = "postgres") -> str:
        """What a statement answers, without headings; several lines may be one script."""
        return self._run(
            "psql", "-h", str(self.folder), "-U", user, "-d", database, "-XAtq",
            "-v", "ON_ERROR_STOP=1", "-c", statement,
        ).strip()  # fmt: skip

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def restart(self, *options: str) -> None:
        """As a person would: sessions are ended, transactions rolled back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self.start(*options)

    def kill(self) -> None:
        """Every process of it at once, as when the machine loses power."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def pause(self) -> None:
        """Every process of it stands still, until `resume`; its socket still takes connections."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the first process and its children, each of which leads a group of its own."""
        assert self._process is not None
        found = psutil.Process(self._process.pid)
        for process in (found, *found.children(recursive=True)):
            process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def insist_on_postgres() -> None:
    """Skip where there is no PostgreSQL; fail where there has to be one."""
    if binaries() is None:
        without("needs postgresql; .ci/run installs it")


@contextmanager
def serving_postgres(*settings: str, programs: Path | None = None) -> Iterator[PostgresServer]:
    """A server that ends with the block; skipped where there is none, as `insist_on_postgres`."""
    insist_on_postgres()
    server = PostgresServer(programs=programs)
    try:
        server.start(*settings)
        yield server
    finally:
        server.stop()
