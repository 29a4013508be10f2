"""What `config/partitions.yaml` may say: databases, and their partition sets.

The string under a field is its description. `partition_file.load_partitions` reads the file.
"""

import re
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from scaler.core.document import Model, Wrong, within
from scaler.core.units import Span, Zone, parse_quantity
from scaler.maintenance import address
from scaler.maintenance.partition_ranges import Age, Interval, KeyKind, Unit

MOST_SETS: Final = 1000  # in one database
MOST_QUERIES: Final = 20  # each is explained twice
_COUNTED: Final = re.compile(r"(?:(\d{1,4})\s*)?(day|week|month|quarter|year)s?")
_SHORT: Final = re.compile(r"(\d{1,5})([dw])")
_WINDOW: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]|24):([0-5]\d)")
TABLE: Final = re.compile(r"[^.\s\"']{1,63}(\.[^.\s\"']{1,63})?")


def parse_interval(written: object) -> Interval:
    """`1 month`, `week`, `10 days`."""
    if isinstance(written, Interval):
        return written
    found = _COUNTED.fullmatch(str(written).strip())
    if not found:
        raise ValueError(
            f'"{str(written)[:40]}" is no interval; '
            "write day, week, month, quarter, year or 10 days"
        )
    unit, count = Unit(found[2]), int(found[1] or 1)
    if unit is not Unit.DAY and count != 1:
        other = {(Unit.WEEK, count): f"{7 * count} days", (Unit.MONTH, 3): "1 quarter"}
        other |= {(Unit.MONTH, 12): "1 year", (Unit.QUARTER, 4): "1 year"}
        remedy = other.get((unit, count), f"1 {unit}")
        raise ValueError(f'"{written}" is several {unit}s, only days may be; write {remedy}')
    if not 1 <= count <= 366:
        raise ValueError(f'"{written}" is out of range; write 1 day to 366 days')
    return Interval(unit, count)


def parse_age(written: object) -> Age:
    """`24 months`, `2 years`, `90 days` or `90d`."""
    if isinstance(written, Age):
        return written
    text = str(written).strip()
    if short := _SHORT.fullmatch(text):
        return Age(int(short[1]), Unit.DAY if short[2] == "d" else Unit.WEEK)
    found = _COUNTED.fullmatch(text)
    if found and found[1]:
        return Age(int(found[1]), Unit(found[2]))
    if text.isdigit():
        raise ValueError(f"{text} has no unit; write {text} months or {text} days")
    raise ValueError(
        f'"{text[:40]}" is no span of the calendar; write it like 24 months or 90 days'
    )


