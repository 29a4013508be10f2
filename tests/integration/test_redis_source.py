"""Numbers from a real Redis and a real Valkey, and from servers that nobody should trust."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler import located, policyfile
from scaler.sources.redis import Servers
from tests.fakes.redisserver import FakeRedis
from tests.integration.numbers import Bench
from tests.integration.redises import SERVERS, RedisServer, serving_redis
from tests.integration.running import Running, until

pytestmark = pytest.mark.live
PATIENCE_S = 30.0
PASSWORD = "open/sesame@42"
ESCAPED = "open%2Fsesame%4042"
GROUP = {"stream": "s", "group": "g"}
READING = {"llen", "xlen", "zcard", "zcount", "xinfo|groups", "getrange", "hstrlen", "hget", "type"}
AROUND = {"info", "client|setinfo", "ping", "command", "select", "client"}  # of us and of redis-cli


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench("redis", Servers, tmp_path)
    yield made
    await made.aclose()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with serving_redis(kind=request.param) as made:
        yield made


@pytest.fixture
async def fake() -> AsyncIterator[FakeRedis]:
    made = FakeRedis()
    await made.start()
    yield made
    await made.stop()


# --- questions ---


async def test_lengths(bench: Bench, server: RedisServer) -> None:
    server.ask("rpush", "jobs", "a", "b", "c")
    server.ask("zadd", "due", "1", "a", "2", "b", "4", "c")
    for name in ("1-1", "1-2"):
        server.ask("xadd", "events", name, "k", "v")
    at = {"url": server.url}
    assert await bench.value(**at, list="jobs") == 3
    assert await bench.value(**at, stream="events") == 2
    assert await bench.value(**at, zset="due") == 3
    assert await bench.value(**at, zset="due", from_score=2) == 2
    assert await bench.value(**at, zset="due", to_score=1.5) == 1
    assert await bench.value(**at, zset="due", from_score=2, to_score=2) == 1
    for kind in ("list", "stream", "zset"):
        assert await bench.value(**at, **{kind: "nothing"}) == 0


async def test_what_is_due(bench: Bench, server: RedisServer) -> None:
    now = bench.clock.now().timestamp()
    server.ask("zadd", "s", str(now - 60), "a", str(now + 3600), "b")
    server.ask("zadd", "ms", str((now - 60) * 1000), "a", str((now + 3600) * 1000), "b")
    at = {"url": server.url}
    assert await bench.value(**at, zset="s", to_score="now") == 1
    assert await bench.value(**at, zset="s", from_score="now") == 1
    assert await bench.value(**at, zset="ms", to_score="now_ms") == 1
    assert await bench.value(**at, zset="ms", from_score="now_ms") == 1


async def test_what_a_group_has_before_it(bench: Bench, server: RedisServer) -> None:
    ask = {"url": server.url, "stream": "events", "group": "mail"}
    said = await bench.missing(**ask)
    assert "there is no stream events; make it: XGROUP CREATE events mail $ MKSTREAM" in said
    server.ask("xgroup", "create", "events", "bills", "0", "mkstream")
    assert "has no group mail; its groups: bills" in await bench.missing(**ask)
    server.ask("xgroup", "create", "events", "mail", "0")
    assert await bench.value(**ask) == 0
    for number in range(1, 6):
        server.ask("xadd", "events", f"{number}-1", "k", "v")
    assert await bench.value(**ask) == 5
    server.ask("xreadgroup", "group", "mail", "me", "count", "2", "streams", "events", ">")
    assert await bench.value(**ask) == 5  # three lag, two are pending
    server.ask("xack", "events", "mail", "1-1")
    assert await bench.value(**ask) == 4
    assert await bench.value(url=server.url, stream="events") == 5
    server.ask("xdel", "events", "4-1")  # from here on nobody knows how many come before the next
    assert "does not know the lag of group mail" in await bench.missing(**ask)
    server.ask("xreadgroup", "group", "mail", "me", "streams", "events", ">")
    assert await bench.value(**ask) == 3


async def test_numbers_in_keys_and_hashes(bench: Bench, server: RedisServer) -> None:
    at = {"url": server.url}
    for written, number in {"7": 7, " -2.5\n": -2.5, "1e3": 1000, ".5": 0.5}.items():
        server.ask("set", "n", written)
        server.ask("hset", "h", "n", written)
        assert await bench.value(**at, key="n") == number
        assert await bench.value(**at, hash="h", field="n") == number
    for written in ("many", "nan", "inf", "1_000", "0x10", "١", '"7"', "7 8", "  "):
        server.ask("set", "n", written)
        server.ask("hset", "h", "n", written)
        assert f'key n is not a number: "{written.strip()}"' in await bench.missing(**at, key="n")
        said = await bench.missing(**at, hash="h", field="n")
        assert f'field n of hash h is not a number: "{written.strip()}"' in said
    server.ask("set", "n", "1e999")
    assert "the value is infinite" in await bench.missing(**at, key="n")


async def test_what_is_not_there_is_no_zero(bench: Bench, server: RedisServer) -> None:
    at = {"url": server.url}
    server.ask("set", "empty", "")
    server.ask("hset", "h", "empty", "")
    for key in ("none", "empty"):
        assert f"there is no key {key}, or it is empty" in await bench.missing(**at, key=key)
        said = await bench.missing(**at, hash="h", field=key)
        assert f"there is no field {key} of hash h, or it is empty" in said
    assert "there is no field f of hash none" in await bench.missing(**at, hash="none", field="f")
    said = await bench.missing(**at, info="used_memry")
    assert "INFO does not tell used_memry" in said


async def test_what_the_server_says_of_itself(bench: Bench, server: RedisServer) -> None:
    at = {"url": server.url}
    server.ask("set", "n", "1")
    assert await bench.value(**at, info="connected_clients") >= 1
    assert await bench.value(**at, info="used_memory") > 100_000
    assert await bench.value(**at, info="instantaneous_ops_per_sec") >= 0
    assert 'used_memory_human of INFO is not a number: "' in await bench.missing(
        **at, info="used_memory_human"
    )
    assert 'db0 of INFO is not a number: "keys=1' in await bench.missing(**at, info="db0")


async def test_a_key_of_another_type_is_named(bench: Bench, server: RedisServer) -> None:
    at = {"url": server.url}
    server.ask("set", "string", "1")
    server.ask("rpush", "list", "1")
    server.ask("zadd", "zset", "1", "a")
    server.ask("hset", "hash", "f", "1")
    server.ask("sadd", "set", "a")
    assert "list is a list; write list: instead" in await bench.missing(**at, zset="list")
    assert "zset is a zset; write zset: instead" in await bench.missing(**at, list="zset")
    assert "hash is a hash; write hash: and field:" in await bench.missing(**at, key="hash")
    assert "string is a string; write key: instead" in await bench.missing(**at, stream="string")
    said = await bench.missing(**at, stream="list", group="g")
    assert "list is a list; write list: instead" in said
    assert "set is a set; it has no number" in await bench.missing(**at, hash="set", field="f")


async def test_what_is_huge_is_not_fetched(bench: Bench, server: RedisServer) -> None:
    server.ask("setrange", "huge", str(20 * 1024 * 1024), "1")
    server.ask("eval", "redis.call('hset', 'h', 'f', redis.call('get', 'huge'))", "0")
    at = {"url": server.url}
    before = sent(server)
    assert "key huge is not a number" in await bench.missing(**at, key="huge")
    said = await bench.missing(**at, hash="h", field="f")
    assert "field f of hash h is not a number: it has 2.09715e+07 bytes" in said
    assert sent(server) - before < 100_000


def sent(server: RedisServer) -> int:
    return int(re.findall(r"total_net_output_bytes:(\d+)", server.ask("info", "stats"))[0])


# --- one connection, and nothing is written ---


async def test_all_metrics_of_a_server_share_a_connection_and_nothing_is_written(
    bench: Bench, server: RedisServer
) -> None:
    server.ask("rpush", "jobs", "a")
    server.ask("xgroup", "create", "events", "mail", "0", "mkstream")
    server.ask("hset", "h", "f", "1")
    server.ask("set", "n", "1")
    server.ask("zadd", "due", "1", "a")
    server.ask("config", "resetstat")
    questions: list[dict[str, Any]] = [
        {"list": "jobs"},
        {"stream": "events"},
        {"stream": "events", "group": "mail"},
        {"zset": "due"},
        {"zset": "due", "to_score": "now"},
        {"key": "n"},
        {"hash": "h", "field": "f"},
        {"info": "used_memory"},
        {"list": "n"},
    ]
    metrics = [bench.metric(url=server.url, **asked) for asked in questions]
    for _ in range(3):
        found = await asyncio.gather(*(bench.ask(metric) for metric in metrics))
        assert [bool(reading.samples) for reading in found] == [True] * 8 + [False]
    stats = server.ask("info", "commandstats")
    assert set(re.findall(r"cmdstat_(\S+?):", stats)) - AROUND - {"config|resetstat"} == READING
    received = server.ask("info", "stats")
    assert "total_connections_received:3" in received  # ours, and two of redis-cli
    for metric in metrics[:-1]:
        await metric.aclose()
    assert ours(server) == 1
    await metrics[-1].aclose()
    assert ours(server) == 0


def ours(server: RedisServer) -> int:
    """Connections beside the one that asks."""
    return len(server.ask("client", "list").strip().splitlines()) - 1


# --- trouble ---


async def test_a_server_that_hangs_is_missing_and_its_late_answer_is_nobodys(
    bench: Bench, server: RedisServer
) -> None:
    server.ask("rpush", "jobs", "a", "b", "c")
    server.ask("set", "n", "8")
    jobs = bench.metric(url=server.url, list="jobs", timeout="300ms")
    number = bench.metric(url=server.url, key="n", timeout="10s")
    assert (await bench.ask(jobs)).samples[0].value == 3
    server.pause()
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.gather(*(bench.ask(jobs) for _ in range(5)))
    server.resume()
    assert {reading.missing for reading in found} == {
        f"Redis at {server.socket} did not answer within 0.3 s"
    }
    for _ in range(3):
        assert (await bench.ask(number)).samples[0].value == 8
        assert (await bench.ask(jobs)).samples[0].value == 3


async def test_a_server_that_went_away_and_came_back(bench: Bench, server: RedisServer) -> None:
    metric = bench.metric(url=server.url, list="jobs")
    assert (await bench.ask(metric)).samples
    server.kill()
    gone = (await bench.ask(metric)).missing
    assert gone is not None
    assert gone.startswith(f"Redis at {server.socket}: ")
    server.socket.unlink(missing_ok=True)
    assert "No such file" in str((await bench.ask(metric)).missing)
    server.start()
    assert (await bench.ask(metric)).samples


async def test_passwords(
    bench: Bench, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ask("config", "set", "requirepass", PASSWORD)
    said = await bench.missing(url=server.url, list="jobs")
    assert "Authentication required.; write the right user and password" in said
    monkeypatch.setenv("QUEUE", f"{server.url}?password={ESCAPED}")
    assert await bench.value(url_env="QUEUE", list="jobs") == 0
    secret = tmp_path / "address"
    secret.write_text(f"{server.url}?password=wrong-{ESCAPED}\n")
    metric = bench.metric(url_file=str(secret), list="jobs")
    said = str((await bench.ask(metric)).missing)
    assert "invalid username-password pair or user is disabled.; write the right user" in said
    assert "sesame" not in said
    secret.write_text(f"{server.url}?password={ESCAPED}\n")
    assert (await bench.ask(metric)).samples  # renewed while it runs
    secret.write_text("http://user:sesame@host\n")
    said = str((await bench.ask(metric)).missing)
    assert f"the address in {secret} cannot be used: it is not an address of Redis" in said
    assert "sesame" not in said
    secret.write_text("redis://:ses/ame@host:6379\n")
    said = str((await bench.ask(metric)).missing)
    assert "in a password / is %2F" in said
    assert "ses" not in said.replace("addresses", "")
    secret.unlink()
    assert "cannot be read" in str((await bench.ask(metric)).missing)
    assert "environment variable NONE holds no secret" in await bench.missing(
        url_env="NONE", list="jobs"
    )


async def test_a_user_who_may_only_read_this_is_enough(
    bench: Bench, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ask("acl", "setuser", "eye", "on", ">word", "%R~jobs", "+llen")
    monkeypatch.setenv("QUEUE", f"unix://eye@{server.socket}?password=word")
    assert await bench.value(url_env="QUEUE", list="jobs") == 0
    assert "allow it with: ACL SETUSER" in await bench.missing(url_env="QUEUE", list="others")
    assert "allow it with: ACL SETUSER" in await bench.missing(url_env="QUEUE", zset="jobs")


async def test_a_node_of_a_cluster_without_slots(bench: Bench, server: RedisServer) -> None:
    server.kill()
    server.socket.unlink(missing_ok=True)
    server.start("--cluster-enabled", "yes", "--port", "0")
    assert "Hash slot not served" in await bench.missing(url=server.url, list="jobs")


@pytest.mark.parametrize(
    ("answer", "asked", "because"),
    [
        (b"-MOVED 3999 10.0.0.7:6381\r\n", {"list": "l"}, "10.0.0.7:6381 has the key; write"),
        (b"-ASK 3999 10.0.0.7:6381\r\n", {"list": "l"}, "10.0.0.7:6381 has the key; write"),
        (b"-LOADING Redis is loading\r\n", {"list": "l"}, "is loading"),
        (b"-ERR unknown command\r\n", {"list": "l"}, "unknown command"),
        (b"+many\r\n", {"list": "l"}, 'not one of Redis: "many"'),
        (b":-1\r\n", {"zset": "z"}, "not one of Redis: int"),
        (b"$-1\r\n", {"stream": "s"}, "not one of Redis: NoneType"),
        (b"$-1\r\n", {"key": "k"}, "not a number: NoneType"),
        (b"*0\r\n", {"info": "used_memory"}, "not one of Redis: list"),
        (b"$4\r\n\xff\xfe\x00\x1b\r\n", {"key": "k"}, "not a number"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", {"list": "l"}, "Protocol error"),
        (b"*1\r\n" * 200_000 + b":1\r\n", {"list": "l"}, "Max nesting depth exceeded"),
        (b"*1\r\n" * 5 + b":1\r\n", {"list": "l"}, "not one of Redis: list"),
        (b"*4000000000\r\n" * 9, GROUP, "announces too many elements"),
        (b"*1\r\n*3\r\n+name\r\n+g\r\n+lag\r\n", GROUP, "does not tell the lag"),
        (b"*1\r\n*4\r\n+name\r\n+g\r\n+lag\r\n$-1\r\n", GROUP, "does not know the lag"),
        (b"*1\r\n*4\r\n+name\r\n+g\r\n+lag\r\n+x\r\n", GROUP, "not one of"),
        (b"*1\r\n*4\r\n+name\r\n*0\r\n*0\r\n+x\r\n", GROUP, "no group g"),
        (b"*1\r\n*2\r\n+name\r\n+g\r\n", GROUP, "does not tell the lag"),
        (b"*1\r\n:1\r\n", GROUP, "not one of Redis: list"),
        (b"$900000000\r\n" + b"x" * 3_000_000, {"list": "l"}, "longer than 1048576 bytes"),
        (b"", {"list": "l"}, "closed"),
    ],
)
async def test_an_answer_that_nobody_should_trust(
    bench: Bench, fake: FakeRedis, answer: bytes, asked: dict[str, str], because: str
) -> None:
    fake.answer = answer
    assert because in await bench.missing(url=fake.url, timeout="5s", **asked)


async def test_a_password_that_a_server_repeats_is_not_told(
    bench: Bench, fake: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE", f"{fake.url}?password={ESCAPED}")
    fake.answer = f"-ERR what is {PASSWORD}\r\n".encode()
    assert await bench.missing(url_env="QUEUE", list="jobs") == (
        f"Redis at {fake.url.removeprefix('unix://')}: what is ***"
    )


def test_a_daemon_goes_by_a_queue_and_tells_no_password(
    running: Running, server: RedisServer
) -> None:
    server.ask("config", "set", "requirepass", PASSWORD)
    server.ask("-a", PASSWORD, "rpush", "jobs", *"abcdefghijkl")
    secret = running.folder / "address"
    secret.write_text(f"{server.url}?password={ESCAPED}")
    running.write(
        "web",
        "policies:\n  web:\n    every: 200ms\n"
        "    target: {local: {command: [sleep, '600'], grace: 2s}}\n    limits: {max: 5}\n"
        "    metrics:\n    - name: jobs\n      window: 0s\n      goal: {per_instance: 4}\n"
        f"      source: {{redis: {{url_file: {secret}, list: jobs}}}}\n",
    )
    with (running.folder / "log").open("wb") as log:
        running.start(stderr=log)
    until(lambda: len(running.instances("web")) == 3, "twelve jobs take three")
    secret.write_text(f"{server.url}?password=wrong-{ESCAPED}")
    until(
        lambda: "write the right user and password" in running.ask("explain", "web").stdout, "why"
    )
    assert len(running.instances("web")) == 3
    told = running.ask("explain", "web").stdout + running.ask("status", "--json").stdout
    assert running.stop() == 0
    kept = [f for f in running.state.rglob("*") if f.is_file()] + [running.folder / "log"]
    assert len(kept) > 1
    for text in (told.encode(), *(file.read_bytes() for file in kept)):
        assert b"sesame" not in text


# --- what is written in a policy ---


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ("list: jobs", "write exactly one of url, url_env and url_file"),
        (
            "url: redis://h, url_env: Q, list: jobs",
            "write exactly one of url, url_env and url_file",
        ),
        ("url: redis://h", "write exactly one of list, stream, zset, key, hash and info"),
        ("url: redis://h, list: a, key: b", "write exactly one of list, stream, zset, key, hash"),
        ("url: redis://h, list: a, group: b", "a group reads a stream"),
        ("url: redis://h, hash: a", "hash and field belong together"),
        ("url: redis://h, key: a, field: b", "hash and field belong together"),
        ("url: redis://h, list: a, to_score: now", "members of a zset have scores"),
        ("url: redis://h, zset: a, to_score: later", "to_score"),
        ("url: redis://h, zset: a, from_score: 2, to_score: 1", "below from_score (2)"),
        ("url: http://h, list: a", "it is not an address of Redis"),
        ("url: h:6379, list: a", "it is not an address of Redis"),
        ("url: redis://h/jobs, list: a", "not the number of a database"),
        ("url: 'redis://h?socket_timeout=600', list: a", "options that are not known"),
        ("url: 'redis://:sesame@h', list: a", "it holds credentials; write url_env: or url_file:"),
        ("url: 'redis://h?password=sesame', list: a", "it holds credentials"),
        ("url: 'redis://:ses@me@h', list: a, nothing: 1", "credentials"),
        ("url: redis://h, list: a, timeout: 1h", "out of range"),
        ("url: redis://h, info: 'a b'", "info"),
    ],
)
def test_mistakes_are_shown_without_secrets(fields: str, because: str) -> None:
    text = (
        "policies:\n  web:\n    target: {local: {command: [sleep, '1']}}\n    metrics:\n"
        "    - name: jobs\n      goal: {per_instance: 5}\n"
        f"      source: {{redis: {{{fields}}}}}\n"
    )
    document = located.parse(Path("made.yaml"), text)
    policyfile.policies_of(document, {})
    shown = "\n".join(problem.text() for problem in document.problems)
    assert because in shown
    assert "sesame" not in shown
    assert "ses@me" not in shown


def test_a_message_that_quotes_an_address_quotes_no_secret() -> None:
    text = (
        "policies:\n  web:\n    target: {local: {command: [sleep, '1']}}\n    metrics:\n"
        "    - name: jobs\n      goal: {per_instance: 5}\n"
        "      source: {http: {url: 'redis://:sesame@h', json: $}}\n"
    )
    document = located.parse(Path("made.yaml"), text)
    policyfile.policies_of(document, {})
    (problem,) = document.problems
    assert '"redis://*******@h" is not an address' in problem.message
    assert "sesame" not in problem.text()
