"""The statements that change partition sets, built from names and literals that are quoted.

A partition is made beside the table and then attached, because ATTACH lets readers and writers go
on, where CREATE TABLE ... PARTITION OF waits for all of them (PostgreSQL manual, 5.11.2.2). What
LIKE does not copy is made by ATTACH: indexes, foreign keys and triggers of the table.
"""

from collections.abc import Sequence

from scaler.clients.postgres import Part, Query, given, listed, name, phrase, value
from scaler.maintenance.partition_facts import Mark
from scaler.maintenance.partition_ranges import HIGHEST, LOWEST, Bounds, Key
from scaler.maintenance.partition_rules import Template

Place = tuple[str, str]  # schema and name
Grant = tuple[str, str, bool]  # who, what, and whether they may hand it on

_IDENTITIES = {"f": " REPLICA IDENTITY FULL", "n": " REPLICA IDENTITY NOTHING"}


def script(parts: Sequence[Part]) -> Query:
    """Several statements in one; they go to the server together."""
    return listed(parts, "; ")


def role(owner: str) -> Query:
    """What is made in the transaction belongs to the owner of the table."""
    return phrase("SET LOCAL ROLE {}", name(owner))


def alike(
    parent: Place, new: Place, template: Template, *, identity: str = "d", indexes: bool = False
) -> Query:
    """A table with the columns, defaults and checks of another, ready to be attached to it."""
    more = phrase(" INCLUDING INDEXES") if indexes else phrase("")
    storage = tablespace = phrase("")
    if template.fillfactor is not None:
        storage = phrase(" WITH (fillfactor = {})", value(template.fillfactor))
    if template.tablespace is not None:
        tablespace = phrase(" TABLESPACE {}", name(template.tablespace))
    made = phrase(
        "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED"
        " INCLUDING STORAGE INCLUDING STATISTICS{}){}{}",
        name(*new),
        name(*parent),
        more,
        storage,
        tablespace,
    )
    if identity not in _IDENTITIES:
        return made
    how = given(_IDENTITIES[identity])
    return script([made, phrase("ALTER TABLE {}{}", name(*new), how)])


def granted(new: Place, grants: Sequence[Grant]) -> list[Query]:
    """The same rights on a new table as others have on the one it is for."""
    return [
        phrase(
            "GRANT {} ON TABLE {} TO {}{}",
            given(what),
            name(*new),
            name(who) if who else given("PUBLIC"),
            given(" WITH GRANT OPTION" if further else ""),
        )
        for who, what, further in grants
        if what in RIGHTS
    ]


RIGHTS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"})


def attached(parent: Place, new: Place, key: Key, bounds: Bounds) -> Query:
    return phrase(
        "ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})",
        name(*parent),
        name(*new),
        edge(key, bounds.lower),
        edge(key, bounds.upper),
    )


def edge(key: Key, at: int) -> Part:
    """A bound as it stands in FOR VALUES."""
    if at <= LOWEST:
        return given("MINVALUE")
    return given("MAXVALUE") if at >= HIGHEST else value(key.literal(at))


def attached_default(parent: Place, new: Place) -> Query:
    return phrase("ALTER TABLE {} ATTACH PARTITION {} DEFAULT", name(*parent), name(*new))


def detached(parent: Place, old: Place) -> Query:
    """Waits for all transactions on the table, and all wait for it."""
    return phrase("ALTER TABLE {} DETACH PARTITION {}", name(*parent), name(*old))


def detached_concurrently(parent: Place, old: Place) -> Query:
    """Holds nobody up. Not inside a transaction, and not beside a DEFAULT partition."""
    return phrase("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", name(*parent), name(*old))


def finalized(parent: Place, old: Place) -> Query:
    return phrase("ALTER TABLE {} DETACH PARTITION {} FINALIZE", name(*parent), name(*old))


def commented(table: Place, mark: Mark, comment: str | None) -> Query:
    return phrase("COMMENT ON TABLE {} IS {}", name(*table), value(mark.written(comment)))


def dropped(table: Place) -> Query:
    """Without CASCADE: what depends on it keeps it."""
    return phrase("DROP TABLE {}", name(*table))


def renamed(table: Place, new: str) -> Query:
    return phrase("ALTER TABLE {} RENAME TO {}", name(*table), name(new))


def within(key: Key, column: str, bounds: Bounds) -> Query:
    """The condition that a row belongs between bounds of the calendar."""
    return phrase(
        "{c} >= {low} AND {c} < {high}",
        c=name(column),
        low=value(key.literal(bounds.lower)),
        high=value(key.literal(bounds.upper)),
    )
