"""A detached partition is archived by a command before it is dropped."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from tests.integration.ledgers import Books
from tests.integration.postgreses import PostgresServer, serving_postgres

numbers = count()
OLD = (
    "CREATE TABLE old PARTITION OF ledger FOR VALUES FROM ('2026-01-01 00:00+00')"
    " TO ('2026-02-01 00:00+00');"
    "INSERT INTO ledger SELECT n, '2026-01-05 00:00+00', n FROM generate_series(1, 20) n"
)
THERE = "SELECT to_regclass('old') IS NOT NULL"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


@pytest.fixture
async def books(server: PostgresServer) -> Books:
    """With a partition that is detached, and whose grace is over."""
    books = Books(server, f"archive{next(numbers)}")
    books.ledger()
    books.sql(OLD)
    assert "detach old concurrently" in (await books.run(rules("true"))).outcomes[0].done
    await books.clock.advance(timedelta(days=2))
    return books


def rules(*words: str) -> dict[str, object]:
    return {"keep": "3 months", "expire": {"drop_after": "1 day", "archive": words}}


async def test_what_is_archived_is_dropped(books: Books, tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    script = 'psql "$PARTITION_DSN" -qc "\\copy $0 to $1 csv" && echo "$2 $3" > "$1.range"'
    words = ("sh", "-c", script, "{table}", str(file), "{begin}", "{end}")
    report = await books.run(rules(*words))
    assert report.outcomes[0].done == ("archive old", "drop old"), report
    assert len(file.read_text().splitlines()) == 20
    edges = file.with_suffix(".csv.range").read_text()
    assert edges.startswith("2026-01-01 00:00:00+00 2026-02-01")
    assert books.sql(THERE) == "f"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sh", "-c", "echo out of tape >&2; exit 3"), "exit code 3: out of tape"),
        (("sh", "-c", "kill -9 $$"), "exit code -9"),
        (("/no/such/command",), "cannot run /no/such/command: No such file or directory"),
    ],
)
async def test_what_is_not_archived_stays(books: Books, words: tuple[str, ...], said: str) -> None:
    report = await books.run(rules(*words))
    assert not report.ok
    assert said in report.outcomes[0].failed
    assert books.sql(THERE) == "t"
    assert "archived" not in books.sql("SELECT obj_description('old'::regclass)")
    report = await books.run(rules("true"))  # the command is mended
    assert report.outcomes[0].done == ("archive old", "drop old")
