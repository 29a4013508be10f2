"""`DatabasePartitioner`: keeps the partition sets of one database in order.

One connection, one run at a time in the whole database (an advisory lock of the session says who),
and no state but the catalogue and the comments of detached tables: a run that was killed is
carried on by the next, from what is there. Each set has an outcome of its own; one that cannot be
kept never stops the others. Lock waits are bounded by `locks.wait`, attempts by `locks.tries`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from scaler.clients.postgres import Postgres
from scaler.clock import Clock
from scaler.errors import Busy, ConfigError, ScalerError, Unavailable
from scaler.maintenance import (
    partition_catalog,
    partition_exchange,
    partition_plan,
    partition_words,
)
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_copy import Watch
from scaler.maintenance.partition_disk import free_bytes
from scaler.maintenance.partition_facts import Facts
from scaler.maintenance.partition_forecast import SOON, full_within
from scaler.maintenance.partition_keeper import Keeper
from scaler.maintenance.partition_notes import Notes, Stage
from scaler.maintenance.partition_plan import Create, Drain, Finding, Level, Plan, Step
from scaler.maintenance.partition_rules import Database, PartitionSet
from scaler.maintenance.partition_steps import Ears

T = TypeVar("T")

LOCK: Final = 0x7363616C65725031  # "scalerP1": who holds it keeps the partitions of the database
FIRST_TRIES: Final = 3  # of a busy table, before the others have had their turn
PAUSE: Final = timedelta(milliseconds=300)  # between attempts, so that writers get through
MOST_ROUNDS: Final = 3  # looks in one run: what was done may have made the next step possible
MOST_AT_ONCE: Final = 20  # partitions that are created in one transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did for one set."""

    table: str
    plan: Plan  # as it was after the last look
    done: tuple[str, ...] = ()
    failed: str = ""  # why the rest was left; the next run tries again
    busy: bool = False  # only a lock stood in the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run over a database."""

    database: str
    outcomes: tuple[Outcome, ...] = ()
    standing_by: str = ""  # why nothing was attempted: another run, or a replica

    @property
    def ok(self) -> bool:
        alarms = (f.level is Level.ALARM for o in self.outcomes for f in o.plan.findings)
        return not any(o.failed for o in self.outcomes) and not any(alarms)