def _age_or_none(written: object) -> Age | None:
    return None if written is None else parse_age(written)


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day, in the zone of the set; it may go over midnight."""

    begin: time
    end: time

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"

    def holds(self, at: time) -> bool:
        if self.begin < self.end:
            return self.begin <= at < self.end
        return at >= self.begin or at < self.end


def _parse_window(written: object) -> Window | None:
    if written is None or isinstance(written, Window):
        return written
    found = _WINDOW.fullmatch(str(written).strip())
    if not found:
        raise ValueError(f'"{str(written)[:40]}" is no time of day; write it like "01:00-05:00"')
    begin = time(int(found[1]), int(found[2]))
    return Window(begin, time(int(found[3]) % 24, int(found[4])))


def _parse_factor(written: object) -> float:
    """`2x`: so many times as much."""
    if isinstance(written, float):
        return written
    found = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)x", str(written).strip())
    if not found:
        raise ValueError(f'"{str(written)[:40]}" is no multiple; write it like 2x')
    return float(found[1])


def _parse_rate(written: object) -> float:
    """`20MB` or `20MB/s`, in bytes a second."""
    if isinstance(written, float):
        return written
    text = str(written).strip().removesuffix("/s")
    if text.replace(".", "", 1).isdigit():
        raise ValueError(f"{text} has no unit; write {text}MB or {text}kB")
    return parse_quantity(text)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _typed(parse: Any, write: Any, example: str) -> tuple[Any, ...]:
    schema = {"type": "string", "examples": [example]}
    return PlainValidator(parse), PlainSerializer(write), WithJsonSchema(schema)


Every = Annotated[Interval, *_typed(parse_interval, str, "1 month")]
Kept = Annotated[Age | None, *_typed(_age_or_none, _text, "24 months")]
TimeOfDay = Annotated[Window | None, *_typed(_parse_window, _text, "01:00-05:00")]
Factor = Annotated[float, *_typed(_parse_factor, lambda x: f"{x:g}x", "2x")]
Rate = Annotated[float, *_typed(_parse_rate, float, "20MB")]


class Expire(Model):
    """What becomes of a partition that is older than `keep`."""

    how: Literal["detach", "report"] = "detach"
    """`detach` takes it out of the table and keeps its rows; `report` only says that it is due."""
    drop_after: Kept = None
    """A detached partition is dropped this long afterwards, such as `7 days`; never by default."""
    archive: tuple[str, ...] | None = None
    """A command that has to succeed before the drop; `{table}`, `{begin}` and `{end}` are filled
    in, and the address stands in the environment as `PARTITION_DSN`."""

    @field_validator("archive")
    @classmethod
    def _is_a_command(cls, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if words is not None and not words:
            raise ValueError("is empty; write the words of a command, or null")
        return words


class Template(Model):
    """What a new partition has beside the columns, constraints and indexes of the table."""

    tablespace: str | None = Field(default=None, pattern=r"^[^\s\"]{1,63}$")
    """Where new partitions are stored; the default of the database when it is not said."""
    fillfactor: Annotated[int, Field(ge=10, le=100)] | None = None
    """How full pages are written; below 100 leaves room for updates."""
    privileges: Literal["none", "copy"] = "none"
    """`copy` grants on a new partition what is granted on the table; through the table none is
    needed."""


class Migrate(Model):
    """How a table that is not partitioned yet becomes so."""

    how: Literal["attach"] = "attach"
    """`attach`: the old table becomes one partition of the new one; no row is copied."""
    split: Literal["lazy", "now"] = "lazy"
    """`lazy`: it stays one partition until its newest row expires; `now`: it is split by range."""
    batch_rows: Annotated[int, Field(ge=100, le=100_000)] = 5000
    """Rows copied in one transaction, and fewer while that takes longer than 100 ms: an update of
    one of them waits for the batch."""
    queries: Annotated[tuple[str, ...], Field(max_length=MOST_QUERIES)] = ()
    """Statements whose plans may not become more than twice as expensive."""


class Locks(Model):
    """How long others may be held up."""

    wait: Span = timedelta(milliseconds=200)
    """How long a lock is waited for at each attempt; whoever comes later waits behind it."""
    tries: Annotated[int, Field(ge=1, le=1000)] = 50
    """How often one step is attempted in one run; the next run goes on."""
    max_block: Span = timedelta(milliseconds=250)
    """How long a step may hold its lock; then it is undone, and tried again."""
    window: TimeOfDay = None
    """When what is heavy may be done, as in `"01:00-05:00"` of the zone; at any time by default.
    Partitions that are missing are created at once."""

    @field_validator("wait", "max_block")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(milliseconds=10), timedelta(seconds=10))


class Guards(Model):
    """What has to be so for a heavy step to go on."""

    replica_lag: Span = timedelta(seconds=5)
    """The slowest replica is not further behind."""
    wal_per_s: Rate = 20e6
    """Bytes of WAL a second, such as `20MB`."""
    free_disk: Factor = 2.0
    """So many times the size of what is copied has to be free."""


class PartitionSet(Model):
    """One table and the ranges of its partitions."""

    table: str
    """As in `public.transactions`; `public` is meant when no schema is written."""
    by: Annotated[str, Field(min_length=1, max_length=63)]
    """The column of the partition key."""
    key: KeyKind | None = None
    """What the column holds, where its type does not say: `epoch s`, `epoch ms`."""
    every: Every
    """The range of one partition: `day`, `week`, `month`, `quarter`, `year` or `10 days`."""
    timezone: Zone = Field(default="UTC", validate_default=True)
    """Ranges begin at midnight here, whatever the zone of a session."""
    ahead: Annotated[int, Field(ge=1, le=400)] = 3
    """Partitions kept ready after the one of now; fewer than 2 is an alarm."""
    keep: Kept = None
    """Partitions that ended longer ago expire, as in `24 months`; they stay when it is not said."""
    expire: Expire = Expire()
    """What becomes of a partition that is older than `keep`."""
    default: Literal["none", "guard"] = "none"
    """`guard` keeps a DEFAULT partition for rows of no range; they are moved to where they belong.
    With one, no partition can be detached concurrently."""
    most: Annotated[int, Field(ge=1, le=10_000)] = 100
    """More partitions than this are reported: planning takes longer with each."""
    template: Template = Template()
    """What a new partition has beside what the table has."""
    migrate: Migrate = Migrate()
    """How the table becomes partitioned."""
    locks: Locks = Locks()
    """How long others may be held up."""
    guards: Guards = Guards()
    """What has to be so for a heavy step to go on."""

    @field_validator("table")
    @classmethod
    def _is_a_table(cls, written: str) -> str:
        if not TABLE.fullmatch(written):
            raise ValueError(f'"{written[:80]}" is no name of a table; write it like public.orders')
        return written if "." in written else f"public.{written}"

    @model_validator(mode="after")
    def _keeps_what_is_written_now(self) -> Self:
        if self.keep is not None and self.keep.count == 0:
            raise Wrong("0 would expire what was written just now; write 1 day or more", "keep")
        if self.expire.archive and self.expire.drop_after is None:
            message = "is never run: nothing is dropped; write drop_after: beside it"
            raise Wrong(message, "expire", "archive")
        return self

    @property
    def schema_name(self) -> str:
        return self.table.partition(".")[0]

    @property
    def table_name(self) -> str:
        return self.table.partition(".")[2]


class Database(Model):
    """One database of PostgreSQL and its partition sets."""

    name: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader."""
    dsn: SecretStr = SecretStr("")
    """As in `postgresql://user:password@host:5432/database`, or `service=ledger`."""
    dsn_env: str = Field(default="", pattern=address.VARIABLE)
    """The environment variable that holds the address, in place of `dsn`."""
    every: Span = timedelta(minutes=5)
    """Time between two looks of the daemon."""
    wait_for: tuple[str, ...] = ()
    """Policies: while one of them is being scaled or is overloaded, heavy steps wait."""
    partitions: Annotated[tuple[PartitionSet, ...], Field(max_length=MOST_SETS)]
    """The tables."""

    @field_validator("dsn", mode="before")
    @classmethod
    def _is_text(cls, written: Any) -> Any:
        return address.as_text(written, "postgresql://user@host/database")

    @field_validator("every")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(seconds=1), timedelta(days=1))

    @field_validator("partitions")
    @classmethod
    def _are_different(cls, sets: tuple[PartitionSet, ...]) -> tuple[PartitionSet, ...]:
        if not sets:
            raise ValueError("is empty; write a list of tables, each with by: and every:")
        seen: set[str] = set()
        for number, one in enumerate(sets):
            if one.table in seen:
                raise Wrong(f"{one.table} stands twice; remove one", number, "table")
            seen.add(one.table)
        return sets

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        address.in_one_place("dsn", self.dsn, self.dsn_env)
        return self

    def address(self) -> str:
        """Where it is, with the password.

        Raises:
            ConfigError: the environment variable does not say.
        """
        if not self.dsn_env:
            return self.dsn.get_secret_value()
        example = "postgresql://USER@HOST:5432/DATABASE"
        return address.looked_up(f"database {self.name}", self.dsn_env, example)
