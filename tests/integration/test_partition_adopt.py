"""Sets of pg_partman, of pg-partsmith and of a person are taken over without a statement."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from scaler.clients.postgres import Postgres
from scaler.clock import ManualClock
from scaler.maintenance import partition_adopt
from scaler.maintenance.partition_file import load_partitions
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partitions import DatabasePartitioner
from tests.integration.postgreses import PostgresServer, serving_postgres

Done = subprocess.CompletedProcess[str]
numbers = count()
TABLE = "CREATE TABLE {name} (id bigint, at {type} NOT NULL) PARTITION BY RANGE (at)"
PARENT = (
    "SELECT partman.create_parent('public.{name}', 'at', 'native', '{every}', p_premake := 4{more})"
)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


@pytest.fixture
def place(server: PostgresServer) -> str:
    place = f"adopted{next(numbers)}"
    server.psql(f"CREATE DATABASE {place}")
    return place


@pytest.fixture(scope="module")
def template(server: PostgresServer) -> str:
    server.psql("CREATE DATABASE extended")
    server.psql("CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman", "extended")
    return "extended"


@pytest.fixture
def partman(server: PostgresServer, template: str) -> str:
    place = f"adopted{next(numbers)}"
    server.psql(f"CREATE DATABASE {place} TEMPLATE {template}")
    return place


def made(server: PostgresServer, place: str, every: str, more: str = "", key: str = "timestamptz",
         name: str = "orders", zone: str = "UTC") -> None:  # fmt: skip
    server.psql(TABLE.format(name=name, type=key), place)
    parent = PARENT.format(name=name, every=every, more=more)
    server.psql(f"SET datestyle = 'ISO'; SET timezone = '{zone}'; {parent}", place)


def run(server: PostgresServer, place: str, *words: str, address: str = "") -> Done:
    return subprocess.run(
        [sys.executable, "-m", "scaler", "partitions", "adopt", *words],
        env=os.environ | {"LEDGER_DSN": address or server.dsn(place)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def adopt(server: PostgresServer, place: str, file: Path, code: int = 7) -> dict[str, PartitionSet]:
    """The rules by table, as they stand in the file afterwards."""
    done = run(server, place, "--into", str(file))
    assert done.returncode == code, done.stderr
    return {one.table: one for one in load_partitions(file).rules["ledger"].partitions}


async def plans(
    server: PostgresServer, place: str, file: Path, monkeypatch: pytest.MonkeyPatch,
    now: datetime | None = None,
) -> list[Any]:  # fmt: skip
    monkeypatch.setenv("LEDGER_DSN", server.dsn(place))
    clock = ManualClock(now or datetime.now(UTC))
    keeper = DatabasePartitioner(load_partitions(file).rules["ledger"], clock=clock)
    return [plan.steps for plan in await keeper.plan()]


@pytest.mark.parametrize(
    ("every", "key", "more", "expected"),
    [
        ("daily", "timestamptz", "", ("1 day", "UTC", None)),
        ("weekly", "timestamptz", "", ("1 week", "UTC", None)),
        ("monthly", "date", "", ("1 month", "Asia/Kolkata", None)),
        ("quarterly", "timestamp", "", ("1 quarter", "Asia/Kolkata", None)),
        ("yearly", "timestamptz", "", ("1 year", "UTC", None)),
        ("10 days", "timestamptz", "", ("10 days", "UTC", None)),
        ("monthly", "bigint", ", p_epoch := 'seconds'", ("1 month", "UTC", "epoch s")),
        ("monthly", "bigint", ", p_epoch := 'milliseconds'", ("1 month", "UTC", "epoch ms")),
    ],
)
async def test_what_pg_partman_made_is_as_it_should_be(
    server: PostgresServer, partman: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    every: str, key: str, more: str, expected: tuple[str, str, str | None],
) -> None:  # fmt: skip
    made(server, partman, every, more, key)
    file = tmp_path / "partitions.yaml"
    one = adopt(server, partman, file)["public.orders"]
    kind = str(one.key) if one.key else None
    assert (str(one.every), str(one.timezone), kind) == expected
    assert (one.ahead, one.default, one.keep) == (4, "guard", None)
    if every != "10 days":  # counted from another day there, so the next ones begin within a range
        assert await plans(server, partman, file, monkeypatch) == [()]


async def test_midnights_of_the_server_are_known(
    server: PostgresServer, partman: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(server, partman, "monthly", zone="Asia/Kolkata")
    file = tmp_path / "partitions.yaml"
    assert str(adopt(server, partman, file)["public.orders"].timezone) == "Asia/Kolkata"
    assert await plans(server, partman, file, monkeypatch) == [()]


def test_what_it_was_told_has_a_counterpart_or_a_remark(
    server: PostgresServer, partman: str
) -> None:
    made(server, partman, "monthly")
    server.psql(
        "UPDATE partman.part_config SET retention = '2 years', retention_keep_table = false, "
        "inherit_privileges = true, constraint_cols = '{id}'",
        partman,
    )
    done = run(server, partman, "--json")
    assert done.returncode == 7
    found = json.loads(done.stdout)
    (one,) = found["databases"]["ledger"]["partitions"]
    assert one["keep"] == "24 months"
    assert one["expire"] == {"drop_after": "1 day"}
    assert one["template"] == {"privileges": "copy"}
    kinds = {(r["kind"], r["field"]) for r in found["remarks"]}
    assert kinds == {
        ("todo", "template_table"), ("todo", "automatic_maintenance"),
        ("lost", "constraint_cols"), ("differs", "retention_keep_table"),
    }  # fmt: skip
    off = next(r["message"] for r in found["remarks"] if r["field"] == "automatic_maintenance")
    server.psql(off.partition("when scaler does: ")[2], partman)
    again = json.loads(run(server, partman, "--json").stdout)
    assert "automatic_maintenance" not in {r["field"] for r in again["remarks"]}


async def test_the_settings_of_pg_partman_5_are_read_as_well(
    server: PostgresServer, partman: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(server, partman, "monthly")
    server.psql(
        "ALTER TABLE partman.part_config DROP CONSTRAINT part_config_type_check, "
        "DROP publications, DROP upsert, DROP trigger_return_null, "
        "DROP trigger_exception_handling, DROP optimize_trigger, DROP inherit_fk, "
        "DROP subscription_refresh, DROP drop_cascade_fk, ADD time_encoder text, "
        "ADD time_decoder text, ADD date_trunc_interval text, ADD maintenance_order int, "
        "ADD retention_keep_publication boolean NOT NULL DEFAULT false, "
        "ADD maintenance_last_run timestamptz; "
        "UPDATE partman.part_config SET partition_type = 'range', partition_interval = '1 mon', "
        "retention = '90 days'",
        partman,
    )
    file = tmp_path / "partitions.yaml"
    one = adopt(server, partman, file)["public.orders"]
    assert (str(one.every), str(one.keep), one.ahead) == ("1 month", "90 days", 4)
    (steps,) = await plans(server, partman, file, monkeypatch)
    assert {type(step).__name__ for step in steps} <= {"Retire"}, "four months back were made"


def test_what_cannot_be_kept_is_named_and_left_out(server: PostgresServer, partman: str) -> None:
    made(server, partman, "1000", key="bigint", name="numbers")
    made(server, partman, "hourly", name="hours")
    server.psql("CREATE TABLE two (a int, b int) PARTITION BY RANGE (a, b)", partman)
    server.psql("CREATE TABLE words (w text) PARTITION BY RANGE (w)", partman)
    made(server, partman, "monthly")
    done = run(server, partman)
    assert done.returncode == 7
    said = " ".join(done.stdout.replace("#", " ").split())
    assert "it is partitioned by a number that is no time" in said
    assert "its bounds are midnights of neither UTC nor Asia/Kolkata" in said
    assert "it is partitioned by several columns or an expression" in said
    assert "w is text; a key may be one of" in said
    assert said.count("table: public.") == 1


async def test_sets_of_a_person_are_inferred_from_their_bounds(
    server: PostgresServer, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.psql(TABLE.format(name="orders", type="timestamptz"), place)
    months = [(2026, m) for m in range(1, 13)] + [(2027, 1)]
    for (year, month), (after, following) in pairwise(months):
        server.psql(
            f"CREATE TABLE orders_{month} PARTITION OF orders FOR VALUES FROM "
            f"('{year}-{month:02}-01 00:00+00') TO ('{after}-{following:02}-01 00:00+00')",
            place,
        )
    file = tmp_path / "partitions.yaml"
    one = adopt(server, place, file, code=0)["public.orders"]
    assert (str(one.every), str(one.timezone), one.default) == ("1 month", "UTC", "none")
    now = datetime(2026, 9, 10, tzinfo=UTC)
    assert await plans(server, place, file, monkeypatch, now) == [()]
    assert run(server, place, "--into", str(file)).returncode == 3, "it exists"


async def test_a_set_that_is_not_ours_is_said_to_be(server: PostgresServer, place: str) -> None:
    server.psql("CREATE ROLE stranger LOGIN", place)
    server.psql(TABLE.format(name="orders", type="date"), place)
    bounds = "FROM ('2026-01-01') TO ('2026-02-01')"
    server.psql(f"CREATE TABLE o PARTITION OF orders FOR VALUES {bounds}", place)
    database = Postgres(server.dsn(place, "stranger"))
    (one,) = await partition_adopt.found(database)
    await database.aclose()
    assert [r.text() for r in one.remarks] == [
        "todo: public.orders: is owned by postgres; GRANT postgres TO stranger"
    ]


def test_without_an_address_or_a_set_it_says_what_to_do(server: PostgresServer, place: str) -> None:
    gone = run(server, place, "--dsn-env", "NOWHERE")
    assert "NOWHERE is not set; export NOWHERE=postgresql://" in gone.stderr
    nothing = run(server, place)
    assert "this database: there is no table partitioned by a range" in nothing.stderr
    assert "public.x: there is no table" in run(server, place, "--table", "public.x").stderr


def test_a_table_is_named_with_its_schema_or_without(server: PostgresServer, place: str) -> None:
    server.psql(TABLE.format(name="orders", type="date"), place)
    bounds = "FROM ('2026-01-01') TO ('2026-02-01')"
    server.psql(f"CREATE TABLE o PARTITION OF orders FOR VALUES {bounds}", place)
    for name in ("orders", "public.orders"):
        done = run(server, place, "--table", name)
        assert done.returncode == 0, done.stderr
        assert "table: public.orders" in done.stdout
