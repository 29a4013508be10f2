"""Control groups of version 2 as they were recorded, to be changed by tests."""

import shutil
from pathlib import Path

from scaler.clients.cgroups import Absent, Counts, Groups
from scaler.clock import ManualClock

RECORDED = Path("tests/data/cgroup/v2")
ID = "3f1c9d0e6a7b4c5d8e9f00112233445566778899aabbccddeeff0123456789ab"
LIFE = f"{ID}@2026-01-01T00:00:00Z"
PID = 4242
SCOPE = f"system.slice/docker-{ID}.scope"


class Tree:
    """The recorded tree, to be changed."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(RECORDED, folder, dirs_exist_ok=True)
        self.sys = folder / "sys"
        self.proc = folder / "proc"
        self.group = self.sys / SCOPE
        (self.proc / "4242/ns").mkdir(exist_ok=True)
        (self.proc / "1/ns").mkdir(parents=True)
        (self.proc / "4242/ns/net").symlink_to("net:[4026532001]")
        (self.proc / "1/ns/net").symlink_to("net:[4026531840]")
        self.clock = ManualClock()
        self.groups = self.made()

    def made(self, most_files: int = 100) -> Groups:
        return Groups(root=self.sys, proc=self.proc, most_files=most_files)

    def belongs_to(self, path: str, pid: int = PID) -> None:
        (self.proc / str(pid)).mkdir(exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text(f"0::{path}\n")

    def counts(self, kind: str, life: str = LIFE, pid: int | None = PID) -> Counts | Absent:
        try:
            return self.groups.reader(kind, life, pid).read(self.clock.monotonic())[1]
        except (OSError, LookupError, ValueError) as error:
            return self.groups.failed(kind, life, error)
