"""A `/proc` as a container sees it whose pod shares its processes, to be changed by tests."""

import shutil
from pathlib import Path

from scaler.clients.pod_usage import PodUsage
from tests.fakes.cgroup_tree import RECORDED, SCOPE

OURS, WEB, LOG = "0::/\n", "0::/../cri-web.scope\n", "0::/../cri-log.scope\n"


class Pod:
    """Our own process and the one that holds the pod together, before a test adds others."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder
        self.runs("self", OURS)
        self.runs(1, "0::/../pause.scope\n", name="pause")
        self.runs(7, OURS, name="scaler")
        self.usage = PodUsage(proc=folder)

    def runs(self, pid: int | str, group: str, *, name: str = "web", ticks: int = 0) -> None:
        place = self.proc / str(pid)
        place.mkdir(exist_ok=True)
        (place / "cgroup").write_text(group)
        rest = f"S 0 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {100} 0 25"
        (place / "stat").write_text(f"{pid} ({name}) {rest}\n")

    def shows(self, pid: int, *, members: str = "", version: int = 2) -> Path:
        """The group that the container of a process sees, which is a new one each time."""
        mount = self.proc / str(pid) / "root/sys/fs/cgroup"
        text = members or f"{pid}\n"
        if version == 2:
            shutil.copytree(RECORDED / "sys" / SCOPE, mount)
            (mount / "cgroup.controllers").write_text("cpu memory\n")
            (mount / "cgroup.procs").write_text(text)
            return mount
        for controller in ("cpuacct", "memory"):
            (mount / controller).mkdir(parents=True)
            (mount / controller / "cgroup.procs").write_text(text)
        (mount / "cpuacct/cpuacct.usage").write_text("2500000000\n")
        (mount / "memory/memory.usage_in_bytes").write_text("9000\n")
        (mount / "memory/memory.stat").write_text("cache 1\ntotal_inactive_file 1000\n")
        return mount

    def uses(self, pid: int, *, cpu_s: float, memory_bytes: int) -> None:
        """What the group says from now on that the container of a process sees."""
        mount = self.proc / str(pid) / "root/sys/fs/cgroup"
        (mount / "cpu.stat").write_text(f"usage_usec {round(cpu_s * 1e6)}\n")
        (mount / "memory.current").write_text(f"{memory_bytes}\n")
        (mount / "memory.stat").write_text("anon 1\ninactive_file 0\nfile 1\n")

    def used(self) -> list[tuple[float, float]]:
        return [(used.cpu_s, used.memory_bytes) for used in self.usage.look().values()]
