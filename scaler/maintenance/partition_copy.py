"""Fills the ranges of a live table aside, compares them, and puts them in place of the old table.

The place that the copy has reached is noted in the transaction of each batch, so a killed process
goes on with the next one. Between batches it is looked how the database bears it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from scaler.clients.postgres import Handle, Row, name, phrase, value
from scaler.errors import PermanentError, Refused, Unavailable
from scaler.maintenance import partition_notes as notes
from scaler.maintenance import partition_split as split
from scaler.maintenance import partition_verify as verify
from scaler.maintenance.partition_notes import Notes, Stage
from scaler.maintenance.partition_shape import Step
from scaler.maintenance.partition_split import Strain
from scaler.maintenance.partition_steps import Hands, Progress

TRIES: Final = 5  # to compare a range, while rows are copied again
MOST_ROUNDS: Final = 50  # of MOST_AGAIN rows that are copied again
FEW: Final = 200  # rows that may be left while others are added
LONGEST_WAIT: Final = timedelta(hours=12)  # between two batches
LONG: Final = timedelta(milliseconds=100)  # of a batch: an update of one of its rows waits for it
FEWEST: Final = 100  # rows of a batch
NEST: Final = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


def _unknown() -> int | None:
    return None


def _idle() -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What only others know: the disk of the server, and whether a service suffers just now."""

    free_bytes: Callable[[], int | None] = _unknown
    busy: Callable[[], str] = _idle
    stop: Callable[[], str] = _idle  # why the copy ends here, to be carried on by another run