class DatabasePartitioner:
    """The partition sets of one database."""

    def __init__(
        self,
        rules: Database,
        *,
        clock: Clock,
        hold: Callable[[], str] = lambda: "",
        connect: Callable[[str], Postgres] = Postgres,
    ) -> None:
        """`hold` says why heavy steps wait, as while a service is being scaled; empty: they need
        not.

        Raises:
            ConfigError: the address is missing or is none.
        """
        self.rules = rules
        self._clock = clock
        self._hold = hold
        self._address = rules.address()
        self._database = connect(self._address)
        self._user = ""
        self._connections = 0

    async def plan(self) -> tuple[Plan, ...]:
        """What a run would do now. Nothing is changed, and nobody is kept from running.

        Raises:
            ScalerError: the database does not answer.
        """
        try:
            await self._begin(None)
            return tuple(plan for plan, _ in await self._look(self.rules.partitions))
        finally:
            await self._database.aclose()

    async def run(self) -> Report:
        """Do what the plan says, set by set.

        Raises:
            ScalerError: the database does not answer at all.
        """
        try:
            if standing_by := await self._begin(LOCK):
                return Report(database=self.rules.name, standing_by=standing_by)
            outcomes = await self._rounds()
            return Report(database=self.rules.name, outcomes=outcomes)
        finally:
            await self._database.aclose()  # the lock goes with the session

    async def verify(self) -> tuple[tuple[Plan, ...], tuple[str, ...]]:
        """The plans, and the statements that would grant what we lack.

        Raises:
            ScalerError: the database does not answer.
        """
        try:
            await self._begin(None)
            found = await self._look(self.rules.partitions)
            grants = (grant for _, facts in found for grant in partition_plan.grants(facts))
            return tuple(plan for plan, _ in found), tuple(dict.fromkeys(grants))
        finally:
            await self._database.aclose()

    async def convert(self, table: str, until: Stage = Stage.LIVE) -> Notes:
        """Turn a plain table of these sets into a partitioned one while it is in use.

        Raises as `Conversion.run` does, and:
            ConfigError: the table stands in none of these sets.
        """
        return await (await self.conversion(table)).run(until)

    async def conversion(self, table: str, *, ears: Ears | None = None) -> Conversion:
        """How far a table is on its way, and each step of it: preflight, run, undo, drop the old.

        Raises:
            ConfigError: the table stands in none of these sets.
        """
        wish = next((one for one in self.rules.partitions if one.table == table), None)
        if wish is None:
            names = ", ".join(one.table for one in self.rules.partitions)
            raise ConfigError(f"{table} stands in no partition set; there are {names}")
        watch = Watch(free_bytes=await free_bytes(self._database), busy=self._hold)
        return Conversion(self._database, wish, clock=self._clock, ears=ears, watch=watch)

    async def aclose(self) -> None:
        await self._database.aclose()

    async def _begin(self, lock: int | None) -> str:
        """Open a session and set it up; why it may not change anything, or nothing.

        Raises:
            PermanentError: a pooler gives us no session of our own; none of it was set up.
        """
        await self._database.open()
        backend = self._database.backend
        row = (await self._database.fetch(partition_catalog.SESSION, (backend, backend, lock)))[0]
        pid, self._user, replica, _, granted = row
        self._database.insist(pid)
        self._connections = self._database.connections
        if replica:
            return "the server is a replica; whoever is asked for writing is kept in order"
        return "" if granted else "another run has the partitions of this database in hand"

    # Looking

    async def _look(self, sets: Sequence[PartitionSet]) -> list[tuple[Plan, Facts]]:
        """The plans of these sets; one that cannot be read has an alarm for a plan."""
        try:
            facts = await partition_catalog.read(self._database, sets)
        except ScalerError:
            self._insist()
            return [await self._look_at(one) for one in sets]
        try:
            holding = set(await partition_catalog.occupied(self._database, facts))
        except ScalerError:
            self._insist()
            holding = {one.table for one in facts if one.default is not None}
        found = []
        for rules, one in zip(sets, facts, strict=True):
            found.append(await self._planned(rules, one, astray=one.table in holding))
        return _with_room(found)

    async def _look_at(self, rules: PartitionSet) -> tuple[Plan, Facts]:
        """The same for one set, when all of them together did not answer."""
        try:
            (facts,) = await partition_catalog.read(self._database, (rules,))
        except ScalerError as error:
            self._insist()
            return _unreadable(rules, error), Facts(table=rules.table, missing=str(error))
        return await self._planned(rules, facts, astray=facts.default is not None)

    async def _planned(
        self, rules: PartitionSet, facts: Facts, *, astray: bool
    ) -> tuple[Plan, Facts]:
        now = self._clock.now()
        try:
            if astray:
                facts = await partition_catalog.astray(self._database, rules, facts, now)
        except ScalerError as error:
            self._insist()
            return _unreadable(rules, error), facts
        return partition_plan.plan(rules, facts, now, hold=self._hold()), facts

    def _alive(self) -> bool:
        return self._database.connected and self._database.connections == self._connections

    def _insist(self) -> None:
        """The session that holds our lock is still the one we use.

        Raises:
            Unavailable: it is not; somebody else may be at work already.
        """
        if not self._alive():
            raise Unavailable(
                "the connection to the server broke; what was begun is carried on by the next run"
            )

    # Acting

    async def _rounds(self) -> tuple[Outcome, ...]:
        """Look and act until nothing is left to do, or nothing more can be done."""
        outcomes: dict[str, Outcome] = {}
        sets: Sequence[PartitionSet] = self.rules.partitions
        for number in range(MOST_ROUNDS):
            acted = []
            for rules, (plan, facts) in zip(sets, await self._look(sets), strict=True):
                before = outcomes.get(rules.table)
                outcome = await self._keep(rules, plan, facts, number)
                if before is not None:
                    outcome = replace(outcome, done=before.done + outcome.done)
                outcomes[rules.table] = outcome
                if plan.steps and (outcome.busy or not outcome.failed):
                    acted.append(rules)
            sets = acted
            if not sets or not self._alive():
                break
        return tuple(outcomes.values())

    async def _keep(self, rules: PartitionSet, plan: Plan, facts: Facts, number: int) -> Outcome:
        """Carry out the steps of one set, up to the first that fails."""
        done: list[str] = []
        tries = rules.locks.tries if number else min(FIRST_TRIES, rules.locks.tries)
        keeper = Keeper(
            self._database, self._clock, rules, facts, user=self._user, address=self._address
        )
        try:
            for batch in _batches(plan.steps):
                self._insist()
                await self._patiently(partial(self._take, keeper, batch), tries)
                done += [partition_words.described(step) for step in batch]
        except Busy as error:
            return Outcome(
                table=rules.table, plan=plan, done=tuple(done), failed=str(error), busy=True
            )
        except ScalerError as error:
            return Outcome(table=rules.table, plan=plan, done=tuple(done), failed=str(error))
        return Outcome(table=rules.table, plan=plan, done=tuple(done))

    async def _take(self, keeper: Keeper, steps: Sequence[Step]) -> None:
        if isinstance(steps[0], Drain):
            await partition_exchange.drain(keeper, steps[0], self._hold)
        else:
            await keeper.take(steps)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]], tries: int) -> T:
        """The result of `attempt`, which is made again while others hold what it needs."""
        for _ in range(tries - 1):
            try:
                return await attempt()
            except Busy:
                self._insist()
                await self._clock.sleep(PAUSE)
        return await attempt()


def _with_room(found: list[tuple[Plan, Facts]]) -> list[tuple[Plan, Facts]]:
    """The same; the plan of the set that grows most says so when the disk will be full."""
    free = next((facts.free for _, facts in found), None)
    plans = [plan for plan, _ in found]
    days = None if free is None else full_within([plan.forecast for plan in plans], free)
    if days is None:
        return found
    most = max(plans, key=lambda plan: plan.forecast.more)
    level = Level.ALARM if days == SOON else Level.WARNING
    text = f"{most.table}: it grows most; the disk of the server will be full within {days} days"
    told = replace(most, findings=(*most.findings, Finding(level, text)))
    return [(told if plan is most else plan, facts) for plan, facts in found]


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    """Partitions that are created one after the other in one transaction, all else by itself."""
    batches: list[list[Step]] = []
    for step in steps:
        last = batches[-1] if batches else []
        both = isinstance(step, Create) and last and isinstance(last[0], Create)
        if both and len(last) < MOST_AT_ONCE:
            last.append(step)
        else:
            batches.append([step])
    return batches


def _unreadable(rules: PartitionSet, error: ScalerError) -> Plan:
    finding = Finding(Level.ALARM, f"{rules.table}: cannot be looked at: {error}")
    return Plan(table=rules.table, findings=(finding,))
