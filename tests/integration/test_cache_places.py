"""CacheManager on a cluster of three nodes, and through Sentinel while it fails over."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster, Sentinel

from scaler.maintenance.cache import CacheManager
from tests.integration.ports import free_port
from tests.integration.redises import insist_on_redis
from tests.integration.running import until

pytestmark = pytest.mark.live


class Servers:
    """Processes that listen on 127.0.0.1 only, each in a folder of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rp", dir="/tmp"))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *options: str, sentinel: str = "") -> int:
        port = free_port()
        place = self.folder / str(port)
        place.mkdir()
        command = ["redis-server"]
        if sentinel:
            (place / "sentinel.conf").write_text(sentinel)
            command += [str(place / "sentinel.conf"), "--sentinel"]
        command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(place)]
        self._processes[port] = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        until(lambda: "PONG" in ask(port, "PING"), "it answers")
        return port

    def kill(self, port: int) -> None:
        process = self._processes.pop(port)
        process.kill()
        process.wait(30)

    def stop(self) -> None:
        for port in list(self._processes):
            self.kill(port)
        shutil.rmtree(self.folder, ignore_errors=True)


def ask(port: int, *words: str) -> str:
    asked = subprocess.run(
        ["redis-cli", "-p", str(port), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return asked.stdout


@pytest.fixture
def servers() -> Iterator[Servers]:
    insist_on_redis()
    made = Servers()
    yield made
    made.stop()


@pytest.fixture
def cluster(servers: Servers) -> int:
    ports = [servers.start("--cluster-enabled", "yes", "--save", "") for _ in range(3)]
    nodes = [f"127.0.0.1:{port}" for port in ports]
    ask(ports[0], "--cluster", "create", *nodes, "--cluster-yes")
    until(lambda: "cluster_state:ok" in ask(ports[0], "CLUSTER", "INFO"), "the cluster is whole")
    until(lambda: all("cluster_state:ok" in ask(p, "CLUSTER", "INFO") for p in ports), "all know")
    return ports[0]


@pytest.fixture
async def on_cluster(cluster: int) -> AsyncIterator[CacheManager]:
    cache = CacheManager(client=lambda: RedisCluster(host="127.0.0.1", port=cluster), namespace="t")
    yield cache
    await cache.aclose()


def counted(cache: CacheManager, **given: Any) -> tuple[Any, list[int]]:
    calls: list[int] = []

    @cache.cached(ttl="1m", name="get", version="1", **given)
    async def get(key: int) -> int:
        calls.append(key)
        await asyncio.sleep(0.01)
        return key

    return get, calls


async def test_a_cluster_shares_all_but_what_is_kept_locally(
    cluster: int, on_cluster: CacheManager
) -> None:
    other = CacheManager(client=lambda: RedisCluster(host="127.0.0.1", port=cluster), namespace="t")
    here, calls = counted(on_cluster, tags=["even:{key}"])
    there, calls_there = counted(other, tags=["even:{key}"])
    answers = await asyncio.gather(*[f(key) for f in (here, there) for key in range(50)])
    assert answers == [*range(50), *range(50)]
    assert len(calls) + len(calls_there) == 50, "one call for each key"
    await asyncio.gather(*[there(key) for key in range(50)])
    assert len(calls) + len(calls_there) == 50
    await on_cluster.invalidate_tag("even:7")
    await there(7)
    await there(8)
    assert len(calls) + len(calls_there) == 51
    assert await on_cluster.invalidate_pattern("get.*") == 50
    await on_cluster.set("a", 1, ttl="1m")
    await on_cluster.set("b", 2, ttl="1m")
    assert await other.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    await other.delete("a", "b")
    assert await on_cluster.get("a") is None
    await on_cluster.publish()
    assert on_cluster.statistics()["get"]["hits_local"] == 0
    await other.aclose()


async def test_sentinel_leads_to_the_one_that_takes_over(servers: Servers) -> None:
    first = servers.start("--save", "")
    second = servers.start("--save", "", "--replicaof", "127.0.0.1", str(first))
    watch = (
        f"sentinel monitor main 127.0.0.1 {first} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    sentinel = servers.start(sentinel=watch)
    until(lambda: "num-slaves" in ask(sentinel, "SENTINEL", "MASTER", "main"), "it is watched")
    until(lambda: str(second) in ask(sentinel, "SENTINEL", "REPLICAS", "main"), "so is the other")

    watching: Any = Sentinel([("127.0.0.1", sentinel)], socket_timeout=0.2)  # type: ignore[no-untyped-call]
    cache = CacheManager(client=lambda: watching.master_for("main"), namespace="t")
    await cache.start()
    get, calls = counted(cache)
    assert await get(1) == await get(1) == 1
    servers.kill(first)
    end = asyncio.get_running_loop().time() + 60
    while "role:master" not in ask(second, "INFO", "replication"):
        assert asyncio.get_running_loop().time() < end
        assert await get(2) == 2
        await asyncio.sleep(0.05)
    await cache._here().shared.ears.ready()
    before = len(calls)
    await get(3)
    assert await get(3) == 3
    assert len(calls) == before + 1
    assert ask(second, "EXISTS", get.key(3)).strip() == "1"
    await cache.aclose()
    for one in watching.sentinels:
        await one.aclose()
