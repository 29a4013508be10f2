"""What is to be done with a partition set, and why: a plan from what is there and from the rules.

Nothing here asks a database or a clock. A set that is as it should be has an empty plan. What
cannot be done, and what somebody else made, is said in findings and is left alone: nothing is ever
cascaded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from scaler.maintenance import partition_forecast, partition_ranges
from scaler.maintenance.partition_facts import Detached, Facts, Partition
from scaler.maintenance.partition_forecast import NOTHING_KNOWN, Forecast
from scaler.maintenance.partition_ranges import BY_TYPE, Age, Bounds, Key, KeyKind, Range, Unit
from scaler.maintenance.partition_rules import PartitionSet

MOST_CREATED: Final = 200  # in one run and set; the next run goes on
MOST_AHEAD_OF_CLOCK: Final = 100  # partitions past `ahead` that rows from the future may call for
DRAINED_GRACE: Final = Age(1, Unit.DAY)  # every row of such a table is elsewhere
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)  # no gap before it is filled
ALARM_BELOW: Final = 2  # ranges that are ready after the one of now


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something to be done, and the reason in words."""

    because: str
    heavy: bool = False  # may wait for the window, and for the service to be at ease


@dataclass(frozen=True, slots=True, kw_only=True)
class Create(Step):
    """A partition, empty, attached."""

    name: str
    bounds: Bounds
    marked: bool = False  # its bounds are on no boundary, so its mark has to say that it is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDefault(Step):
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire(Step):
    """Take a partition out of the table; its rows stay in it."""

    partition: Partition
    concurrently: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize(Step):
    """Finish a DETACH CONCURRENTLY that was broken off."""

    partition: Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirm(Step):
    """Remember that a table is detached; its grace begins."""

    table: Detached


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive(Step):
    table: Detached


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Step):
    table: Detached


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Step):
    """Move rows from the DEFAULT partition to where they belong."""

    default: Partition
    targets: tuple[Create, ...]
    rows: int


