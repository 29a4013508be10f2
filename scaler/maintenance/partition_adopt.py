"""Partition sets of pg_partman, of pg-partsmith or of a person, as rules for `partitions.yaml`.

Nothing is changed: the catalogue is read, and the settings of pg_partman where there are any. What
a set is partitioned by is inferred from the bounds of its partitions, so that a plan made of the
rules finds them as they should be. What has no counterpart is said in remarks.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from scaler.clients.postgres import Postgres, name, phrase
from scaler.importing.draft import Remark
from scaler.maintenance.partition_plan import ALARM_BELOW
from scaler.maintenance.partition_ranges import (
    BY_TYPE,
    Age,
    Bounds,
    Interval,
    Key,
    KeyKind,
    Unit,
    bounds_of,
    containing,
    finite,
    on_midnights,
)
from scaler.maintenance.partition_rules import TABLE

LONGEST: Final = timedelta(seconds=20)  # for one query of the catalogue
USUAL: Final = tuple(Interval(unit) for unit in Unit)
SETS: Final = """
SELECT n.nspname, c.relname, p.partnatts, a.attname, format_type(a.atttypid, NULL),
  pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), current_user,
  (SELECT coalesce(json_agg(json_build_array(pg_get_expr(k.relpartbound, k.oid), k.relkind)), '[]')
   FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid WHERE i.inhparent = c.oid)
FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.attnum > 0
WHERE p.partstrat = 'r' AND NOT c.relispartition ORDER BY 1, 2
"""
PARTMAN: Final = """
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_partman'
"""
# Both spans as months and days; for sets by a number they are numbers. pg_partman writes hours as
# 01:00:00, which is no whole day.
CONFIG: Final = """
SELECT p.parent_table, to_jsonb(p), {every}, {keep} FROM {schema}.part_config p
"""
SPAN: Final = """
CASE WHEN p.{column} !~ '^[0-9]+$' THEN ARRAY[
  extract(year FROM p.{column}::interval) * 12 + extract(month FROM p.{column}::interval),
  extract(day FROM p.{column}::interval),
  extract(hour FROM p.{column}::interval) * 60 + extract(minute FROM p.{column}::interval)]::int[]
