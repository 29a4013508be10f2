"""The ledger on a real PostgreSQL and a real Redis: right to the cent whatever happens."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from scaler.clients.postgres import Postgres
from scaler.demo.ledger.check import Acknowledged, Checked, check
from scaler.demo.ledger.records import following
from scaler.demo.ledger.store import PostgresStore, Seed
from scaler.errors import ConfigError
from tests.integration.ledger_client import SMALL, Client, made, running
from tests.integration.postgreses import PostgresServer, serving_postgres
from tests.integration.redises import RedisServer, serving_redis
from tests.integration.running import eventually, until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with serving_postgres() as server:
        yield server


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with serving_redis() as redis:
        yield redis


async def books(server: PostgresServer, told: list[Acknowledged] | None = None) -> Checked:
    store = PostgresStore(server.dsn(), connections=1)
    await store.open()
    try:
        return await check(store.pool, told or [])
    finally:
        await store.aclose()


async def test_every_question_has_its_answer(server: PostgresServer) -> None:
    await made(server)
    assert server.psql("SELECT relkind FROM pg_class WHERE oid = 'transactions'::regclass") == "p"
    async with running(server) as client:
        assert (await client.get("/accounts/3"))["owner"] == "Customer 3"
        assert (await client.get("/quotes/AAPL"))["symbol"] == "AAPL"
        for path in ("/accounts/999", "/accounts/999/balance", "/quotes/NONE", "/nothing"):
            assert (await client.get(path, 404))["error"]
        assert (await client.get("/accounts/x", 400))["error"].startswith("account:")
        assert "has not begun" in (await client.get("/reports/2999-01", 400))["error"]
        assert "method" in (await client.get("/transfers", 405))["error"]
        assert await client.get("/healthz")
        assert await client.get("/readyz")
        server_sum = server.psql("SELECT balance FROM balances WHERE account_id = 3")
        assert str(await client.balance(3)) == server_sum


async def test_a_report_is_the_sum_of_its_days(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        month = following((datetime.now(UTC) - timedelta(days=90)).date().replace(day=1))
        report = await client.get(f"/reports/{month:%Y-%m}")
    expected = server.psql(
        "SELECT sum(amount) || '/' || count(*) FROM transactions WHERE amount > 0 AND"
        f" created_at >= '{month}T00:00Z' AND created_at < '{following(month)}T00:00Z'"
    )
    assert f"{report['turnover']}/{report['transfers']}" == expected
    assert sum(Decimal(day["turnover"]) for day in report["days"]) == Decimal(report["turnover"])


async def test_pages_of_a_range_give_each_line_once(server: PostgresServer) -> None:
    await made(server)
    begin = (datetime.now(UTC) - timedelta(days=300)).date()
    asked = f"/transactions?from={begin}&to={begin + timedelta(days=200)}"
    async with running(server) as client:
        # Times are not in the order of ids: transfers commit as they like.
        server.psql("UPDATE transactions SET created_at = created_at - interval '60 days'"
                    " WHERE transfer_id % 7 = 0")  # fmt: skip
        path, seen = f"{asked}&limit=97", []
        while path:
            page = await client.get(path)
            seen += [line["id"] for line in page["transactions"]]
            path = f"{asked}&limit=97&after={page['next']}" if page["next"] else ""
        one = await client.get(f"{asked}&account=5&limit=1000")
    expected = server.psql(
        f"SELECT count(*), count(*) FILTER (WHERE account_id = 5) FROM transactions WHERE"
        f" created_at >= '{begin}T00:00Z' AND created_at < '{begin + timedelta(days=200)}T00:00Z'"
    )
    assert len(seen) == len(set(seen))
    assert f"{len(seen)}|{len(one['transactions'])}" == expected
    assert {line["account"] for line in one["transactions"]} == {5}


async def test_a_transfer_moves_cents_and_is_seen_at_once(
    server: PostgresServer, redis: RedisServer
) -> None:
    await made(server)
    async with running(server, redis.url) as one, running(server, redis.url) as other:
        before = [await one.balance(n) for n in (1, 2)]
        assert [await other.balance(n) for n in (1, 2)] == before
        status, _ = await one.post(1, 2, "0.01")
        assert status == 201
        assert await one.balance(1) == before[0] - Decimal("0.01")
        assert await one.balance(2) == before[1] + Decimal("0.01")
        today = datetime.now(UTC).date()
        found = await one.get(
            f"/transactions?from={today}&to={today + timedelta(days=2)}&account=1&limit=1000"
        )
        assert found["transactions"][-1]["amount"] == "-0.01"
        assert (await one.post(1, 2, "9999999999.00"))[0] == 422
        assert (await one.post(1, 99, "1.00"))[0] == 404
        assert (await one.post(99, 1, "1.00"))[0] == 404
        assert (await one.post(0, 1, "9999999999.00"))[0] == 201  # the bank may owe
        assert not (await books(server, one.told)).wrong


async def test_a_key_that_comes_again_moves_nothing(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        before = await client.balance(1)
        answers = await asyncio.gather(*(client.post(1, 2, "7.00", "same") for _ in range(12)))
        assert sorted(status for status, _ in answers) == [200] * 11 + [201]
        assert len({body["id"] for _, body in answers}) == 1
        assert await client.balance(1) == before - 7
        assert (await client.post(1, 2, "7.01", "same"))[0] == 409
        assert (await client.post(3, 4, "7.00", "same"))[0] == 409
        crossed = await asyncio.gather(
            *(client.post(a, b, "1.00", "crossed") for a, b in ((5, 6), (7, 8), (6, 5), (9, 10)))
        )
        assert sorted(status for status, _ in crossed) == [201, 409, 409, 409]
    assert not (await books(server, client.told)).wrong


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


async def test_nobody_spends_twice_and_nobody_waits_for_each_other(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        all_of_it = str(await client.balance(1))
        other = Postgres(server.dsn())
        async with other.transaction(lock_wait=timedelta(seconds=5)) as handle:
            # All targets are held, so that several transfers are under way at the same time.
            await handle.execute("SELECT FROM balances WHERE account_id > 1 FOR UPDATE")
            spending = [asyncio.create_task(client.post(1, 2 + n, all_of_it)) for n in range(12)]
            await asyncio.to_thread(until, lambda: server.psql(WAITING) == "4", "four wait")
        await other.aclose()
        spent = await asyncio.gather(*spending)
        assert sorted(status for status, _ in spent) == [201] + [422] * 11
        crossing = [(5, 6), (6, 5)] * 40
        moved = await asyncio.gather(*(client.post(a, b, "1.00") for a, b in crossing))
        assert {status for status, _ in moved} == {201}
    assert not (await books(server, client.told)).wrong


async def test_an_instance_that_ends_says_so_on_what_is_open(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        await client.get("/readyz")
        ending = asyncio.create_task(client.ledger.drain(timedelta(seconds=30)))
        await eventually(lambda: client.ledger.draining, "it ends")
        async with client._session.get("/readyz") as response:
            assert (response.status, response.headers["Connection"]) == (503, "close")
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def test_no_request_fails_while_redis_is_killed_and_comes_back(
    server: PostgresServer, redis: RedisServer
) -> None:
    await made(server)
    async with running(server, redis.url) as client:

        async def traffic(seed: int) -> int:
            draw = random.Random(seed)
            for number in range(60):
                source, target = draw.sample(range(1, 21), 2)
                status, body = await client.post(
                    source, target, f"{draw.randint(1, 999) / 100:.2f}"
                )
                assert status == 201, body
                await client.balance(source)
                await client.get("/quotes/SAP")
                if seed == 0 and number == 20:
                    redis.kill()
                if seed == 0 and number == 40:
                    redis.socket.unlink(missing_ok=True)
                    await asyncio.to_thread(redis.start)
            return number

        assert await asyncio.gather(*(traffic(seed) for seed in range(4))) == [59] * 4
        kept = "SELECT string_agg(balance::text, ' ' ORDER BY account_id) FROM balances"
        books_say = server.psql(f"{kept} WHERE account_id > 0")
        async with asyncio.timeout(30):  # what could not be made void ends after 5 s
            while " ".join([str(await client.balance(n)) for n in range(1, 21)]) != books_say:
                await asyncio.sleep(0.1)
        assert len(client.told) == 240
    checked = await books(server, client.told)
    assert (checked.wrong, checked.transfers, checked.acknowledged) == ((), 240, 240)


async def test_without_its_database_it_is_not_ready_and_says_so(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        await client.ledger._store.aclose()
        assert "database" in (await client.get("/readyz", 503))["error"]
        assert (await client.post(1, 2, "1.00"))[0] == 503
        assert await client.get("/healthz")


async def test_a_failure_that_another_instance_met_is_no_fault_of_the_program(
    server: PostgresServer, redis: RedisServer
) -> None:
    await made(server)
    async with running(server, redis.url) as one, running(server, redis.url) as other:
        await one.ledger._store.aclose()
        assert "database" in (await one.get("/accounts/5", 503))["error"]
        assert "database" in (await other.get("/accounts/5", 503))["error"]  # known for 2 s


async def test_the_check_finds_what_was_planted(server: PostgresServer) -> None:
    await made(server)
    async with running(server) as client:
        for number in range(5):
            await client.post(1 + number, 10, "2.00", f"k{number}")
    lines = server.psql("SELECT count(*) FROM transactions")
    right = await books(server, client.told)
    assert (right.wrong, str(right.lines)) == ((), lines)
    planted = {
        "not the sum": "UPDATE balances SET balance = balance + 0.01 WHERE account_id = 4",
        "sum zero": "UPDATE transactions SET amount = amount + 0.01 WHERE id ="
                    " (SELECT max(id) FROM transactions)",
        "not zero": "DELETE FROM transactions WHERE id = (SELECT min(id) FROM transactions)",
        "no such lines": "UPDATE transfers SET amount = amount + 1 WHERE key = 'k2'",
        "k3 was acknowledged and is not there": "DELETE FROM transfers WHERE key = 'k3'",
        "another transfer": "UPDATE transfers SET target = 11 WHERE key = 'k1'",
        "owe and may not": "UPDATE balances SET balance = -1 WHERE account_id = 6",
    }  # fmt: skip
    for words, statement in planted.items():
        await made(server, convert=False)
        async with running(server) as client:
            for number in range(5):
                await client.post(1 + number, 10, "2.00", f"k{number}")
        server.psql(statement)
        assert any(words in text for text in (await books(server, client.told)).wrong), words


async def test_a_second_seed_is_refused_and_changes_nothing(server: PostgresServer) -> None:
    await made(server)
    store = PostgresStore(server.dsn(), connections=2)
    await store.open()
    with pytest.raises(ConfigError, match="already"):
        await store.make(SMALL, datetime.now(UTC))
    await store.aclose()
    assert not (await books(server)).wrong
    with pytest.raises(ConfigError, match="cannot be"):
        Seed(accounts=1, rows=100)


async def test_instances_share_a_port_and_one_that_ends_fails_nobody(
    server: PostgresServer, redis: RedisServer, tmp_path: Path
) -> None:
    await made(server)
    async with running(server, redis.url) as client:
        port = client.ledger.port
        words = [sys.executable, "-m", "scaler.demo.ledger", "serve", "--port", str(port),
                 "--dsn", server.dsn(), "--redis", redis.url]  # fmt: skip
        second = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert second.stdout is not None
        with second.stdout:
            said = await asyncio.to_thread(second.stdout.readline)
        assert said.decode().startswith("listening on")
        done = asyncio.Event()

        async def visitor(number: int) -> list[Acknowledged]:
            """Keeps its connection, so it stays with one of the two until told to leave.

            It posts, since the library itself repeats a GET whose connection was closed.
            """
            mine = Client(port, client.ledger)
            while not done.is_set():
                status, body = await mine.post(1 + number, 9 + number, "0.01")
                assert status == 201, body
            await mine.aclose()
            return mine.told

        visitors = [asyncio.create_task(visitor(number)) for number in range(8)]
        await client.post(1, 2, "1.00")
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 30) == 0
        done.set()
        for told in await asyncio.gather(*visitors):
            assert told
            client.told += told
    file = tmp_path / "told"
    lines = [{"key": one.wanted.key, "id": one.id, "from": one.wanted.source,
             "to": one.wanted.target, "amount": str(one.wanted.amount)}
            for one in client.told]  # fmt: skip
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    words = [sys.executable, "-m", "scaler.demo.ledger", "check", "--dsn", server.dsn(),
             "--acknowledged", str(file)]  # fmt: skip
    checked = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)
    assert (checked.returncode, "right to the cent" in checked.stdout) == (0, True), checked
