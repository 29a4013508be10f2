"""A real HAProxy under load: whoever goes, dies or comes back, no request is lost to it."""

import asyncio
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.balancers import haproxy
from scaler.balancers.haproxy import HaproxyBalancer, HaproxyRoutes
from scaler.clients.haproxy import Haproxy
from scaler.clock import Clock, ManualClock, SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.core.policy import Policy
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.errors import (
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
    Unsupported,
)
from scaler.installed import Installed
from scaler.interfaces import Context
from scaler.providers.local import LocalTarget
from scaler.stores.memory import MemoryStore
from tests.integration.haproxies import PATIENCE_S, Backend, Load, Proxy, get
from tests.integration.running import eventually as until
from tests.integration.running import without

pytestmark = pytest.mark.live
LOOK_S = 0.05
TARGET = Target(kind="local", policy="web")


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    if not shutil.which("haproxy"):
        without("needs haproxy; .ci/run installs it")
    folder = Path(tempfile.mkdtemp(prefix="sh", dir="/tmp"))  # a short path: sockets
    proxy = Proxy(folder)
    try:
        await proxy.start()
        yield proxy
    finally:
        proxy.stop()
        shutil.rmtree(folder)


@pytest.fixture
async def backends() -> AsyncIterator[Callable[[str], Awaitable[Backend]]]:
    started: list[Backend] = []

    async def start(name: str, delay: float = 0.04, port: int = 0) -> Backend:
        started.append(await Backend(name, delay, port=port).start())
        return started[-1]

    yield start
    for each in started:
        each.kill()
    await asyncio.sleep(0)


Start = Callable[..., Awaitable[Backend]]


def routes(proxy: Proxy, clock: Clock | None = None, **rules: Any) -> HaproxyRoutes:
    written = {"backend": "web", "socket": str(proxy.socket), **rules}
    context = Context(clock=clock or SystemClock(), state_dir=proxy.folder, random=Random(1))
    made = haproxy.PLUGIN.open(HaproxyBalancer(kind="haproxy", **written), TARGET, context)
    assert isinstance(made, HaproxyRoutes)
    return made


def fleet(instances: Iterable[Instance]) -> Fleet:
    there = tuple(instances)
    return Fleet(target="web", at=SystemClock().now(), wanted=len(there), instances=there)


async def drained(way: HaproxyRoutes, there: Fleet, one: InstanceId) -> int:
    """How many looks it took until nothing was open."""
    looks, end = 1, asyncio.get_running_loop().time() + PATIENCE_S
    while await way.route(there, [one]):
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(LOOK_S)
        looks += 1
    return looks


async def test_twenty_scale_ins_under_load_lose_no_request(proxy: Proxy, backends: Start) -> None:
    way = routes(proxy)
    here = {f"web-{n}": await backends(f"web-{n}") for n in range(4)}
    await way.route(fleet(b.instance() for b in here.values()), [])
    load = Load(proxy.port, clients=12, most=3000)
    for number in range(4, 24):
        there, victim = fleet(b.instance() for b in here.values()), next(iter(here))
        await drained(way, there, InstanceId(victim))
        here.pop(victim).kill()
        here[f"web-{number}"] = await backends(f"web-{number}")
        await way.route(fleet(b.instance() for b in here.values()), [])
    await until(lambda: all(b.served for b in here.values()), "those who came get requests")
    await load.end()
    assert load.failures == []
    assert load.well > 200


async def test_a_drain_that_is_taken_back_brings_requests_again(
    proxy: Proxy, backends: Start
) -> None:
    way = routes(proxy)
    one, other = await backends("web-1", 2.0), await backends("web-2", 2.0)
    there = fleet([one.instance(), other.instance()])
    await way.route(there, [])
    asked = [asyncio.create_task(get(proxy.port)) for _ in range(6)]
    await until(lambda: one.busy + other.busy == 6, "all requests have arrived")
    assert await way.route(there, [InstanceId("web-1")]) == {"web-1": one.busy}
    assert (await proxy.servers())["s-web:web-1"] == "DRAIN"
    assert await way.route(there, []) == {}
    assert (await proxy.servers())["s-web:web-1"] == "no check"
    one.delay = other.delay = 0.0
    assert await asyncio.gather(*asked) == ["200"] * 6
    before = one.served
    await asyncio.gather(*(get(proxy.port) for _ in range(4)))
    assert one.served > before


async def test_whoever_died_or_is_not_ready_gets_nothing_from_the_next_look_on(
    proxy: Proxy, backends: Start
) -> None:
    way = routes(proxy)
    dead, unready, good = [await backends(f"web-{n}", 0.0) for n in range(3)]
    await way.route(fleet(b.instance() for b in (dead, unready, good)), [])
    dead.kill()
    served = unready.served
    there = [dead.instance(State.FAILED), unready.instance(ready=False), good.instance()]
    await way.route(fleet(there), [])
    assert [await get(proxy.port) for _ in range(20)] == ["200"] * 20
    assert (unready.served, good.served) == (served, 20)
    await way.route(fleet([unready.instance(), good.instance()]), [])
    await asyncio.gather(*(get(proxy.port) for _ in range(10)))
    assert unready.served > served


