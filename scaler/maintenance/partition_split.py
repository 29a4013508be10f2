"""How the history of a live table is split into its ranges: statements and throttle, all pure.

Two partitions may not overlap, so the ranges are filled aside and put in place of the old table at
once, at the end. A trigger on the old table keeps them in step from the first moment on. Rows are
copied by their place in the file, which needs no index: what moves is written by the trigger.

Why nothing is lost: a batch locks nothing and copies what its snapshot shows and the trigger has
not written. Whoever changes or deletes a row meanwhile also puts its key down in a table (`again`),
and those rows are copied anew under a lock on them, the last ones while the swap holds its own. So
a row that nobody touched is right by its batch, and each other one by that. To lock the rows of a
batch instead was measured: 1.5 times the log of a plain copy, as it writes to each page it reads.
A writer above READ COMMITTED may not see the copy that it would replace; it only puts keys down.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from scaler.clients.postgres import Part, Statement, given, listed, name, phrase, value
from scaler.maintenance.partition_attach import commented, ours
from scaler.maintenance.partition_ranges import called
from scaler.maintenance.partition_shape import (
    Piece,
    Shape,
    Step,
    Way,
    bounded,
    columns,
    over_all,
    valid_index,
    with_options,
    within,
    written_columns,
)
from scaler.maintenance.partition_table import Facts

SYNC: Final = "scaler_sync"  # the triggers of the old table
MOST_AGAIN: Final = 1000  # rows that are copied again while the swap holds its lock
BREATHER: Final = timedelta(seconds=1)  # before it is looked again whether to go on
LONGEST_BREATH: Final = timedelta(seconds=10)


def aside(facts: Facts, form: Shape) -> Iterator[Step]:
    """Each range as a table, indexes first: built after the copy they would hold up the trigger."""
    for piece in form.pieces:
        table = name(facts.schema, piece.name)
        statements: list[Statement] = [
            phrase("DROP TABLE IF EXISTS {}", table),
            phrase(
                "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY"
                " EXCLUDING STATISTICS, CONSTRAINT {} CHECK ({})){}",
                table,
                name(facts.schema, facts.table),
                name(form.check),
                within(name(facts.key), piece.lower, piece.upper),
                with_options(facts),
            ),
            *_indexed(facts, form, piece.name),
        ]
        statements += referring(facts, table)
        because = f"a table for the rows from {piece.lower or 'the beginning'} to {piece.upper}"
        yield Step(name=f"aside {piece.name}", statements=tuple(statements), because=because)


def referring(facts: Facts, table: Part) -> Iterator[Statement]:
    """The same foreign keys on another table, which is empty yet."""
    for reference in facts.references:
        yield phrase(
            "ALTER TABLE {} ADD CONSTRAINT {} {}",
            table, name(reference.name), given(reference.definition),
        )  # fmt: skip


def _indexed(facts: Facts, form: Shape, table: str) -> Iterator[Statement]:
    here = name(facts.schema, table)
    if form.unique:
        yield phrase("ALTER TABLE {} ADD PRIMARY KEY ({})", here, columns(form.identity))
    for number, index in enumerate(facts.indexes):
        if not (index.primary and form.unique):
            yield over_all(index, here, called(table, f"idx{number}"))


def in_step(facts: Facts, form: Shape) -> Step:
    """The trigger that repeats in the ranges what is written to the old table."""
    old, function, again = name(facts.schema, form.history), _function(facts), _again(facts)
    row, whole = name(SYNC), name(f"{SYNC}_truncate")
    return Step(
        name="in step",
        because="what is written to the old table from now on is written to its range as well",
        statements=(
            phrase("DROP TRIGGER IF EXISTS {} ON {}", row, old),
            phrase("DROP TRIGGER IF EXISTS {} ON {}", whole, old),
            phrase("DROP TABLE IF EXISTS {}", again),
            phrase(
                "CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA",
                again, columns(form.identity), old,
            ),
            _repeating(facts, form, copying=True),
            phrase(
                "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW"
                " EXECUTE FUNCTION {}()",
                row, old, function,
            ),
            phrase(
                "CREATE TRIGGER {} AFTER TRUNCATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()",
                whole, old, function,
            ),
            phrase("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}", old, row),
            phrase("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}", old, whole),
        ),
    )  # fmt: skip


def settled(facts: Facts, form: Shape) -> Step:
    """Once everything is copied the trigger alone is exact, and nothing piles up in `again`."""
    return Step(
        name="settled",
        because="no batch reads any more what somebody changes meanwhile",
        statements=(_repeating(facts, form, copying=False),),
    )


def _repeating(facts: Facts, form: Shape, *, copying: bool) -> Statement:
    """The function of the trigger. It may write to the ranges, whoever writes to the table."""
    strict = "current_setting('transaction_isolation') <> 'read committed'"
    body = phrase(
        "BEGIN IF TG_OP = 'TRUNCATE' THEN TRUNCATE {every}; RETURN NULL; END IF;"
        " IF TG_OP <> 'INSERT' AND ({copying} OR {strict})"
        " THEN INSERT INTO {again} SELECT {olds}; END IF;"
        " IF {strict} THEN IF TG_OP <> 'DELETE' THEN INSERT INTO {again} SELECT {news}; END IF;"
        " RETURN NULL; END IF;"
        " IF TG_OP <> 'INSERT' THEN {deletes} END IF;"
        " IF TG_OP <> 'DELETE' THEN {inserts} END IF; RETURN NULL; END",
        every=listed([name(facts.schema, table) for table in form.tables()]),
        copying=value(copying),
        strict=given(strict),
        again=_again(facts),
        olds=_fields("OLD", form.identity),
        news=_fields("NEW", form.identity),
        deletes=_routed(facts, form, "OLD"),
        inserts=_routed(facts, form, "NEW"),
    )
    return phrase(
        "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
        " SET search_path = pg_catalog, pg_temp AS {}",
        _function(facts),
        value(body.as_string(None)),
    )


def _function(facts: Facts) -> Part:
    return name("scaler", f"sync_{facts.oid}")


def _again(facts: Facts) -> Part:
    return name("scaler", f"again_{facts.oid}")


def _fields(row: str, names: tuple[str, ...]) -> Part:
    return listed([phrase("{}.{}", given(row), name(one)) for one in names])


def _same(left: Part, right: Part, names: tuple[str, ...]) -> Part:
    return listed(
        [phrase("{}.{} = {}.{}", left, name(one), right, name(one)) for one in names], " AND "
    )


def _routed(facts: Facts, form: Shape, row: str) -> Part:
    """IF ... ELSIF ... by the key: one statement for the range that the row is in."""
    found = []
    for number, piece in enumerate(form.pieces):
        table = name(facts.schema, piece.name)
        if row == "OLD":
            same = _same(phrase("x"), given(row), form.identity)
            what = phrase("DELETE FROM {} x WHERE {};", table, same)
        else:
            named = written_columns(facts)
            # a batch may hold the same row, not yet committed: wait for it, and write over it
            what = phrase(
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT ({})"
                " DO UPDATE SET ({}) = ROW({});",
                table, columns(named), _fields(row, named), columns(form.identity),
                columns(named), _fields("excluded", named),
            )  # fmt: skip
        word = phrase("IF") if number == 0 else phrase("ELSIF")
        if piece.upper is None:
            found.append(phrase("ELSE {}", what))
        else:
            edge = phrase("{}.{} < {}", given(row), name(facts.key), value(piece.upper))
            found.append(phrase("{} {} THEN {}", word, edge, what))
    return phrase("{} END IF;", listed(found, " "))


def places(facts: Facts, form: Shape, begin: int, end: int) -> Part:
    """The rows of the old table in the pages from `begin` on and before `end`."""
    return phrase(
        "ONLY {} h WHERE h.ctid >= {}::tid AND h.ctid < {}::tid",
        name(facts.schema, form.history),
        value(f"({begin},0)"),
        value(f"({end},0)"),
    )


def ranges_in(facts: Facts, form: Shape, begin: int, end: int) -> Statement:
    """The numbers of the pieces that the rows of these pages are in."""
    return phrase(
        "SELECT DISTINCT {} FROM {}",
        piece_of(facts, form, phrase("h")),
        places(facts, form, begin, end),
    )


def piece_of(facts: Facts, form: Shape, row: Part) -> Part:
    """The number of the piece that a row is in; one without a key is in the last."""
    column = facts.key_column
    return phrase(
        "coalesce(width_bucket({}.{}, ARRAY[{}]::{}[]), {})",
        row,
        name(facts.key),
        form.edges(),
        given(column.type if column else "text"),
        value(len(form.pieces) - 1),
    )


def copy_rows(facts: Facts, form: Shape, piece: Piece, begin: int, end: int) -> Statement:
    """Copies the rows of a range in these pages that the trigger has not written there."""
    table, named = name(facts.schema, piece.name), written_columns(facts)
    return phrase(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AND {}"
        " AND NOT EXISTS (SELECT FROM {} m WHERE {})",
        table,
        columns(named),
        _fields("h", named),
        places(facts, form, begin, end),
        within(name(facts.key), piece.lower, piece.upper),
        table,
        _same(phrase("m"), phrase("h"), form.identity),
    )


def copy_again(facts: Facts, form: Shape, most: int | None) -> tuple[Statement, ...]:
    """Rows that were changed meanwhile: lock them, then write them to their ranges anew.

    `most` of them, or all of them where nobody can add any.
    """
    limit = phrase("ALL") if most is None else value(most)
    again, old, named = _again(facts), name(facts.schema, form.history), written_columns(facts)
    taken = phrase("pg_temp.scaler_taken")
    statements: list[Statement] = [
        phrase("DROP TABLE IF EXISTS {}", taken),
        phrase("CREATE TEMP TABLE scaler_taken (LIKE {}) ON COMMIT DROP", again),
        phrase(
            "WITH gone AS (DELETE FROM {} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {} LIMIT {}"
            " FOR UPDATE SKIP LOCKED)) RETURNING *) INSERT INTO {} SELECT DISTINCT * FROM gone",
            again, again, limit, taken,
        ),
        phrase(
            "SELECT count(*) FROM (SELECT FROM ONLY {} h JOIN {} t ON {} FOR SHARE OF h) locked",
            old, taken, _same(phrase("h"), phrase("t"), form.identity),
        ),
    ]  # fmt: skip
    statements += [
        phrase(
            "DELETE FROM {} m USING {} t WHERE {}",
            name(facts.schema, table), taken, _same(phrase("m"), phrase("t"), form.identity),
        )
        for table in form.tables()
    ]  # fmt: skip
    key = phrase("h.{}", name(facts.key))
    statements += [
        phrase(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM ONLY {} h JOIN {} t"
            " ON {} WHERE {}",
            name(facts.schema, piece.name), columns(named), _fields("h", named), old, taken,
            _same(phrase("h"), phrase("t"), form.identity),
            within(key, piece.lower, piece.upper),
        )
        for piece in form.pieces
    ]  # fmt: skip
    return tuple(statements)


def left_again(facts: Facts) -> Statement:
    """How many rows have to be copied again, up to some."""
    return phrase(
        "SELECT count(*) FROM (SELECT FROM {} LIMIT {}) AS few",
        _again(facts),
        value(MOST_AGAIN + 1),
    )


def own_key(facts: Facts, form: Shape, partition: str) -> Iterator[Step]:
    """A partition made since gets the primary key that the whole table is to have."""
    index = called(partition, "scaler_pk")
    table = name(facts.schema, partition)
    yield Step(
        name=f"key of {partition}",
        way=Way.ALONE,
        because="the table gets a primary key, and every partition has to have it",
        unless=valid_index(facts.schema, index),
        statements=(
            phrase("DROP INDEX CONCURRENTLY IF EXISTS {}", name(facts.schema, index)),
            phrase(
                "CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ({})",
                name(index), table, columns(form.identity),
            ),
        ),
    )  # fmt: skip
    yield Step(
        name=f"primary key of {partition}",
        because="the index is there, so nothing is read",
        statements=(phrase("ALTER TABLE {} ADD PRIMARY KEY USING INDEX {}", table, name(index)),),
    )


def swapped(facts: Facts, form: Shape) -> Step:
    """Takes the old table out and puts its ranges in, in one transaction."""
    here, old = name(facts.schema, facts.table), name(facts.schema, form.history)
    statements: list[Statement] = [
        phrase("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", here),
        *last_copied(facts, form),
        phrase("ALTER TABLE {} DETACH PARTITION {}", here, old),
        commented(facts, form.history, facts.comment),  # no retention takes it for one of its own
    ]
    if form.unique:
        keys = name(facts.schema, called(facts.table, "scaler_keys"))
        statements.append(phrase("DROP INDEX {}", keys))
    statements += [
        phrase(
            "ALTER TABLE {} ATTACH PARTITION {} {}",
            here,
            name(facts.schema, piece.name),
            bounded(piece.lower, piece.upper),
        )
        for piece in form.pieces
    ]
    statements += [ours(facts, piece.name, None) for piece in form.pieces if piece.lower is None]
    if form.unique:
        statements.append(
            phrase(
                "ALTER TABLE {} ADD CONSTRAINT {} PRIMARY KEY ({})",
                here, name(called(facts.table, "pkey_all")), columns(form.identity),
            )
        )  # fmt: skip
    return Step(
        name="swap ranges",
        way=Way.SWAP,
        because="the ranges are complete, compared, and take the place of the old table",
        statements=tuple(statements),
    )


def last_copied(facts: Facts, form: Shape) -> tuple[Statement, ...]:
    """What is left, with the table locked; then nothing is kept in step any more."""
    return (*copy_again(facts, form, None), *_out_of_step(facts, form))


def _out_of_step(facts: Facts, form: Shape) -> tuple[Statement, ...]:
    old, function = name(facts.schema, form.history), _function(facts)
    return (
        phrase("DROP TRIGGER IF EXISTS {} ON {}", name(SYNC), old),
        phrase("DROP TRIGGER IF EXISTS {} ON {}", name(f"{SYNC}_truncate"), old),
        phrase("DROP FUNCTION IF EXISTS {}()", function),
        phrase("DROP TABLE IF EXISTS {}", _again(facts)),
    )


def abandoned(facts: Facts, form: Shape) -> Step:
    """Forgets the copies; the table stays live with its history in one partition."""
    gone = (phrase("DROP TABLE IF EXISTS {}", name(facts.schema, one)) for one in form.tables())
    return Step(
        name="abandon split",
        because="the copies are not used by anybody",
        statements=(*_out_of_step(facts, form), *gone),
    )


def dropped(facts: Facts, form: Shape) -> Step:
    """The old table, which nobody reads any more."""
    return Step(
        name="drop old",
        because="each range was compared before it took its place",
        statements=(phrase("DROP TABLE {}", name(facts.schema, form.history)),),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """How the database bears the copy. What is not known is None and holds nothing up."""

    wal_per_s: float | None = None  # bytes that our last batch wrote, over the time it took
    replica_lag: timedelta | None = None
    free_bytes: int | None = None
    needed_bytes: int = 0
    busy: str = ""  # why whoever knows of the load wants it to wait: "web is above its goal"


def breather(
    strain: Strain, took: timedelta, *, wal_per_s: float, replica_lag: timedelta
) -> tuple[timedelta, str]:
    """How long the next batch waits, and why; no time at all when all is well."""
    if strain.busy:
        return BREATHER, strain.busy
    if strain.replica_lag is not None and strain.replica_lag > replica_lag:
        seconds = strain.replica_lag.total_seconds()
        return BREATHER, f"a replica is {seconds:.1f} s behind"
    if strain.wal_per_s is not None and strain.wal_per_s > wal_per_s:
        pause = took * (strain.wal_per_s / wal_per_s - 1)
        return min(pause, LONGEST_BREATH), f"{strain.wal_per_s / 1e6:.0f} MB of WAL a second"
    return timedelta(), ""


def room(strain: Strain, factor: float) -> str:
    """Why the disk is too full to go on; empty when it is not, or nobody knows."""
    if strain.free_bytes is None or strain.free_bytes >= strain.needed_bytes * (factor - 1):
        return ""
    free, needed = strain.free_bytes / 1e6, strain.needed_bytes * (factor - 1) / 1e6
    return f"{free:,.0f} MB are free where {needed:,.0f} MB are needed"
