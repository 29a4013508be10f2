"""The facts about partition sets, from one query of the catalogue for all of a database.

It reads the catalogue only, so no lock of a table makes it wait; whether a DEFAULT partition holds
rows is a second query, for those that have one. Both run in a session that has been set up by
`SESSION`: bounds are written in UTC and in ISO dates there, whatever the server prefers, and no
commit waits for the disk. The log is written in order: what a crash takes are the last steps, such
as a detachment but never only the mark before it, and the next look finds them to do again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from scaler.clients import postgres
from scaler.clients.postgres import Row, Statement
from scaler.maintenance import partition_disk, partition_plan, partition_ranges
from scaler.maintenance.partition_disk import FOLDER
from scaler.maintenance.partition_facts import Astray, Detached, Facts, Partition, mark_in
from scaler.maintenance.partition_ranges import HIGHEST, Key, Range, bounds_of
from scaler.maintenance.partition_rules import PartitionSet

LONGEST: Final = timedelta(seconds=20)  # for one query of the catalogue
MOST_ASTRAY: Final = 50  # ranges that one look at a DEFAULT partition finds
MOST_LISTED: Final = 20  # of tables that depend on one

SESSION: Final = """
SELECT s.pid, current_user, pg_is_in_recovery(), CASE WHEN s.pid = %s THEN
    set_config('timezone', 'UTC', false) || set_config('datestyle', 'ISO, YMD', false)
    || set_config('lock_timeout', '2s', false)
    || set_config('synchronous_commit', 'off', false) END,
  CASE WHEN s.pid = %s AND NOT pg_is_in_recovery() THEN pg_try_advisory_lock(%s::bigint) END
FROM (SELECT pg_backend_pid() AS pid) AS s
"""

CATALOG: Final = """
WITH wanted AS (
  SELECT w.number, w.tab, w.col, n.oid AS nsp, c.oid, c.relkind, c.relowner, c.relreplident
  FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS w(schema, tab, col, number)
  LEFT JOIN pg_namespace n ON n.nspname = w.schema
  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.tab
    AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
), children AS (
  SELECT i.inhparent, json_agg(json_build_object(
    'schema', n.nspname, 'name', c.relname, 'bound', pg_get_expr(c.relpartbound, c.oid),
    'kind', c.relkind, 'owned', pg_has_role(c.relowner, 'USAGE'),
    'pending', coalesce(to_jsonb(i) ->> 'inhdetachpending', 'false') = 'true',
    'rows', greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint,
    'bytes', current_setting('block_size')::bigint * (c.relpages
      + coalesce(t.relpages, 0) + coalesce(x.pages, 0))::bigint,
    'comment', obj_description(c.oid, 'pg_class'))) AS list
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    LEFT JOIN (SELECT d.indrelid, sum(o.relpages) AS pages
      FROM pg_index d JOIN pg_class o ON o.oid = d.indexrelid GROUP BY 1) x ON x.indrelid = c.oid
  WHERE i.inhparent IN (SELECT oid FROM wanted) GROUP BY 1
), referrers AS (
  SELECT confrelid, json_agg(DISTINCT conrelid::regclass::text) AS list FROM pg_constraint
  WHERE contype = 'f' AND conparentid = 0 AND confrelid IN (SELECT oid FROM wanted) GROUP BY 1
), publications AS (
  SELECT r.prrelid, json_agg(p.pubname) AS list
  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
  WHERE NOT p.pubviaroot AND r.prrelid IN (SELECT oid FROM wanted) GROUP BY 1
), marked AS (
  SELECT json_agg(json_build_object(
    'schema', n.nspname, 'name', c.relname, 'comment', d.description,
    'owned', pg_has_role(c.relowner, 'USAGE'),
    'views', (SELECT json_agg(DISTINCT r.ev_class::regclass::text) FROM pg_depend v
      JOIN pg_rewrite r ON r.oid = v.objid
      WHERE v.classid = 'pg_rewrite'::regclass AND v.refclassid = 'pg_class'::regclass
        AND v.refobjid = c.oid),
    'foreign_keys', (SELECT json_agg(DISTINCT k.conrelid::regclass::text) FROM pg_constraint k
      WHERE k.contype = 'f' AND k.confrelid = c.oid AND k.conrelid <> c.oid))) AS list
  FROM pg_description d JOIN pg_class c ON c.oid = d.objoid
    JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND d.description LIKE 'scaler {%%'
    AND c.relkind IN ('r', 'p') AND NOT c.relispartition
)
SELECT w.number, json_build_object(
  'kind', w.relkind, 'user', current_user, 'owner', pg_get_userbyid(w.relowner),
  'owned', pg_has_role(w.relowner, 'USAGE'),
  'may_create', has_schema_privilege(w.relowner, w.nsp, 'CREATE'),
  'identity', w.relreplident,
  'concurrently', current_setting('server_version_num')::int >= 140000,
  'strategy', p.partstrat, 'columns', p.partnatts, 'key', k.attname, 'has', a.attname,
  'type', format_type(a.atttypid, NULL),
  'unique', EXISTS (SELECT FROM pg_index x WHERE x.indrelid = w.oid AND x.indisunique
    AND x.indisvalid AND x.indimmediate AND x.indpred IS NULL AND x.indexprs IS NULL),
  'names', (SELECT json_agg(o.relname) FROM pg_class o WHERE o.relnamespace = w.nsp
    AND o.relname >= (w.tab || '_')::name AND o.relname < (w.tab || '`')::name
    AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = o.oid AND h.inhparent = w.oid)),
  'children', c.list, 'referrers', f.list, 'publications', b.list)
