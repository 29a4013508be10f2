"""SQLite in WAL mode: one file, one thread, one transaction per save. The default store.

`synchronous=NORMAL`: what was saved survives a `kill -9` of the process at any moment; only a power
cut may take the last few commits, and with the machine went the instances they spoke of. Histories
are kept as one snapshot per target and one row of deltas per save; snapshots are renewed in turn,
so a save stays small however long the windows are.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from scaler.core import delta
from scaler.core.journal import (
    Entry,
    Kind,
    entry_from_json,
    entry_to_json,
    history_from_json,
    history_to_json,
)
from scaler.core.model import History
from scaler.errors import ConfigError, Unavailable

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
TURNS: Final = 100  # saves after which every snapshot was renewed
BATCH: Final = 5_000  # entries dropped in one transaction
BUSY_MS: Final = 2_000
_SCHEMA: Final = """
CREATE TABLE entries (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, target TEXT NOT NULL, kind TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX entries_by_target ON entries (target, at);
CREATE INDEX entries_by_time ON entries (at);
CREATE TABLE snapshots (
    target TEXT PRIMARY KEY, save INTEGER NOT NULL, body BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE saves (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""


class SqliteStore:
    """Histories and journal in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noticed = ""  # what a person should know about how it was opened
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None
        self._saved: dict[str, History] = {}  # as on disk
        self._snapshot_of: dict[str, int] = {}  # number of the save that each snapshot holds
        self._number = 0
        self._loaded = False

    async def load(self) -> dict[str, History]:
        return await self._in_thread(self._load)

    async def save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        await self._in_thread(lambda: self._save(histories, entries))

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
        return await self._in_thread(lambda: self._read(condition, [*values, limit]))

    async def forget(self, *, before: datetime) -> int:
        return await self._in_thread(lambda: self._forget(delta.microseconds(before)))

    async def aclose(self) -> None:
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, in a transaction that is rolled back when anything fails."""
        try:
            if self._connection is None:
                self._connection = self._connected()
            with self._connection:
                yield self._connection
        except sqlite3.Error as error:
            raise Unavailable(f"the store {self.path} cannot be used: {error}") from error
        except OSError as error:
            raise Unavailable(f"the store {self.path} cannot be used: {error.strerror}") from error

    def _connected(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._prepared()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # full, locked or read-only: it may pass
            aside = self._set_aside()
            self.noticed = f"{self.path} was damaged ({error}); it is kept as {aside.name}"
            return self._prepared()

    def _prepared(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_MS / 1000, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(
                    f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            self._refuse_unknown(version or SCHEMA_VERSION)
            connection.execute("SELECT count(*) FROM snapshots").fetchone()
        except BaseException:
            connection.close()
            raise
        self.path.chmod(0o640)
        return connection

    def _refuse_unknown(self, version: int) -> None:
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"{self.path} was written by another scaler (schema {version}, this one knows "
                f"{SCHEMA_VERSION}); use that one, or move the file away to start anew"
            )

    def _set_aside(self) -> Path:
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.damaged-{number}")
            if not aside.exists():
                break
        self.path.rename(aside)
        for rest in ("-wal", "-shm"):
            self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
        return aside

    def _load(self) -> dict[str, History]:
        with self._open() as connection:
            found = {}
            rows = connection.execute("SELECT * FROM snapshots ORDER BY save")
            for target, save, body in rows:
                found[target] = history_from_json(body)
                self._snapshot_of[target] = save
            for number, body in connection.execute("SELECT * FROM saves ORDER BY number"):
                self._number = number
                for target, difference in delta.unpack(body).items():
                    if number > self._snapshot_of.get(target, number):
                        found[target] = delta.applied(found[target], difference)
            self._number = max([self._number, *self._snapshot_of.values()])
        self._saved, self._loaded = found, True
        return dict(found)

    def _save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        if not self._loaded:
            self._load()  # it could not be read at the start; the numbers must go on from there
        number = self._number + 1
        whole = self._due_for_a_snapshot(histories)
        newest = {**self._saved, **histories}
        changed = {
            target: delta.between(self._saved[target], history)
            for target, history in histories.items()
            if target not in whole and self._saved[target] is not history
        }
        with self._open() as connection:
            if changed:
                connection.execute("INSERT INTO saves VALUES (?, ?)", (number, delta.pack(changed)))
            connection.executemany(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)",
                [(target, number, history_to_json(newest[target])) for target in whole],
            )
            if number % TURNS == 0:
                known = {**self._snapshot_of, **dict.fromkeys(whole, number)}
                connection.execute("DELETE FROM saves WHERE number <= ?", (min(known.values()),))
            connection.executemany(
                "INSERT INTO entries (at, target, kind, body) VALUES (?, ?, ?, ?)",
                [
                    (delta.microseconds(e.at), e.target, str(e.kind), entry_to_json(e))
                    for e in entries
                ],
            )
        self._number = number
        self._saved = newest
        for target in whole:  # the oldest stay in front
            self._snapshot_of.pop(target, None)
            self._snapshot_of[target] = number

    def _due_for_a_snapshot(self, histories: Mapping[str, History]) -> list[str]:
        """New targets, and a few others in turn, those with the oldest snapshot first."""
        share = -(-len(self._snapshot_of) // TURNS)
        due = [
            target
            for target in islice(self._snapshot_of, share)
            if self._number - self._snapshot_of[target] >= TURNS // 2
        ]
        return [*due, *(target for target in histories if target not in self._snapshot_of)]

    def _read(self, condition: str, values: Sequence[Any]) -> list[Entry]:
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT body FROM entries WHERE {condition} "  # noqa: S608 - all values are bound
                "ORDER BY at DESC, number DESC LIMIT ?",
                values,
            ).fetchall()
        return [entry_from_json(body) for (body,) in reversed(rows)]

    def _forget(self, before: int) -> int:
        gone = 0
        while True:
            with self._open() as connection:
                count = connection.execute(
                    "DELETE FROM entries WHERE number IN "
                    "(SELECT number FROM entries WHERE at < ? LIMIT ?)",
                    (before, BATCH),
                ).rowcount
            gone += count
            if count < BATCH:
                return gone

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