class Copy:
    """One table whose rows go to others, by their ranges."""

    def __init__(self, hands: Hands, known: Notes, watch: Watch) -> None:
        self._hands = hands
        self._database = hands.database
        self._wish = hands.wish
        self._known = known
        self._facts, self._form = known.facts, known.form
        self._watch = watch
        self._old = (known.facts.schema, known.form.history)

    async def fill(self, aside: Iterable[Step]) -> None:
        """Until every row is in its range as well; `aside` makes the tables for them.

        Raises:
            PermanentError: the lag of replicas is not shown to us.
            Unavailable: the disk is nearly full, or nobody lets us go on; what is done stays done.
        """
        facts, form = self._facts, self._form
        for step in (*aside, split.in_step(facts, form)):
            if step.name not in self._known.steps:
                await self._hands.step(step, table=self._old)
        if "settled" not in self._known.steps:
            await self._batches()
            await self._copy_again(FEW)
            await self._hands.step(split.settled(facts, form), table=None)
        for table in form.tables():
            await self._hands.do(
                self._database,
                phrase("ANALYZE {}", name(facts.schema, table)),
                deadline=None,
            )
        await notes.reached(self._database, self._wish.table, Stage.SPLIT)

    async def put_in_place(self, step: Step, table: tuple[str, str]) -> None:
        """Compare every range, then take the step that puts them into `table`.

        Raises:
            PermanentError: a copy differs; the table stays as it is.
            Refused: a declared query would become more expensive.
        """
        for pieces in verify.together(self._facts, self._form):
            await self._compare(pieces)
        if self._form.unique:
            await self._keys()
        await self._copy_again()
        await self._hands.step(step, table=table, reaches=Stage.VERIFIED)
        here = name(*table)
        await self._hands.do(self._database, phrase("ANALYZE {}", here), deadline=None)

    # -- the copy

    async def _batches(self) -> None:
        at: dict[str, Any] = dict(self._known.steps.get("copy", {}))
        if not at:
            at = {"block": 0, "of": await self._pages(), "rows": 0, "file": 0}
        clock = self._hands.clock
        begin, before = clock.monotonic(), at["rows"]
        density = max(1.0, self._facts.rows / max(1, at["of"]))
        most = self._wish.migrate.batch_rows
        while at["block"] < at["of"]:
            await self._may_go_on(at)
            started, lsn = clock.monotonic(), await self._lsn()
            block = at["block"]
            step = max(1, int(most / density))
            at = await self._batch(at, min(at["of"], block + step))
            took = clock.monotonic() - started
            most = max(FEWEST, most // 2) if took > LONG else 2 * most
            most = min(most, self._wish.migrate.batch_rows)
            written = await self._lsn() - lsn
            rows = at["rows"] - before
            elapsed = max(1e-3, (clock.monotonic() - begin).total_seconds())
            if at["block"]:
                density = max(1.0, at["rows"] / at["block"])
            share = at["block"] / max(1, at["of"])
            left = (at["of"] - at["block"]) * density / max(1.0, rows / elapsed)
            self._hands.ears.told(
                Progress(
                    step="copy",
                    message=f"{at['rows']:,} rows",
                    share=share,
                    rows_per_s=rows / elapsed,
                    left=timedelta(seconds=left),
                )
            )
            await self._breathe(took, written)
            if (await self._database.fetch(split.left_again(self._facts)))[0][0] > FEW:
                await self._copy_again(FEW)

    async def _batch(self, at: dict[str, Any], end: int) -> dict[str, Any]:
        """Copy the pages up to `end`; answers with the place that was noted."""
        facts, form, begin = self._facts, self._form, at["block"]
        after = dict(at)

        async def work(handle: Handle) -> None:
            await handle.execute(NEST)
            places = await handle.fetch(split.ranges_in(facts, form, begin, end))
            file = await handle.fetch(
                phrase("SELECT pg_relation_filenode({})::bigint", _regclass(*self._old))
            )
            after.update(file=file[0][0], block=end)
            if at["file"] not in {0, file[0][0]}:  # rewritten: rows are in other places now
                after.update(block=0, of=await self._pages(handle), rows=0)
            else:
                rows = at["rows"]
                for (place,) in places:
                    piece = form.pieces[place]
                    statement = split.copy_rows(facts, form, piece, begin, end)
                    rows += await self._hands.do(handle, statement)
                after.update(rows=rows)
            await notes.done(handle, self._wish.table, "copy", after)

        await self._hands.briefly("copy", work, table=None)
        self._hands.ears.after("committed batch")
        return after

    async def _pages(self, handle: Handle | None = None) -> int:
        rows = await (handle or self._database).fetch(
            phrase(
                "SELECT pg_relation_size({}) / current_setting('block_size')::int",
                _regclass(*self._old),
            )
        )
        return int(rows[0][0])

    async def _lsn(self) -> int:
        rows = await self._database.fetch("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return int(rows[0][0])

    # -- holding back

    async def _strain(self, at: dict[str, Any], wal_per_s: float | None) -> Strain:
        lag = await self._database.fetch(
            "SELECT extract(epoch FROM max(replay_lag))::float,"
            " count(*) FILTER (WHERE state IS NULL), current_user FROM pg_stat_replication"
        )
        seconds, hidden, user = lag[0]
        if hidden:
            raise PermanentError(
                f"how far {hidden} replicas are behind is not shown to us, so the copy of "
                f"{self._wish.table} cannot wait for them; run GRANT pg_monitor TO {user}"
            )
        share = 1 - at["block"] / max(1, at["of"])
        return Strain(
            wal_per_s=wal_per_s,
            replica_lag=None if seconds is None else timedelta(seconds=seconds),
            free_bytes=self._watch.free_bytes(),
            needed_bytes=int(self._facts.bytes * share),
            busy=self._watch.busy(),
        )

    async def _may_go_on(self, at: dict[str, Any]) -> None:
        """Wait for replicas and services; stop before the disk is full."""
        guards, clock = self._wish.guards, self._hands.clock
        end, said = clock.monotonic() + LONGEST_WAIT, ""
        while True:
            strain = await self._strain(at, None)
            if stop := self._watch.stop():
                raise Unavailable(
                    f"{at['rows']:,} rows of {self._wish.table} are copied; the next run goes on: "
                    f"{stop}"
                )
            if full := split.room(strain, guards.free_disk):
                raise Unavailable(
                    f"{full}; the copy of {self._wish.table} stops at {at['rows']:,} rows and "
                    "nothing is lost. Make room and run it again, or undo it to free what it took"
                )
            pause, why = split.breather(
                strain, timedelta(), wal_per_s=guards.wal_per_s, replica_lag=guards.replica_lag
            )
            if not why:
                return
            if clock.monotonic() > end:
                raise Unavailable(f"the copy waited too long: {why}; run it again later")
            if why != said:
                self._hands.ears.told(Progress(step="copy", message=f"waits: {why}"))
                said = why
            await clock.sleep(pause)

    async def _breathe(self, took: timedelta, written: int) -> None:
        strain = Strain(wal_per_s=written / max(1e-3, took.total_seconds()))
        guards = self._wish.guards
        pause, _ = split.breather(
            strain, took, wal_per_s=guards.wal_per_s, replica_lag=guards.replica_lag
        )
        if pause:
            await self._hands.clock.sleep(pause)

    # -- comparing and the swap

    async def _compare(self, pieces: tuple[Any, ...]) -> None:
        facts, form = self._facts, self._form
        compared: tuple[verify.Compared, ...] = ()
        for _ in range(TRIES):
            await self._copy_again()
            rows: list[Row] = await self._database.fetch(
                verify.comparison(facts, form, pieces), deadline=None
            )
            compared = verify.answered(form, pieces, rows)
            if all(one.same for one in compared):
                break
        for one in compared:
            if not one.same:
                raise PermanentError(
                    f"{one.piece} has {one.copied} rows (hash {one.copied_hash}) where the old "
                    f"table has {one.rows} (hash {one.hash}); the table stays as it is. Report "
                    "this; a split is begun anew after an --undo"
                )
            note = {"rows": one.rows, "hash": str(one.hash)}
            await notes.done(self._database, self._wish.table, f"compared {one.piece}", note)
            self._hands.ears.told(
                Progress(step=f"compare {one.piece}", message=f"{one.rows:,} rows, the same hash")
            )
            self._hands.ears.after(f"compared {one.piece}")

    async def _copy_again(self, few: int = 0) -> None:
        """Until no more than `few` rows are left; the swap does what comes after."""
        facts, form = self._facts, self._form

        async def work(handle: Handle) -> None:
            for statement in split.copy_again(facts, form, split.MOST_AGAIN):
                await self._hands.do(handle, statement)

        for _ in range(MOST_ROUNDS):
            if (await self._database.fetch(split.left_again(facts)))[0][0] <= few:
                return
            await self._hands.briefly("copy again", work, table=None)

    async def _keys(self) -> None:
        """A primary key of its own for each partition that was made since."""
        rows = await self._database.fetch(
            phrase(
                "SELECT c.relname FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid"
                " WHERE h.inhparent = {}::regclass AND c.relname <> {} AND NOT EXISTS"
                " (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)",
                _regclass(self._facts.schema, self._facts.table),
                value(self._form.history),
            )
        )
        for (partition,) in rows:
            for step in split.own_key(self._facts, self._form, partition):
                await self._hands.step(step, table=(self._facts.schema, partition))


async def drop_old(hands: Hands, known: Notes) -> None:
    """Drop what was the table, once its ranges took its place.

    Raises:
        Refused: it is still in use.
    """
    if known.stage is not Stage.VERIFIED:
        raise Refused(
            f"{known.form.history} is still in use ({known.stage}); run it until verified first"
        )
    table = (known.facts.schema, known.form.history)
    step = split.dropped(known.facts, known.form)
    await hands.step(step, table=table, reaches=Stage.DROPPED)


def _regclass(schema: str, table: str) -> Any:
    return value(name(schema, table).as_string(None))
