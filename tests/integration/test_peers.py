"""Pods that ask each other what they use over real sockets, and answers nobody should trust."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scaler.api import readings
from scaler.clients.peers import Heard, Peers, Told
from scaler.clients.pod_samples import PodSamples
from scaler.clock import ManualClock
from scaler.core.model import Instance, InstanceId, State
from scaler.settings import Sidecar
from tests.fakes.pod_tree import WEB, Pod
from tests.fakes.webserver import WebServer
from tests.integration.running import Running, until

SAMPLE = {"number": 1, "age_ms": 0, "window_ms": 1000, "cpu": 1, "memory": 1, "containers": 1}
ANSWER = {"version": 1, "pod": "web-2", "run": "a", "missing": "", "samples": [SAMPLE]}


class One:
    """A pod on an address of its own, with a token of its own."""

    def __init__(self, number: int, port: int, folder: Path, clock: ManualClock) -> None:
        self.host = f"127.0.0.{number}"
        self.token = folder / f"token-{number}"
        self.token.write_text("of all pods\n")
        rules = Sidecar(listen=f"{self.host}:{port}", token_file=str(self.token))
        self.tree = Pod(folder / str(number))
        self.tree.runs(20, WEB)
        self.tree.shows(20)
        self.instance = instance(number, self.host)
        self.peers = Peers(
            rules,
            PodSamples(clock, self.tree.usage),
            pod=self.instance.id,
            clock=clock,
            random=Random(number),
        )
        self.url = f"http://{rules.listen}/readings"
        self.used_s = 0.0

    async def uses(self, cores: float) -> None:
        self.used_s += cores
        self.tree.uses(20, cpu_s=self.used_s, memory_bytes=1000)
        await self.peers.samples.look()


def instance(number: int, host: str) -> Instance:
    return Instance(id=InstanceId(f"web-{number}"), state=State.RUNNING, host=host)


class Pods:
    """Two pods of one application."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.clock = ManualClock()
        self.folder = folder
        with socket.create_server(("127.0.0.2", 0)) as held:
            self.port = held.getsockname()[1]
        self.first, self.second = self._made(2), self._made(3)
        self.both = [self.first.instance, self.second.instance]
        self._stack = stack

    def _made(self, number: int) -> One:
        (self.folder / str(number)).mkdir()
        return One(number, self.port, self.folder, self.clock)

    async def answers(self, one: One) -> None:
        runner = web.AppRunner(readings.application(one.peers), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        self._stack.push_async_callback(one.peers.aclose)
        await web.TCPSite(runner, one.host, self.port).start()

    async def use(self, first: float, second: float) -> None:
        """For a second."""
        await self.clock.advance(timedelta(seconds=1))
        await asyncio.gather(self.first.uses(first), self.second.uses(second))

    async def asked(self, one: One) -> dict[str, Told]:
        return {str(pod): told for pod, told in (await one.peers.ask(self.both)).items()}


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    async with AsyncExitStack() as stack:
        made = Pods(tmp_path, stack)
        await made.answers(made.first)
        await made.answers(made.second)
        await made.use(0, 0)
        yield made


def cores(told: Told) -> list[float]:
    assert not isinstance(told, str), told
    return [round(heard.cpu, 3) for heard in told]


def heard(told: dict[str, Told], pod: str) -> tuple[Heard, ...]:
    found = told[pod]
    assert not isinstance(found, str), found
    return found


async def test_whoever_asks_hears_of_all_pods(pods: Pods) -> None:
    await pods.use(0.25, 1.5)
    for one in (pods.first, pods.second):  # a take-over needs nothing from whoever asked before
        told = await pods.asked(one)
        assert {pod: cores(each) for pod, each in told.items()} == {
            "web-2": [0.25],
            "web-3": [1.5],
        }
    (of_first,) = heard(told, "web-2")
    assert of_first == Heard(pods.clock.now(), timedelta(seconds=1), 0.25, 1000.0, 1)


async def test_samples_are_as_far_apart_as_they_were_taken(pods: Pods) -> None:
    await pods.use(0.5, 0.5)
    await pods.use(0.5, 1.0)
    first, later = heard(await pods.asked(pods.first), "web-3")
    assert later.at - first.at == timedelta(seconds=1)


async def test_the_own_pod_is_read_without_a_network(pods: Pods, tmp_path: Path) -> None:
    await pods.use(0.5, 0.5)
    pods.first.token.unlink()
    elsewhere = instance(2, "")
    told = await pods.first.peers.ask([elsewhere, pods.second.instance])
    assert cores(told[InstanceId("web-2")]) == [0.5]
    assert "cannot be read" in str(told[InstanceId("web-3")])


async def test_another_token_is_a_reason_until_it_is_renewed(pods: Pods) -> None:
    await pods.use(0.5, 0.5)
    pods.first.token.write_text("another")
    assert "refuses our token" in str((await pods.asked(pods.first))["web-3"])
    await pods.use(0.5, 0.5)
    pods.first.token.write_text("of all pods")
    assert cores((await pods.asked(pods.first))["web-3"]) == [0.5, 0.5]


async def test_a_pod_without_its_token_answers_nobody(pods: Pods) -> None:
    await pods.use(0.5, 0.5)
    pods.second.token.write_text("")
    assert "answered 503" in str((await pods.asked(pods.first))["web-3"])


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer of all pod", "Bearer of all podss", "of all pods"],
)
async def test_who_has_no_token_is_told_nothing(pods: Pods, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with (
        aiohttp.ClientSession() as session,
        session.get(pods.first.url, headers=headers) as answer,
    ):
        assert (answer.status, await answer.text()) == (401, "")


async def test_a_pod_that_cannot_see_its_application_says_why(pods: Pods) -> None:
    (pods.second.tree.proc / "20/cgroup").unlink()
    await pods.second.peers.samples.look()
    told = (await pods.asked(pods.first))["web-3"]
    assert "web-3" in str(told)
    assert "shareProcessNamespace" in str(told)


class Hostile:
    """A pod `web-2` that answers what a test says, and who asks it."""

    def __init__(self, folder: Path) -> None:
        self.server = WebServer()
        self.token = folder / "token"
        self.token.write_text("secret")
        self.clock = ManualClock()
        self._folder = folder

    async def start(self) -> None:
        await self.server.start()
        rules = Sidecar(listen=f"127.0.0.9:{self.server.port}", token_file=str(self.token))
        samples = PodSamples(self.clock, Pod(self._folder).usage)
        self.peers = Peers(rules, samples, pod="web-1", clock=self.clock, random=Random(1))

    async def ask(self) -> Told:
        peer = instance(2, "127.0.0.1")
        return (await self.peers.ask([peer]))[peer.id]


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Hostile]:
    made = Hostile(tmp_path)
    await made.start()
    yield made
    await made.peers.aclose()
    await made.server.stop()


