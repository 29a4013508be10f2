"""Doing the steps of a conversion: short locks, tried again, and one at a time per table.

A lock that is waited for holds up everybody who comes later. So it is looked first whether a long
transaction is on the table, which costs nobody anything; only then is the lock asked for, for at
most `locks.wait`.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from scaler.clients.postgres import Handle, Postgres, Statement, phrase, sqlstate, value, written
from scaler.clock import Clock
from scaler.errors import Busy, PermanentError, Refused, ScalerError, Unavailable
from scaler.maintenance import partition_notes as notes
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_shape import Step, Way

GLANCE: Final = timedelta(milliseconds=100)  # who holds a lock at two glances is there for long
FIRST_PAUSE: Final = timedelta(milliseconds=100)  # between two tries; doubled each time
LONGEST_PAUSE: Final = timedelta(seconds=2)
PATIENCE: Final = timedelta(hours=6)  # with long transactions, for one step
PREDECESSOR: Final = timedelta(seconds=15)  # a session whose process was killed ends in this
MOST_CUT: Final = 9  # times that what is done under a lock took too long
WORSE: Final = 2.0  # times as expensive: such a plan stops the swap
SMALL: Final = 100.0  # of the planner's units, about a millisecond: empty partitions cost as much
CANCELLED: Final = "57014"  # statement_timeout
TWICE: Final = "23505"  # somebody wrote the same row meanwhile; it is seen the next time
SETTINGS: Final = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET statement_timeout = 0",
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET default_transaction_isolation = 'read committed'",
    # names in what the server writes are complete then, and nobody's operators come in between
    "SET search_path = pg_catalog",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a person who waits is told."""

    step: str
    message: str
    share: float | None = None
    rows_per_s: float | None = None
    left: timedelta | None = None


def _silent(_: Progress) -> None:
    """Nobody listens."""


def _nothing(_: str) -> None:
    """Nothing happens after a statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Who wants to know what: the reader of progress, and tests that break in after statements."""

    told: Callable[[Progress], None] = _silent
    after: Callable[[str], None] = _nothing


class Overdue(Unavailable):
    """A lock was held for longer than others are to be held up; it was let go."""


