"""What a table has beside its rows goes with it when it becomes partitioned, and back."""

from collections.abc import AsyncIterator, Iterator

import pytest

from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from tests.integration.converter import WISH
from tests.integration.postgreses import PostgresServer, serving_postgres

RICH = """
CREATE ROLE app LOGIN;
CREATE TABLE accounts (id int PRIMARY KEY);
INSERT INTO accounts SELECT generate_series(0, 9);
CREATE TABLE transactions (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigserial,
  account int NOT NULL REFERENCES accounts, amount numeric(12,2) CHECK (amount > -1),
  note text DEFAULT 'x', "At odd" int, gone int, created_at timestamptz DEFAULT now(),
  twice numeric GENERATED ALWAYS AS (amount * 2) STORED) WITH (fillfactor = 80);
ALTER TABLE transactions DROP COLUMN gone;
INSERT INTO transactions (account, amount, created_at)
  SELECT i % 10, i, now() - interval '90 days' + i * interval '2 hours'
  FROM generate_series(1, 1000) i;
CREATE INDEX ON transactions (created_at);
CREATE INDEX ON transactions (lower(note)) WHERE amount > 100;
CREATE UNIQUE INDEX ON transactions (n, created_at);
GRANT SELECT, INSERT ON transactions TO app; GRANT UPDATE (note) ON transactions TO app;
GRANT SELECT ON accounts TO app; GRANT USAGE ON SEQUENCE transactions_n_seq TO app;
COMMENT ON TABLE transactions IS 'it''s a ledger';
CREATE VIEW big WITH (security_barrier) AS SELECT * FROM transactions WHERE amount > 990;
GRANT SELECT ON big TO app;
CREATE TABLE log (what text);
GRANT INSERT ON log TO app;
CREATE FUNCTION logged() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO log VALUES (TG_OP || ' ' || TG_LEVEL); RETURN NULL; END $$;
CREATE TRIGGER each_row AFTER INSERT OR DELETE ON transactions FOR EACH ROW
  WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION logged();
CREATE TRIGGER each_statement AFTER UPDATE ON transactions EXECUTE FUNCTION logged();
ALTER TABLE transactions ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON transactions FOR SELECT TO app USING (account < 3);
CREATE POLICY more ON transactions FOR INSERT TO app WITH CHECK (account < 5);
CREATE POLICY notes ON transactions AS RESTRICTIVE FOR UPDATE USING (amount > 0);
"""
ADDED = "INSERT INTO transactions (account, amount) VALUES (1, 995)"
SEEN = """
SELECT json_build_object(
 'comment', obj_description('transactions'::regclass),
 'grants', (SELECT array_agg(x::text ORDER BY x::text) FROM pg_class c, aclexplode(c.relacl) x
   WHERE c.oid = 'transactions'::regclass AND x.grantee <> c.relowner),
 'columns', (SELECT json_agg((attname, atttypid, attnotnull OR attname = 'created_at', attidentity,
   attgenerated, attacl, (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef d
     WHERE d.adrelid = attrelid AND d.adnum = attnum)) ORDER BY attnum)
   FROM pg_attribute WHERE attrelid = 'transactions'::regclass AND attnum > 0
     AND NOT attisdropped),
 'security', (SELECT relrowsecurity FROM pg_class WHERE oid = 'transactions'::regclass),
 'policies', (SELECT json_agg((policyname, permissive, roles, cmd, qual, with_check)
   ORDER BY policyname) FROM pg_policies WHERE tablename = 'transactions'),
 'triggers', (SELECT json_agg(pg_get_triggerdef(oid) ORDER BY tgname) FROM pg_trigger
   WHERE tgrelid = 'transactions'::regclass AND NOT tgisinternal),
 'checks', (SELECT json_agg((conname, pg_get_constraintdef(oid)) ORDER BY conname)
   FROM pg_constraint WHERE conrelid = 'transactions'::regclass AND contype IN ('c', 'f')),
 'sequences', (SELECT json_agg((s.relname, a.attname) ORDER BY s.relname) FROM pg_class s
   JOIN pg_depend d ON d.objid = s.oid AND d.refobjid = 'transactions'::regclass
   JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE s.relkind = 'S'),
 'view', (SELECT json_agg((pg_get_viewdef(oid), reloptions, relacl)) FROM pg_class
   WHERE relname = 'big'))
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        server.psql(RICH)
        yield server


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[Postgres]:
    database = Postgres(server.dsn())
    yield database
    await database.aclose()


def used(server: PostgresServer, rows: int) -> None:
    """A row more is everywhere where it has to be, and `app` sees and may do what it could."""
    server.psql("TRUNCATE log")
    server.psql(ADDED)
    server.psql("UPDATE transactions SET note = 'y' WHERE amount = 995")
    found = "SELECT count(*), max(id), max(n) FROM transactions"
    assert server.psql(found) == f"{rows}|{rows}|{rows}"
    assert server.psql("SELECT what FROM log ORDER BY 1") == "INSERT ROW\nUPDATE STATEMENT"
    assert server.psql("SELECT count(*) FROM big") == str(10 + rows - 1000)
    assert server.psql("SELECT count(DISTINCT account) FROM transactions", user="app") == "3"
    server.psql("DELETE FROM log")
    with pytest.raises(AssertionError, match="row-level security"):
        server.psql("INSERT INTO transactions (account, amount) VALUES (7, 1)", user="app")
    # what was refused has used up a number
    server.psql(
        f"SELECT setval('transactions_id_seq', {rows}), setval('transactions_n_seq', {rows})"
    )


async def test_everything_goes_with_it_and_back(server: PostgresServer, database: Postgres) -> None:
    before = server.psql(SEEN)
    conversion = Conversion(database, PartitionSet.model_validate(WISH))
    await conversion.run(Stage.LIVE)
    assert server.psql(SEEN) == before
    used(server, 1001)
    await conversion.undo()
    assert server.psql(SEEN) == before
    used(server, 1002)
    await conversion.run(Stage.VERIFIED)
    assert server.psql(SEEN) == before
    used(server, 1003)
    await conversion.drop_old()
    assert server.psql(SEEN) == before
    used(server, 1004)
    options = "SELECT DISTINCT reloptions FROM pg_class WHERE relname ~ '^transactions_2..._..$'"
    assert server.psql(options) == "{fillfactor=80}"
