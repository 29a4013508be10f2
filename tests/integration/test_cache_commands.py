"""`scaler cache` on a real Redis: what it prints, how it ends, and what it leaves alone."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis

from scaler.cli.commands import scaler
from tests.integration.caches import ALIVE, DEAD, Planted, plant
from tests.integration.redises import RedisServer, serving_redis

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with serving_redis("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru") as server:
        yield server


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    connection = Redis.from_url(redis.url)
    connection.flushall()
    connection.slowlog_reset()
    yield connection
    connection.close()


@pytest.fixture
def planted(client: Any) -> Planted:
    made = plant(client, 1_000, time.time())
    client.hset("ledger:versions", DEAD, time.time() - 7_200)  # so that one look is enough
    return made


@pytest.fixture
def file(redis: RedisServer, tmp_path: Path) -> Path:
    path = tmp_path / "caches.yaml"
    path.write_text(
        f"version: 1\ncaches:\n  ledger:\n    url: {redis.url}\n    prefixes: ['ledger:']\n"
        "    budget: {server: 100%, unlink: 100000 per 1s}\n"
        "    act: {dead_versions: on, missing_ttl: 1d}\n"
    )
    return path


def asked(file: Path, *words: str, given: str = "") -> Result:
    result = CliRunner().invoke(scaler, ["cache", *words, "--file", str(file)], input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_plan_changes_nothing_and_says_whether_something_is_wrong(
    client: Any, planted: Planted, file: Path
) -> None:
    keys = client.dbsize()
    result = asked(file, "plan", "--exit-code")
    assert result.exit_code == 6
    assert f"no-ttl ledger:: {len(planted.no_ttl)} of" in result.output
    assert f"> remove keys of ledger: of {DEAD}: about {len(planted.dead)}" in result.output
    (plain,) = json.loads(asked(file, "plan", "ledger", "--json").output)
    assert plain["whole"]
    assert {f["kind"] for f in plain["findings"]} >= {"no-ttl", "idle", "dead-version", "big-key"}
    assert plain["done"] == []
    assert client.dbsize() == keys


def test_nothing_wrong_is_no_change(client: Any, file: Path) -> None:
    client.set(f"ledger:{{{ALIVE}:A}}", "x", ex=60)
    result = asked(file, "plan", "--sample", "--exit-code")
    assert (result.exit_code, "nothing is wrong" in result.output) == (0, True)


def test_a_run_asks_first(client: Any, planted: Planted, file: Path) -> None:
    keys = client.dbsize()
    refused = asked(file, "run")
    assert (refused.exit_code, client.dbsize()) == (5, keys)
    assert "add --yes" in refused.output
    done = asked(file, "run", "ledger", "--yes")
    assert done.exit_code == 0
    assert f"of {DEAD}: {len(planted.dead)} done" in done.output
    assert client.dbsize() == keys - len(planted.dead)
    assert "> " not in asked(file, "run", "--yes").output  # nothing is left to do


def test_a_run_prints_json(client: Any, planted: Planted, file: Path) -> None:
    result = asked(file, "run", "--yes", "--json")
    (plain,) = json.loads(result.stdout)
    assert [d["keys"] for d in plain["done"]] == [
        len(planted.dead),
        len(planted.no_ttl - planted.dead),
    ]


def test_status_adds_up_what_processes_say(client: Any, file: Path) -> None:
    numbers = {"hits_local": 6, "hits_shared": 2, "joined": 1, "misses": 1, "saved_s": 1.5}
    for process in ("a", "b"):
        text = json.dumps({"process": process, "functions": {"quote": numbers}})
        client.hset("ledger:{stats}", process, text)
    client.hset("ledger:{stats}", "c", b"\xff{")
    (plain,) = json.loads(asked(file, "status", "--json").output)
    assert (plain["processes"], plain["unreadable"]) == (2, 1)
    assert plain["functions"]["quote"]["hits_local"] == 12
    assert plain["functions"]["quote"]["hit_ratio"] == pytest.approx(0.8)
    text = asked(file, "status").output
    assert "quote" in text
    assert "80.0%" in text


def test_verify_says_what_was_checked(client: Any, planted: Planted, file: Path) -> None:
    client.config_resetstat()
    result = asked(file, "verify", "--json")
    (plain,) = json.loads(result.output)
    assert [(c["name"], c["ok"]) for c in plain["checks"]] == [
        ("connection", True),
        ("rights to look", True),
        ("prefixes", True),
        ("a dry run writes nothing", True),
        ("rights to act", True),
    ]
    assert result.exit_code == 0


def test_verify_names_what_is_missing(
    client: Any, planted: Planted, redis: RedisServer, file: Path
) -> None:
    rights = ["+@all", "-unlink", "~*", "on", "nopass"]
    client.execute_command("ACL", "SETUSER", "looker", "reset", *rights)
    file.write_text(file.read_text().replace("unix://", "unix://looker:x@"))
    result = asked(file, "verify")
    assert result.exit_code == 1
    assert "unlink" in result.output
    file.write_text(file.read_text().replace("ledger:'", "leger:'").replace("looker:x@", ""))
    assert "0 of" in asked(file, "verify").output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(("status", "leger"), 3, 'did you mean "ledger"', id="another name"),
        pytest.param(("plan",), 1, "asking the cache", id="no server"),
        pytest.param(("verify",), 1, "FAILED", id="no server to verify"),
    ],
)
def test_what_cannot_be_done(
    file: Path, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    if words[-1] != "leger":
        file.write_text(
            "caches: {ledger: {url: 'redis://:sesame@127.0.0.1:1/0', prefixes: ['a:']}}"
        )
    result = asked(file, *words)
    assert (result.exit_code, says in result.output) == (code, True), result.output
    assert "sesame" not in result.output


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = asked(tmp_path / "none.yaml", "status")
    assert (result.exit_code, "cannot be read" in result.output) == (3, True)