class Level(StrEnum):
    """How soon a person is needed."""

    NOTE = "note"
    WARNING = "warning"
    ALARM = "alarm"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a person should know, and may have to do."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps in their order; `later` are those that wait, each with what for."""

    table: str
    steps: tuple[Step, ...] = ()
    later: tuple[tuple[Step, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    horizon: int = 0  # whole ranges that are ready after the one of now
    until: datetime | None = None  # rows up to here find a partition
    forecast: Forecast = NOTHING_KNOWN

    @property
    def blocked(self) -> bool:
        """Whether nothing can be done before a person has acted."""
        return not self.steps and any(f.level is Level.ALARM for f in self.findings)


def plan(rules: PartitionSet, facts: Facts, now: datetime, *, hold: str = "") -> Plan:
    """What is to be done. `hold` says why heavy steps wait for now; empty when they need not."""
    kind = key_kind(rules, facts)
    if isinstance(kind, Finding):
        return Plan(table=rules.table, findings=(kind,))
    return _Planner(rules, facts, Key(kind, rules.timezone), now).plan(hold)


def key_kind(rules: PartitionSet, facts: Facts) -> "KeyKind | Finding":
    """What the partition key holds, or why this set cannot be kept, with the remedy."""
    known = BY_TYPE.get(facts.type, ())
    kind = rules.key or (known[0] if len(known) == 1 else None)
    if not facts.missing and kind in known and kind is not None:
        return kind
    column = f"{rules.table}.{rules.by} is {facts.type}"
    if facts.missing:
        text = f"{rules.table}: {facts.missing}"
    elif not known:
        text = f"{column}; a key may be one of {', '.join(BY_TYPE)}"
    else:
        kinds = " or ".join(f"key: {one}" for one in known)
        text = f"{column}{f', not {kind}' if kind else ''}; write {kinds}"
    return Finding(Level.ALARM, text)


def grants(facts: Facts) -> Iterator[str]:
    """The statements that would give us what we lack; owning the table is all that it takes."""
    if not facts.owner:
        return
    if not facts.owned:
        yield f'GRANT "{facts.owner}" TO "{facts.user}";'
    if not facts.may_create:
        schema = facts.table.partition(".")[0]
        yield f'GRANT USAGE, CREATE ON SCHEMA "{schema}" TO "{facts.owner}";'


def closed(rules: PartitionSet, now: datetime) -> str:
    """Why heavy work waits at this time of day; empty when it need not."""
    window = rules.locks.window
    if window is None or window.holds(now.astimezone(rules.timezone).time()):
        return ""
    return f"heavy work is done {window} {rules.timezone}"


def astray_limit(rules: PartitionSet, now: datetime) -> tuple[datetime, datetime]:
    """Between which moments rows of the DEFAULT partition get partitions of their own.

    What has expired already, or lies more than a year behind the horizon, is more likely a slip
    of a pen than a row that needs a partition.
    """
    ahead = partition_ranges.upcoming(rules.every, rules.timezone, now, rules.ahead)
    first = datetime(1971, 1, 1, tzinfo=UTC)
    if rules.keep is not None:
        first = max(first, rules.keep.before(now, rules.timezone))
    last = Age(1, Unit.YEAR)
    end = ahead[-1].end
    return first, end + (end - last.before(end, rules.timezone))


class _Planner:
    """Collects the steps and findings of one set."""

    def __init__(self, rules: PartitionSet, facts: Facts, key: Key, now: datetime) -> None:
        self.rules, self.facts, self.key, self.now = rules, facts, key, now
        self.zone = key.zone
        self.findings: list[Finding] = []
        self.covered = [p.bounds for p in facts.partitions if p.bounds is not None]
        self.ready_until = now  # to where the clock alone calls for partitions
        self.taken = set(facts.names) | {p.name for p in facts.partitions}

    def plan(self, hold: str) -> Plan:
        self._dependants()
        steps: list[Step] = [*self._finalize()]
        if self._allowed():
            created = list(self._create())
            steps += [*created, *self._default(), *self._drain(), *self._retire()]
        else:
            created = []
        steps += self._after_detach()
        horizon, until = self._ready(self.now)
        lead = self._lead()
        ready, end = self._ready(self.now + lead) if lead else (horizon, until)
        self._alarm(created, ready, end, ahead=bool(lead))
        hold = hold or closed(self.rules, self.now)
        return Plan(
            table=self.rules.table,
            steps=tuple(s for s in steps if not (s.heavy and hold)),
            later=tuple((s, hold) for s in steps if s.heavy and hold),
            findings=tuple(self.findings),
            horizon=horizon,
            until=until,
            forecast=replace(
                partition_forecast.forecast(self.rules, self.facts, self.key, self.now),
                reached=end and end - lead,  # by rows as far ahead of the clock as they are
            ),
        )

    def _found(self, level: Level, text: str) -> None:
        self.findings.append(Finding(level, f"{self.rules.table}: {text}"))

    def _allowed(self) -> bool:
        """Whether we may change the table at all; what is missing is found."""
        table, owner = self.rules.table, self.facts.owner
        if not self.facts.owned:
            text = (
                f"is owned by {owner}, so it cannot be changed; GRANT {owner} TO {self.facts.user}"
            )
            self._found(Level.ALARM, text)
        if not self.facts.may_create:
            schema = table.partition(".")[0]
            text = f"no table may be created in schema {schema}; GRANT CREATE ON SCHEMA {schema}"
            self._found(Level.ALARM, f"{text} TO {owner}")
        return self.facts.owned and self.facts.may_create

    # What is wanted

    def _span(self) -> Bounds:
        """From the oldest partition that is kept to the horizon."""
        every, ahead = self.rules.every, self.rules.ahead
        coming = partition_ranges.upcoming(every, self.zone, self.now, ahead)
        last = coming[-1]
        self.ready_until = last.end
        furthest = self._furthest()
        if furthest is not None and furthest > coming[0].end:
            between = partition_ranges.upcoming(every, self.zone, last.end, MOST_AHEAD_OF_CLOCK)
            furthest = min(furthest, between[-1].end)
            after = partition_ranges.upcoming(every, self.zone, furthest, ahead - 1)[-1]
            last = max([last, *(r for r in between if r.end <= after.end)], key=lambda r: r.end)
        first = partition_ranges.containing(every, self.zone, self._from())
        return Bounds(self.key.bounds(first).lower, self.key.bounds(last).upper)

    def _from(self) -> datetime:
        """Where the first range that is kept begins; now, when there is no partition yet."""
        edges = [b.lower if partition_ranges.finite(b.lower) else b.upper for b in self.covered]
        edges = [edge for edge in edges if partition_ranges.finite(edge)]
        if not edges:
            return self.now
        first = self.key.moment(min(edges))
        if self.rules.keep is not None:
            first = max(first, self.rules.keep.before(self.now, self.zone))
        return min(max(first, EARLIEST), self.now)

    def _furthest(self) -> datetime | None:
        """The end of the last partition that rows have reached: they may run ahead of the clock."""
        ends = [p.bounds.upper for p in self.facts.partitions if p.bounds and p.rows > 0]
        ends = [end for end in ends if partition_ranges.finite(end)]
        return self.key.moment(max(ends)) if ends else None

    def _create(self) -> Iterator[Create]:
        """What nothing covers yet; gaps of the past as long as there are not too many of them."""
        occupied = [self.key.bounds(a.range) for a in self.facts.astray]
        made = left = 0
        for hole in partition_ranges.uncovered(self._span(), self.covered):
            for one in partition_ranges.starting(
                self.rules.every, self.zone, self.key.moment(hole.lower)
            ):
                whole = self.key.bounds(one)
                if whole.lower >= hole.upper or made >= MOST_CREATED:
                    break
                if any(whole.overlaps(other) for other in occupied):
                    continue  # rows of it are in the DEFAULT partition: draining creates it
                if one.end <= self.now and len(self.covered) + made >= self.rules.most:
                    left += 1
                    if left > MOST_CREATED:
                        break
                    continue
                piece = Bounds(max(whole.lower, hole.lower), min(whole.upper, hole.upper))
                if (created := self._piece(one, piece)) is not None:
                    made += 1
                    yield created
        if left:
            text = f"gaps of its past stay: {self.rules.most} partitions are enough"
            self._found(Level.NOTE, text)

    def _piece(self, one: Range, bounds: Bounds) -> Create | None:
        """A partition for `bounds` inside of a range; None when every name for it is taken."""
        ending = partition_ranges.suffix(self.rules.every, one.since)
        name = partition_ranges.called(self.rules.table_name, ending)
        if name in self.facts.names:
            text = f"{name} exists and is no partition of it; attach or rename it"
            self._found(Level.WARNING, text)
        more = (partition_ranges.called(self.rules.table_name, f"{ending}_{n}") for n in (2, 3, 4))
        free = next((n for n in (name, *more) if n not in self.taken), None)
        if free is None:
            return None
        self.taken.add(free)
        begin = self.key.moment(bounds.lower).astimezone(self.zone)
        because = f"{self.rules.ahead} are kept ready after the one of now"
        if one.end <= self.now:
            because = f"nothing covers {begin:%Y-%m-%d} and what follows"
        elif one.begin <= self.now:
            because = "it is the one of now"
        elif one.begin >= self.ready_until:
            because = "rows have come for moments that far ahead"
        marked = bounds != self.key.bounds(one)
        return Create(name=free, bounds=bounds, marked=marked, because=because)

    def _default(self) -> Iterator[Step]:
        name = partition_ranges.called(self.rules.table_name, "default")
        if self.facts.default is None and self.rules.default == "guard":
            if name in self.taken:
                self._found(Level.WARNING, f"{name} exists and is not its DEFAULT; rename it")
                return
            yield CreateDefault(name=name, because="rows of no range are kept until they have one")

    def _drain(self) -> Iterator[Step]:
        default = self.facts.default
        if self.facts.strays:
            self._found(
                Level.WARNING,
                f"{self.facts.strays} rows in its DEFAULT partition belong to no time that is "
                "kept or near; mend their "
                f"{self.rules.by} or delete them",
            )
        if default is None or not self.facts.astray:
            return
        rows = sum(a.rows for a in self.facts.astray)
        found = (
            self._piece(a.range, piece)
            for a in self.facts.astray
            for piece in partition_ranges.uncovered(self.key.bounds(a.range), self.covered)
        )
        targets = tuple(target for target in found if target is not None)
        self._found(Level.WARNING, f"{rows} rows fell into its DEFAULT partition")
        if not default.owned:
            self._found(Level.ALARM, f"{default.name} is not ours, so it cannot be drained")
            return
        because = f"{rows} rows belong into {', '.join(t.name for t in targets[:3])}"
        yield Drain(default=default, targets=targets, rows=rows, because=because, heavy=True)

    # What has had its time

    def _managed(self) -> Iterator[Partition]:
        """Partitions whose bounds are midnights of the zone, or that carry our mark."""
        foreign = []
        for one in self.facts.partitions:
            if one.bounds is None or one.pending:
                continue
            why = one.odd or ("" if one.owned else "not ours")
            mark = one.mark
            if (
                not why
                and not (mark is not None and mark.ours)
                and not partition_ranges.on_midnights(self.key, one.bounds)
            ):
                why = f"its bounds are no midnights of {self.zone}"
            if why:
                foreign.append(f"{one.name} ({why})")
            else:
                yield one
        if foreign:
            shown = ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")
            self._found(Level.NOTE, f"left alone: {shown}")

    def _retire(self) -> Iterator[Step]:
        managed = tuple(self._managed())
        count = sum(p.bounds is not None for p in self.facts.partitions)
        if count > self.rules.most:
            self._found(
                Level.WARNING,
                f"{count} partitions are more than {self.rules.most}; each makes planning slower: "
                "choose a longer interval, or keep less",
            )
        if self.rules.keep is None:
            return
        edge = self.rules.keep.before(self.now, self.zone)
        for one in managed:
            if one.bounds is None or self.key.moment(one.bounds.upper) > edge:
                continue
            ended = self.key.moment(one.bounds.upper).astimezone(self.zone)
            because = f"it ended {ended:%Y-%m-%d}, {self.rules.keep} are kept"
            if self.rules.expire.how == "report":
                self._found(Level.NOTE, f"{one.name} is due: {because}")
                continue
            nothing_in_the_way = self.facts.default is None and self.rules.default == "none"
            concurrently = self.facts.concurrently and nothing_in_the_way
            yield Retire(partition=one, concurrently=concurrently, because=because, heavy=True)

    def _finalize(self) -> Iterator[Step]:
        for one in self.facts.partitions:
            if one.pending:
                because = "a DETACH CONCURRENTLY of it was broken off"
                yield Finalize(partition=one, because=because)

    def _after_detach(self) -> Iterator[Step]:
        grace, archive = self.rules.expire.drop_after, self.rules.expire.archive
        for one in self.facts.detached:
            if not one.owned:
                self._found(Level.WARNING, f"{one.name} is detached and no longer ours")
                continue
            since = one.mark.detached
            if since is None:
                yield Confirm(table=one, because="it is no partition any more; its grace begins")
                continue
            span = DRAINED_GRACE if one.mark.drained is not None else grace
            if span is None or since > span.before(self.now, self.zone):
                continue
            if one.views or one.foreign_keys:
                on_it = ", ".join((one.views + one.foreign_keys)[:3])
                self._found(Level.WARNING, f"{one.name} cannot be dropped: {on_it} depend on it")
                continue
            if archive and one.mark.archived is None and one.mark.drained is None:
                because = f"it is dropped {span} after its detachment"
                yield Archive(table=one, because=because, heavy=True)
                continue  # it is dropped when that has succeeded
            because = f"detached {since:%Y-%m-%d}, dropped {span} later"
            yield Drop(table=one, because=because, heavy=True)

    # What people should know

    def _ready(self, after: datetime) -> tuple[int, datetime | None]:
        """Whole ranges that are ready after the one of a moment, and where they end."""
        every = self.rules.every
        ready, until = -1, None
        limit = self.rules.ahead + MOST_AHEAD_OF_CLOCK
        for one in partition_ranges.upcoming(every, self.zone, after, limit):
            if partition_ranges.uncovered(self.key.bounds(one), self.covered):
                break
            ready, until = ready + 1, one.end
        return max(ready, 0), until

    def _lead(self) -> timedelta:
        """How far rows are ahead of the clock at least, by the partition that they have reached."""
        begins = [p.bounds.lower for p in self.facts.partitions if p.bounds and p.rows > 0]
        begins = [begin for begin in begins if partition_ranges.finite(begin)]
        reached = self.key.moment(max(begins)) if begins else self.now
        return max(reached - self.now, timedelta())

    def _alarm(
        self, created: Sequence[Create], ready: int, until: datetime | None, *, ahead: bool
    ) -> None:
        """Too few are ready, after the clock or after rows that run ahead of it."""
        if ready >= min(ALARM_BELOW, self.rules.ahead) or not self.covered:
            return
        level = Level.WARNING if created else Level.ALARM
        last = "the newest rows" if ahead else "the one of now"
        reach = f" and reach to {until.astimezone(self.zone):%Y-%m-%d}" if until else ""
        after = "; more are created now" if created else "; rows will find no partition"
        self._found(level, f"only {ready} partitions are ready after {last}{reach}{after}")

    def _dependants(self) -> None:
        if self.facts.referrers:
            names = ", ".join(self.facts.referrers[:3])
            self._found(
                Level.NOTE,
                f"{names} refer to it: a partition can be detached when no row of theirs "
                "refers to its rows",
            )
        if self.facts.publications:
            names = ", ".join(self.facts.publications[:3])
            self._found(
                Level.WARNING,
                f"publication {names} sends changes under the names of partitions, which "
                "subscribers must have; SET (publish_via_partition_root = true)",
            )
