"""What a conversion leaves without a beginning expires like the partitions that were made."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from scaler.clients.postgres import Postgres
from scaler.errors import Refused
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from tests.integration.converter import WISH
from tests.integration.ledger_traffic import table
from tests.integration.ledgers import Books
from tests.integration.postgreses import PostgresServer, serving_postgres

SET = {"keep": "2 months", "table": "transactions", "expire": {"drop_after": "1 day"}}
COMMENT = "SELECT obj_description('{}'::regclass)"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


async def converted(books: Books, *stages: Stage, comment: str = "") -> Conversion:
    books.sql(table(2000, 60))
    if comment:
        books.sql(f"COMMENT ON TABLE transactions IS '{comment}'")
    database = Postgres(books.server.dsn(books.database))
    conversion = Conversion(database, PartitionSet.model_validate(WISH))
    for stage in stages:
        await conversion.run(stage)
    return conversion


async def test_the_history_expires_with_its_newest_row(server: PostgresServer) -> None:
    books = Books(server, "history")
    conversion = await converted(books, Stage.LIVE, comment="the ledger")
    assert books.sql(COMMENT.format("transactions_history")).endswith("\nthe ledger")
    assert books.sql(COMMENT.format("transactions")) == "the ledger"
    books.clock = type(books.clock)(datetime.now(UTC))
    report = await books.run(SET)
    assert "transactions_history" in books.partitions("transactions")
    assert "left alone" not in str(report.outcomes[0].plan.findings)
    await books.clock.advance(timedelta(days=95))
    report = await books.run(SET)
    assert "detach transactions_history concurrently" in report.outcomes[0].done
    await books.clock.advance(timedelta(days=1, seconds=1))
    assert "drop transactions_history" in (await books.run(SET)).outcomes[0].done
    assert books.sql("SELECT count(*) FROM transactions") == "0"
    await conversion._database.aclose()


async def test_a_history_that_has_expired_is_not_split(server: PostgresServer) -> None:
    books = Books(server, "expired")
    conversion = await converted(books, Stage.LIVE)
    books.sql("ALTER TABLE transactions DETACH PARTITION transactions_history")
    with pytest.raises(Refused, match="no history left to split"):
        await conversion.run(Stage.SPLIT)
    await conversion._database.aclose()


async def test_an_undo_takes_the_mark_off(server: PostgresServer) -> None:
    books = Books(server, "undone")
    conversion = await converted(books, Stage.LIVE, comment="the ledger")
    await conversion.undo()
    assert books.sql(COMMENT.format("transactions")) == "the ledger"
    await conversion._database.aclose()


async def test_the_old_table_is_dropped_by_nobody_but_drop_old(server: PostgresServer) -> None:
    books = Books(server, "split")
    conversion = await converted(books, Stage.VERIFIED)
    assert books.sql(COMMENT.format("transactions_history")) == ""
    books.clock = type(books.clock)(datetime.now(UTC) + timedelta(days=300))
    report = await books.run(SET)
    assert "detach transactions_before concurrently" in report.outcomes[0].done
    await books.clock.advance(timedelta(days=2))
    await books.run(SET)
    assert books.sql("SELECT to_regclass('transactions_before') IS NULL") == "t"
    assert books.sql("SELECT count(*) FROM transactions_history") == "2000"
    await conversion._database.aclose()
