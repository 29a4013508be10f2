"""What a table is like, as the catalogue has it, and where the keys of its rows lie."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, LiteralString, Protocol

from pydantic import TypeAdapter

from scaler.clients.postgres import Row, Statement, name, phrase
from scaler.errors import NotFound
from scaler.maintenance.partition_ranges import KeyKind


class Asking(Protocol):
    """A connection, or a transaction on one."""

    async def fetch(
        self, statement: Statement, params: Sequence[Any] = (), *, deadline: timedelta | None = ...
    ) -> list[Row]: ...

    async def execute(
        self, statement: Statement, params: Sequence[Any] = (), *, deadline: timedelta | None = ...
    ) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str
    notnull: bool
    identity: str  # "a" always, "d" by default, "" not
    generated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """`columns` are those of the key, without the included ones; empty for an expression."""

    name: str
    unique: bool
    primary: bool
    valid: bool
    partial: bool
    exclusion: bool
    columns: tuple[str, ...]
    definition: str  # CREATE INDEX ... as the server writes it
    using: str  # what stands after the name of the table: btree (at) WHERE ...
    constraint: str | None = None
    promise: str | None = None  # PRIMARY KEY (...) or UNIQUE (...), when it is a constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    name: str
    definition: str
    valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    name: str
    definition: str
    enabled: str  # "O" as usual
    constraint: bool
    transition: bool  # it reads the old or new rows as a table


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """A sequence that a column owns, or that is the identity of one."""

    schema: str
    name: str
    column: str
    identity: bool
    options: str  # START ... INCREMENT ...


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    schema: str
    name: str
    definition: str
    options: tuple[str, ...]
    owner: str
    mine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A policy of row security."""

    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    grantee: str  # empty: everybody
    privilege: str
    grantable: bool
    column: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The table as the catalogue has it. What it cannot say is None."""

    oid: int
    schema: str
    table: str
    kind: str
    persistence: str
    owner: str
    mine: bool
    creates_here: bool  # we may create in the schema of the table
    creates_schema: bool  # we may create the schema `scaler`, or in it
    key: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...]
    checks: tuple[Constraint, ...]
    references: tuple[Constraint, ...]  # foreign keys of this table
    referenced_by: tuple[str, ...]  # foreign keys of other tables, as "orders (orders_fk)"
    triggers: tuple[Trigger, ...]
    sequences: tuple[Counter, ...]
    views: tuple[View, ...]
    dependants: tuple[str, ...]  # what else knows the table by itself: functions, matviews, types
    policies: tuple[Rule, ...]
    grants: tuple[Grant, ...]
    publications: tuple[str, ...]
    inherits: bool
    rules: bool
    row_security: bool
    force_row_security: bool
    replica_identity: str
    options: tuple[str, ...]
    tablespace: str | None
    comment: str | None
    bytes: int
    rows: float
    dead: float
    version: int
    longest: float | None  # seconds that the oldest open transaction on the table has run
    longest_by: str | None

    @property
    def key_column(self) -> Column | None:
        return next((c for c in self.columns if c.name == self.key), None)

    @property
    def primary(self) -> Index | None:
        return next((i for i in self.indexes if i.primary), None)

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells one row from another; empty when nothing does."""
        if self.primary is not None:
            return self.primary.columns
        notnull = {c.name for c in self.columns if c.notnull}
        usable = (
            i.columns
            for i in self.indexes
            if i.unique and i.valid and not i.partial and i.columns and set(i.columns) <= notnull
        )
        return next(usable, ())


FACTS: Final = TypeAdapter(Facts)

