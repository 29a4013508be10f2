"""Events of an engine: heard at once, and nothing is lost for good, whatever becomes of it."""

import asyncio
import functools
import itertools
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

from scaler.clients import docker_events
from scaler.clients.docker import Engine as Client
from scaler.clients.docker_events import (
    QUIET_MOST,
    RESYNC_EVERY,
    WAITING_MOST,
    Event,
    Events,
    Resync,
)
from scaler.clock import Clock, ManualClock, SystemClock
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import eventually as until
from tests.integration.socket_proxy import SocketProxy

pytestmark = pytest.mark.live
PATIENCE_S = 30.0  # far less than the 90 s after which a silent connection ends by itself
SOON = timedelta(seconds=0.5)


class Follower:
    """Follows, and keeps what it was told."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.heard: list[Event | Resync] = []
        self.gate = asyncio.Event()  # closed, it takes nothing
        self.gate.set()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for item in self.events.follow():
            self.heard.append(item)
            await self.gate.wait()

    @property
    def resyncs(self) -> int:
        return sum(isinstance(item, Resync) for item in self.heard)

    def actions(self, name: str) -> list[str]:
        return [e.action for e in self.heard if isinstance(e, Event) and e.name == name]

    def last(self, action: str) -> Event | None:
        found = [e for e in self.heard if isinstance(e, Event) and e.action == action]
        return found[-1] if found else None


@asynccontextmanager
async def following(
    url: str, clock: Clock | None = None, *, quiet_most: timedelta = QUIET_MOST
) -> AsyncIterator[Follower]:
    client = Client(url)
    events = Events(client, clock or SystemClock(), quiet_most=quiet_most)
    follower = Follower(events)
    try:
        yield follower
    finally:
        await events.aclose()
        await asyncio.wait_for(follower.task, PATIENCE_S)
        await client.aclose()
        await until(lambda: not threads(), "its thread has ended")


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "docker-events"]


async def connected(follower: Follower) -> None:
    await until(lambda: follower.events.alive, "connected")


# --- a real engine ------------------------------------------------------------------------------


async def test_a_death_is_heard(engine: Engine) -> None:
    async with following(engine.url) as follower:
        await connected(follower)
        assert follower.heard[0] == Resync()
        before = datetime.now(UTC)
        engine.run("web", "--network", "none", BUSYBOX, "sleep", "600")
        engine.docker("kill", "web")
        await until(lambda: "die" in follower.actions("web"), "the death")
        died = follower.last("die")
        assert died is not None
        assert died.attributes["exitCode"] == "137"
        assert died.id == engine.inspect("web")["Id"]
        assert abs(died.at - before) < timedelta(seconds=PATIENCE_S)
        assert follower.actions("web") == ["create", "start", "kill", "die"]


async def test_health_is_heard_and_its_checks_are_not(engine: Engine) -> None:
    async with following(engine.url) as follower:
        await connected(follower)
        check = ("--health-cmd", "test -e /tmp/well", "--health-interval", "300ms")
        engine.run(
            "web", "--network", "none", *check, "--health-retries", "1", BUSYBOX, "sleep", "600"
        )
        await until(lambda: follower.last("health_status"), "unhealthy")
        engine.docker("exec", "web", "touch", "/tmp/well")
        await until(lambda: follower.actions("web").count("health_status") > 1, "healthy")
        said = [e for e in follower.heard if isinstance(e, Event) and e.action == "health_status"]
        assert [event.attributes["health"] for event in said[:2]] == ["unhealthy", "healthy"]
        assert set(follower.actions("web")) == {"create", "start", "health_status"}


async def test_an_engine_that_restarts_is_followed_again(engine: Engine) -> None:
    async with following(engine.url) as follower:
        await connected(follower)
        await asyncio.to_thread(engine.suspend)
        try:
            await until(lambda: not follower.events.alive, "the connection is gone")
            await until(lambda: "nobody listens" in follower.events.trouble, "it says why")
            before = follower.resyncs
        finally:
            await asyncio.to_thread(engine.resume)
        await connected(follower)
        await until(lambda: follower.resyncs > before, "list everything anew")
        assert follower.events.trouble == ""
        await asyncio.to_thread(engine.run, "web", "--network", "none", BUSYBOX, "true")
        await until(lambda: "die" in follower.actions("web"), "it listens again")


async def test_a_proxy_that_forbids_events_is_named(engine: Engine) -> None:
    proxy = SocketProxy(engine.socket, {"CONTAINERS": True})
    try:
        proxy.start()
        async with following(proxy.url) as follower:
            await until(lambda: "403" in follower.events.trouble, "it says why")
            assert not follower.events.alive
    finally:
        proxy.stop()


# --- an engine as bad as can be -----------------------------------------------------------------

Script = Callable[["Connection"], Awaitable[None]]


class Connection:
    """One answer to a request for events; headers are sent."""

    def __init__(self, writer: asyncio.StreamWriter, query: dict[str, list[str]]) -> None:
        self.query = query
        self.writer = writer

    async def send(self, *events: dict[str, Any] | bytes) -> None:
        for event in events:
            line = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
            self.writer.write(b"%x\r\n%s\r\n" % (len(line), line))
        await self.writer.drain()


class Fake:
    """An engine that only has events; each connection follows the next script, and then hangs."""

    def __init__(self, *scripts: Script) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fe", dir="/tmp"))
        self.url = f"unix://{self.folder}/s"
        self.connections: list[Connection] = []
        self.open = 0
        self._scripts = list(scripts)
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, f"{self.folder}/s")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self.folder)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                url = urlsplit(head.split()[1].decode())
                if not url.path.endswith("/events"):
                    answer = b'{"ApiVersion": "1.41"}'
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
                    writer.write(answer)
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                connection = Connection(writer, parse_qs(url.query))
                self.connections.append(connection)
                if self._scripts:
                    await self._scripts.pop(0)(connection)
                    return
                await reader.read()  # hangs until the other side goes
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            self.open -= 1
            writer.close()


moments = count(1_800_000_000_000_000_000, 1_000_000)


def happened(action: str, name: str = "web", moment: int | None = None) -> dict[str, Any]:
    return {
        "Type": "container",
        "Action": action,
        "Actor": {"ID": f"id-of-{name}", "Attributes": {"name": name}},
        "timeNano": moment or next(moments),
    }


async def test_a_silent_connection_is_made_anew() -> None:
    async with Fake() as fake, following(fake.url, quiet_most=SOON) as follower:
        await until(lambda: len(fake.connections) >= 3, "it connects again and again")
        await until(lambda: follower.resyncs >= 3, "and lists everything anew")


async def test_an_engine_that_does_not_even_answer_is_asked_again() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fe", dir="/tmp"))
    arrived: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(
        lambda _, writer: arrived.append(writer), f"{folder}/s"
    )
    async with following(f"unix://{folder}/s", quiet_most=SOON) as follower:
        await until(lambda: "timed out" in follower.events.trouble, "it says why")
        await until(lambda: len(arrived) > 4, "it asks again")  # a knock and a question each
    server.close()
    for writer in arrived:
        writer.close()
    shutil.rmtree(folder)


async def test_closing_waits_for_an_engine_that_does_not_answer_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(docker_events, "CLOSING_MOST", SOON)
    folder = Path(tempfile.mkdtemp(prefix="fe", dir="/tmp"))
    arrived: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(
        lambda _, writer: arrived.append(writer), f"{folder}/s"
    )
    client = Client(f"unix://{folder}/s")
    follower = Follower(Events(client, SystemClock()))
    await until(lambda: len(arrived) == 2, "the question has come")
    await asyncio.wait_for(follower.events.aclose(), PATIENCE_S)
    await follower.task
    assert threads(), "it still waits, and disturbs nobody"
    for writer in arrived:
        writer.close()
    await until(lambda: not threads(), "it ends with the answer")
    server.close()
    await client.aclose()
    shutil.rmtree(folder)


class Hasty:
    """A clock on which sleeping takes no time; it keeps the spans."""

    def __init__(self) -> None:
        self.slept: list[timedelta] = []
        self.now = SystemClock().now
        self.monotonic = SystemClock().monotonic

    async def sleep(self, span: timedelta) -> None:
        if span == RESYNC_EVERY:
            await asyncio.Event().wait()
        self.slept.append(span)


async def test_connections_that_end_are_tried_ever_more_slowly_and_leave_nothing() -> None:
    descriptors: list[int] = []

    async def cut(connection: Connection) -> None:
        await connection.send(happened("start"))
        descriptors.append(len(list(Path("/proc/self/fd").iterdir())))

    clock = Hasty()
    async with Fake(*[cut] * 40) as fake, following(fake.url, clock):
        await until(lambda: len(descriptors) == 40, "forty connections")
        waited = [span.total_seconds() for span in clock.slept]
    assert 0.5 <= waited[0] <= 0.75
    assert max(waited) == 30
    assert all(later > earlier for earlier, later in itertools.pairwise(waited[:6]))
    assert max(descriptors[10:]) <= max(descriptors[:10]) + 3


async def test_closing_ends_a_silent_connection_at_once() -> None:
    """Not when the silence has lasted too long: that is three times the patience of the test."""
    async with Fake() as fake:
        async with following(fake.url) as follower:
            await connected(follower)
            assert threads()
        assert not follower.events.alive
        await until(lambda: fake.open == 0, "the engine sees it go")


async def test_who_stops_following_ends_the_connection() -> None:
    async with Fake() as fake:
        client = Client(fake.url)
        follower = Follower(Events(client, SystemClock()))
        await connected(follower)
        follower.task.cancel()
        await asyncio.wait([follower.task])
        await until(lambda: not threads() and fake.open == 0, "nothing is left")
        again = Follower(follower.events)
        await connected(again)
        await follower.events.aclose()
        await again.task
        await client.aclose()


async def test_a_cut_loses_nothing_and_tells_nothing_twice() -> None:
    """The engine repeats the second before the cut; what happened meanwhile is among it."""
    start, die = happened("start"), happened("die")
    meanwhile = happened("start")

    async def cut(connection: Connection) -> None:
        await connection.send(start, die)

    async def repeat(connection: Connection) -> None:
        await connection.send(start, die, meanwhile)
        await asyncio.Event().wait()

    async with Fake(cut, repeat) as fake, following(fake.url) as follower:
        await until(lambda: len(follower.actions("web")) >= 3, "what happened meanwhile")
        assert follower.actions("web") == ["start", "die", "start"]
        assert "since" not in fake.connections[0].query
        since = float(fake.connections[1].query["since"][0])
        assert since == pytest.approx(die["timeNano"] / 1e9 - 1, abs=1e-3)
        asked = json.loads(fake.connections[1].query["filters"][0])
        assert asked["type"] == ["container"]
        assert not [action for action in asked["event"] if action.startswith("exec")]


@pytest.mark.parametrize("slow", [False, True], ids=["a quick follower", "a slow follower"])
async def test_after_ten_thousand_events_the_last_state_is_known(slow: bool) -> None:
    """A follower that lists on Resync and heeds events ends with what is true."""
    true: dict[str, str] = {}
    begin, sent = asyncio.Event(), asyncio.Event()

    async def storm(connection: Connection) -> None:
        await begin.wait()
        for number in range(10_000):
            name, action = f"c{number // 200}", ("start", "die")[number % 2]
            true[name] = action
            await connection.send(happened(action, name))
        sent.set()
        await asyncio.Event().wait()

    known: dict[str, str] = {}
    async with Fake(storm) as fake, following(fake.url) as follower:
        await until(lambda: follower.resyncs == 2, "connected")
        if slow:
            follower.gate.clear()
        begin.set()
        await asyncio.wait_for(sent.wait(), PATIENCE_S)
        waiting = follower.events._inbox._items
        if slow:
            # The follower takes one item before its gate holds it: perhaps that of the overflow.
            await until(lambda: follower.resyncs == 3 or Resync() in waiting, "an overflow")
            assert len(waiting) <= WAITING_MOST
        true["c0"] = "destroy"
        await fake.connections[0].send(happened("destroy", "c0"))
        follower.gate.set()

        def heeded() -> bool:
            for item in follower.heard:
                if isinstance(item, Resync):
                    known.update(true)  # listing: what is true by now
                else:
                    known[item.name] = item.action
            follower.heard.clear()
            return known == true and not waiting

        await until(heeded, "the last state")
    assert len(true) == 50


async def test_nonsense_is_skipped_and_what_has_no_end_is_cut() -> None:
    async def nonsense(connection: Connection) -> None:
        whole = json.dumps(happened("die")).encode() + b"\n"
        await connection.send(b"not json\n", b"[]\n", b"\n", b'{"Action": "die"}\n')
        await connection.send(happened("start"), whole[:10], whole[10:])
        await asyncio.Event().wait()

    async def endless(connection: Connection) -> None:
        while True:
            await connection.send(b"x" * 100_000)

    async with Fake(nonsense) as fake, following(fake.url) as follower:
        await until(lambda: len(follower.actions("web")) == 2, "what makes sense")
        assert follower.actions("web") == ["start", "die"]
    async with Fake(endless) as fake, following(fake.url) as follower:
        await until(lambda: len(fake.connections) == 2, "it connects again")


def resynced(follower: Follower, times: int) -> bool:
    return follower.resyncs == times


async def test_a_resync_comes_once_a_minute() -> None:
    clock = ManualClock()
    async with Fake() as fake, following(fake.url, clock) as follower:
        await connected(follower)
        await until(lambda: follower.resyncs == 2, "the first, and one with the connection")
        for number in (3, 4):
            await clock.advance(RESYNC_EVERY)
            await until(functools.partial(resynced, follower, number), "one more")
        assert len(fake.connections) == 1
