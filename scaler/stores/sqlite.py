"""SQLite in WAL mode: one file, one thread, one transaction per save. The default store.

`synchronous=NORMAL`: what was saved is with the kernel and survives a `kill -9` of the process at
any moment. Only a power cut may take the commits since the last checkpoint, never the file; then
the platform is looked at anew and a target keeps its present count. `FULL` would wait for the disk
before every action.

A history is one snapshot per target and one row of deltas per save. Snapshots are renewed in turn,
`RENEWAL` bytes of them per byte of deltas: what is written stays small and what is read at a start
bounded, however long the windows are and however often something is saved.
"""

import asyncio
import gc
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from scaler.core import delta
from scaler.core.delta import Damaged, Delta
from scaler.core.journal import Entry, Kind, entry_from_json, entry_to_json
from scaler.core.model import History
from scaler.errors import ConfigError, Unavailable

T = TypeVar("T")

APPLICATION_ID: Final = 0x73636C72  # "sclr": whose file it is
SCHEMA_VERSION: Final = 1
BATCH: Final = 1_000  # entries dropped in one transaction
BUSY_MS: Final = 2_000  # another process may hold the file so long
RENEWAL: Final = 2  # deltas come to half of all snapshots, and are read in a fifth of the time
MOST_BYTES: Final = 1 << 30  # of the file; beyond it the oldest entries go
MOST_WAL_BYTES: Final = 16 << 20  # the write-ahead log is cut to this after a checkpoint
FREED_PAGES: Final = 10_000  # given back to the disk after one batch
MOST_SET_ASIDE: Final = 1_000
_SCHEMA: Final = (
    """CREATE TABLE entries (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
    body BLOB NOT NULL
)""",
    "CREATE INDEX entries_by_target ON entries (target, at)",
    "CREATE INDEX entries_by_time ON entries (at)",
    "CREATE TABLE snapshots (target TEXT PRIMARY KEY, save INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE TABLE saves (number INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SqliteStore:
    """Histories and journal in one file, which is opened when it is first needed.

    Every method raises Unavailable when the file cannot be used now and ConfigError when a newer
    scaler wrote it. A damaged or foreign file is set aside, a new one begun, and `noticed` says so.
    """

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        self.noticed = ""  # what a person should know of the file
        self._most_bytes = most_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._seen: int | None = None  # SQLite's mark of what others have written
        self._saved: dict[str, History] = {}  # as on disk
        self._rescued: dict[str, History] = {}  # were in a file that is damaged now
        self._snapshot_of: dict[str, int] = {}  # number of the save a snapshot holds; oldest first
        self._number = 0
        self._credit = 0  # bytes of snapshots that may be written

    async def load(self) -> dict[str, History]:
        return await self._run(self._load)

    async def save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        if histories or entries:
            await self._run(lambda connection: self._save(connection, histories, entries))

    async def read(
        self,
        *,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[Kind] = (),
        limit: int = 100,
    ) -> Sequence[Entry]:
        where: list[tuple[str, list[Any]]] = []
        if target is not None:
            where.append(("target = ?", [target]))
        if since is not None:
            where.append(("at >= ?", [delta.microseconds(since)]))
        if until is not None:
            where.append(("at <= ?", [delta.microseconds(until)]))
        if kinds:
            where.append((f"kind IN ({', '.join('?' * len(kinds))})", [str(k) for k in kinds]))
        condition = " AND ".join(text for text, _ in where) or "1"
        values = [value for _, given in where for value in given]
        query = (
            f"SELECT at, target, kind, body FROM entries WHERE {condition} "  # noqa: S608 - bound
            "ORDER BY at DESC, number DESC LIMIT ?"
        )
        rows = await self._run(lambda c: c.execute(query, [*values, max(0, limit)]).fetchall())
        return [_entry(*row) for row in reversed(rows)]

    async def forget(self, *, before: datetime) -> int:
        """In batches, between which others have their turn."""
        gone, batch = 0, BATCH
        while batch == BATCH:
            batch = await self._run(lambda c: self._forget(c, delta.microseconds(before)))
            gone += batch
        return gone

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns; once more with a new file when this one is damaged."""
        try:
            try:
                return work(self._open())
            except (sqlite3.DatabaseError, Damaged) as error:
                if not _is_damage(error):
                    raise
                self._set_aside(str(error))
                return work(self._open())
        except (sqlite3.Error, Damaged) as error:
            raise Unavailable(f"the store {self.path} cannot be used: {error}") from error
        except OSError as error:
            raise Unavailable(f"the store {self.path} cannot be used: {error.strerror}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640))
            connection = sqlite3.connect(
                self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.path)
            except BaseException:
                connection.close()
                raise
            self._connection, self._seen = connection, None
        return self._connection

    def _set_aside(self, why: str) -> None:
        self._close()
        self._rescued = {**self._rescued, **self._saved}
        aside = next(
            name
            for number in range(1, MOST_SET_ASIDE)
            if not (name := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists()
            or number == MOST_SET_ASIDE - 1
        )
        self.path.rename(aside)
        for rest in ("-wal", "-shm"):  # they belong to it, and would spoil the new file
            with suppress(FileNotFoundError):
                self.path.with_name(self.path.name + rest).rename(
                    aside.with_name(aside.name + rest)
                )
        self.noticed = (
            f"the store {self.path} was damaged or not ours ({why}); it is kept as {aside.name} "
            "and a new one begun: what it held of past decisions is not taken into account"
        )

    def _load(self, connection: sqlite3.Connection) -> dict[str, History]:
        with _transaction(connection, "DEFERRED"):
            self._catch_up(connection)
        return {**self._rescued, **self._saved}

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Read what is on disk, if that is not what we have written ourselves."""
        (mark,) = connection.execute("PRAGMA data_version").fetchone()
        if mark == self._seen:
            return
        with _no_collection():
            self._read_histories(connection)
        self._seen = mark

    def _read_histories(self, connection: sqlite3.Connection) -> None:
        rebuilt: dict[str, delta.Rebuilt] = {}
        snapshot_of: dict[str, int] = {}
        for target, save, body in connection.execute("SELECT * FROM snapshots ORDER BY save"):
            rebuilt[target] = delta.Rebuilt()
            rebuilt[target].apply(_only(delta.unpack(body)))
            snapshot_of[target] = save
        newest = max(snapshot_of.values(), default=0)
        for number, body in connection.execute("SELECT * FROM saves ORDER BY number"):
            for target, difference in delta.unpack(body).items():
                if number > snapshot_of.get(target, number):
                    rebuilt[target].apply(difference)
            newest = max(newest, number)
        self._saved = {target: history.history() for target, history in rebuilt.items()}
        self._snapshot_of, self._number = snapshot_of, newest

    def _save(
        self,
        connection: sqlite3.Connection,
        histories: Mapping[str, History],
        entries: Sequence[Entry],
    ) -> None:
        rows = [_row(entry) for entry in entries]
        with _transaction(connection, "IMMEDIATE"):
            self._catch_up(connection)
            histories = {**self._rescued, **histories}
            newest = {**self._saved, **histories}
            number = self._number + 1
            snapshots, credit = self._snapshots(histories, newest)
            changed = {
                target: difference
                for target, history in histories.items()
                if target not in snapshots
                and (difference := delta.between(self._saved[target], history))
            }
            if changed:
                body = delta.pack(changed)
                credit += RENEWAL * len(body)
                connection.execute("INSERT INTO saves VALUES (?, ?)", (number, body))
            renewed = {t: n for t, n in self._snapshot_of.items() if t not in snapshots}
            renewed |= dict.fromkeys(snapshots, number)
            connection.executemany(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)",
                [(target, number, body) for target, body in snapshots.items()],
            )
            covered = next(iter(renewed.values()), 0)
            connection.execute("DELETE FROM saves WHERE number <= ?", (covered,))
            connection.executemany(
                "INSERT INTO entries (at, target, kind, body) VALUES (?, ?, ?, ?)", rows
            )
            self._stay_small(connection)
        self._number, self._credit = number, credit
        self._saved, self._snapshot_of, self._rescued = newest, renewed, {}

    def _snapshots(
        self, histories: Mapping[str, History], newest: Mapping[str, History]
    ) -> tuple[dict[str, bytes], int]:
        """New targets, and as many of the oldest as there is credit for; and the credit left."""

        def snapshot(target: str) -> bytes:
            return delta.pack({target: delta.between(delta.EMPTY, newest[target])})

        chosen = {target: snapshot(target) for target in histories if target not in self._saved}
        credit = self._credit
        for target in self._snapshot_of:
            if credit <= 0:
                return chosen, credit
            chosen[target] = snapshot(target)
            credit -= len(chosen[target])
        return chosen, min(credit, 0)

    def _stay_small(self, connection: sqlite3.Connection) -> None:
        """Drop the oldest entries when the file is too big; their room is used again."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size > self._most_bytes:
            connection.execute(
                "DELETE FROM entries WHERE number IN "
                "(SELECT number FROM entries ORDER BY at LIMIT ?)",
                (BATCH,),
            )

    def _forget(self, connection: sqlite3.Connection, before: int) -> int:
        with _transaction(connection, "IMMEDIATE"):
            gone = connection.execute(
                "DELETE FROM entries WHERE number IN "
                "(SELECT number FROM entries WHERE at < ? ORDER BY at LIMIT ?)",
                (before, BATCH),
            ).rowcount
        if gone:
            # One step frees one page, and `execute` takes a single step when there are no columns.
            connection.executescript(f"PRAGMA incremental_vacuum({FREED_PAGES})")
        return gone

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the file is ours and of our version; an empty one becomes so."""
    ours = _is_ours(connection, path)
    if not ours:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before anything is in it
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {MOST_WAL_BYTES}")
    if ours:
        return  # a writer elsewhere does not keep us from reading
    with _transaction(connection, "IMMEDIATE"):
        if not _is_ours(connection, path):  # nobody else was faster
            for statement in _SCHEMA:
                connection.execute(statement)


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether our tables are in it; False for an empty file."""
    whose, version, pages = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("application_id", "user_version", "schema_version")
    )
    if (whose, version, pages) == (0, 0, 0):
        return False
    if whose != APPLICATION_ID:
        raise Damaged("it belongs to another program")
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} was written by another scaler (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); use that one, or move the file away to start anew"
        )
    return True


@contextmanager
def _transaction(connection: sqlite3.Connection, how: str) -> Iterator[None]:
    connection.execute(f"BEGIN {how}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have ended it already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _no_collection() -> Iterator[None]:
    """Hundreds of thousands of values are made and none is garbage: looking for it takes longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
    return isinstance(error, Damaged) or code in _DAMAGE


def _only(deltas_of_one: Mapping[str, Delta]) -> Delta:
    (difference,) = deltas_of_one.values()
    return difference


def _row(entry: Entry) -> tuple[Any, ...]:
    try:
        target, body = entry.target, entry_to_json(entry)
        target.encode()
    except ValueError as error:  # text from outside that is not Unicode; the rest must not wait
        target = _printable(entry.target)
        stand_in = Entry(
            at=entry.at,
            kind=entry.kind,
            target=target,
            summary=f"{_printable(entry.summary)} (the rest cannot be written: {error})",
            ok=entry.ok,
        )
        body = entry_to_json(stand_in)
    return delta.microseconds(entry.at), target, str(entry.kind), body


def _printable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _entry(at: int, target: str, kind: str, body: bytes) -> Entry:
    try:
        return entry_from_json(body)
    except ValueError as error:
        summary = f"an entry of kind {kind} cannot be read: {str(error).splitlines()[0]}"
        moment = delta.moment(at)
        return Entry(at=moment, kind=Kind.NOTICED, target=target, summary=summary, ok=False)
