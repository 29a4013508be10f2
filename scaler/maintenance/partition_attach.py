"""How a table goes live as a partitioned one: its rows stay where they are, as one partition.

Pure: from facts and a `Shape` to steps. A check that holds for every row is validated while all
write on, then the partitioned table is made beside with everything the old one has, and one short
transaction renames both and attaches. The old table takes every key below `upto`, so a late row
finds its place as before. Undoing is that transaction the other way round.
"""

from collections.abc import Iterator
from typing import Final

from scaler.clients.postgres import Part, Statement, given, listed, name, phrase, value
from scaler.maintenance.partition_facts import Mark
from scaler.maintenance.partition_ranges import called
from scaler.maintenance.partition_shape import (
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
from scaler.maintenance.partition_table import Counter, Facts, View

WIDE: Final = 10_000  # rows that an undo moves back while it holds its lock


def live(facts: Facts, form: Shape) -> tuple[Step, ...]:
    """The steps until the table is partitioned, in order. Each may be repeated."""
    return (*_prepared(facts, form), _beside(facts, form), _swapped(facts, form), _known(facts))


def _prepared(facts: Facts, form: Shape) -> Iterator[Step]:
    table = name(facts.schema, facts.table)
    check = name(form.check)
    yield Step(
        name="check",
        because="new rows keep to the range that the old table will have",
        statements=(
            phrase("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", table, check),
            phrase(
                "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({}) NOT VALID",
                table,
                check,
                within(name(facts.key), None, form.upto),
            ),
        ),
    )
    yield Step(
        name="validate",
        way=Way.ALONE,
        because="read once while all write on, so that attaching reads nothing",
        statements=(phrase("ALTER TABLE {} VALIDATE CONSTRAINT {}", table, check),),
    )
    column = facts.key_column
    if column is not None and not column.notnull:
        yield Step(
            name="not null",
            because="the check has shown it, so nothing is read",
            statements=(phrase("ALTER TABLE {} ALTER {} SET NOT NULL", table, name(facts.key)),),
        )
    if form.unique:
        index = name(facts.schema, form.unique)
        yield Step(
            name="unique index",
            way=Way.ALONE,
            because="a unique index of a partitioned table has to hold the key",
            unless=valid_index(facts.schema, form.unique),
            statements=(
                phrase("DROP INDEX CONCURRENTLY IF EXISTS {}", index),
                phrase(
                    "CREATE UNIQUE INDEX CONCURRENTLY {} ON {} ({})",
                    name(form.unique),
                    table,
                    columns(form.identity),
                ),
            ),
        )


def _beside(facts: Facts, form: Shape) -> Step:
    new = name(facts.schema, form.beside)
    statements: list[Statement] = [
        phrase("DROP TABLE IF EXISTS {}", new),
        phrase(
            "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS"
            " EXCLUDING IDENTITY EXCLUDING STATISTICS) PARTITION BY RANGE ({})",
            new,
            name(facts.schema, facts.table),
            name(facts.key),
        ),
        *_promises(facts, form),
        *_belongings(facts, new),
    ]
    statements += [
        _identity(facts, form.beside, counter, spare(form, counter))
        for counter in facts.sequences
        if counter.identity
    ]
    statements += [
        phrase(
            "CREATE TABLE {} PARTITION OF {} {}{}",
            name(facts.schema, piece.name),
            new,
            bounded(piece.lower, piece.upper),
            with_options(facts),
        )
        for piece in form.upcoming
    ]
    because = "the partitioned table with all that the old one has, and the ranges to come"
    return Step(name="table beside", statements=tuple(statements), because=because)


def _promises(facts: Facts, form: Shape) -> Iterator[Statement]:
    """Checks, indexes and foreign keys of the new table; attaching finds theirs in the old one."""
    new = name(facts.schema, form.beside)
    for check in facts.checks:
        if check.name != form.check:
            yield phrase(
                "ALTER TABLE {} ADD CONSTRAINT {} {}",
                new, name(check.name), given(check.definition),
            )  # fmt: skip
    if form.unique:
        index = name(called(facts.table, "scaler_keys"))
        yield phrase("CREATE UNIQUE INDEX {} ON {} ({})", index, new, columns(form.identity))
    for found in facts.indexes:
        if found.name != form.unique and not (found.primary and form.unique):
            yield over_all(found, new, called(found.name, "all"))
    for reference in facts.references:
        yield phrase(
            "ALTER TABLE {} ADD CONSTRAINT {} {}",
            new, name(reference.name), given(reference.definition),
        )  # fmt: skip


def _belongings(facts: Facts, new: Part) -> Iterator[Statement]:
    """Owner, privileges, comment and row security."""
    yield phrase("ALTER TABLE {} OWNER TO {}", new, name(facts.owner))
    for grant in facts.grants:
        column = phrase(" ({})", name(grant.column)) if grant.column else phrase("")
        yield phrase(
            "GRANT {}{} ON {} TO {}{}",
            given(grant.privilege),
            column,
            new,
            name(grant.grantee) if grant.grantee else phrase("PUBLIC"),
            phrase(" WITH GRANT OPTION") if grant.grantable else phrase(""),
        )
    if facts.comment is not None:
        yield phrase("COMMENT ON TABLE {} IS {}", new, value(facts.comment))
    for rule in facts.policies:
        roles = [name(role) for role in rule.roles] or [phrase("PUBLIC")]
        yield phrase(
            "CREATE POLICY {} ON {} AS {} FOR {} TO {}{}{}",
            name(rule.name),
            new,
            phrase("PERMISSIVE") if rule.permissive else phrase("RESTRICTIVE"),
            given(rule.command),
            listed(roles),
            phrase(" USING ({})", given(rule.using)) if rule.using else phrase(""),
            phrase(" WITH CHECK ({})", given(rule.check)) if rule.check else phrase(""),
        )
    if facts.row_security:
        yield phrase("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", new)
    if facts.force_row_security:
        yield phrase("ALTER TABLE {} FORCE ROW LEVEL SECURITY", new)


def _swapped(facts: Facts, form: Shape) -> Step:
    schema, table = facts.schema, facts.table
    old, new = name(schema, table), name(schema, form.beside)
    statements: list[Statement] = [_locked(view) for view in facts.views]
    statements.append(phrase("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", old))
    statements += _without_triggers(facts, old)
    for counter in facts.sequences:
        if counter.identity:
            here = name(counter.schema, counter.name)
            statements += [
                _counted_on(schema, form.beside, counter, here),
                phrase("ALTER TABLE {} ALTER {} DROP IDENTITY", old, name(counter.column)),
                _renamed(schema, spare(form, counter), counter.name),
            ]
    statements += [
        phrase("ALTER TABLE {} RENAME TO {}", old, name(form.history)),
        phrase("ALTER TABLE {} RENAME TO {}", new, name(table)),
        phrase(
            "ALTER TABLE {} ATTACH PARTITION {} {}",
            old,
            name(schema, form.history),
            bounded(None, form.upto),
        ),
        ours(facts, form.history, facts.comment),
        *_owned(facts, old),
        *(given(trigger.definition) for trigger in facts.triggers),
        *(_replaced(view) for view in facts.views),
    ]
    return Step(
        name="swap",
        way=Way.SWAP,
        because="names are exchanged and the old table becomes the partition of its history",
        statements=tuple(statements),
    )


def _known(facts: Facts) -> Step:
    return Step(
        name="analyze",
        way=Way.ALONE,
        because="the planner knows nothing of the partitioned table yet",
        statements=(phrase("ANALYZE {}", name(facts.schema, facts.table)),),
    )


def ours(facts: Facts, partition: str, comment: str | None) -> Statement:
    """Marks a partition without a beginning as one of ours, so that it expires like the others."""
    mark = Mark(of=f"{facts.schema}.{facts.table}", ours=True)
    return commented(facts, partition, mark.written(comment))


def commented(facts: Facts, table: str, comment: str | None) -> Statement:
    return phrase("COMMENT ON TABLE {} IS {}", name(facts.schema, table), value(comment))


def undone(facts: Facts, form: Shape) -> Step:
    """Back to the table as it was, rows of the new partitions included.

    They are counted before: this may be many only long after going live.
    """
    schema, table = facts.schema, facts.table
    here, history = name(schema, table), name(schema, form.history)
    beside = name(schema, form.beside)
    copied = columns(written_columns(facts))
    statements: list[Statement] = [_locked(view) for view in facts.views]
    statements.append(phrase("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", here))
    statements += _without_triggers(facts, here)
    statements += [
        phrase("ALTER TABLE {} DETACH PARTITION {}", here, history),
        phrase("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", history, name(form.check)),
        commented(facts, form.history, facts.comment),
        phrase(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            history, copied, copied, here,
        ),
        phrase("ALTER TABLE {} RENAME TO {}", here, name(form.beside)),
        phrase("ALTER TABLE {} RENAME TO {}", history, name(table)),
    ]  # fmt: skip
    column = facts.key_column
    if column is not None and not column.notnull:
        statements.append(phrase("ALTER TABLE {} ALTER {} DROP NOT NULL", here, name(facts.key)))
    for counter in facts.sequences:
        if counter.identity:
            statements += _identity_back(facts, form, counter)
    statements += [
        *_owned(facts, here),
        *(given(trigger.definition) for trigger in facts.triggers),
        *(_replaced(view) for view in facts.views),
        phrase("DROP TABLE {}", beside),
    ]
    because = "the table is again what it was; rows of the new partitions are moved into it"
    return Step(name="undo", statements=tuple(statements), because=because)


def cleared(facts: Facts, form: Shape) -> tuple[Step, ...]:
    """What an undo takes away before the table is live, and after `undone`."""
    table = name(facts.schema, facts.table)
    statements: list[Statement] = [
        phrase("DROP TABLE IF EXISTS {}", name(facts.schema, form.beside)),
        phrase("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", table, name(form.check)),
    ]
    column = facts.key_column
    if column is not None and not column.notnull:
        statements.append(phrase("ALTER TABLE {} ALTER {} DROP NOT NULL", table, name(facts.key)))
    steps = [Step(name="clear", statements=tuple(statements), because="nothing is left of it")]
    if form.unique:
        index = name(facts.schema, form.unique)
        steps.append(
            Step(
                name="clear index",
                way=Way.ALONE,
                because="it was made for the partitioned table",
                statements=(phrase("DROP INDEX CONCURRENTLY IF EXISTS {}", index),),
            )
        )
    return tuple(steps)


def _locked(view: View) -> Statement:
    # Readers take the view first and the table then; so do we, or each would wait for the other.
    # LOCK would take the tables of the view as well.
    return phrase("ALTER VIEW {} OWNER TO {}", name(view.schema, view.name), name(view.owner))


def _replaced(view: View) -> Statement:
    """The view as it was written, which now finds the other table by that name."""
    options = phrase("")
    if view.options:
        options = phrase(" WITH ({})", listed([given(option) for option in view.options]))
    return phrase(
        "CREATE OR REPLACE VIEW {}{} AS {}",
        name(view.schema, view.name),
        options,
        given(view.definition),
    )


def _without_triggers(facts: Facts, table: Part) -> Iterator[Statement]:
    for trigger in facts.triggers:
        yield phrase("DROP TRIGGER {} ON {}", name(trigger.name), table)


def _owned(facts: Facts, table: Part) -> Iterator[Statement]:
    """Sequences of serial columns count on, and go with the table that is used."""
    for counter in facts.sequences:
        if not counter.identity:
            yield phrase(
                "ALTER SEQUENCE {} OWNED BY {}.{}",
                name(counter.schema, counter.name),
                table,
                name(counter.column),
            )


def _identity(facts: Facts, table: str, counter: Counter, sequence: str) -> Statement:
    column = next(c for c in facts.columns if c.name == counter.column)
    return phrase(
        "ALTER TABLE {} ALTER {} ADD GENERATED {} AS IDENTITY (SEQUENCE NAME {} {})",
        name(facts.schema, table),
        name(counter.column),
        phrase("ALWAYS") if column.identity == "a" else phrase("BY DEFAULT"),
        name(facts.schema, sequence),
        given(counter.options),
    )


def _counted_on(schema: str, table: str, counter: Counter, before: Part) -> Statement:
    """The sequence of the identity of `table` goes on where `before` is."""
    return phrase(
        "SELECT setval(pg_get_serial_sequence({}, {}), last_value, is_called) FROM {}",
        value(name(schema, table).as_string(None)),
        value(counter.column),
        before,
    )


def spare(form: Shape, counter: Counter) -> str:
    """What the sequence of an identity is called while the table that has it is beside."""
    return called(form.beside, f"{counter.column}_seq")


def _renamed(schema: str, before: str, after: str) -> Statement:
    return phrase("ALTER SEQUENCE {} RENAME TO {}", name(schema, before), name(after))


def _identity_back(facts: Facts, form: Shape, counter: Counter) -> Iterator[Statement]:
    """The identity of the old table again, from where the one of the new one is."""
    aside = spare(form, counter)
    yield _renamed(facts.schema, counter.name, aside)
    yield _identity(facts, facts.table, counter, counter.name)
    yield _counted_on(facts.schema, facts.table, counter, name(facts.schema, aside))
