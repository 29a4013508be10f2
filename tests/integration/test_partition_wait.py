"""Heavy work on a database waits while a service that uses it is being scaled."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.ledger_traffic import table
from tests.integration.ledgers import Books
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import SCALER, SLEEPER, Running, until

RULES = """\
databases:
  ledger:
    dsn: "{dsn}"
    every: 1s
    wait_for: [web]
    partitions:
      - {{table: ledger, by: created_at, every: 1 month, keep: 3 months}}
      - {{table: transactions, by: created_at, every: 1 month}}
"""
WEB = SLEEPER.format(name="web", count=1)
OBSERVED = WEB.replace("    every:", "    mode: observe\n    every:")  # none is ever started


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


def test_it_waits_in_the_daemon_and_on_the_command_line(
    server: PostgresServer, tmp_path: Path
) -> None:
    books = Books(server, "waiting")
    books.ledger()
    bounds = "FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')"
    books.sql(f"CREATE TABLE old PARTITION OF ledger FOR VALUES {bounds}")
    books.sql(table(3000, 60))
    running = Running(tmp_path)
    running.write("web", OBSERVED)
    file = tmp_path / "partitions.yaml"
    file.write_text(RULES.format(dsn=server.dsn(books.database)))
    (tmp_path / "scaler.yaml").write_text("partitions: partitions.yaml\n")
    words = [SCALER, "--socket", str(running.socket), "partitions"]
    try:
        running.daemon = subprocess.Popen(
            [SCALER, "-c", str(tmp_path / "scaler.yaml"), "--socket", str(running.socket),
             "run", str(running.policies)],
            env=running.environment,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(lambda: len(books.partitions()) >= 5, "what is missing is created at once")
        unsettled = "web is being scaled"
        until(lambda: running.status()["web"]["unsettled"] == unsettled, "it is looked at")
        run = subprocess.run(
            [*words, "run", "--yes", "--file", str(file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert "detach old" not in run.stdout
        with converting(words, file) as convert:
            assert convert.stderr is not None
            for line in convert.stderr:
                if "waits: web is being scaled" in line:
                    break
            else:
                pytest.fail("the copy did not wait")
            assert "old" in books.partitions()
            assert books.sql("SELECT count(*) FROM transactions_history") == "3000"

            running.write("web", WEB)
            running.ask("reload")
            until(lambda: "old" not in books.partitions(), "it is detached")
            _, said = convert.communicate(timeout=60)
            assert convert.returncode == 0, said
        assert books.sql("SELECT count(*) FROM transactions") == "3000"
        assert running.status()["web"]["unsettled"] == ""
        assert running.stop() == 0
    finally:
        running.clear()


@contextmanager
def converting(words: list[str], file: Path) -> Iterator[subprocess.Popen[str]]:
    """The conversion of the other table, which ends with the block."""
    more = ["convert", "transactions", "--until=verified", "--yes", "--file", str(file)]
    with subprocess.Popen(
        [*words, *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