async def test_what_the_hostile_are_told_apart_from(hostile: Hostile) -> None:
    hostile.server.answers["/readings"] = json.dumps(ANSWER).encode()
    assert cores(await hostile.ask()) == [1.0]


def sample(**changed: Any) -> bytes:
    return json.dumps({**ANSWER, "samples": [{**SAMPLE, **changed}]}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "no reading", id="nothing"),
        pytest.param(b"[" * 10_000, "no reading", id="deeply nested"),
        pytest.param(b"\xff\xfe", "no reading", id="no text"),
        pytest.param(b" " * 20_000, "more than 16384 bytes", id="huge"),
        pytest.param(json.dumps({**ANSWER, "version": 2}).encode(), "version", id="version"),
        pytest.param(json.dumps({**ANSWER, "pod": "web-3"}).encode(), "another pod", id="other"),
        pytest.param(
            json.dumps({**ANSWER, "samples": [SAMPLE] * 100}).encode(), "samples", id="many"
        ),
        pytest.param(json.dumps({**ANSWER, "samples": []}).encode(), "no numbers", id="none"),
        pytest.param(sample(cpu=float("nan")), "finite", id="not a number"),
        pytest.param(sample(cpu=float("inf")), "finite", id="infinite"),
        pytest.param(sample(cpu=-0.1), "cpu", id="negative"),
        pytest.param(sample(cpu="1"), "cpu", id="a text"),
        pytest.param(sample(memory=1e300), "memory", id="too much"),
        pytest.param(sample(age_ms=-1), "age_ms", id="of the future"),
        pytest.param(sample(age_ms=1e9), "age_ms", id="of last week"),
        pytest.param(sample(window_ms=0), "window_ms", id="of no time"),
        pytest.param(sample(window_ms=1e-6), "window_ms", id="of less than can be told"),
        pytest.param(sample(number=-1), "number", id="counted backwards"),
        pytest.param(sample(containers=0), "containers", id="of nothing"),
    ],
)
async def test_what_is_no_reading_is_a_reason(hostile: Hostile, body: bytes, reason: str) -> None:
    hostile.server.answers["/readings"] = body
    told = await hostile.ask()
    assert isinstance(told, str)
    assert reason in told
    assert "web-2" in told
    assert len(told) < 600


