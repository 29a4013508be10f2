"""A live table becomes partitioned without a lost row, can stop anywhere, go on, and be undone.

`Conversion.run` looks at its notes in the database and does what is missing up to a stage. Killed
at any moment, the next run goes on from there. Nothing here decides how: that is `partition_attach`
(going live), `partition_split` (the history into its ranges) and `partition_verify`.
"""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from scaler.clients.postgres import Postgres, name, phrase, value, written
from scaler.clock import Clock, SystemClock
from scaler.errors import NotFound, PermanentError, Refused
from scaler.maintenance import partition_attach as attach
from scaler.maintenance import partition_copy as copying
from scaler.maintenance import partition_notes as notes
from scaler.maintenance import partition_preflight as preflight
from scaler.maintenance import partition_split as split
from scaler.maintenance.partition_copy import Copy, Watch
from scaler.maintenance.partition_notes import Notes, Stage
from scaler.maintenance.partition_preflight import Finding
from scaler.maintenance.partition_ranges import Key
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_shape import Shape, Way, shape, within
from scaler.maintenance.partition_steps import Ears, Hands
from scaler.maintenance.partition_table import Facts, look, look_at_rows

FAR: Final = timedelta(days=366)  # ahead: a row there is a mistake, or of another kind of key


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found before anything is done; `form` is None when it is not even clear how."""

    facts: Facts
    findings: tuple[Finding, ...]
    form: Shape | None

    @property
    def stopped(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.stops)


class Conversion:
    """One table on its way. One task at a time; another process is refused meanwhile."""

    def __init__(
        self,
        database: Postgres,
        wish: PartitionSet,
        *,
        clock: Clock | None = None,
        ears: Ears | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._watch = watch or Watch()
        self._clock = clock or SystemClock()
        self._database = database
        self._wish = wish
        self._hands = Hands(database, wish, self._clock, ears or Ears())

    async def preflight(self, *, split: bool = False) -> Report:
        """Everything that stands in the way, and what would be done. Changes nothing.

        Raises:
            NotFound: there is no such table.
        """
        wish = self._wish
        facts = await look(self._database, wish.schema_name, wish.table_name, wish.by)
        found = list(preflight.findings(facts, wish.key, split=split))
        kind = preflight.kind_of(facts, wish.key)
        if kind is None or facts.kind != "r":
            return Report(facts=facts, findings=tuple(found), form=None)
        span = await look_at_rows(self._database, facts, kind)
        now = self._clock.now()
        latest = Key(kind, wish.timezone).at(now + FAR)
        rows = preflight.about_rows(span, latest, wish.by)
        if rows:
            return Report(facts=facts, findings=(*rows, *found), form=None)
        try:
            form = shape(wish, kind, facts, span, now)
        except ValueError as error:
            found.insert(0, Finding(about="ranges", message=str(error)))
            return Report(facts=facts, findings=tuple(found), form=None)
        taken = await self._database.fetch(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = ANY (%s)",
            (facts.schema, list(form.names())),
        )
        for (relation,) in taken:
            message = f"{relation} exists already, and a part would be called so; rename it"
            found.insert(0, Finding(about="names", message=message))
        return Report(facts=facts, findings=tuple(found), form=form)

    async def status(self) -> Notes | None:
        """How far it is; None when nobody has begun."""
        return await notes.read(self._database, self._wish.table)

    async def script(self) -> str:
        """The statements that `run` would do until the table is live, for people who read first."""
        known = await self.status()
        if known is None or known.stage is Stage.UNDONE:
            async with self._hands.alone():
                report = await self.preflight()
                facts, form = report.facts, self._insist(report)
            done: set[str] = set()
        else:
            facts, form, done = known.facts, known.form, set(known.steps)
        lines = []
        for step in attach.live(facts, form):
            if step.name in done:
                continue
            lines.append(f"-- {step.name}: {step.because}")
            body = [f"{written(statement).strip()};" for statement in step.statements]
            if step.way is not Way.ALONE:
                wait = round(self._wish.locks.wait / timedelta(milliseconds=1))
                body = ["BEGIN;", f"SET LOCAL lock_timeout = {wait};", *body, "COMMIT;"]
            lines += [*body, ""]
        return "\n".join(lines)

    async def run(self, until: Stage = Stage.LIVE) -> Notes:
        """Go on until `until` is reached; what is reached already is not done again.

        Raises:
            Refused: the preflight, another process or a plan that became worse stopped it.
            Busy: a lock was not to be had; run it again.
            ScalerError: as the database says; nothing is half done.
        """
        async with self._hands.alone():
            known = await self.status()
            if known is None or known.stage is Stage.UNDONE:
                known = await self._begin(split=until.reaches(Stage.SPLIT))
            if known.stage is Stage.DROPPED or known.stage.reaches(until):
                return known
            await self._there(known)
            if not known.stage.reaches(Stage.LIVE) or "analyze" not in known.steps:
                await self._go_live(known)
                known = await self._known()
            if until.reaches(Stage.SPLIT) and not known.stage.reaches(Stage.SPLIT):
                self._insist_on_identity(known)
                aside = split.aside(known.facts, known.form)
                await Copy(self._hands, known, self._watch).fill(aside)
                known = await self._known()
            if until.reaches(Stage.VERIFIED) and not known.stage.reaches(Stage.VERIFIED):
                step = split.swapped(known.facts, known.form)
                table = (known.facts.schema, known.facts.table)
                await Copy(self._hands, known, self._watch).put_in_place(step, table)
            return await self._known()

    async def undo(self) -> Notes:
        """Back to the table as it was, in one short transaction when it is live already.

        Raises:
            Refused: the split is done, or the new partitions hold too many rows by now.
        """
        async with self._hands.alone():
            known = await self._known()
            if known.stage.reaches(Stage.VERIFIED):
                raise Refused(
                    f"{self._wish.table} is split and in use as such; an undo would lose what was "
                    "written since. Keep it, or copy the rows into a new table"
                )
            if known.stage is not Stage.UNDONE:
                await self._undo(known)
            return await self._known()

    async def drop_old(self) -> Notes:
        """Drop the old table, once every range was compared and took its place.

        Raises:
            Refused: it is still in use.
        """
        async with self._hands.alone():
            known = await self._known()
            if known.stage is not Stage.DROPPED:
                await self._there(known)
                await copying.drop_old(self._hands, known)
            return await self._known()

    # -- below: one stage each

    async def _begin(self, *, split: bool) -> Notes:
        report = await self.preflight(split=split)
        form = self._insist(report)
        await notes.begin(self._database, self._wish.table, report.facts, form)
        return await self._known()

    def _insist(self, report: Report) -> Shape:
        if report.stopped or report.form is None:
            reasons = "\n".join(f"  {one.about}: {one.message}" for one in report.stopped)
            raise Refused(f"{self._wish.table} cannot be converted yet:\n{reasons}")
        return report.form

    def _insist_on_identity(self, known: Notes) -> None:
        if not known.form.identity:
            raise Refused(
                f"nothing tells one row of {self._wish.table} from another, so its history cannot "
                "be split; it stays live as it is. Undo, add a primary key, and begin again"
            )

    async def _known(self) -> Notes:
        known = await self.status()
        if known is None:
            raise NotFound(f"no conversion of {self._wish.table} has begun; there is nothing to do")
        return known

    async def _there(self, known: Notes) -> None:
        """The table that the notes are about is still that table."""
        facts, form = known.facts, known.form
        table = form.history if known.stage.reaches(Stage.LIVE) else facts.table
        rows = await self._database.fetch(
            "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            (facts.schema, table),
        )
        if not rows:
            raise NotFound(
                f"{facts.schema}.{table} is gone since the conversion began; restore it, or "
                f"delete the row of {self._wish.table} in scaler.conversions to forget it"
            )
        if rows[0][0] != facts.oid:
            raise PermanentError(
                f"{facts.schema}.{table} is another table than when the conversion began; undo "
                "it, and begin again"
            )
        attached = await self._database.fetch(
            phrase("SELECT relispartition FROM pg_class WHERE oid = {}", value(facts.oid))
        )
        if known.stage in {Stage.LIVE, Stage.SPLIT} and not attached[0][0]:
            raise Refused(
                f"{facts.schema}.{table} has been detached since; there is no history left to split"
            )

    async def _go_live(self, known: Notes) -> None:
        facts, form = known.facts, known.form
        for step in attach.live(facts, form):
            behind = known.stage.reaches(Stage.LIVE) and step.name != "analyze"
            if step.name not in known.steps and not behind:
                reaches = Stage.LIVE if step.name == "swap" else None
                await self._hands.step(step, table=(facts.schema, facts.table), reaches=reaches)

    async def _undo(self, known: Notes) -> None:
        facts, form = known.facts, known.form
        table = (facts.schema, facts.table)
        if known.stage.reaches(Stage.LIVE):
            await self._few_rows(known)
            if any(step.startswith("aside ") for step in known.steps):
                await self._hands.step(
                    split.abandoned(facts, form),
                    table=(facts.schema, form.history),
                    reaches=Stage.LIVE,
                    afresh=True,
                )
            await self._hands.step(
                replace(attach.undone(facts, form), way=Way.SWAP),
                table=table,
                reaches=Stage.BEGUN,
                afresh=True,
            )
        steps = attach.cleared(facts, form)
        for step in steps:
            await self._hands.step(step, table=table)
        await notes.forget(self._database, self._wish.table, "")
        await notes.reached(self._database, self._wish.table, Stage.UNDONE)

    async def _few_rows(self, known: Notes) -> None:
        facts, form = known.facts, known.form
        here = name(facts.schema, facts.table)
        many = await self._database.fetch(
            phrase(
                "SELECT count(*) FROM (SELECT FROM {} WHERE NOT ({}) LIMIT {}) AS few",
                here,
                within(name(facts.key), None, form.upto),
                value(attach.WIDE + 1),
            )
        )
        if many[0][0] > attach.WIDE:
            raise Refused(
                f"more than {attach.WIDE:,} rows are in the partitions that came after; moving "
                "them would hold up everybody. Keep the table partitioned"
            )