async def test_its_socket_may_be_tcp(proxy: Proxy, backends: Start) -> None:
    one = await backends("web-1", 0.0)
    await routes(proxy, socket=proxy.tcp).route(fleet([one.instance()]), [])
    assert await get(proxy.port) == "200"


async def test_one_that_comes_back_elsewhere_is_found_there(proxy: Proxy, backends: Start) -> None:
    way = routes(proxy)
    first = await backends("web-1", 0.0)
    await way.route(fleet([first.instance()]), [])
    first.kill()
    again = await backends("web-1", 0.0)
    await way.route(fleet([again.instance()]), [])
    assert [await get(proxy.port) for _ in range(5)] == ["200"] * 5
    assert again.served == 5


async def test_a_gone_server_is_deleted_after_a_rest_and_others_are_never_touched(
    proxy: Proxy, backends: Start
) -> None:
    clock = ManualClock()
    way = routes(proxy, clock)
    await proxy.ask("add server web/s-other:web-1 127.0.0.1:9; enable server web/s-other:web-1")
    gone, stays = await backends("web-1"), await backends("web-2")
    await way.route(fleet([gone.instance(), stays.instance()]), [])
    left = fleet([stays.instance()])
    for _ in range(3):
        await way.route(left, [])
        assert (await proxy.servers())["s-web:web-1"] == "MAINT"
        await clock.advance(haproxy.REST / 3)
    await way.route(left, [])
    await clock.advance(haproxy.REST)
    await way.route(left, [])
    assert await proxy.servers() == {
        "theirs": "MAINT",
        "s-other:web-1": "no check",
        "s-web:web-2": "no check",
    }


