"""Many rows leave a DEFAULT partition while all write on: copied aside, compared, then exchanged.

The copies are made as those of a split are: batches that lock nothing, a trigger on DEFAULT that
repeats what is written meanwhile, and what was changed copied anew (`partition_split`). One short
transaction then exchanges the old DEFAULT for the ranges and a new one, as `partition_drain` does
with few rows. Notes in the schema `scaler` say how far it is: a run that is killed, or has had its
turn, is carried on by the next.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

from scaler.clients.postgres import Postgres, Statement, name, phrase
from scaler.errors import Busy, PermanentError, Unavailable
from scaler.maintenance import partition_drain, partition_plan, partition_sql
from scaler.maintenance import partition_notes as notes
from scaler.maintenance import partition_split as split
from scaler.maintenance.partition_copy import Copy, Watch
from scaler.maintenance.partition_disk import free_bytes
from scaler.maintenance.partition_keeper import Keeper
from scaler.maintenance.partition_notes import Notes, Stage
from scaler.maintenance.partition_plan import Create, Drain
from scaler.maintenance.partition_ranges import Bounds, called
from scaler.maintenance.partition_shape import Piece, Shape, Step, Way, within
from scaler.maintenance.partition_sql import Grant, Place
from scaler.maintenance.partition_table import Facts, look

TURN: Final = timedelta(minutes=1)  # of copying, before the other tables have theirs
PATIENCE: Final = timedelta(seconds=10)  # with a transaction that stays on the table
TARGETS: Final = "targets"  # the note that says what the copies are going to be
SETTINGS: Final = "SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0"


async def drain(keeper: Keeper, step: Drain, hold: Callable[[], str]) -> None:
    """Put the rows where they belong; more than `migrate.batch_rows` are copied aside first.

    `hold` says why heavy work waits for now; then it stops between two batches.

    Raises:
        Busy: a lock was not free in time; nothing has changed for anybody.
        PermanentError: rows cannot be told from each other, or notes cannot be kept.
        Unavailable: it waits or has had its turn; the next run goes on.
    """
    place = f"{step.default.schema}.{step.default.name}"
    known = await notes.read(keeper.database, place)
    begun = known is not None and known.stage in {Stage.BEGUN, Stage.SPLIT}
    if begun or step.rows > keeper.rules.migrate.batch_rows:
        await _Exchange(keeper, step, place, hold).carry_on(known if begun else None)
    else:
        await partition_drain.drain(keeper, step)


class _Exchange:
    """One DEFAULT partition with many rows."""

    def __init__(self, keeper: Keeper, step: Drain, place: str, hold: Callable[[], str]) -> None:
        self._keeper = keeper
        self._database: Postgres = keeper.database
        self._step = step
        self._place = place
        self._hold = hold
        self._until = keeper.monotonic() + TURN
        migrate = keeper.rules.migrate.model_copy(update={"queries": ()})
        self._wish = keeper.rules.model_copy(update={"table": place, "migrate": migrate})
        self._hands = keeper.hands(self._wish, PATIENCE)

    async def carry_on(self, known: Notes | None) -> None:
        default, parent = self._step.default, self._keeper.parent
        await self._database.execute(SETTINGS)
        by = self._wish.by
        now = await look(self._database, default.schema, default.name, by)
        above = await look(self._database, *parent, by)
        try:
            if known is not None and not self._holds(known, now):
                await self._hands.step(split.abandoned(known.facts, known.form), table=None)
                known = None
            if known is None:
                known = await self._begin(now, above)
            copy = Copy(
                self._hands,
                known,
                Watch(free_bytes=await free_bytes(self._database), stop=self._stop),
            )
            if known.stage is not Stage.SPLIT:
                grants = await self._keeper.grants()
                await copy.fill(self._aside(known.form, above, grants))
            await copy.put_in_place(self._exchanged(known), parent)
        except Busy as error:
            raise Unavailable(f"{error}; the next run goes on") from error

    def _stop(self) -> str:
        closed = partition_plan.closed(self._keeper.rules, self._keeper.now())
        late = self._keeper.monotonic() > self._until
        return self._hold() or closed or ("the other tables have their turn" if late else "")

    def _holds(self, known: Notes, now: Facts) -> bool:
        """What was begun still fits: the same table, columns, and nothing else in its ranges."""
        if known.facts.oid != now.oid or known.facts.columns != now.columns:
            return False
        there = [p.bounds for p in self._keeper.facts.partitions if p.bounds is not None]
        return TARGETS in known.steps and not any(
            Bounds(one["lower"], one["upper"]).overlaps(other)
            for one in known.steps[TARGETS]["tables"]
            for other in there
        )

    async def _begin(self, facts: Facts, above: Facts) -> Notes:
        targets = sorted(self._step.targets, key=lambda target: target.bounds.lower)
        if not targets:
            raise PermanentError(
                f"every name for the partitions that rows of {facts.table} belong into is taken; "
                "rename those tables"
            )
        if not above.identity:
            raise PermanentError(
                f"nothing tells one row of {above.schema}.{above.table} from another, so the "
                f"{self._step.rows} rows of {facts.table} cannot be moved while others write; add "
                "a primary key, or raise migrate.batch_rows for one run at a quiet time"
            )
        if not facts.creates_schema:
            raise PermanentError(
                f"moving {self._step.rows} rows takes notes, and we may not keep any; run CREATE "
                "SCHEMA scaler AUTHORIZATION the role we connect as"
            )
        form = self._shape(facts, above.identity, targets)
        tables = [
            {
                "name": target.name,
                "lower": target.bounds.lower,
                "upper": target.bounds.upper,
                "marked": target.marked,
            }
            for target in targets
        ]
        await notes.begin(self._database, self._place, facts, form)
        await notes.done(self._database, self._place, TARGETS, {"tables": tables})
        known = await notes.read(self._database, self._place)
        if known is None:
            raise Unavailable(f"the notes on {self._place} are gone; the next run begins anew")
        return known

    def _shape(self, facts: Facts, identity: tuple[str, ...], targets: Sequence[Create]) -> Shape:
        """The ranges, and between them what stays in DEFAULT, from one end to the other."""
        key, rest = self._keeper.key, _aside(facts.table)
        pieces: list[Piece] = []
        edge: str | None = None
        for target in targets:
            lower, upper = key.literal(target.bounds.lower), key.literal(target.bounds.upper)
            if lower != edge:
                pieces.append(Piece(name=rest, lower=edge, upper=lower))
            pieces.append(Piece(name=_aside(target.name), lower=lower, upper=upper))
            edge = upper
        pieces.append(Piece(name=rest, lower=edge, upper=None))
        return Shape(
            kind=key.kind,
            upto="",
            history=facts.table,
            beside="",
            check=called(facts.table, "scaler_range"),
            unique="",
            identity=identity,
            upcoming=(),
            pieces=tuple(pieces),
        )

    def _aside(self, form: Shape, above: Facts, grants: Sequence[Grant]) -> Iterator[Step]:
        """The tables, with the indexes and foreign keys that attaching would make under a lock."""
        rest = form.pieces[-1].name
        for piece in {piece.name: piece for piece in form.pieces}.values():
            place = self._keeper.at(piece.name)
            table = name(*place)
            statements: list[Statement] = [
                phrase("DROP TABLE IF EXISTS {}", table),
                phrase("{}", self._keeper.alike(place, indexes=True)),
                *partition_sql.granted(place, grants),
                *split.referring(above, table),
            ]
            if piece.name != rest:
                condition = within(name(self._wish.by), piece.lower, piece.upper)
                statements.append(
                    phrase("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})",
                           table, name(form.check), condition)
                )  # fmt: skip
            statements.append(phrase("ALTER TABLE {} OWNER TO {}", table, name(above.owner)))
            because = f"a table for rows that leave {form.history}"
            yield Step(name=f"aside {piece.name}", statements=tuple(statements), because=because)

    def _exchanged(self, known: Notes) -> Step:
        """The old DEFAULT for the ranges and the new one, in one transaction."""
        facts, form, parent = known.facts, known.form, self._keeper.parent
        default: Place = (facts.schema, facts.table)
        drained = partition_drain.drained(default, self._keeper.now())
        statements: list[Statement] = [
            phrase("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", name(*parent)),
            *split.last_copied(facts, form),
            partition_sql.detached(parent, default),
            partition_sql.renamed(default, drained[1]),
        ]
        for one in known.steps[TARGETS]["tables"]:
            statements += self._placed(form, one)
        statements += [
            partition_sql.renamed(self._keeper.at(_aside(facts.table)), facts.table),
            partition_sql.attached_default(parent, default),
            partition_sql.commented(drained, self._keeper.drained(), facts.comment),
        ]
        return Step(
            name="exchange",
            way=Way.SWAP,
            because="every row is copied and compared",
            statements=tuple(statements),
        )

    def _placed(self, form: Shape, target: dict[str, Any]) -> Iterator[Statement]:
        keeper, final = self._keeper, self._keeper.at(target["name"])
        bounds = Bounds(target["lower"], target["upper"])
        yield partition_sql.renamed(keeper.at(_aside(target["name"])), target["name"])
        # the check shows that every row belongs there, so nothing is read
        yield partition_sql.attached(keeper.parent, final, keeper.key, bounds)
        yield phrase("ALTER TABLE {} DROP CONSTRAINT {}", name(*final), name(form.check))
        if target["marked"]:
            yield partition_sql.commented(final, keeper.ours(), None)


def _aside(table: str) -> str:
    """What a table is called until it takes its place."""
    return called(table, "aside")
