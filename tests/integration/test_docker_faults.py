"""What goes wrong between scaler and an engine: races, full ranges, silent streams, floods."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients import docker_book
from scaler.clients.docker import Engines
from scaler.clients.docker_hands import Hands
from scaler.clients.docker_self import own_id
from scaler.clock import SystemClock
from scaler.core.model import State
from scaler.errors import Unavailable
from scaler.interfaces import Context
from scaler.providers.docker import PLUGIN
from tests.integration.dockerd import BUSYBOX
from tests.integration.harbour import ALONE, SLEEP, Harbour, all_running, is_, one
from tests.integration.running import fleet_until as until
from tests.integration.unix_proxy import UnixProxy

pytestmark = pytest.mark.live


class Hurried:
    """A clock whose sleepers wake thirty times too early."""

    def __init__(self) -> None:
        self._clock = SystemClock()

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> timedelta:
        return self._clock.monotonic()

    async def sleep(self, span: timedelta) -> None:
        await self._clock.sleep(span / 30)


@pytest.fixture
async def proxy(harbour: Harbour) -> AsyncIterator[UnixProxy]:
    opened = UnixProxy(harbour.engine.socket)
    opened.start()
    try:
        yield opened
    finally:
        await harbour.aclose()
        opened.stop()


async def test_a_container_that_somebody_removes_while_we_stop_it_is_simply_gone(
    harbour: Harbour,
) -> None:
    harbour.engine.run("web", "--network=none", *SLEEP)  # ignores TERM, so a stop takes long
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 2)
    await until(provider, target, all_running(2))
    await provider.scale(target, 1)
    await asyncio.to_thread(harbour.engine.docker, "rm", "--force", "web-2")
    fleet = await until(provider, target, all_running(1))
    assert (fleet.notices, fleet.complete) == ((), True)


async def test_a_name_that_somebody_has_is_passed_over(harbour: Harbour) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    harbour.engine.run("web-2", *ALONE, *SLEEP)
    harbour.engine.docker("create", "--name=web-3", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 3)
    fleet = await until(provider, target, all_running(3))
    assert [i.id for i in fleet.instances] == ["web", "web-4", "web-5"]


async def test_a_name_that_is_taken_between_look_and_creation(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    original = Hands.make

    async def late(self: Hands, template: Any, name: str, **given: Any) -> str:
        if name == "web-2":
            await asyncio.to_thread(harbour.engine.run, name, *ALONE, *SLEEP)
        return await original(self, template, name, **given)

    monkeypatch.setattr(Hands, "make", late)
    await provider.scale(target, 2)
    fleet = await until(provider, target, all_running(2))
    assert [i.id for i in fleet.instances] == ["web", "web-3"]


async def test_a_network_that_is_gone_is_a_failure_with_its_reason_and_no_corpse(
    harbour: Harbour,
) -> None:
    harbour.engine.docker("network", "create", "back")
    harbour.engine.run("web", "--network=back", "--stop-signal=KILL", *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web", remove="any")
    await provider.scale(target, 0)
    await until(provider, target, lambda f: not f.instances)
    harbour.engine.docker("network", "rm", "back")
    await provider.scale(target, 1)
    fleet = await until(provider, target, is_("web-1", State.FAILED))
    assert "network back not found" in fleet.instances[0].because
    assert harbour.engine.names() == []
    harbour.engine.docker("network", "create", "back")
    await provider.restart(target, fleet.instances[0].id)
    await until(provider, target, all_running(1))


async def test_what_a_silent_stream_hides_is_seen_at_the_next_list(
    harbour: Harbour, proxy: UnixProxy, tmp_path: Path
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    context = Context(clock=Hurried(), state_dir=tmp_path, random=Random(1))
    provider = PLUGIN.open(context)
    try:
        target = harbour.target(container="web", engine=proxy.url)
        await until(provider, target, all_running(1))
        proxy.silent = True
        pid = (await provider.observe(target)).instances[0].pid
        os.kill(pid or 0, signal.SIGKILL)
        fleet = await until(provider, target, is_("web", State.FAILED))
        assert fleet.instances[0].because == "killed by SIGKILL"
        harbour.engine.docker("start", "web")
        fleet = await until(provider, target, all_running(1))
        assert fleet.instances[0].pid != pid
    finally:
        await provider.aclose()
        await context.shared[Engines].aclose()


async def test_ten_thousand_events_of_strangers_hide_nothing(
    harbour: Harbour, proxy: UnixProxy
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", engine=proxy.url)
    await provider.scale(target, 2)
    fleet = await until(provider, target, all_running(2))
    requests = proxy.requests
    await asyncio.to_thread(proxy.add_events, 10_000)
    os.kill(one(fleet, "web-2").pid or 0, signal.SIGKILL)
    await until(provider, target, is_("web-2", State.FAILED))
    assert proxy.requests - requests < 100, "strangers are not inspected"


async def test_an_idle_fleet_costs_no_requests(harbour: Harbour, proxy: UnixProxy) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", engine=proxy.url)
    await provider.scale(target, 3)
    await until(provider, target, all_running(3))
    await until(provider, target, lambda _: provider._yards[proxy.url].view._events.alive)
    await provider.observe(target)
    await provider.observe(target)
    requests = proxy.requests
    for _ in range(50):
        await provider.observe(target)
    assert proxy.requests - requests <= 2


async def test_an_engine_that_hangs_is_not_asked_by_more_and_more(
    harbour: Harbour, proxy: UnixProxy
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", engine=proxy.url)
    await until(provider, target, all_running(1))
    proxy.hung = True
    requests = proxy.requests
    harbour.engine.docker("restart", "web")
    for _ in range(20):
        try:
            async with asyncio.timeout(0.05):
                await provider.observe(target)
        except (TimeoutError, Unavailable):
            continue
    assert proxy.requests - requests <= 4
    looks = [t for t in asyncio.all_tasks() if t.get_name() == "docker look"]
    assert len(looks) <= 1, "and nobody waits in a row"
    proxy.hung = False
    await until(provider, target, all_running(1))


async def test_an_end_is_known_by_its_event_before_the_engine_answers(
    harbour: Harbour, proxy: UnixProxy
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", engine=proxy.url)
    fleet = await until(provider, target, all_running(1))
    asked = -1
    while asked != proxy.requests:  # until the stream is followed and nothing is left to ask
        await asyncio.sleep(0.2)
        asked = proxy.requests
        await provider.observe(target)
    proxy.hung = True
    os.kill(one(fleet, "web").pid or 0, signal.SIGKILL)
    fleet = await until(provider, target, is_("web", State.FAILED))
    assert one(fleet, "web").because == "killed by SIGKILL"
    proxy.hung = False
    harbour.engine.docker("start", "web")
    await until(provider, target, all_running(1))


async def test_starts_are_few_at_once(harbour: Harbour, proxy: UnixProxy) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider = harbour.connect()
    target = harbour.target(container="web", engine=proxy.url)
    under_way: list[int] = []
    hands = provider._yard(proxy.url).hands

    def note(line: str) -> None:
        if line.startswith("POST") and line.split(" ")[1].endswith("/start"):
            under_way.append(4 - hands.starts._value)

    proxy.before = note
    await provider.scale(target, 10)
    await until(provider, target, all_running(10))
    assert len(under_way) == 9
    assert max(under_way) <= 4


async def test_a_broken_book_is_set_aside_and_containers_are_found_by_their_labels(
    harbour: Harbour,
) -> None:
    harbour.engine.run("web", *ALONE, *SLEEP)
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 3)
    before = await until(provider, target, all_running(3))
    await provider.aclose()
    book = harbour.folder / "docker" / "web.json"
    book.write_text('{"wanted": ')
    fleet = await harbour.connect().observe(target)
    assert (fleet.wanted, fleet.complete) == (3, True)
    assert [i.incarnation for i in fleet.instances] == [i.incarnation for i in before.instances]
    assert book.with_name("web.json.broken").exists()
    assert docker_book.read(book).wanted == 3


async def test_an_always_broken_image_leaves_no_corpses(harbour: Harbour) -> None:
    harbour.engine.docker("create", "--name=web", *ALONE, BUSYBOX, "/no/such/program")
    provider, target = harbour.connect(), harbour.target(container="web")
    await provider.scale(target, 3)
    fleet = await until(
        provider,
        target,
        lambda f: [i.state for i in f.instances] == [State.HELD, State.FAILED, State.FAILED],
    )
    for _ in range(3):
        for instance in fleet.instances[1:]:
            await provider.restart(target, instance.id)
            await until(provider, target, is_(instance.id, State.FAILED))
    assert harbour.engine.names() == ["web"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("cgroup", f"12:cpu:/docker/{'a' * 64}\n", id="cgroupfs"),
        pytest.param("cgroup", f"0::/system.slice/docker-{'a' * 64}.scope\n", id="systemd"),
        pytest.param(
            "mountinfo",
            f"1 2 0:3 /var/lib/docker/containers/{'a' * 64}/hostname /etc/hostname rw\n",
            id="mounts, where the cgroup namespace is private",
        ),
    ],
)
def test_our_own_container_is_known(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert own_id(tmp_path) == "a" * 64


async def test_our_own_container_is_never_counted(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    harbour.compose(1)
    own = harbour.engine.docker("inspect", "--format={{.Id}}", harbour.compose(2)).stdout.strip()
    monkeypatch.setattr("scaler.clients.docker_view.own_id", lambda: own[:12])
    fleet = await harbour.connect().observe(harbour.target(service="web"))
    assert [i.id for i in fleet.instances] == ["shop-web-1"]