END
"""
EPOCHS: Final = {"seconds": KeyKind.EPOCH_S, "milliseconds": KeyKind.EPOCH_MS}
SWITCHED_OFF: Final = (
    "until then both keep it; when scaler does: UPDATE {schema}.part_config SET "
    "automatic_maintenance = 'off' WHERE parent_table = '{table}'"
)


@dataclass(slots=True)
class Adopted:
    """One set as rules, or the reasons why there are none."""

    table: str
    maker: str  # "pg_partman" or "somebody"
    rules: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def said(self, kind: Any, about: str, message: str, *at: str) -> None:
        self.remarks.append(Remark(kind=kind, field=about, message=message, at=at))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """A partitioned table as the catalogue has it."""

    schema: str
    table: str
    columns: int
    by: str | None
    type: str
    owner: str
    owned: bool
    user: str
    bounds: tuple[str, ...]
    nested: bool  # partitions have partitions

    @property
    def whole(self) -> str:
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class _Partman:
    """What pg_partman is told about a set."""

    plain: Mapping[str, Any]
    every: Sequence[int] | None  # months, days, minutes
    keep: Sequence[int] | None
    schema: str


@dataclass(frozen=True, slots=True)
class _Shape:
    """How bounds follow one another."""

    kind: KeyKind
    zone: ZoneInfo
    every: Interval
    regular: bool  # every partition is one whole range


async def found(database: Postgres, tables: Collection[str] = ()) -> list[Adopted]:
    """Each set of the database, or those of `tables` (as in `public.transactions`).

    Raises:
        Forbidden: the settings of pg_partman may not be read.
        ScalerError: the database does not answer.
    """
    await database.open()
    ((pid, zone),) = await database.fetch(
        "SELECT pg_backend_pid(), reset_val FROM pg_settings WHERE name = 'TimeZone'"
    )
    database.insist(pid)
    await database.execute("SET timezone = 'UTC'")
    await database.execute("SET datestyle = 'ISO, YMD'")
    sets = [_set(row) for row in await database.fetch(SETS, deadline=LONGEST)]
    told, zones = await _told(database), _zones(zone)
    adopted = [_adopted(one, told.pop(one.whole, None), zones) for one in sets]
    adopted += [_missing(table) for table in told]
    return [one for one in adopted if not tables or one.table in tables]


def _set(row: Sequence[Any]) -> _Set:
    schema, table, columns, by, kind, owner, owned, user, children = row
    return _Set(
        schema=schema,
        table=table,
        columns=columns,
        by=by,
        type=kind or "",
        owner=owner,
        owned=owned,
        user=user,
        bounds=tuple(bound for bound, _ in children),
        nested=any(kind == "p" for _, kind in children),
    )


async def _told(database: Postgres) -> dict[str, _Partman]:
    """The settings of pg_partman by table; none where it is not installed."""
    rows = await database.fetch(PARTMAN)
    if not rows:
        return {}
    schema = str(rows[0][0])
    spans = {
        "every": phrase(SPAN, column=name("partition_interval")),
        "keep": phrase(SPAN, column=name("retention")),
    }
    answer = await database.fetch(phrase(CONFIG, schema=name(schema), **spans), deadline=LONGEST)
    return {table: _Partman(plain, every, keep, schema) for table, plain, every, keep in answer}


def _missing(table: str) -> Adopted:
    adopted = Adopted(table, "pg_partman")
    adopted.said(
        "lost", table, "pg_partman keeps it by triggers or below another set, or it is gone; "
        "only tables that are partitioned by a range themselves can be kept"
    )  # fmt: skip
    return adopted


def _zones(server: str) -> list[ZoneInfo]:
    """Where midnights may be: in UTC, or in the zone that sessions of the server have."""
    zones = [ZoneInfo("UTC")]
    try:
        zones.append(ZoneInfo(server))
    except (ZoneInfoNotFoundError, ValueError):
        return zones
    return zones


def _adopted(one: _Set, told: _Partman | None, zones: Sequence[ZoneInfo]) -> Adopted:
    adopted = Adopted(one.whole, "pg_partman" if told else "somebody")
    for reason in _obstacles(one, told):
        adopted.said("lost", one.whole, reason)
    if adopted.remarks:
        return adopted
    shape = _shape(one, told, zones)
    if shape is None:
        reason = "its bounds are midnights of neither " + " nor ".join(str(z) for z in zones)
        adopted.said("lost", one.whole, f"{reason}, so its ranges are none that can be kept")
        return adopted
    rules = adopted.rules
    rules |= {"table": one.whole, "by": one.by}
    if len(BY_TYPE[one.type]) > 1:
        rules["key"] = str(shape.kind)
    rules |= {"every": str(shape.every), "timezone": str(shape.zone)}
    if told is not None:
        _settings(adopted, told)
    if "DEFAULT" in one.bounds:
        rules["default"] = "guard"
    if not shape.regular:
        message = f"not every partition is one whole range; those to come are, of {shape.every}"
        adopted.said("differs", "every", message, "every")
    if not one.owned:
        remedy = f"GRANT {one.owner} TO {one.user}"
        adopted.said("todo", one.whole, f"is owned by {one.owner}; {remedy}", "table")
    return adopted


def _obstacles(one: _Set, told: _Partman | None) -> Iterator[str]:
    """Why no rules can be written for it."""
    if one.nested:
        yield "its partitions have partitions of their own"
    if one.columns != 1 or one.by is None:
        yield "it is partitioned by several columns or an expression"
    elif one.type not in BY_TYPE:
        yield f"{one.by} is {one.type}; a key may be one of {', '.join(BY_TYPE)}"
    if not TABLE.fullmatch(one.whole):
        yield "its name cannot be written in the file"
    if told is None or one.type not in ("integer", "bigint"):
        return
    epoch = told.plain.get("epoch") or "none"
    if epoch == "none":
        yield "it is partitioned by a number that is no time"
    elif epoch not in EPOCHS:
        yield f"its key counts {epoch}; seconds and milliseconds can be kept"


def _kinds(one: _Set, told: _Partman | None) -> tuple[KeyKind, ...]:
    if told is not None and one.type in ("integer", "bigint"):
        return (EPOCHS[told.plain["epoch"]],)
    return BY_TYPE[one.type]


def _shape(one: _Set, told: _Partman | None, zones: Sequence[ZoneInfo]) -> _Shape | None:
    """What the bounds tell; of a set without partitions, what pg_partman was told."""
    wanted = interval(told.every) if told and told.every else None
    best: _Shape | None = None
    for kind in _kinds(one, told):
        # a date or a wall time is the same in every zone: then the one of the server counts
        without = kind in (KeyKind.DATE, KeyKind.TIMESTAMP)
        for zone in reversed(zones) if without else zones:
            key = Key(kind, zone)
            bounds = _finite(key, one.bounds)
            if bounds is None or not all(on_midnights(key, b) for b in bounds):
                continue
            if not bounds:
                return _Shape(kind, zone, wanted, True) if wanted else None
            every = _interval(key, bounds, wanted)
            regular = all(_is_range(key, every, b) for b in bounds)
            if regular:
                return _Shape(kind, zone, every, True)
            best = best or _Shape(kind, zone, every, False)
    return best


def _finite(key: Key, expressions: Iterable[str]) -> list[Bounds] | None:
    """Bounds with two ends, in order; None when they are of another kind of key."""
    try:
        bounds = [bounds_of(key, expression) for expression in expressions]
    except ValueError:
        return None
    closed = [b for b in bounds if b is not None and finite(b.lower) and finite(b.upper)]
    return sorted(closed, key=lambda b: b.lower)


def _interval(key: Key, bounds: Sequence[Bounds], wanted: Interval | None) -> Interval:
    """Of which most partitions are ranges; the newest one decides when several are."""
    days = (key.moment(bounds[-1].upper) - key.moment(bounds[-1].lower) + timedelta(hours=2)).days
    several = [Interval(Unit.DAY, days)] if 1 < days <= 366 else []
    candidates = [*([wanted] if wanted else []), *USUAL, *several]
    return max(
        candidates,
        key=lambda one: (
            sum(_is_range(key, one, b) for b in bounds),
            _is_range(key, one, bounds[-1]),
        ),
    )


def _is_range(key: Key, every: Interval, bounds: Bounds) -> bool:
    try:
        return key.bounds(containing(every, key.zone, key.moment(bounds.lower))) == bounds
    except ValueError:
        return False


def interval(span: Sequence[int]) -> Interval | None:
    """Months, days and minutes as an interval; None when there is no such one."""
    match tuple(span):
        case (1, 0, 0):
            return Interval(Unit.MONTH)
        case (3, 0, 0):
            return Interval(Unit.QUARTER)
        case (12, 0, 0):
            return Interval(Unit.YEAR)
        case (0, 7, 0):
            return Interval(Unit.WEEK)
        case (0, days, 0) if 1 <= days <= 366:
            return Interval(Unit.DAY, days)
    return None


def _age(span: Sequence[int]) -> Age | None:
    match tuple(span):
        case (months, 0, 0) if months > 0:
            return Age(months, Unit.MONTH)
        case (0, days, 0) if days > 0:
            return Age(days, Unit.DAY)
    return None


def _settings(adopted: Adopted, told: _Partman) -> None:
    """What pg_partman was told, as far as there is a counterpart."""
    plain, rules = told.plain, adopted.rules
    rules["ahead"] = plain["premake"]
    if plain["premake"] < ALARM_BELOW:
        message = f"{plain['premake']} ready ahead is an alarm here; {ALARM_BELOW} are kept"
        adopted.said("differs", "premake", message, "ahead")
        rules["ahead"] = ALARM_BELOW
    if plain["retention"]:
        _retention(adopted, told)
    if plain.get("inherit_privileges"):
        rules["template"] = {"privileges": "copy"}
    if plain.get("template_table"):
        message = (
            f"indexes and options of {plain['template_table']} are not copied to partitions; put "
            "on the table itself what they should have"
        )
        adopted.said("todo", "template_table", message, "table")
    for setting in ("constraint_cols", "publications", "subscription_refresh"):
        if plain.get(setting):
            adopted.said("lost", setting, "nothing stands for it", "table")
    if plain.get("automatic_maintenance") == "on":
        message = SWITCHED_OFF.format(schema=told.schema, table=adopted.table)
        adopted.said("todo", "automatic_maintenance", message, "table")


def _retention(adopted: Adopted, told: _Partman) -> None:
    plain, rules = told.plain, adopted.rules
    age = _age(told.keep) if told.keep else None
    if age is None:
        written = plain["retention"]
        adopted.said("lost", "retention", f"{written} is no number of months or of days", "table")
        return
    rules["keep"] = str(age)
    if plain.get("retention_schema"):
        message = f"expired partitions are detached and not moved to {plain['retention_schema']}"
        adopted.said("differs", "retention_schema", message, "keep")
    elif not plain["retention_keep_table"]:
        rules["expire"] = {"drop_after": "1 day"}
        message = "what has expired is detached first and dropped a day later"
        adopted.said("differs", "retention_keep_table", message, "expire")