class Hands:
    """Runs statements of one conversion and keeps its notes."""

    def __init__(
        self,
        database: Postgres,
        wish: PartitionSet,
        clock: Clock,
        ears: Ears,
        *,
        patience: timedelta = PATIENCE,
    ) -> None:
        """`patience` is how long a step waits for a transaction that stays on the table."""
        self.database = database
        self.wish = wish
        self.clock = clock
        self.ears = ears
        self._patience = patience
        self.paths = "public"  # the search path of this role, for declared queries

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """The only one that converts this table, over all processes.

        Raises:
            Refused: another one does, or the server is a replica.
            PermanentError: a pooler stands in between, and would give the lock to somebody else.
        """
        database = self.database
        pid, replica = (await database.fetch("SELECT pg_backend_pid(), pg_is_in_recovery()"))[0]
        database.insist(pid)
        if replica:
            raise Refused("the server is a replica; give the address of the one that takes writes")
        self.paths = (await database.fetch("SHOW search_path"))[0][0]
        for setting in SETTINGS:
            await database.execute(setting)
        place = value(self.wish.table)
        take = phrase(
            "SELECT pg_try_advisory_lock(hashtext('scaler.convert'), hashtext({}))", place
        )
        end = self.clock.monotonic() + PREDECESSOR
        while not (await database.fetch(take))[0][0]:
            if self.clock.monotonic() > end:
                raise Refused(await self._whose())
            await self.clock.sleep(timedelta(milliseconds=250))
        session = database.connections
        try:
            yield
        finally:
            if database.backend and database.connections == session:
                await self._let_go(place)

    async def _let_go(self, place: Any) -> None:
        release = phrase(
            "SELECT pg_advisory_unlock(hashtext('scaler.convert'), hashtext({}))", place
        )
        try:
            await self.database.execute(release)
            await self.database.execute("RESET search_path")
        except ScalerError:
            return  # the session is over, and the lock with it

    async def _whose(self) -> str:
        rows = await self.database.fetch(
            phrase(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
                " AND classid = (hashtext('scaler.convert')::bigint & 4294967295)::oid"
                " AND objid = (hashtext({})::bigint & 4294967295)::oid",
                value(self.wish.table),
            )
        )
        who = f"process {rows[0][0]} of the server" if rows else "another process"
        return (
            f"{self.wish.table} is being converted by {who}; wait for it, or end it with "
            "pg_terminate_backend and run this again: it goes on where that one stopped"
        )

    async def do(self, handle: Handle | Postgres, statement: Statement, **more: Any) -> int:
        done = await handle.execute(statement, **more)
        if self.ears.after is not _nothing:
            self.ears.after(written(statement))
        return done

    async def step(
        self,
        step: Step,
        *,
        table: tuple[str, str] | None,
        reaches: notes.Stage | None = None,
        afresh: bool = False,
    ) -> None:
        """Do it and note it, in one transaction where that can be.

        `afresh` forgets the notes on all steps before.
        """
        self.ears.told(Progress(step=step.name, message=step.because))
        place, begin = self.wish.table, self.clock.monotonic()
        if step.way is Way.ALONE:
            if step.unless is None or not (await self.database.fetch(step.unless))[0][0]:
                for statement in step.statements:
                    await self.do(self.database, statement, deadline=None)
            spent = self.clock.monotonic() - begin
            await notes.done(self.database, place, step.name, {"seconds": spent.total_seconds()})
            self.ears.after(f"noted {step.name}")
            return

        costs = await self._costs(self.database) if step.way is Way.SWAP else {}
        limit = self.wish.locks.max_block if step.way is Way.SWAP else None

        async def work(handle: Handle) -> None:
            locked: timedelta | None = None
            for statement in step.statements:
                await self.do(handle, statement)
                locked = locked or self.clock.monotonic()  # the first waits for the lock
                if limit is not None and self.clock.monotonic() - locked > limit:
                    raise Overdue(f"{step.name} took longer than {_ms(limit)}")
            if costs:
                self._compared(costs, await self._costs(handle))
            spent = self.clock.monotonic() - begin
            await notes.done(handle, place, step.name, {"seconds": spent.total_seconds()})
            if afresh:
                await notes.forget(handle, place, "")
            if reaches is not None:
                await notes.reached(handle, place, reaches)

        await self.briefly(step.name, work, table=table, statement=limit)
        self.ears.after(f"committed {step.name}")

    async def briefly(
        self,
        doing: str,
        work: Callable[[Handle], Any],
        *,
        table: tuple[str, str] | None,
        statement: timedelta | None = None,
    ) -> None:
        """Do `work` in a transaction that waits for each lock for `locks.wait` only.

        With a `table` no long transaction may be on it.

        Raises:
            Busy: it was tried `locks.tries` times, or long transactions would not end.
        """
        locks = self.wish.locks
        cut, pause, end = 0, FIRST_PAUSE, self.clock.monotonic() + self._patience
        for number in range(1, locks.tries + 1):
            if table is not None:
                await self._until_free(doing, table, end)
            try:
                async with self.database.transaction(
                    lock_wait=locks.wait, statement=statement
                ) as handle:
                    await work(handle)
            except (Busy, Unavailable, PermanentError) as error:
                state = sqlstate(error)
                late = state == CANCELLED or isinstance(error, Overdue)
                if not isinstance(error, Busy) and not late and state != TWICE:
                    raise
                cut += late
                if cut > MOST_CUT:
                    raise PermanentError(
                        f"{doing}: it takes longer than {_ms(locks.max_block)} each time; "
                        f"nothing has changed, allow more with locks.max_block ({error})"
                    ) from error
                if number == locks.tries:
                    raise Busy(
                        f"{doing}: not within {number} tries of {_ms(locks.wait)};"
                        f" nothing has changed, run it again at a quieter time ({error})"
                    ) from error
            else:
                return
            await self.clock.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _until_free(self, doing: str, table: tuple[str, str], end: timedelta) -> None:
        """Wait while one transaction stays on the table; nobody is held up by that."""
        seen: set[str] = set()
        said = False
        while True:
            rows = await self.database.fetch(
                "SELECT l.virtualtransaction, l.pid FROM pg_locks l JOIN pg_class c"
                " ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relname = %s AND l.granted"
                " AND l.pid <> pg_backend_pid()"
                " AND l.database = (SELECT d.oid FROM pg_database d"
                " WHERE d.datname = current_database())",
                table,
            )
            now = {row[0]: row[1] for row in rows}
            staying = seen & set(now)
            if not now or (seen and not staying):
                return
            if self.clock.monotonic() > end:
                pid = now[next(iter(staying))] if staying else "?"
                raise Busy(f"{doing}: a transaction of process {pid} stays on {'.'.join(table)}")
            if staying and not said:
                pid = now[next(iter(staying))]
                self.ears.told(
                    Progress(step=doing, message=f"waits for the transaction of process {pid}")
                )
                said = True
            seen = set(now)
            await self.clock.sleep(GLANCE)

    async def _costs(self, handle: Handle | Postgres) -> dict[str, float]:
        """What the planner expects each declared query to cost."""
        queries: Sequence[str] = self.wish.migrate.queries
        if not queries:
            return {}
        await handle.execute(
            phrase("SELECT set_config('search_path', {}, false)", value(self.paths))
        )
        found = {}
        for query in queries:
            rows = await handle.fetch(f"EXPLAIN (FORMAT JSON) {query}")
            plan = rows[0][0]
            plan = json.loads(plan) if isinstance(plan, str) else plan
            found[query] = float(plan[0]["Plan"]["Total Cost"])
        await handle.execute("SELECT set_config('search_path', 'pg_catalog', false)")
        return found

    def _compared(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Stop a swap that makes a declared query worse.

        Raises:
            Refused: one would cost more than twice as much.
        """
        for query, cost in before.items():
            if after[query] > WORSE * max(cost, SMALL):
                raise Refused(
                    f'"{query[:120]}" would cost {after[query]:.0f} in place of {cost:.0f}; '
                    f"nothing has changed. Filter it by {self.wish.by}, or take it out of "
                    "migrate.queries"
                )


def _ms(span: timedelta) -> str:
    return f"{span / timedelta(milliseconds=1):.0f} ms"
