"""Two daemons on one target: one acts, the other follows it, remembers, and takes over."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.redises import SERVERS, RedisServer, insist_on_redis
from tests.integration.running import Running, until

pytestmark = pytest.mark.live

ALL = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
TTL = timedelta(seconds=3)


class Member(Running):
    """One of several daemons, known to the API server by its own name."""

    def __init__(self, folder: Path, name: str, server: Server, redis: str) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.name = name
        self._server = server
        config = folder / "kubeconfig"
        config.write_text(kubeconfig(server, server.grant(name, "default", ALL)))
        self._own = {
            "KUBECONFIG": str(config),
            "SCALER_LEASE__STORE": "redis" if redis else "kubernetes",
            "SCALER_LEASE__TTL": f"{TTL.total_seconds():g}s",
            "SCALER_LEASE__HOLDER": name,
            **({"SCALER_LEASE__REDIS_URL": redis} if redis else {}),
        }

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._own

    def wants(self, count: int) -> None:
        self.write(
            "web",
            "policies:\n  web:\n    every: 500ms\n    target: {kubernetes: web}\n"
            f"    limits: {{min: {count}, max: {count}}}\n",
        )

    def says(self) -> str:
        return self.ask("status").stdout

    def leads(self) -> bool:
        return "this daemon: leader since" in self.says()

    def follows(self, other: "Member") -> bool:
        return f"this daemon: follower of {other.name}-" in self.says()

    def writes(self) -> list[float]:
        """When it changed the count."""
        calls = self._server.calls("patch", "deployments/scale")
        return [c.at for c in calls if c.user.endswith(f":{self.name}") and c.code == 200]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as made, Cluster(made) as cluster:
        cluster.deploy("web", 2)
        yield made


@pytest.fixture(params=["kubernetes", *SERVERS])
async def members(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path
) -> AsyncIterator[tuple[Member, Member]]:
    shared = request.param in SERVERS
    redis = RedisServer(request.param if shared else "redis")
    if shared:
        insist_on_redis(request.param)
        await asyncio.to_thread(redis.start)
    url = redis.url if shared else ""
    pair = Member(tmp_path / "a", "anna", server, url), Member(tmp_path / "b", "bert", server, url)
    try:
        for member in pair:
            member.wants(2)
        yield pair
    finally:
        for member in pair:
            await asyncio.to_thread(member.clear)
        redis.stop()


async def eventually(true: Callable[[], Any], what: str) -> None:
    """As `until`, while the server goes on in this loop."""
    await asyncio.to_thread(until, true, what)


async def ready(member: Member) -> int:
    connector = aiohttp.UnixConnector(str(member.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://daemon/readyz") as answer,
    ):
        return answer.status


async def both_run(anna: Member, bert: Member) -> None:
    await asyncio.to_thread(anna.start)
    await eventually(anna.leads, "anna leads")
    await asyncio.to_thread(bert.start)
    await eventually(lambda: bert.follows(anna), "bert follows")
    assert (await ready(anna), await ready(bert)) == (200, 200)


async def want(count: int, server: Server, *members: Member) -> None:
    for member in members:
        member.wants(count)

    def there() -> bool:
        return bool(server.get("Deployment", "web")["spec"]["replicas"] == count)

    await eventually(there, f"{count} are asked for")


async def test_one_acts_and_the_other_remembers_and_takes_over(
    server: Server, members: tuple[Member, Member]
) -> None:
    anna, bert = members
    await both_run(anna, bert)
    await want(3, server, anna, bert)

    def remembered() -> bool:
        change = bert.status()["web"]["last_change"] or {}
        return (change.get("before"), change.get("after")) == (2, 3)

    await eventually(remembered, "bert remembers what anna did")
    refused = await asyncio.to_thread(bert.ask, "scale", "web", "3")
    assert refused.returncode != 0
    assert "this daemon follows anna-" in refused.stderr
    assert "following anna-" in (await asyncio.to_thread(bert.ask, "history", "web")).stdout

    anna.kill()
    await eventually(bert.leads, "bert leads")
    await want(4, server, bert)
    assert len(anna.writes()) == len(bert.writes()) == 1
    assert max(anna.writes()) < min(bert.writes())

    await asyncio.to_thread(anna.start)
    await eventually(lambda: anna.follows(bert), "anna is back and follows")
    assert len(anna.writes()) == 1


async def test_an_end_in_order_hands_over_at_once(
    server: Server, members: tuple[Member, Member]
) -> None:
    anna, bert = members
    await both_run(anna, bert)
    assert await asyncio.to_thread(anna.stop) == 0
    await eventually(bert.leads, "bert leads")
    said = (await asyncio.to_thread(bert.ask, "history")).stdout
    assert "leads now" in said
    await want(1, server, bert)
    assert anna.writes() == []


async def test_one_that_stood_still_finds_that_it_leads_no_longer(
    server: Server, members: tuple[Member, Member]
) -> None:
    anna, bert = members
    await both_run(anna, bert)
    assert anna.daemon is not None
    os.kill(anna.daemon.pid, signal.SIGSTOP)
    await eventually(bert.leads, "bert leads")
    await want(4, server, anna, bert)
    server.scale("Deployment", "web", 3, manager="kubectl")
    os.kill(anna.daemon.pid, signal.SIGCONT)
    await eventually(lambda: anna.follows(bert), "anna follows")
    await want(4, server, anna, bert)
    assert anna.writes() == []
    said = (await asyncio.to_thread(anna.ask, "history")).stdout
    assert "no longer leads" in said