FROM wanted w
LEFT JOIN pg_partitioned_table p ON p.partrelid = w.oid
LEFT JOIN pg_attribute k ON k.attrelid = w.oid AND k.attnum = p.partattrs[0] AND k.attnum > 0
LEFT JOIN pg_attribute a ON a.attrelid = w.oid AND a.attname = w.col AND NOT a.attisdropped
LEFT JOIN children c ON c.inhparent = w.oid
LEFT JOIN referrers f ON f.confrelid = w.oid
LEFT JOIN publications b ON b.prrelid = w.oid
UNION ALL SELECT 0, list FROM marked
UNION ALL SELECT -1, (SELECT to_json(setting) FROM ({folder}) AS folder)
""".replace("{folder}", FOLDER)


class Asked(Protocol):
    """Whatever answers statements: a connection, or a transaction on it."""

    async def fetch(
        self,
        statement: Statement,
        params: Sequence[Any] = (),
        *,
        deadline: timedelta | None = ...,
    ) -> list[Row]: ...


async def read(database: Asked, sets: Sequence[PartitionSet]) -> list[Facts]:
    """The facts about each set, in order; nothing yet about rows in a DEFAULT partition.

    Raises:
        ScalerError: the catalogue does not answer.
    """
    params = (
        [one.schema_name for one in sets],
        [one.table_name for one in sets],
        [one.by for one in sets],
    )
    rows: dict[int, Any] = dict(await database.fetch(CATALOG, params, deadline=LONGEST))
    detached: dict[str, list[Detached]] = {}
    for plain in rows.get(0) or ():
        mark = mark_in(plain["comment"])
        if mark is not None:
            detached.setdefault(mark.of, []).append(
                Detached(
                    schema=plain["schema"],
                    name=plain["name"],
                    mark=mark,
                    comment=plain["comment"],
                    owned=plain["owned"],
                    views=tuple(plain["views"] or ())[:MOST_LISTED],
                    foreign_keys=tuple(plain["foreign_keys"] or ())[:MOST_LISTED],
                )
            )
    free = partition_disk.free(rows.get(-1))
    return [
        replace(_facts(one, rows[number], tuple(detached.get(one.table, ()))), free=free)
        for number, one in enumerate(sets, 1)
    ]


def _facts(rules: PartitionSet, plain: Mapping[str, Any], detached: tuple[Detached, ...]) -> Facts:
    facts = Facts(
        table=rules.table,
        missing=_missing(rules, plain),
        type=plain["type"] or "",
        owner=plain["owner"] or "",
        user=plain["user"],
        owned=bool(plain["owned"]),
        may_create=bool(plain["may_create"]),
        detached=detached,
        names=frozenset(plain["names"] or ()),
        unique=bool(plain["unique"]),
        identity=plain["identity"] or "d",
        concurrently=plain["concurrently"],
        referrers=tuple(plain["referrers"] or ())[:MOST_LISTED],
        publications=tuple(plain["publications"] or ())[:MOST_LISTED],
    )
    kind = partition_plan.key_kind(rules, facts)
    if isinstance(kind, partition_plan.Finding):
        return facts
    key = Key(kind, rules.timezone)
    children = sorted(plain["children"] or (), key=lambda child: str(child["name"]))
    return replace(facts, partitions=tuple(_partition(key, child) for child in children))


def _missing(rules: PartitionSet, plain: Mapping[str, Any]) -> str:
    """Why a table cannot be kept as a partition set; empty when it can."""
    if plain["kind"] is None:
        return "there is no such table; create it, or correct its name"
    if plain["kind"] != "p":
        what = {"r": "is not partitioned yet; run scaler partitions convert"}
        return what.get(plain["kind"], "is no table but a view or a foreign table")
    if plain["strategy"] != "r" or plain["columns"] != 1:
        return "is not partitioned by a range of one column, so there is nothing to keep"
    if plain["has"] is None:
        return f'has no column "{rules.by}"; correct by:'
    if plain["key"] != rules.by:
        found = f'"{plain["key"]}"' if plain["key"] else "an expression"
        return f'is partitioned by {found} and not by "{rules.by}"; correct by:'
    return ""


def _partition(key: Key, child: Mapping[str, Any]) -> Partition:
    odd, bounds = "", None
    if child["kind"] == "p":
        odd = "it has partitions of its own"
    elif child["kind"] != "r":
        odd = "it is a foreign table"
    try:
        bounds = bounds_of(key, child["bound"])
    except ValueError as error:
        odd = str(error)
    return Partition(
        schema=child["schema"],
        name=child["name"],
        bound=child["bound"],
        bounds=bounds,
        odd=odd,
        owned=child["owned"],
        pending=child["pending"],
        rows=child["rows"],
        bytes=child["bytes"],
        comment=child["comment"],
    )


async def occupied(database: Asked, facts: Sequence[Facts]) -> list[str]:
    """The tables among these whose DEFAULT partition holds rows, by one query.

    Raises:
        ScalerError: one of them is locked, or may not be read.
    """
    parts = [
        postgres.phrase(
            "SELECT {} WHERE EXISTS (SELECT FROM {})",
            postgres.value(one.table),
            postgres.name(one.default.schema, one.default.name),
        )
        for one in facts
        if one.default is not None
    ]
    if not parts:
        return []
    query = postgres.listed(parts, " UNION ALL ")
    return [str(row[0]) for row in await database.fetch(query, deadline=LONGEST)]


async def astray(database: Asked, rules: PartitionSet, facts: Facts, now: datetime) -> Facts:
    """The facts with the ranges that rows in the DEFAULT partition belong into.

    Raises:
        ScalerError: it cannot be read in time.
    """
    default, kind = facts.default, partition_plan.key_kind(rules, facts)
    if default is None or isinstance(kind, partition_plan.Finding):
        return facts
    key = Key(kind, rules.timezone)
    first, last = partition_plan.astray_limit(rules, now)
    lower, upper = key.at(first), key.at(last)
    place, column = postgres.name(default.schema, default.name), postgres.name(rules.by)
    total = await database.fetch(postgres.phrase("SELECT count(*) FROM {}", place))
    found: list[Astray] = []
    while lower < upper and len(found) < MOST_ASTRAY:
        query = postgres.phrase(
            "SELECT min({c})::text FROM {t} WHERE {c} >= {low} AND {c} < {high}",
            c=column,
            t=place,
            low=postgres.value(key.literal(lower)),
            high=postgres.value(key.literal(upper)),
        )
        if kind is partition_ranges.KeyKind.UUIDV7:  # there is no min() of it before version 19
            query = postgres.phrase(
                "SELECT {c}::text FROM {t} WHERE {c} >= {low} AND {c} < {high}"
                " ORDER BY {c} LIMIT 1",
                c=column,
                t=place,
                low=postgres.value(key.literal(lower)),
                high=postgres.value(key.literal(upper)),
            )
        rows = await database.fetch(query)
        if not rows or rows[0][0] is None:
            break
        held = partition_ranges.containing(
            rules.every, rules.timezone, key.moment(key.parse(str(rows[0][0])))
        )
        found.append(Astray(range=held, rows=await _count(database, key, held, place, column)))
        lower = key.bounds(held).upper
    strays = int(total[0][0]) - sum(one.rows for one in found)
    more = len(found) >= MOST_ASTRAY
    return replace(facts, astray=tuple(found), strays=0 if more else strays)


async def _count(database: Asked, key: Key, held: Range, place: Any, column: Any) -> int:
    bounds = key.bounds(held)
    rows = await database.fetch(
        postgres.phrase(
            "SELECT count(*) FROM {t} WHERE {c} >= {low} AND {c} < {high}",
            t=place,
            c=column,
            low=postgres.value(key.literal(bounds.lower)),
            high=postgres.value(key.literal(min(bounds.upper, HIGHEST))),
        )
    )
    return int(rows[0][0])
