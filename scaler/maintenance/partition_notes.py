"""The notes of a conversion, kept in the database itself, so that it can stop at any moment.

A step is noted in the transaction that does it. What was decided when it began, facts and shape, is
kept as it was then: the catalogue looks different half way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import TypeAdapter

from scaler.clients.postgres import Postgres, phrase, value
from scaler.maintenance.partition_shape import Shape
from scaler.maintenance.partition_table import FACTS, Asking, Facts

SHAPE: Final = TypeAdapter(Shape)
QUICK: Final = timedelta(seconds=5)  # to wait for another that makes the same schema


class Stage(StrEnum):
    """How far a conversion is."""

    NONE = "none"
    BEGUN = "begun"
    LIVE = "live"  # partitioned, with the old table as one partition
    SPLIT = "split"  # the history is copied into its ranges, aside and kept in step
    VERIFIED = "verified"  # each range was compared, and they are the partitions now
    DROPPED = "dropped"  # the old table is gone
    UNDONE = "undone"

    def reaches(self, other: "Stage") -> bool:
        return _ORDER.index(self) >= _ORDER.index(other)


_ORDER: Final = (
    Stage.UNDONE,
    Stage.NONE,
    Stage.BEGUN,
    Stage.LIVE,
    Stage.SPLIT,
    Stage.VERIFIED,
    Stage.DROPPED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Everything that is known of one conversion."""

    stage: Stage
    facts: Facts
    form: Shape
    steps: Mapping[str, Any]  # name to what was noted about it
    begun_at: datetime
    changed_at: datetime


# IF NOT EXISTS would take the right to create schemas even where there is one.
_TABLES: Final = """
DO $$ BEGIN IF to_regnamespace('scaler') IS NULL THEN CREATE SCHEMA scaler; END IF; END $$;
CREATE TABLE IF NOT EXISTS scaler.conversions (place text PRIMARY KEY, stage text NOT NULL,
  facts jsonb NOT NULL, shape jsonb NOT NULL, begun_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS scaler.conversion_steps (
  place text NOT NULL REFERENCES scaler.conversions ON DELETE CASCADE, step text NOT NULL,
  note jsonb NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (place, step));
"""


async def read(database: Asking, place: str) -> Notes | None:
    """The notes on `place` ("public.transactions"); None when nobody has begun there."""
    known = await database.fetch(
        phrase("SELECT to_regclass({}) IS NOT NULL", value("scaler.conversion_steps"))
    )
    if not known[0][0]:
        return None
    rows = await database.fetch(
        "SELECT stage, facts, shape, extract(epoch FROM begun_at)::float8,"
        " extract(epoch FROM changed_at)::float8, coalesce((SELECT"
        " jsonb_object_agg(s.step, s.note) FROM scaler.conversion_steps s"
        " WHERE s.place = c.place), '{}') FROM scaler.conversions c WHERE place = %s",
        (place,),
    )
    if not rows:
        return None
    stage, facts, shape, begun, changed, steps = rows[0]
    return Notes(
        stage=Stage(stage),
        facts=FACTS.validate_python(facts),
        form=SHAPE.validate_python(shape),
        steps=steps,
        begun_at=datetime.fromtimestamp(begun, UTC),
        changed_at=datetime.fromtimestamp(changed, UTC),
    )


async def begin(database: Postgres, place: str, facts: Facts, form: Shape) -> None:
    """Note down a new conversion; what an earlier one left is forgotten."""
    async with database.transaction(lock_wait=QUICK) as handle:
        await handle.execute("SELECT pg_advisory_xact_lock(hashtext('scaler.conversions'))")
        await handle.execute(_TABLES)
        await handle.execute("DELETE FROM scaler.conversions WHERE place = %s", (place,))
        await handle.execute(
            "INSERT INTO scaler.conversions (place, stage, facts, shape)"
            " VALUES (%s, 'begun', %s::jsonb, %s::jsonb)",
            (place, FACTS.dump_json(facts).decode(), SHAPE.dump_json(form).decode()),
        )


async def done(handle: Asking, place: str, step: str, note: Mapping[str, Any]) -> None:
    """Note one step, in the transaction that does it."""
    text = TypeAdapter(dict[str, Any]).dump_json(dict(note)).decode()
    await handle.execute(
        "INSERT INTO scaler.conversion_steps (place, step, note) VALUES (%s, %s, %s::jsonb)"
        " ON CONFLICT (place, step) DO UPDATE SET note = excluded.note, at = clock_timestamp()",
        (place, step, text),
    )


async def reached(handle: Asking, place: str, stage: Stage) -> None:
    await handle.execute(
        "UPDATE scaler.conversions SET stage = %s, changed_at = clock_timestamp() WHERE place = %s",
        (stage.value, place),
    )


async def forget(handle: Asking, place: str, step: str) -> None:
    """The steps whose names begin like this have to be done again."""
    await handle.execute(
        "DELETE FROM scaler.conversion_steps WHERE place = %s AND starts_with(step, %s)",
        (place, step),
    )
