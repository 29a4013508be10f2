"""What disks, kernels, other processes and people do to the file of the store."""

import asyncio
import json
import os
import signal
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from scaler.core.journal import Entry, Kind, clamped
from scaler.core.model import Asked, Change, History, Point
from scaler.errors import ConfigError, Unavailable
from scaler.stores import sqlite
from scaler.stores.sqlite import SqliteStore

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
WEB = {"web": History(at=NOON, asked=(Asked(NOON, 3),), startups=(1.5, 2.5))}
ENTRY = Entry(at=NOON, kind=Kind.STARTED, summary="hello")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file with something in it, closed."""
    await keep(tmp_path / "s.db")
    return tmp_path / "s.db"


async def keep(path: Path) -> None:
    store = SqliteStore(path)
    await store.save(WEB, [ENTRY])
    await store.aclose()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def python(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *prefix, sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


NAMESPACES = [("unshare", "--mount"), ("unshare", "--map-root-user", "--mount")]


async def on_a_small_disk(how: str, folder: Path) -> dict[str, object]:
    """Mounting takes rights that not every machine gives; each way ends with the process."""
    prefixes = NAMESPACES if how == "mount" else [()]
    for prefix in prefixes:
        script = ("-m", "tests.integration.store_on_full_disk", how, folder)
        async with python(*script, prefix=prefix) as process:
            out, err = await process.communicate()
            if process.returncode == 0:
                return dict(json.loads(out))
            if b"mount" not in err and b"unshare" not in err:
                raise AssertionError(err.decode())
    return await on_a_small_disk("limit", folder)


@pytest.mark.live
@pytest.mark.parametrize("how", ["mount", "limit"])
async def test_a_full_or_read_only_disk_loses_nothing_and_may_pass(
    how: str, tmp_path: Path
) -> None:
    found = await on_a_small_disk(how, tmp_path)
    number = found["acknowledged"]
    assert isinstance(number, int)
    assert 5 < number < 500
    assert "cannot be used" in str(found["full"])
    assert "cannot be used" in str(found["again"])
    assert found["kept while full"] == [number, number, number]
    assert found["after"] == ""
    assert found["kept after"] == [number + 1] * 3
    assert "cannot be used" in str(found["read-only"])


async def line(process: Process) -> str:
    assert process.stdout is not None
    text = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    if not text:
        assert process.stderr is not None
        raise AssertionError((await process.stderr.read()).decode())
    return text


async def start_writing(process: Process) -> int:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    return int((await line(process)).removeprefix("pid "))


async def kill(process: Process, pid: int) -> int:
    """The last number that was acknowledged before the end."""
    os.kill(pid, signal.SIGKILL)
    last = 0
    while (text := await line(process)) != "ended":
        last = int(text)
    return last


@pytest.mark.live
async def test_what_was_acknowledged_survives_twenty_kills(tmp_path: Path) -> None:
    random, path = Random(7), tmp_path / "s.db"
    async with python("-m", "tests.integration.store_writer", path) as writer:
        for _ in range(20):
            pid = await start_writing(writer)
            last = 0
            for _ in range(random.randint(1, 15)):
                last = int(await line(writer))
            await asyncio.sleep(random.uniform(0, 0.01))  # anywhere in the middle of a save
            last = max(last, await kill(writer, pid))
            async with opened(path) as store:
                histories = await store.load()
                numbers = [int(entry.summary) for entry in await store.read(limit=100_000)]
            held = {history.hold.count for history in histories.values() if history.hold}
            assert sorted(histories) == ["a", "b", "c"]
            assert held == {numbers[-1]}, "histories and entries are of one transaction"
            assert numbers == list(range(1, len(numbers) + 1))
            assert last <= numbers[-1] <= last + 1


@pytest.mark.live
async def test_two_processes_on_one_file_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with python("-m", "tests.integration.store_writer", path) as writer, opened(path) as ours:
        pid = await start_writing(writer)
        last = int(await line(writer))
        for number in range(40):
            history = History(at=NOON, asked=(Asked(NOON, number),))
            entry = Entry(at=NOON, kind=Kind.ACTED, target="d", summary=str(number))
            await ours.save({"d": history}, [entry])
        last = max(last, await kill(writer, pid))
        async with opened(path) as third:
            histories = await third.load()
            assert len(await third.read(target="d")) == 40
            assert len(await third.read(target="a", limit=100_000)) >= last
        assert histories == await ours.load()
    assert histories["d"].asked == (Asked(NOON, 39),)
    assert histories["a"].hold is not None
    assert histories["a"].hold.count >= last


async def test_a_file_that_another_process_holds_is_unavailable_and_comes_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 50)
    async with opened(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked"):
                await store.save(WEB, [ENTRY])
            assert await store.load() == WEB
            assert len(await store.read()) == 1
        await store.save(WEB, [ENTRY])
        assert len(await store.read()) == 2


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    async with opened(path) as store:
        with pytest.raises(ConfigError, match=r"schema 2.*knows 1.*move the file away"):
            await store.load()
        with pytest.raises(ConfigError):
            await store.save(WEB, [])
    assert path.read_bytes() == before


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is a text, and not short\n" * 500)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def turn_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in range(4_096, len(content)):
        content[position] ^= 0xFF
    path.write_bytes(content)


def replace_by_another(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE entries (mine)")


def execute(statement: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(statement)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(overwrite, id="a text"),
        pytest.param(truncate, id="cut in half"),
        pytest.param(turn_bits, id="bits turned"),
        pytest.param(replace_by_another, id="the database of another program"),
        pytest.param(execute("UPDATE snapshots SET body = x'00'"), id="a row that is damaged"),
        pytest.param(
            execute("UPDATE snapshots SET body = x'000000007b7d'"), id="a checksum that is wrong"
        ),
    ],
)
async def test_a_damaged_or_foreign_file_is_set_aside_and_a_new_one_begun(
    spoil: Callable[[Path], None], path: Path
) -> None:
    for number in (1, 2):
        spoil(path)
        spoilt = path.read_bytes()
        async with opened(path) as store:
            assert await store.load() == {}
            await store.save(WEB, [ENTRY])
            assert f"s.db.corrupt-{number}" in store.noticed
        assert path.with_name(f"s.db.corrupt-{number}").read_bytes() == spoilt
        async with opened(path) as again:
            assert await again.load() == WEB
            assert list(await again.read()) == [ENTRY]
            assert again.noticed == ""


async def test_damage_in_a_running_store_loses_no_history(path: Path) -> None:
    async with opened(path) as store:
        await store.load()
        await store.save({"api": History(at=NOON)}, [])
        execute("UPDATE snapshots SET body = x'00'")(path)
        await store.save({"new": History(at=NOON)}, [ENTRY])
        assert "corrupt-1" in store.noticed
    async with opened(path) as again:
        assert await again.load() == {**WEB, "api": History(at=NOON), "new": History(at=NOON)}


async def test_one_entry_that_cannot_be_read_hides_no_other(path: Path) -> None:
    execute("UPDATE entries SET body = '{'")(path)
    async with opened(path) as store:
        await store.save({}, [ENTRY])
        broken, whole = await store.read()
    assert whole == ENTRY
    assert (broken.at, broken.ok) == (NOON, False)
    assert "an entry of kind started cannot be read" in broken.summary


@pytest.mark.parametrize("content", [None, b""], ids=["no file", "an empty file"])
async def test_a_new_file_is_for_us_and_our_group_only(
    content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "not" / "yet" / "s.db"
    if content is not None:
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(0o600)
    await keep(path)
    assert path.stat().st_mode & 0o777 & ~0o640 == 0
    assert path.stat().st_mode & 0o600 == 0o600
    assert (content is None) == ((path.parent.stat().st_mode & 0o007) == 0)


async def test_rights_that_a_person_has_taken_stay_taken(path: Path) -> None:
    path.chmod(0o600)
    await keep(path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_what_a_clock_ahead_of_time_left_is_clamped_after_loading(tmp_path: Path) -> None:
    later = NOON + timedelta(days=400)
    history = History(
        at=later,
        asked=(Asked(later, 3),),
        changes=(Change(later, 1, 3),),
        points={"cpu": (Point(later, 1.0, 3.0),)},
        brake_at=later,
    )
    async with opened(tmp_path / "s.db") as store:
        await store.save({"web": history}, [])
    async with opened(tmp_path / "s.db") as store:
        loaded = (await store.load())["web"]
        assert loaded == history
        now = clamped(loaded, NOON)
        await store.save({"web": now}, [])
    async with opened(tmp_path / "s.db") as store:
        assert await store.load() == {"web": now}
    assert now.changes == (Change(NOON, 1, 3),)
    assert (now.at, now.brake_at, now.points["cpu"][0].at) == (NOON, NOON, NOON)
