"""The daemon's job for a cache on a real Redis, and a daemon that has one."""

import json
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from scaler.maintenance.cache_job import MOST_SAID, CacheJob
from scaler.maintenance.duty import Duty
from tests.integration.caches import DEAD, HastyClock, plant, rules
from tests.integration.ports import free_port
from tests.integration.redises import RedisServer, serving_redis
from tests.integration.running import Running, until

pytestmark = pytest.mark.live

ACT: dict[str, Any] = {"dead_versions": "on", "missing_ttl": "1d"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with serving_redis("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru") as server:
        yield server


@pytest.fixture
def client(redis: RedisServer) -> Iterator[Any]:
    connection = Redis.from_url(redis.url)
    yield connection
    connection.close()


class Watched:
    """A job, what it says, and whether its daemon leads."""

    def __init__(self, redis: RedisServer, *, act: bool = True) -> None:
        self.said: list[str] = []
        self.data: list[Mapping[str, Any]] = []
        self.leads = True
        self.clock = HastyClock()
        of = {"every": "1s", "full_lap": "1s"}
        cache = rules(redis.url, act=ACT, **of)
        duty = Duty(
            note=self.note,
            act=act,
            leads=lambda: self.leads,
            wrap=plainly,
            hold=lambda _: "",
        )
        self.job = CacheJob(cache, self.clock, duty)

    def note(self, summary: str, *, ok: bool, data: Mapping[str, Any]) -> None:
        self.said.append(summary)
        self.data.append(data)

    async def full(self) -> list[str]:
        """What is said in a look at every key."""
        self.said.clear()
        self.data.clear()
        self.job._full_due = timedelta()
        await self.job.step()
        return list(self.said)


async def plainly(work: Awaitable[None]) -> None:
    await work


@pytest.fixture
async def watched(redis: RedisServer) -> AsyncIterator[Watched]:
    made = Watched(redis)
    yield made
    await made.job.aclose()


async def test_what_is_found_is_said_once_and_done_where_it_is_turned_on(
    client: Any, watched: Watched
) -> None:
    planted = plant(client, 2_000, time.time())
    await watched.job.step()
    first = list(watched.said)
    assert any("no-ttl ledger:" in text for text in first)
    assert sum("big-key" in text for text in first) == MOST_SAID + 1  # the rest in one line
    assert client.dbsize() == planted.keys + 3  # the first look only looks
    acted = await watched.full()
    assert not any("big-key" in text for text in acted)  # it is known
    assert any(f"{len(planted.dead)} keys of ledger: removed" in text for text in acted)
    removed = next(data["names"] for data in watched.data if data)
    assert set(removed) == planted.dead
    after = await watched.full()
    assert any("no-ttl ledger:: is gone" in text for text in after)
    assert await watched.full() == []


async def test_only_who_leads_acts(client: Any, watched: Watched) -> None:
    planted = plant(client, 500, time.time())
    watched.leads = False
    await watched.full()
    assert client.dbsize() == planted.keys + 3
    watched.leads = True
    await watched.full()
    assert client.dbsize() == planted.keys + 3 - len(planted.dead)


async def test_a_daemon_that_only_observes_changes_nothing(client: Any, redis: RedisServer) -> None:
    planted = plant(client, 500, time.time())
    observing = Watched(redis, act=False)
    await observing.full()
    assert client.dbsize() == planted.keys + 3
    await observing.job.aclose()


async def test_a_server_that_is_away_is_said_once(
    client: Any, redis: RedisServer, watched: Watched
) -> None:
    redis.kill()
    for _ in range(3):
        await watched.job.step()
    assert len(watched.said) == 1
    assert "asking the cache" in watched.said[0]
    assert watched.job.trouble
    redis.start("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")
    await watched.job.step()
    assert watched.said[1:] == ["cache ledger: answers again"]
    assert not watched.job.trouble


def test_a_daemon_writes_into_its_journal_what_it_finds(
    client: Any, redis: RedisServer, running: Running, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plant(client, 200, time.time())
    client.hset("ledger:versions", DEAD, time.time() - 7_200)
    file = tmp_path / "caches.yaml"
    file.write_text(
        f"caches: {{ledger: {{url: '{redis.url}', prefixes: ['ledger:'], every: 1s, full_lap: 1s,"
        " budget: {server: 100%}, act: {dead_versions: on}}}"
    )
    environment = {**running.environment, "SCALER_CACHES": str(file)}
    monkeypatch.setattr(Running, "environment", environment)
    running.start()

    def history() -> list[str]:
        entries = json.loads(running.ask("history", "--json").stdout)
        return [entry["summary"] for entry in entries]

    until(lambda: any("keys of ledger: removed" in text for text in history()), "it acts")
    assert any("big-key ledger:" in text for text in history())
    assert running.stop() == 0
    assert client.exists("ledger:versions")


def test_the_metrics_of_the_daemon_say_what_a_cache_does(
    client: Any, redis: RedisServer, running: Running, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    numbers = {"hits_local": 6, "hits_shared": 2, "joined": 1, "misses": 1, "saved_s": 1.5}
    text = json.dumps({"functions": {'quo"te': numbers}})
    client.hset("ledger:{stats}", "a process", text)
    client.set("ledger:lasting", "for ever")
    file = tmp_path / "caches.yaml"
    file.write_text(f"caches: {{ledger: {{url: '{redis.url}', prefixes: ['ledger:'], every: 1s}}}}")
    port = free_port()
    given = {"SCALER_CACHES": str(file), "SCALER_HTTP": f"127.0.0.1:{port}"}
    monkeypatch.setattr(Running, "environment", {**running.environment, **given})
    running.start()

    def found() -> dict[tuple[str, ...], float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return {(one.name, *one.labels.values()): one.value for one in samples}

    until(lambda: ("scaler_cache_hit_ratio", "ledger", 'quo"te') in found(), "it was looked at")
    said = found()
    assert said["scaler_cache_hit_ratio", "ledger", 'quo"te'] == 0.8
    assert said["scaler_cache_answers", "ledger", 'quo"te', "hits_local"] == 6
    assert said["scaler_cache_saved_seconds", "ledger", 'quo"te'] == 1.5
    assert said["scaler_cache_findings", "ledger", "no-ttl"] == 1
    assert running.stop() == 0
