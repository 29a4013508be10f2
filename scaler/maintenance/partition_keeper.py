"""Carries out the steps of a plan on one table, each so that it may be broken off anywhere.

What has to be seen together is one transaction. DETACH CONCURRENTLY cannot be in one, so the table
is marked first: whatever happens then, the next look knows whose it is and how far it got.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Final

from scaler.clients import commands
from scaler.clients.postgres import Handle, Part, Postgres, name, phrase
from scaler.clock import Clock
from scaler.errors import PermanentError, Unavailable
from scaler.maintenance import partition_plan, partition_ranges, partition_sql, partition_words
from scaler.maintenance.partition_facts import Detached, Facts, Mark, Partition, mark_in
from scaler.maintenance.partition_plan import (
    Archive,
    Confirm,
    Create,
    CreateDefault,
    Drop,
    Finalize,
    Retire,
    Step,
)
from scaler.maintenance.partition_ranges import Key
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_sql import Grant, Place
from scaler.maintenance.partition_steps import Ears, Hands

PATIENCE: Final = timedelta(seconds=30)  # for one statement that changes the catalogue
LONGEST_ARCHIVE: Final = timedelta(hours=6)
MOST_OUTPUT: Final = 300  # characters of what a command said


class Keeper:
    """One table for the length of one plan."""

    def __init__(
        self,
        database: Postgres,
        clock: Clock,
        rules: PartitionSet,
        facts: Facts,
        *,
        user: str,
        address: str,
    ) -> None:
        """`user` is who we are on the server, `address` what an archive command gets."""
        self.database = database
        self._clock = clock
        self.rules = rules
        self.facts = facts
        self._user = user
        self._address = address
        self.parent: Place = (rules.schema_name, rules.table_name)

    @property
    def key(self) -> Key:
        kind = partition_plan.key_kind(self.rules, self.facts)
        if isinstance(kind, partition_plan.Finding):
            raise PermanentError(kind.text)
        return Key(kind, self.rules.timezone)

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> timedelta:
        return self._clock.monotonic()

    def hands(self, wish: PartitionSet, patience: timedelta) -> Hands:
        """For work of many transactions, noted down between them."""
        return Hands(self.database, wish, self._clock, Ears(), patience=patience)

    def ours(self) -> Mark:
        """Of a partition whose bounds do not show that it is ours."""
        return Mark(of=self.rules.table, ours=True)

    def drained(self) -> Mark:
        """Of a DEFAULT partition whose rows have all been copied out, just now."""
        now = self._clock.now()
        return Mark(of=self.rules.table, bound="DEFAULT", retired=now, detached=now, drained=now)

    async def take(self, steps: Sequence[Step]) -> None:
        """Carry out one step, or the creation of several partitions together.

        Raises:
            Busy: a lock was not free in time.
            ScalerError: the server refuses, or does not answer.
        """
        match steps[0]:
            case Create():
                await self._create([step for step in steps if isinstance(step, Create)])
            case CreateDefault(name=new):
                await self._create_default(new)
            case Retire(partition=old, concurrently=concurrently):
                await self._retire(old, concurrently=concurrently)
            case Finalize(partition=old):
                await self._finalize(old)
            case Confirm(table=table):
                mark = table.mark.but(detached=self._clock.now())
                await self._remember((table.schema, table.name), mark, table.comment)
            case Archive(table=table):
                await self._archive(table)
            case Drop(table=table):
                await self._together(partition_sql.dropped((table.schema, table.name)))
            case other:
                raise PermanentError(f"{partition_words.described(other)} is not done here")

    @asynccontextmanager
    async def transaction(self, statement: timedelta = PATIENCE) -> AsyncIterator[Handle]:
        """All or nothing, with bounded waits, as the owner of the table."""
        wait = self.rules.locks.wait
        async with self.database.transaction(lock_wait=wait, statement=statement) as handle:
            if self._user != self.facts.owner:
                await handle.execute(partition_sql.role(self.facts.owner))
            yield handle

    async def _together(self, *parts: Part) -> None:
        """The same for statements that need no answer from one another."""
        if self._user != self.facts.owner:
            parts = (partition_sql.role(self.facts.owner), *parts)
        wait = self.rules.locks.wait
        await self.database.together(parts, lock_wait=wait, statement=PATIENCE)

    # Creating

    async def _create(self, steps: Sequence[Create]) -> None:
        grants = await self.grants()
        parts: list[Part] = []
        for step in steps:
            parts += self.made(step, grants)
            parts.append(partition_sql.attached(self.parent, self.at(step.name), self.key,
                                                step.bounds))  # fmt: skip
        await self._together(*parts)

    def made(self, step: Create, grants: Sequence[Grant]) -> list[Part]:
        """Statements that make a partition, not attached yet."""
        place = self.at(step.name)
        parts: list[Part] = [self.alike(place)]
        if step.marked:
            parts.append(partition_sql.commented(place, self.ours(), None))
        return [*parts, *partition_sql.granted(place, grants)]

    def alike(self, place: Place, *, indexes: bool = False) -> Part:
        identity = self.facts.identity
        template = self.rules.template
        return partition_sql.alike(self.parent, place, template, identity=identity, indexes=indexes)

    def at(self, table: str) -> Place:
        return (self.rules.schema_name, table)

    async def grants(self) -> list[Grant]:
        """What is granted on the table to others than its owner."""
        if self.rules.template.privileges == "none":
            return []
        rows = await self.database.fetch(
            "SELECT coalesce(pg_get_userbyid(nullif(g.grantee, 0)), ''), g.privilege_type,"
            " g.is_grantable FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
            " aclexplode(c.relacl) g WHERE n.nspname = %s AND c.relname = %s"
            " AND g.grantee <> c.relowner",
            self.parent,
        )
        return [(str(who), str(what), bool(further)) for who, what, further in rows]

    async def _create_default(self, new: str) -> None:
        place = self.at(new)
        parts = [self.alike(place), *partition_sql.granted(place, await self.grants())]
        await self._together(*parts, partition_sql.attached_default(self.parent, place))

    # Retiring

    async def _retire(self, old: Partition, *, concurrently: bool) -> None:
        place = (old.schema, old.name)
        mark = Mark(of=self.rules.table, bound=old.bound, retired=self._clock.now())
        if not concurrently:
            mark = mark.but(detached=self._clock.now())
            await self._together(
                partition_sql.commented(place, mark, old.comment),
                partition_sql.detached(self.parent, place),
            )
            return
        await self._remember(place, mark, old.comment)
        try:
            await self._alone(partition_sql.detached_concurrently(self.parent, place))
        except PermanentError:
            if not await self._pending(place):
                raise
            # an earlier attempt of this step got half way
            await self._alone(partition_sql.finalized(self.parent, place))
        await self._remember(place, mark.but(detached=self._clock.now()), old.comment)

    async def _pending(self, place: Place) -> bool:
        rows = await self.database.fetch(
            "SELECT to_jsonb(i) ->> 'inhdetachpending' FROM pg_inherits i"
            " JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = %s",
            place,
        )
        return bool(rows) and rows[0][0] == "true"

    async def _finalize(self, old: Partition) -> None:
        place = (old.schema, old.name)
        await self._alone(partition_sql.finalized(self.parent, place))
        if (mark := mark_in(old.comment)) is not None:
            await self._remember(place, mark.but(detached=self._clock.now()), old.comment)

    async def _alone(self, statement: Part) -> None:
        """A statement that may be in no transaction, as the owner of the table."""
        wait = self.rules.locks.wait
        other = self._user != self.facts.owner
        if other:
            await self.database.execute(phrase("SET ROLE {}", name(self.facts.owner)))
        try:
            await self.database.execute(phrase("{}", statement), lock_wait=wait)
        finally:
            if other and self.database.connected:
                await self.database.execute("RESET ROLE")

    async def _remember(self, place: Place, mark: Mark, comment: str | None) -> None:
        await self._together(partition_sql.commented(place, mark, comment))

    async def _archive(self, table: Detached) -> None:
        """Run the command of the rules; only its success is remembered.

        Raises:
            PermanentError: it failed; what it said last is in the message.
        """
        begin, end = partition_ranges.edges_of(table.mark.bound)
        known = {"{table}": f"{table.schema}.{table.name}", "{begin}": begin, "{end}": end}
        words = list(self.rules.expire.archive or ())
        for place, meant in known.items():
            words = [word.replace(place, meant) for word in words]
        try:
            async with asyncio.timeout(LONGEST_ARCHIVE.total_seconds()):
                code, output = await commands.run(words, {"PARTITION_DSN": self._address})
        except TimeoutError:
            raise Unavailable(f"archiving {table.name}: not done in {LONGEST_ARCHIVE}") from None
        if code:
            said = " ".join(output.split())[-MOST_OUTPUT:]
            raise PermanentError(f"archiving {table.name}: exit code {code}: {said}")
        mark = table.mark.but(archived=self._clock.now())
        await self._remember((table.schema, table.name), mark, table.comment)