@pytest.mark.parametrize(
    ("doing", "reason"),
    [
        ("hang", "within 0.5 s"),
        ("drip", "within 0.5 s"),
        ("flood", "more than 16384 bytes"),
        ("cut", "payload is not completed"),
        ("redirect", "answered 302"),
        ("noise", "Bad status line"),
        ("500", "answered 500"),
    ],
)
async def test_servers_that_do_what_they_want(hostile: Hostile, doing: str, reason: str) -> None:
    hostile.server.doing = doing
    told = await hostile.ask()
    assert isinstance(told, str)
    assert reason in told
    assert "secret" not in told


async def test_one_question_serves_all_metrics_of_a_tick(hostile: Hostile) -> None:
    hostile.server.answers["/readings"] = json.dumps(ANSWER).encode()
    both = await asyncio.gather(hostile.ask(), hostile.ask())
    assert both[0] == both[1] == await hostile.ask()
    assert len(hostile.server.heads) == 1
    assert "Authorization: Bearer secret" in hostile.server.heads[0]
    await hostile.clock.advance(timedelta(seconds=1))
    await hostile.ask()
    assert len(hostile.server.heads) == 2


async def test_a_sample_keeps_its_moment_whatever_age_it_claims(hostile: Hostile) -> None:
    hostile.server.answers["/readings"] = json.dumps(ANSWER).encode()
    first = await hostile.ask()
    await hostile.clock.advance(timedelta(seconds=1))
    assert await hostile.ask() == first
    hostile.server.answers["/readings"] = json.dumps({**ANSWER, "run": "b"}).encode()
    await hostile.clock.advance(timedelta(seconds=1))
    anew = heard({"web-2": await hostile.ask()}, "web-2")
    assert anew[0].at == hostile.clock.now()


async def test_who_stops_waiting_spoils_nothing_for_others(hostile: Hostile) -> None:
    hostile.server.doing = "hang"
    first, second = asyncio.create_task(hostile.ask()), asyncio.create_task(hostile.ask())
    while not hostile.server.heads:
        await asyncio.sleep(0)
    first.cancel()
    assert "within 0.5 s" in str(await second)


def test_a_daemon_answers_for_its_pod(running: Running, tmp_path: Path, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    token = tmp_path / "token"
    token.write_text("secret")
    monkeypatch.setattr(
        Running,
        "environment",
        {
            **running.environment,
            "SCALER_SIDECAR__LISTEN": f"127.0.0.1:{port}",
            "SCALER_SIDECAR__TOKEN_FILE": str(token),
            "POD_NAME": "web-1",
        },
    )
    running.start()

    async def fetched() -> dict[str, Any]:
        headers = {"Authorization": "Bearer secret"}
        url = f"http://127.0.0.1:{port}/readings"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return found

    def looked() -> dict[str, Any]:
        found = asyncio.run(fetched())
        return found if "hostPID" in found["missing"] else {}

    assert until(looked, "it has looked at the machine around it")["pod"] == "web-1"
