"""`scaler partitions convert` on a real PostgreSQL."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.ledger_traffic import table
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.running import SCALER

FILE = """\
databases:
  ledger:
    dsn: "{dsn}"
    partitions:
      - {{table: transactions, by: created_at, every: 1 month}}
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        server.psql(table(2000, 90))
        yield server


def test_from_the_script_to_the_end(server: PostgresServer, tmp_path: Path) -> None:
    file = tmp_path / "partitions.yaml"
    file.write_text(FILE.format(dsn=server.dsn()))

    def convert(*words: str, code: int = 0) -> str:
        return partitions("convert", "transactions", *words, code=code)

    def partitions(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [SCALER, "partitions", *words, "--file", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            input="n\n",
        )
        assert done.returncode == code, done.stderr
        return done.stdout or done.stderr

    assert "ATTACH PARTITION" in convert("--sql")
    assert "nothing was done" in convert(code=5)
    assert json.loads(convert("--status", "--json"))["stage"] == "none"
    assert "in use" not in convert("--yes")
    assert json.loads(convert("--status", "--json"))["stage"] == "live"
    assert "as it should be" in partitions("plan", "--exit-code")
    assert json.loads(convert("--undo", "--yes", "--json"))["stage"] == "undone"
    assert json.loads(convert("--until", "verified", "--yes", "--json"))["stage"] == "verified"
    assert "as it should be" in partitions("plan", "--exit-code")
    assert "an undo would lose" in convert("--undo", "--yes", code=5)
    assert json.loads(convert("--drop-old", "--yes", "--json"))["stage"] == "dropped"
    assert server.psql("SELECT count(*) FROM transactions") == "2000"
    other = subprocess.run(
        [SCALER, "partitions", "convert", "nothing", "--file", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "public.nothing stands in no database" in other.stderr
