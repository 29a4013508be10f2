"""Every lease promises the same: one holder, terms that end for it first, fences that grow."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from scaler.clients.redis import Redis
from scaler.engine.leader import Leadership
from scaler.engine.watched import in_time
from scaler.errors import ConfigError, Forbidden, ScalerError, Unavailable
from scaler.interfaces import Grant, Lease
from tests.fakes.kubernetes import Server
from tests.integration.lease_places import (
    CLOCK,
    NAME,
    InMemory,
    OnKubernetes,
    OnRedis,
    Place,
    on_redis,
)
from tests.integration.redises import SERVERS, RedisServer, insist_on_redis

TTL = timedelta(seconds=10)
SHORT = timedelta(seconds=1)
PATIENCE_S = 20.0
ROOT = Path(__file__).parents[2]


async def opened(kind: str) -> Place:
    if kind == "memory":
        return InMemory()
    if kind == "kubernetes":
        api_server = Server()
        await api_server.start()
        return OnKubernetes(api_server)
    insist_on_redis(kind)
    redis_server = RedisServer(kind)
    redis_server.start()
    return OnRedis(redis_server)


@pytest.fixture(params=["memory", "kubernetes", *SERVERS])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    made = await opened(request.param)
    yield made
    await made.aclose()


@pytest.fixture
async def kubernetes() -> AsyncIterator[OnKubernetes]:
    made = await opened("kubernetes")
    assert isinstance(made, OnKubernetes)
    yield made
    await made.aclose()


@pytest.fixture(params=SERVERS)
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[OnRedis]:
    made = await opened(request.param)
    assert isinstance(made, OnRedis)
    yield made
    await made.aclose()


async def lease_of(place: Place) -> Lease:
    return (await place.candidate()).lease


async def taken(lease: Lease, holder: str, ttl: timedelta = TTL) -> Grant:
    grant = await lease.acquire(holder, ttl)
    assert grant is not None
    return grant


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.02)


async def within_patience(work: Awaitable[None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await work


async def test_the_first_gets_it_and_the_second_hears_who_that_was(place: Place) -> None:
    first, second = await lease_of(place), await lease_of(place)
    before = CLOCK.monotonic()
    grant = await taken(first, "a")
    assert before < grant.until < CLOCK.monotonic() + TTL
    assert await second.acquire("b", TTL) is None
    assert second.holder == "a"


async def test_of_many_at_once_one_gets_it(place: Place) -> None:
    leases = [await lease_of(place) for _ in range(8)]
    grants = await asyncio.gather(*(lease.acquire(f"c{n}", TTL) for n, lease in enumerate(leases)))
    assert sum(grant is not None for grant in grants) == 1


async def test_a_renewal_ends_later_and_has_the_same_fence(place: Place) -> None:
    lease = await lease_of(place)
    grant = await taken(lease, "a")
    fresh = await lease.renew(grant, TTL)
    assert fresh is not None
    assert (fresh.fence, fresh.holder) == (grant.fence, "a")
    assert fresh.until > grant.until


async def test_who_does_not_know_whether_it_got_it_asks_again(place: Place) -> None:
    grant = await taken(await lease_of(place), "a")
    again = await taken(await lease_of(place), "a")
    assert again.fence == grant.fence


async def test_what_is_given_back_is_there_for_the_next_with_a_higher_fence(place: Place) -> None:
    first, second = await lease_of(place), await lease_of(place)
    grant = await taken(first, "a", timedelta(minutes=5))
    assert await second.acquire("b", TTL) is None
    waiting = asyncio.create_task(second.freed(timedelta(minutes=5)))
    await asyncio.sleep(0)
    await first.release(grant)
    await within_patience(waiting)
    assert (await taken(second, "b")).fence > grant.fence


async def test_a_term_ends_for_its_holder_before_another_gets_it(place: Place) -> None:
    first, second = await lease_of(place), await lease_of(place)
    grant = await taken(first, "a", SHORT)
    async with asyncio.timeout(PATIENCE_S):
        while (next_ := await second.acquire("b", SHORT)) is None:
            await second.freed(timedelta(minutes=5))
    assert CLOCK.monotonic() > grant.until
    assert next_.fence > grant.fence
    assert await first.renew(grant, TTL) is None
    await first.release(grant)
    assert await first.acquire("a", TTL) is None
    assert first.holder == "b"


async def test_a_holder_that_renews_is_left_alone(place: Place) -> None:
    first, second = await lease_of(place), await lease_of(place)
    grant: Grant | None = await taken(first, "a", SHORT)
    end = CLOCK.monotonic() + 3 * SHORT
    while CLOCK.monotonic() < end:
        assert grant is not None
        assert await second.acquire("b", SHORT) is None
        await asyncio.sleep(0.1)
        grant = await first.renew(grant, SHORT)


async def test_waiting_has_an_end(place: Place) -> None:
    first, second = await lease_of(place), await lease_of(place)
    await taken(first, "a", timedelta(minutes=5))
    assert await second.acquire("b", TTL) is None
    await within_patience(second.freed(timedelta(milliseconds=300)))


async def test_a_cut_way_is_an_error_and_no_answer(place: Place) -> None:
    candidate = await place.candidate()
    grant = await taken(candidate.lease, "a")
    candidate.way.cut()
    with pytest.raises(Unavailable):
        await in_time(candidate.lease.renew(grant, TTL), timedelta(seconds=3), "renewing")
    candidate.way.heal()
    assert await candidate.lease.renew(grant, TTL) is not None


@pytest.mark.parametrize("kind", ["kubernetes", *SERVERS])
async def test_a_record_that_vanished_early_is_no_invitation(kind: str) -> None:
    place = await opened(kind)
    try:
        first, second = await lease_of(place), await lease_of(place)
        grant = await taken(first, "a", timedelta(seconds=3))
        assert await second.acquire("b", TTL) is None
        await place.lose()
        assert await second.acquire("b", TTL) is None
        assert await first.renew(grant, TTL) is None
        async with asyncio.timeout(PATIENCE_S):
            while await second.acquire("b", TTL) is None:
                await second.freed(timedelta(minutes=5))
        assert CLOCK.monotonic() > grant.until
    finally:
        await place.aclose()


def standing(lease: Lease, holder: str, ttl: timedelta, said: list[str]) -> Leadership:
    made = Leadership(
        lease,
        holder=holder,
        ttl=ttl,
        clock=CLOCK,
        random=Random(),
        gained=lambda: said.append("leads"),
        lost=said.append,
    )
    made.start()
    return made


async def test_who_is_cut_off_stops_before_the_other_begins(place: Place) -> None:
    first, second = await place.candidate(), await place.candidate()
    said: list[str] = []
    a = standing(first.lease, "a", timedelta(seconds=3), said)
    await until(a.may_act)
    b = standing(second.lease, "b", timedelta(seconds=3), said)
    await until(lambda: b.leader == "a")
    first.way.cut()
    both = False

    def other_begins() -> bool:
        nonlocal both
        both |= a.may_act() and b.may_act()
        return b.may_act()

    await until(other_begins)
    assert not both
    first.way.heal()
    await until(lambda: a.words() == "follower of b")
    assert said[0] == "leads"
    assert said[1].startswith("not renewed for")
    await b.aclose()
    await until(a.may_act)
    await a.aclose()


@pytest.mark.parametrize("kind", ["kubernetes", *SERVERS])
async def test_a_killed_process_is_succeeded(kind: str) -> None:
    place = await opened(kind)
    try:
        second = await lease_of(place)
        assert isinstance(place, OnKubernetes | OnRedis)
        token = place.server.admin if isinstance(place, OnKubernetes) else ""
        way = "kubernetes" if token else "redis"
        words = ["-m", "tests.integration.lease_holder", way, place.server.url, token]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await process.stdout.readline() == b"leads\n"
        said: list[str] = []
        b = standing(second, "b", timedelta(seconds=3), said)
        await until(lambda: b.leader == "another process")
        assert not b.may_act()
        process.kill()
        await process.wait()
        await until(b.may_act)
        await b.aclose()
    finally:
        await place.aclose()


async def test_the_object_reads_as_client_go_writes_it(kubernetes: OnKubernetes) -> None:
    lease = await lease_of(kubernetes)
    grant = await taken(lease, "a", timedelta(seconds=2.5))
    spec = kubernetes.server.get("Lease", NAME)["spec"]
    assert spec["holderIdentity"] == "a"
    assert spec["leaseDurationSeconds"] == 3
    assert spec["leaseTransitions"] == grant.fence
    assert spec["acquireTime"] == spec["renewTime"]
    assert spec["renewTime"].endswith("Z")
    assert len(spec["renewTime"]) == len("2026-01-01T00:00:00.000000Z")
    await lease.release(grant)
    spec = kubernetes.server.get("Lease", NAME)["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("", 1)
    assert spec["leaseTransitions"] == grant.fence


async def test_a_note_on_the_object_takes_nothing_away(kubernetes: OnKubernetes) -> None:
    lease = await lease_of(kubernetes)
    grant = await taken(lease, "a")
    noted = {"note": "by a person"}
    kubernetes.server.update("Lease", NAME, lambda i: i["metadata"].update(annotations=noted))
    assert await lease.renew(grant, TTL) is not None
    assert kubernetes.server.get("Lease", NAME)["metadata"]["annotations"] == noted


async def test_the_rights_that_are_printed_are_enough(kubernetes: OnKubernetes) -> None:
    group = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    rules = [
        {**group, "verbs": ["get", "watch", "update"], "resourceNames": [NAME]},
        {**group, "verbs": ["create"]},
    ]
    kubernetes.token = kubernetes.server.grant("scaler", "default", rules)
    first, second = await lease_of(kubernetes), await lease_of(kubernetes)
    grant = await taken(first, "a")
    assert await second.acquire("b", TTL) is None
    waiting = asyncio.create_task(second.freed(timedelta(minutes=5)))
    await first.release(grant)
    await within_patience(waiting)
    await taken(second, "b")
    assert {c.code for c in kubernetes.server.calls(what="leases")} <= {200, 201, 404}


async def test_missing_rights_are_said_with_the_remedy(kubernetes: OnKubernetes) -> None:
    kubernetes.token = kubernetes.server.grant("scaler", "default", [])
    with pytest.raises(Forbidden, match="scaler rbac"):
        await (await lease_of(kubernetes)).acquire("a", TTL)


async def test_a_stream_that_breaks_is_an_error_and_no_invitation(
    kubernetes: OnKubernetes,
) -> None:
    first, second = await lease_of(kubernetes), await lease_of(kubernetes)
    await taken(first, "a", timedelta(minutes=5))
    assert await second.acquire("b", TTL) is None
    waiting = asyncio.create_task(second.freed(timedelta(minutes=5)))
    await until(lambda: kubernetes.server.watchers)
    kubernetes.server.faults.cut_watches()
    with pytest.raises(Unavailable):
        await within_patience(waiting)


async def test_a_stream_that_never_opens_hides_no_death(kubernetes: OnKubernetes) -> None:
    first, second = await lease_of(kubernetes), await lease_of(kubernetes)
    kubernetes.server.faults.hang("watch=true")
    grant = await taken(first, "a", SHORT)
    assert await second.acquire("b", SHORT) is None
    await within_patience(second.freed(timedelta(minutes=5)))
    assert CLOCK.monotonic() > grant.until
    assert await second.acquire("b", SHORT) is not None


async def test_a_clock_of_redis_that_is_moved_ends_no_term(redis: OnRedis) -> None:
    first, second = await lease_of(redis), await lease_of(redis)
    grant = await taken(first, "a", timedelta(seconds=3))
    for key in redis.server.ask("keys", "*").split():
        redis.server.ask("pexpire", key, "300")  # what is left when the clock is moved forward
    async with asyncio.timeout(PATIENCE_S):
        while await second.acquire("b", TTL) is None:
            await second.freed(timedelta(minutes=5))
    assert CLOCK.monotonic() > grant.until


async def test_an_older_record_that_is_brought_back_is_no_invitation(redis: OnRedis) -> None:
    first, second = await lease_of(redis), await lease_of(redis)
    await first.release(await taken(first, "a"))
    (key,) = redis.server.ask("keys", "*").split()
    redis.server.ask("copy", key, "backup")
    grant = await taken(first, "c", timedelta(seconds=3))
    assert await second.acquire("b", TTL) is None
    redis.server.ask("copy", "backup", key, "replace")
    async with asyncio.timeout(PATIENCE_S):
        while (next_ := await second.acquire("b", TTL)) is None:
            await second.freed(timedelta(minutes=5))
    assert CLOCK.monotonic() > grant.until
    assert next_.fence > grant.fence
    assert await first.renew(grant, TTL) is None


@pytest.mark.parametrize("written", ["nonsense", "-1", "1e300"])
async def test_a_term_that_cannot_be_is_not_believed(redis: OnRedis, written: str) -> None:
    lease = await lease_of(redis)
    await taken(lease, "a")
    (key,) = redis.server.ask("keys", "*").split()
    redis.server.ask("hset", key, "holder", "a person", "term_ms", written, "stamp", "new")
    await lease.acquire("b", TTL)
    assert lease.holder in ("a person", "b")


async def test_an_answer_that_nobody_waits_for_is_given_to_nobody_else(redis: OnRedis) -> None:
    lease = await lease_of(redis)
    grant = await taken(lease, "a")
    redis.server.pause()
    with pytest.raises(Unavailable, match="renewing: no answer"):
        await in_time(lease.renew(grant, TTL), timedelta(milliseconds=200), "renewing")
    redis.server.resume()
    again = await taken(lease, "a")
    assert again.fence == grant.fence
    await lease.release(again)
    assert (await taken(lease, "b")).fence > grant.fence


async def test_a_redis_that_hangs_is_an_error(redis: OnRedis) -> None:
    lease = on_redis(redis.server.url)
    grant = await taken(lease, "a")
    redis.server.pause()
    with pytest.raises(Unavailable, match="asking Redis"):
        await lease.renew(grant, TTL)
    redis.server.resume()
    assert await lease.renew(grant, TTL) is not None
    await lease.aclose()


async def test_a_redis_that_is_gone_is_an_error(redis: OnRedis) -> None:
    lease = on_redis(redis.server.url)
    grant = await taken(lease, "a")
    redis.server.kill()
    with pytest.raises(Unavailable, match="asking Redis"):
        await lease.renew(grant, TTL)
    with pytest.raises(ScalerError):
        await lease.release(grant)
    await lease.aclose()


async def test_a_redis_that_does_not_know_us_is_an_error(redis: OnRedis) -> None:
    redis.server.ask("config", "set", "requirepass", "secret")
    lease = on_redis(redis.server.url)
    with pytest.raises(Forbidden, match="asking Redis"):
        await lease.acquire("a", TTL)
    await lease.aclose()


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="the address of Redis cannot be used"):
        Redis("http://localhost")