_FACTS: Final = """
SELECT json_build_object(
 'oid', c.oid::bigint, 'schema', n.nspname, 'table', c.relname, 'kind', c.relkind,
 'persistence', c.relpersistence, 'owner', pg_get_userbyid(c.relowner), 'key', %s::text,
 'mine', pg_has_role(c.relowner, 'USAGE'),
 'creates_here', has_schema_privilege(n.oid, 'CREATE'),
 'creates_schema', coalesce((SELECT has_schema_privilege(s.oid, 'CREATE') FROM pg_namespace s
   WHERE s.nspname = 'scaler'), has_database_privilege(current_database(), 'CREATE')),
 'columns', (SELECT json_agg(json_build_object('name', a.attname,
   'type', format_type(a.atttypid, a.atttypmod), 'notnull', a.attnotnull,
   'identity', a.attidentity, 'generated', a.attgenerated <> '') ORDER BY a.attnum)
   FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
 'indexes', coalesce((SELECT json_agg(json_build_object('name', ic.relname,
   'unique', i.indisunique, 'primary', i.indisprimary, 'valid', i.indisvalid AND i.indisready,
   'partial', i.indpred IS NOT NULL, 'exclusion', i.indisexclusion,
   'columns', CASE WHEN i.indexprs IS NOT NULL AND 0 = ANY (i.indkey) THEN '[]'::json ELSE
     (SELECT json_agg(a.attname ORDER BY k.place) FROM unnest(i.indkey[0:i.indnkeyatts - 1])
       WITH ORDINALITY k(num, place)
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num) END,
   'definition', pg_get_indexdef(i.indexrelid),
   'using', substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)$'),
   'constraint', k.conname, 'promise', pg_get_constraintdef(k.oid)) ORDER BY i.indexrelid)
   FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
   LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = c.oid
     AND k.contype IN ('p', 'u', 'x') WHERE i.indrelid = c.oid), '[]'),
 'checks', coalesce((SELECT json_agg(json_build_object('name', k.conname,
   'definition', pg_get_constraintdef(k.oid), 'valid', k.convalidated) ORDER BY k.conname)
   FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'), '[]'),
 'references', coalesce((SELECT json_agg(json_build_object('name', k.conname,
   'definition', pg_get_constraintdef(k.oid), 'valid', k.convalidated) ORDER BY k.conname)
   FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'), '[]'),
 'referenced_by', coalesce((SELECT json_agg(k.conrelid::regclass::text || ' (' || k.conname || ')'
   ORDER BY k.conname) FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f'), '[]'),
 'triggers', coalesce((SELECT json_agg(json_build_object('name', t.tgname,
   'definition', pg_get_triggerdef(t.oid), 'enabled', t.tgenabled,
   'constraint', t.tgconstraint <> 0,
   'transition', t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL) ORDER BY t.tgname)
   FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal), '[]'),
 'sequences', coalesce((SELECT json_agg(json_build_object('schema', sn.nspname, 'name', sc.relname,
   'column', a.attname, 'identity', d.deptype = 'i',
   'options', format('START %%s INCREMENT %%s MINVALUE %%s MAXVALUE %%s CACHE %%s %%s', s.seqstart,
     s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
     CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END)))
   FROM pg_depend d JOIN pg_class sc ON sc.oid = d.objid AND sc.relkind = 'S'
   JOIN pg_namespace sn ON sn.oid = sc.relnamespace JOIN pg_sequence s ON s.seqrelid = sc.oid
   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.refobjsubid
   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')), '[]'),
 'views', coalesce((SELECT json_agg(v) FROM (SELECT DISTINCT ON (vc.oid) json_build_object(
   'schema', vn.nspname, 'name', vc.relname, 'definition', rtrim(pg_get_viewdef(vc.oid), ';'),
   'options', coalesce(vc.reloptions, '{}'),
   'owner', pg_get_userbyid(vc.relowner), 'mine', pg_has_role(vc.relowner, 'USAGE')) v
   FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
   JOIN pg_class vc ON vc.oid = r.ev_class AND vc.relkind = 'v'
   JOIN pg_namespace vn ON vn.oid = vc.relnamespace
   WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid) views), '[]'),
 'dependants', coalesce((SELECT json_agg(DISTINCT pg_describe_object(d.classid, d.objid, 0))
   FROM pg_depend d LEFT JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
   LEFT JOIN pg_class vc ON vc.oid = r.ev_class
   WHERE d.deptype = 'n' AND (
     (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
      AND (d.classid = 'pg_proc'::regclass OR vc.relkind NOT IN ('v', 'r')))
     OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (c.reltype,
         (SELECT typarray FROM pg_type WHERE oid = c.reltype)))
     OR (d.refclassid = 'pg_constraint'::regclass AND d.classid = 'pg_rewrite'::regclass
         AND d.refobjid IN (SELECT oid FROM pg_constraint WHERE conrelid = c.oid)))), '[]'),
 'policies', coalesce((SELECT json_agg(json_build_object('name', p.polname,
   'permissive', p.polpermissive, 'command', CASE p.polcmd WHEN 'r' THEN 'SELECT'
     WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
   'roles', (SELECT coalesce(json_agg(pg_get_userbyid(role)), '[]') FROM unnest(p.polroles) role
      WHERE role <> 0),
   'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid)))
   FROM pg_policy p WHERE p.polrelid = c.oid), '[]'),
 'grants', coalesce((SELECT json_agg(g) FROM (
   SELECT json_build_object('grantee', CASE x.grantee WHEN 0 THEN '' ELSE
     pg_get_userbyid(x.grantee) END, 'privilege', x.privilege_type,
     'grantable', x.is_grantable) g FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner
   UNION ALL SELECT json_build_object('grantee', CASE x.grantee WHEN 0 THEN '' ELSE
     pg_get_userbyid(x.grantee) END, 'privilege', x.privilege_type, 'grantable', x.is_grantable,
     'column', a.attname) FROM pg_attribute a, aclexplode(a.attacl) x
     WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND NOT a.attisdropped) grants), '[]'),
 'publications', coalesce((SELECT json_agg(DISTINCT pubname) FROM pg_publication_tables p
   WHERE p.schemaname = n.nspname AND p.tablename = c.relname), '[]'),
 'inherits', EXISTS (SELECT FROM pg_inherits h WHERE c.oid IN (h.inhrelid, h.inhparent)),
 'rules', EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid),
 'row_security', c.relrowsecurity, 'force_row_security', c.relforcerowsecurity,
 'replica_identity', c.relreplident, 'options', coalesce(c.reloptions, '{}'),
 'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = c.reltablespace),
 'comment', obj_description(c.oid, 'pg_class'),
 'bytes', pg_total_relation_size(c.oid),
 'rows', greatest(c.reltuples, coalesce((SELECT n_live_tup FROM pg_stat_user_tables s
    WHERE s.relid = c.oid), 0), 0),
 'dead', coalesce((SELECT n_dead_tup FROM pg_stat_user_tables s WHERE s.relid = c.oid), 0),
 'version', current_setting('server_version_num')::int / 10000,
 'longest', l.seconds, 'longest_by', l.who)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (SELECT extract(epoch FROM clock_timestamp() - a.xact_start)::float seconds,
    format('%%s (process %%s)', coalesce(nullif(a.application_name, ''), a.usename), a.pid) who
  FROM pg_locks k JOIN pg_stat_activity a ON a.pid = k.pid
  WHERE k.relation = c.oid AND k.granted AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
  ORDER BY a.xact_start LIMIT 1) l ON true
WHERE n.nspname = %s AND c.relname = %s
"""


