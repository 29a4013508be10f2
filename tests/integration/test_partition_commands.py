"""`scaler partitions` and the daemon's part, as a person meets them."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fakes.chat import chatting
from tests.integration.ledgers import Books
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import SCALER, Running, until

RULES = """\
databases:
  ledger:
    dsn_env: LEDGER_DSN
    every: 1s
    partitions:
      - {table: ledger, by: created_at, every: 1 month}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


def scaler(folder: Path, dsn: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCALER, "partitions", *words],
        cwd=folder,
        env={**os.environ, "LEDGER_DSN": dsn, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_plan_run_status_and_verify(server: PostgresServer, tmp_path: Path) -> None:
    books = Books(server, "commands")
    books.ledger()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/partitions.yaml").write_text(RULES)
    dsn = server.dsn("commands")

    planned = scaler(tmp_path, dsn, "plan", "--exit-code")
    assert planned.returncode == 6, planned.stderr
    month = f"{datetime.now(UTC):%Y_%m}"
    assert f"public.ledger: create ledger_{month} (it is the one of now)" in planned.stdout
    assert books.partitions() == []

    asked = scaler(tmp_path, dsn, "run")
    assert asked.returncode == 5
    assert "nobody is there to be asked; say --yes" in asked.stderr

    done = scaler(tmp_path, dsn, "run", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)[0]["tables"][0]["done"]) == 4
    assert scaler(tmp_path, dsn, "plan", "--exit-code").returncode == 0

    shown = json.loads(scaler(tmp_path, dsn, "status", "--json").stdout)
    assert (shown[0]["database"], shown[0]["ahead"], shown[0]["steps"]) == ("ledger", 3, [])
    assert set(shown[0]["forecast"]) == {
        "reached", "bytes", "bytes_per_day", "bytes_of_next", "bytes_in_30_days",
    }  # fmt: skip
    assert shown[0]["forecast"]["reached"] == shown[0]["until"]
    table = scaler(tmp_path, dsn, "status").stdout
    assert "ledger/public.ledger" in table
    assert "IN 30 DAYS" in table

    verified = scaler(tmp_path, dsn, "verify")
    assert (verified.returncode, verified.stdout.strip()) == (0, "ledger: ok")
    server.psql("CREATE ROLE guest LOGIN")
    lacking = scaler(tmp_path, server.dsn("commands", "guest"), "verify")
    assert lacking.returncode == 1
    assert 'GRANT "postgres" TO "guest";' in lacking.stdout
    silent = scaler(tmp_path, "host=/nowhere", "verify")
    assert silent.returncode == 1
    assert "connecting to PostgreSQL" in silent.stdout


def test_the_doctor_prints_the_grants_that_are_missing(
    server: PostgresServer, tmp_path: Path
) -> None:
    books = Books(server, "rights")
    books.sql("CREATE ROLE keeper; CREATE ROLE visitor LOGIN; CREATE SCHEMA store")
    books.sql("GRANT USAGE ON SCHEMA store TO visitor")
    books.sql("CREATE TABLE store.ledger (created_at timestamptz) PARTITION BY RANGE (created_at)")
    books.sql("ALTER TABLE store.ledger OWNER TO keeper")
    rules = RULES.replace("table: ledger", "table: store.ledger")
    (tmp_path / "partitions.yaml").write_text(rules)
    (tmp_path / "scaler.yaml").write_text("partitions: partitions.yaml\n")

    def asked() -> str:
        ended = subprocess.run(
            [SCALER, "-c", "scaler.yaml", "doctor"],
            cwd=tmp_path,
            env={**os.environ, "LEDGER_DSN": server.dsn("rights", "visitor"), "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return next(line for line in ended.stdout.splitlines() if "partitions" in line)

    told = asked()
    grants = ('GRANT "keeper" TO "visitor";', 'GRANT USAGE, CREATE ON SCHEMA "store" TO "keeper";')
    for grant in grants:
        assert grant in told
        books.sql(grant)
    assert "ledger: can be kept" in asked()


def test_a_file_that_is_wrong_is_shown_where(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(RULES.replace("1 month", "often"))
    found = scaler(tmp_path, "", "plan", "--file", "p.yaml")
    assert found.returncode == 3
    assert "p.yaml:6:48: error: databases.ledger.partitions[0].every" in found.stderr


def test_the_daemon_keeps_them_and_says_so(server: PostgresServer, tmp_path: Path) -> None:
    books = Books(server, "daemon")
    books.ledger()
    running = Running(tmp_path)
    running.write("web", "policies: {}\n")
    (tmp_path / "partitions.yaml").write_text(
        RULES.replace("dsn_env: LEDGER_DSN", f"dsn: {server.dsn('daemon')}")
    )
    (tmp_path / "scaler.yaml").write_text("partitions: partitions.yaml\n")
    log = tmp_path / "log"
    try:
        with log.open("wb") as stderr:
            running.daemon = subprocess.Popen(
                [SCALER, "-c", str(tmp_path / "scaler.yaml"), "--socket", str(running.socket),
                 "run", str(running.policies)],
                env=running.environment,
                stderr=stderr,
            )  # fmt: skip
        until(lambda: len(books.partitions()) == 4, "the partitions are there")
        until(lambda: "create ledger_" in log.read_text(), "it is said")
        assert running.stop() == 0
    finally:
        running.clear()


def test_an_alarm_reaches_the_people_who_are_to_be_told(
    server: PostgresServer, tmp_path: Path
) -> None:
    books = Books(server, "alarming")
    books.sql("CREATE ROLE onlooker LOGIN")
    books.ledger()
    books.sql("CREATE TABLE ledger_now PARTITION OF ledger FOR VALUES"
              " FROM ('2020-01-01') TO ('2020-02-01')")  # fmt: skip
    (tmp_path / "policies").mkdir()
    (tmp_path / "partitions.yaml").write_text(
        RULES.replace("dsn_env: LEDGER_DSN", f"dsn: {server.dsn('alarming', 'onlooker')}")
    )
    with chatting() as chat:
        (tmp_path / "scaler.yaml").write_text(
            f"policies: [policies]\nstate_dir: {tmp_path}/state\nsocket: {tmp_path}/s\n"
            f"partitions: partitions.yaml\nnotify: {{url: '{chat.url}'}}\n"
        )
        with (tmp_path / "log").open("wb") as log:
            daemon = subprocess.Popen([SCALER, "-c", str(tmp_path / "scaler.yaml"), "run"],
                                      stderr=log)  # fmt: skip
        try:
            words = "alarm: public.ledger: only 0 partitions are ready after the one of now"
            until(lambda: any(words in line for line in chat.lines), "people are told")
        finally:
            daemon.terminate()
            daemon.wait(30)
    assert sum(words in line for line in chat.lines) == 1, "and told once"
