"""A Docker engine of its own for the tests: own socket, folder and bridge, images without a net.

It touches no other engine of the machine. Ports are published on 127.0.0.1 only, by docker-proxy,
since the rules of the firewall are left alone.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

PATIENCE_S = 30.0
BUSYBOX = "busybox:test"  # 2 MB: sh, httpd, nc, wget
PYTHON = "python:test"  # the interpreter of the tests with its standard library, and /service.py
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "lib2to3")


class Engine:
    """One dockerd, from `start` to `stop`. `restart` keeps its containers' files."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sd", dir="/tmp"))  # a short path: sockets
        self.socket = self.folder / "s"
        self.url = f"unix://{self.socket}"
        self._bridge = f"sd{os.getpid() % 100_000}x{random.randrange(1000)}"[:15]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """With its bridge and its images.

        Raises:
            AssertionError: it does not answer; its log is in the message.
        """
        subnet = f"10.{random.randrange(200, 250)}.{random.randrange(1, 250)}.1/24"
        ip("link", "add", self._bridge, "type", "bridge")
        ip("addr", "add", subnet, "dev", self._bridge)
        ip("link", "set", self._bridge, "up")
        self.resume()
        self.load(BUSYBOX, busybox_files(), "sh")
        self.load(PYTHON, python_files(), "/bin/python3", "/service.py", "--host", "0.0.0.0")

    def resume(self) -> None:
        """Start the engine itself."""
        folder = self.folder
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd",
                    f"--data-root={folder}/data",
                    f"--exec-root={folder}/exec",
                    f"--pidfile={folder}/pid",
                    f"--host={self.url}",
                    f"--bridge={self._bridge}",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-forward=false",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE_S
        while self.docker("version", check=False).returncode:
            assert time.monotonic() < end, (folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def suspend(self) -> None:
        """End the engine itself; its containers end with it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def restart(self) -> None:
        self.suspend()
        self.resume()

    def stop(self) -> None:
        """Nothing of it is left."""
        self.remove_all()
        self.suspend()
        ip("link", "del", self._bridge)
        for mounted in reversed(Path("/proc/mounts").read_text().splitlines()):
            where = mounted.split()[1]
            if where.startswith(f"{self.folder}/"):
                subprocess.run(["umount", where], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def docker(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line of Docker on this engine."""
        return subprocess.run(
            ["docker", "--host", self.url, *words],
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
            env={**os.environ, "DOCKER_CONFIG": str(self.folder / "config")},
        )

    def run(self, name: str, *words: str) -> str:
        """`docker run --detach --name NAME WORDS`; the id."""
        return self.docker("run", "--detach", "--name", name, *words).stdout.strip()

    def inspect(self, name: str) -> dict[str, object]:
        found: list[dict[str, object]] = json.loads(self.docker("inspect", name).stdout)
        return found[0]

    def names(self, *filters: str) -> list[str]:
        """Of all containers, whatever their state."""
        chosen = [word for each in filters for word in ("--filter", each)]
        listed = self.docker("ps", "--all", "--format", "{{.Names}}", *chosen).stdout
        return sorted(listed.split())

    def remove_all(self) -> None:
        """Containers with their anonymous volumes, and volumes and networks of tests."""
        if names := self.docker("ps", "--all", "--quiet").stdout.split():
            self.docker("rm", "--force", "--volumes", *names, check=False)
        if volumes := self.docker("volume", "ls", "--quiet").stdout.split():
            self.docker("volume", "rm", "--force", *volumes, check=False)
        kept = ("bridge", "host", "none")
        listed = self.docker("network", "ls", "--format", "{{.Name}}").stdout.split()
        if networks := [name for name in listed if name not in kept]:
            self.docker("network", "rm", *networks, check=False)

    def load(self, tag: str, files: Iterable[tuple[str, Path | bytes]], *command: str) -> None:
        """An image of these files: path inside, and the file or its content."""
        with tempfile.NamedTemporaryFile(suffix=".tar", dir=self.folder) as archive:
            with tarfile.open(archive.name, "w") as tar:
                for inside, source in files:
                    add(tar, inside, source)
            change = f"CMD {json.dumps(list(command))}"
            self.docker("import", "--change", change, archive.name, tag)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def add(tar: tarfile.TarFile, inside: str, source: Path | bytes) -> None:
    if isinstance(source, Path):
        tar.add(source.resolve(), inside, recursive=False)
        return
    member = tarfile.TarInfo(inside)
    if source.startswith(b"-> "):
        member.type, member.linkname = tarfile.SYMTYPE, source[3:].decode()
        tar.addfile(member)
        return
    member.mode, member.size = 0o755, len(source)
    tar.addfile(member, BytesIO(source))


def busybox_files() -> Iterator[tuple[str, Path | bytes]]:
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    yield "bin/busybox", busybox
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        if name != "busybox":
            yield f"bin/{name}", b"-> /bin/busybox"
    yield from system_files()


def system_files() -> Iterator[tuple[str, Path | bytes]]:
    yield "etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
    yield "etc/group", b"root:x:0:\nnogroup:x:65534:\n"
    yield "tmp/.here", b""
    yield "data/.here", b""


def python_files() -> Iterator[tuple[str, Path | bytes]]:
    """The interpreter that runs the tests, what it is linked to, and its standard library."""
    yield from busybox_files()
    python = Path(sys.executable).resolve()
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = [p for p in stdlib.rglob("*") if p.is_file() and wanted(p.relative_to(stdlib))]
    yield str(python).lstrip("/"), python
    yield "bin/python3", b"-> " + str(python).encode()
    libraries: set[Path] = set()
    for binary in [python, *(m for m in modules if m.suffix == ".so")]:
        libraries |= linked(binary)
    for library in sorted(libraries):
        yield str(library).lstrip("/"), library
    for module in modules:
        yield str(module).lstrip("/"), module
    yield "service.py", Path("scaler/demo/service.py")


def wanted(module: Path) -> bool:
    parts = set(module.parts)
    return not parts & {*LEFT_OUT, "__pycache__"} and not module.name.endswith((".a", ".o"))


def linked(binary: Path) -> set[Path]:
    """The libraries that the dynamic linker finds for it."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    words = [word for word in listed.split() if word.startswith("/")]
    return {Path(word) for word in words if Path(word).exists()}