async def look(database: Asking, schema: str, table: str, key: str) -> Facts:
    """The catalogue's part of the facts. Nothing of the rows is read.

    Raises:
        NotFound: there is no such table.
    """
    found = await database.fetch(_FACTS, (key, schema, table))
    if not found:
        raise NotFound(f"there is no table {schema}.{table}; look for it with \\dt {schema}.*")
    return FACTS.validate_python(found[0][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Where the keys of the rows lie, on the scale of the key; None for a table without rows."""

    lowest: int | None = None
    highest: int | None = None
    nulls: bool = False
    endless: bool = False  # a row at 'infinity'


async def look_at_rows(database: Asking, facts: Facts, kind: KeyKind) -> Span:
    """Quick with an index on the key; else it reads the table a few times, and holds up nobody."""
    table, key = name(facts.schema, facts.table), name(facts.key)
    timed = kind in (KeyKind.TIMESTAMPTZ, KeyKind.TIMESTAMP, KeyKind.DATE)
    shown = phrase(_SHOWN[kind], k=key)
    finite = phrase("isfinite({k})", k=key) if timed else phrase("{k} IS NOT NULL", k=key)
    endless = phrase("{k} = 'infinity'", k=key) if timed else phrase("false")
    rows = await database.fetch(
        phrase(
            "SELECT (SELECT {shown} FROM {t} WHERE {finite} ORDER BY {k} LIMIT 1),"
            " (SELECT {shown} FROM {t} WHERE {finite} ORDER BY {k} DESC LIMIT 1),"
            " EXISTS (SELECT FROM {t} WHERE {k} IS NULL), EXISTS (SELECT FROM {t} WHERE {endless})",
            shown=shown, t=table, k=key, finite=finite, endless=endless,
        ),
        deadline=None,  # it may read the whole table
    )  # fmt: skip
    low, high, nulls, endless_rows = rows[0]
    return Span(
        lowest=_number(kind, low),
        highest=_number(kind, high),
        nulls=nulls,
        endless=endless_rows,
    )


_SHOWN: Final[dict[KeyKind, LiteralString]] = {
    KeyKind.TIMESTAMPTZ: "(extract(epoch FROM {k}) * 1000000)::bigint::text",
    KeyKind.TIMESTAMP: "(extract(epoch FROM {k}) * 1000000)::bigint::text",
    KeyKind.DATE: "({k} - DATE '1970-01-01')::text",
    KeyKind.EPOCH_S: "{k}::text",
    KeyKind.EPOCH_MS: "{k}::text",
    KeyKind.UUIDV7: "{k}::text",
}


def _number(kind: KeyKind, text: str | None) -> int | None:
    if text is None:
        return None
    return uuid.UUID(text).int if kind is KeyKind.UUIDV7 else int(text)