async def test_a_look_that_changes_nothing_is_one_batch_of_reading(
    proxy: Proxy, backends: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    ask = Haproxy.ask

    async def listened(self: Haproxy, *commands: str) -> str:
        asked.append(commands)
        return await ask(self, *commands)

    monkeypatch.setattr(Haproxy, "ask", listened)
    way = routes(proxy)
    there = fleet([(await backends("web-1")).instance(), (await backends("web-2")).instance()])
    await way.route(there, [])
    asked.clear()
    await way.route(there, [])
    assert asked == [("show servers state web",)]
    await way.route(there, [InstanceId("web-1")])
    asked.clear()
    await way.route(there, [InstanceId("web-1")])
    assert asked == [("show servers state web", "show stat web 4 -1")]


async def test_after_a_reload_all_are_there_again_and_nobody_goes_too_early(
    proxy: Proxy, backends: Start
) -> None:
    clock = SystemClock()
    way = routes(proxy, clock, drain="2s")
    one, other = await backends("web-1", 1.0), await backends("web-2", 0.0)
    there = fleet([one.instance(), other.instance()])
    await way.route(fleet([one.instance()]), [])
    asked = asyncio.create_task(get(proxy.port))
    await until(lambda: one.busy == 1, "it has the request")
    await way.route(there, [])
    await proxy.start()
    assert "s-web:web-1" not in await proxy.servers()
    assert await way.route(there, [InstanceId("web-1")]) == {"web-1": 1}, "the old one has it"
    assert (await proxy.servers())["s-web:web-2"] == "no check"
    assert await get(proxy.port) == "200"
    assert await asked == "200"
    await drained(way, there, InstanceId("web-1"))


async def test_requests_in_the_queue_of_one_that_leaves_are_answered(
    proxy: Proxy, backends: Start
) -> None:
    way = routes(proxy, maxconn=1)
    one, other = await backends("web-1", 0.3), await backends("web-2", 0.3)
    there = fleet([one.instance(), other.instance()])
    await way.route(there, [])
    asked = [asyncio.create_task(get(proxy.port)) for _ in range(8)]
    await until(lambda: one.busy == other.busy == 1, "both are full")
    await drained(way, there, InstanceId("web-1"))
    one.kill()
    assert await asyncio.gather(*asked) == ["200"] * 8


async def test_checks_of_haproxy_find_one_that_hangs_itself(proxy: Proxy, backends: Start) -> None:
    way = routes(proxy, check=True)
    one = await backends("web-1")
    await way.route(fleet([one.instance()]), [])
    one.kill()
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while (await proxy.servers())["s-web:web-1"] != "DOWN":
        assert asyncio.get_running_loop().time() < end, await proxy.servers()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("rules", "kind", "said"),
    [
        ({"backend": "wbe"}, NotFound, 'no backend "wbe"; it has: fixed, web'),
        ({"socket": "/no/such/socket"}, Unavailable, "is HAProxy running"),
        ({"socket": "tcp://127.0.0.1:1"}, Unavailable, "is HAProxy running"),
        ({"backend": "fixed"}, PermanentError, "balance roundrobin"),
        ({"socket": "operator"}, Forbidden, "level admin"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_is_wrong_is_said_with_a_remedy(
    proxy: Proxy, backends: Start, rules: dict[str, Any], kind: type[ScalerError], said: str
) -> None:
    if rules.get("socket") == "operator":
        rules = {"socket": str(proxy.folder / "operator")}
    one = await backends("web-1")
    with pytest.raises(kind, match=said):
        await routes(proxy, **rules).route(fleet([one.instance()]), [])


async def test_an_instance_without_an_address_is_named_and_the_others_are_routed(
    proxy: Proxy, backends: Start
) -> None:
    one, odd = await backends("web-1", 0.0), Instance(id=InstanceId("web-2"), state=State.RUNNING)
    with pytest.raises(PermanentError, match=r"web-2 .* needs an IP address and a port"):
        await routes(proxy).route(fleet([one.instance(), odd]), [])
    assert await get(proxy.port) == "200"


@pytest.mark.parametrize("name", ["web 1; del server web/theirs", "ü" * 200, "a\nb"])
async def test_a_strange_name_is_only_a_name(proxy: Proxy, backends: Start, name: str) -> None:
    one = await backends(name, 0.0)
    await routes(proxy).route(fleet([one.instance()]), [])
    assert await get(proxy.port) == "200"
    assert len(await proxy.servers()) == 2


INFO = b"Name: HAProxy\nVersion: 2.6.12\n\n"
STATE = b"1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state\n"


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (b"", Unavailable, "broke off"),
        (INFO[:20], Unavailable, "broke off"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PermanentError, "is no HAProxy"),
        (INFO.replace(b"2.6", b"2.4"), Unsupported, "install 2.5"),
        (INFO.replace(b"2.6", b"1.9"), Unsupported, "install 2.5"),
        (None, Unavailable, "did not answer within"),
        (b"x" * (5 << 20), Unavailable, "more than 4 MiB"),
    ],
    ids=["nothing", "half", "http", "2.4", "1.9", "hangs", "huge"],
)
async def test_a_hostile_socket_is_no_answer(
    tmp_path: Path, answer: bytes | None, kind: type[ScalerError], said: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer or b"")
        if answer is None:
            await reader.read(-1)
        writer.close()

    path = os.path.relpath(tmp_path / "h")
    server = await asyncio.start_unix_server(serve, path)
    try:
        with pytest.raises(kind, match=said):
            await Haproxy(path, timeout=timedelta(seconds=1)).version()
        await asyncio.sleep(0.05)  # the server notices that it is alone
    finally:
        server.close()


async def test_half_a_table_is_no_table(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readline()
        writer.write(INFO if asked.startswith(b"show info") else STATE)
        writer.close()

    path = os.path.relpath(tmp_path / "h")
    server = await asyncio.start_unix_server(serve, path)
    rules = HaproxyBalancer(kind="haproxy", backend="web", socket=str(tmp_path / "h"))
    context = Context(clock=SystemClock(), state_dir=tmp_path, random=Random(1))
    try:
        with pytest.raises(Unavailable, match="broke off"):
            await HaproxyRoutes(rules, "web", context).route(fleet([]), [])
    finally:
        server.close()


SLOW = textwrap.dedent(
    """\
    import http.server, os, time
    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(0.05)
            self.send_response(200)
            self.end_headers()
        def log_message(self, *words):
            pass
    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128
    Server(("127.0.0.1", int(os.environ["PORT"])), Slow).serve_forever()
    """
)


async def test_the_whole_daemon_shrinks_four_to_one_under_load(
    proxy: Proxy, tmp_path: Path
) -> None:
    clock = SystemClock()
    target = LocalTarget(
        kind="local",
        policy="web",
        command=(sys.executable, "-c", SLOW),
        port="24100-24180",
        grace="2s",
        on_exit="stop",
    )
    rules = HaproxyBalancer(kind="haproxy", backend="web", socket=str(proxy.socket))

    def policy(count: int) -> dict[str, Policy]:
        fields = {
            "name": "web",
            "every": "1s",
            "target": target,
            "balancer": rules,
            "limits": {"min": count, "max": count},
            "health": {"readiness": {"tcp": {}, "every": "200ms"}},
        }
        return {"web": Policy.model_validate(fields)}

    adapters = Installed(Context(clock=clock, state_dir=tmp_path / "p", random=Random(1)))
    recorder = Recorder(store=MemoryStore(), clock=clock, tell=lambda _: None)
    manager = ScalingManager(adapters=adapters, recorder=recorder, clock=clock)

    async def tick_until(count: int) -> None:
        end = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            manager.health.step()
            await asyncio.gather(*manager.tick())
            states = list((await proxy.servers()).values())
            seen = manager.watched["web"].fleet
            running = [] if seen is None else [i for i in seen.instances if i.state == "running"]
            if states.count("no check") == count == len(running):
                return
            assert asyncio.get_running_loop().time() < end, (manager.watched["web"].trouble, states)
            await asyncio.sleep(0.1)

    try:
        await manager.apply(policy(4))
        await tick_until(4)
        load = Load(proxy.port, clients=8, most=3000)
        await until(lambda: load.well > 50, "requests are answered")
        await manager.apply(policy(1))
        await tick_until(1)
        before = load.well
        await until(lambda: load.well > before + 20, "requests are answered still")
        await load.end()
        assert load.failures == []
    finally:
        await manager.drain(timedelta(seconds=5))
        await adapters.aclose()
