"""What metrics.k8s.io says, asked for on virtual time; its server lies, is late or is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler.clients.kubernetes import Api, Clusters
from scaler.clients.notices import Notices
from scaler.clock import ManualClock
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.interfaces import Context
from scaler.providers.kubernetes import KubernetesTarget
from scaler.sources import kubernetes as source
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server, kubeconfig, usage

PERIOD = timedelta(seconds=15)
SECOND = timedelta(seconds=1)


class Scene:
    """A server, policies that read from it, and time that we pass."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.clock = ManualClock()
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self.ahead = timedelta()  # the server's clock
        self._open: dict[tuple[str, str, str, str], Any] = {}

    def publish(self, *pods: str, cores: float = 0.25, **fields: Any) -> None:
        """What the metrics-server has just seen."""
        at = (self.clock.now() + self.ahead).isoformat()
        found = [usage("default", p, {"app": (cores, 64 << 20)}, at=at, **fields) for p in pods]
        self.server.publish("default", found)

    def publish_raw(self, pod: str, containers: list[Json]) -> None:
        item = {**usage("default", pod, {}, at=self.clock.now().isoformat())}
        self.server.publish("default", [{**item, "containers": containers}])

    async def read(
        self,
        *pods: str,
        policy: str = "web",
        metric: str = "cpu",
        container: str = "",
        of: str = "",
    ) -> Reading:
        key = policy, metric, container, of
        if key not in self._open:
            fields = {"of": of} if of else {}
            rules = Metric.model_validate({metric: "50%", **fields})
            target = KubernetesTarget(workload=policy, container=container, policy=policy)
            self._open[key] = source.PLUGIN.open(rules, target, self.context)
        now = self.clock.now()
        bases = {"cpu": 0.5, "memory": float(256 << 20)}
        instances = tuple(
            Instance(id=InstanceId(p), state=State.RUNNING, bases=bases) for p in pods
        )
        fleet = Fleet(target=policy, at=now, wanted=len(pods), instances=instances)
        found: Reading = await self._open[key].read(fleet, now - timedelta(minutes=1), now)
        assert (not found.samples) == bool(found.missing)
        return found

    async def pass_(self, span: timedelta) -> None:
        """Each question that falls due meanwhile gets its answer."""
        end = self.clock.monotonic() + span
        while True:
            async with asyncio.timeout(20):
                while (due := self.clock.upcoming()) is None and asking():
                    await asyncio.sleep(0.001)
            if due is None or due > end:
                break
            await self.clock.advance(due - self.clock.monotonic())
        await self.clock.advance(end - self.clock.monotonic())

    async def api(self) -> Api:
        found: Api = await self.context.shared[Clusters].at("")
        return found

    @property
    def asked(self) -> int:
        return len([c for c in self.server.calls("list") if c.group == "metrics.k8s.io"])

    async def aclose(self) -> None:
        for each in self._open.values():
            await each.aclose()
        if source.Gauges in self.context.shared:
            await self.context.shared[source.Gauges].aclose()
            await self.context.shared[Clusters].aclose()


def asking() -> bool:
    return any(task.get_name() == "pod metrics" for task in asyncio.all_tasks())


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    async with Server() as server:
        (tmp_path / "kubeconfig").write_text(kubeconfig(server))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        made = Scene(server, tmp_path)
        yield made
        await made.aclose()


async def test_a_sample_of_each_pod_on_the_servers_clock(scene: Scene) -> None:
    scene.publish("web-1", "web-2")
    await scene.clock.advance(4 * SECOND)
    found = await scene.read("web-1", "web-2")
    assert [(s.instance, s.value, s.base) for s in found.samples] == [
        ("web-1", 0.25, 0.5),
        ("web-2", 0.25, 0.5),
    ]
    assert {s.at for s in found.samples} == {scene.clock.now() - 4 * SECOND}
    assert {s.window for s in found.samples} == {PERIOD}
    (memory,) = (await scene.read("web-1", metric="memory")).samples
    assert (memory.value, memory.base) == (64 << 20, 256 << 20)


async def test_fifty_policies_cost_as_much_as_one(scene: Scene) -> None:
    names = [f"app{n}" for n in range(50)]
    scene.publish(*names)
    for name in names:
        assert (await scene.read(name, policy=name)).samples
    assert scene.asked == 1


async def test_few_questions_a_period_and_what_is_new_is_seen_soon(scene: Scene) -> None:
    scene.publish("web-1")
    await scene.read("web-1")
    for _ in range(8):
        await scene.read("web-1")
        await scene.pass_(PERIOD)
        scene.publish("web-1")
    before = scene.asked
    for _ in range(4):
        await scene.pass_(SECOND)
        (sample,) = (await scene.read("web-1")).samples
        assert scene.clock.now() - sample.at == SECOND
        await scene.pass_(PERIOD - SECOND)
        scene.publish("web-1")
    assert scene.asked - before <= 14


async def test_only_those_are_told_whose_pods_have_something_new(scene: Scene) -> None:
    scene.publish("web-1", "db-1")
    await scene.read("web-1", policy="web")
    await scene.read("db-1", policy="db")
    told: list[str] = []
    heard = asyncio.create_task(listen(scene.context.shared[Notices], told))
    await scene.pass_(SECOND)
    old = scene.server.metrics["default", "db-1"]
    scene.publish("web-1")
    scene.server.metrics["default", "db-1"] = old
    await scene.pass_(2 * PERIOD)
    assert told == ["web"]
    heard.cancel()
    with suppress(asyncio.CancelledError):
        await heard


async def listen(notices: Notices, told: list[str]) -> None:
    async for name in notices.changes():
        told.append(name)  # noqa: PERF401 - it never ends


async def test_numbers_from_the_future_grow_old_when_they_stand_still(scene: Scene) -> None:
    scene.ahead = timedelta(minutes=10)
    scene.publish("web-1")
    seen_at = scene.clock.now()
    (sample,) = (await scene.read("web-1")).samples
    assert sample.at == seen_at
    await scene.pass_(4 * PERIOD)
    (sample,) = (await scene.read("web-1")).samples
    assert sample.at == seen_at
    scene.publish("web-1")
    await scene.pass_(2 * PERIOD)
    (sample,) = (await scene.read("web-1")).samples
    assert sample.at > seen_at + 3 * PERIOD


async def test_a_metrics_server_that_is_away_is_no_data_in_the_end(scene: Scene) -> None:
    scene.publish("web-1")
    (before,) = (await scene.read("web-1")).samples
    scene.server.faults.errors(503, "metrics.k8s.io")
    await scene.pass_(2 * PERIOD)
    (sample,) = (await scene.read("web-1")).samples
    assert (sample.at, sample.value) == (before.at, before.value)
    await scene.pass_(4 * PERIOD)
    found = await scene.read("web-1")
    assert "a scripted error 503" in (found.missing or "")


async def test_a_metrics_server_that_is_away_holds_nobody_else_up(scene: Scene) -> None:
    scene.server.metrics_known = True
    scene.server.faults.errors(503, "metrics.k8s.io")
    assert "503" in ((await scene.read("web-1")).missing or "")
    await scene.pass_(PERIOD)
    api = await scene.api()
    async with asyncio.timeout(2):
        await api.gate.enter()


async def test_a_server_that_asks_for_a_pause_gets_it_from_all(scene: Scene) -> None:
    scene.server.faults.errors(429, "metrics.k8s.io", retry_after=30)
    assert "429" in ((await scene.read("web-1")).missing or "")
    api = await scene.api()
    entered = asyncio.create_task(api.gate.enter())
    await asyncio.sleep(0)
    assert not entered.done()
    entered.cancel()


async def test_after_an_outage_numbers_are_seen_as_soon_as_before(scene: Scene) -> None:
    scene.publish("web-1")
    await scene.read("web-1")
    for _ in range(4):
        await scene.pass_(PERIOD)
        scene.publish("web-1")
    scene.server.faults.errors(503, "metrics.k8s.io")
    for _ in range(7):
        await scene.read("web-1")
        await scene.pass_(PERIOD)
    scene.server.faults.clear()
    for _ in range(10):
        scene.publish("web-1")
        await scene.pass_(PERIOD)
        (sample,) = (await scene.read("web-1")).samples
        assert scene.clock.now() - sample.at <= 2 * PERIOD
    assert scene.clock.now() - sample.at == PERIOD


async def test_nothing_is_asked_when_nobody_reads(scene: Scene) -> None:
    scene.publish("web-1")
    await scene.read("web-1")
    await scene.pass_(timedelta(minutes=3))
    assert not asking()
    scene.publish("web-1", cores=0.4)
    (sample,) = (await scene.read("web-1")).samples
    assert sample.value == 0.4


@pytest.mark.parametrize(
    "containers",
    [
        pytest.param([], id="no container"),
        pytest.param([{"name": "app", "usage": {}}], id="usage that is not told"),
        pytest.param([{"name": "app", "usage": {"memory": "1Mi"}}], id="memory without cpu"),
        pytest.param(
            [{"name": "app", "usage": {"cpu": "1", "memory": "1Mi"}}, {"name": "b", "usage": {}}],
            id="a container that is not known yet",
        ),
        pytest.param([{"name": "app", "usage": "much"}], id="nonsense"),
    ],
)
async def test_what_is_not_told_is_not_zero(scene: Scene, containers: list[Json]) -> None:
    scene.publish_raw("web-1", containers)
    assert "no numbers of these pods yet" in ((await scene.read("web-1")).missing or "")


async def test_one_container_or_all_of_them(scene: Scene) -> None:
    both = [
        {"name": "app", "usage": {"cpu": "300m", "memory": "100Mi"}},
        {"name": "proxy", "usage": {"cpu": "50m", "memory": "10Mi"}},
    ]
    scene.publish_raw("web-1", both)
    values = {}
    for container in ("", "app", "proxy"):
        (sample,) = (await scene.read("web-1", container=container)).samples
        values[container] = sample.value
    assert values == pytest.approx({"": 0.35, "app": 0.3, "proxy": 0.05})
    assert (await scene.read("web-1", container="other")).missing


async def test_a_share_of_what_is_not_set_is_none(scene: Scene) -> None:
    scene.publish("web-1")
    missing = (await scene.read("web-1", of="limit", container="app")).missing or ""
    assert "web-1 has no limit of cpu" in missing
    assert "set it for app in the pod template" in missing


async def test_a_right_that_is_missing_is_named(scene: Scene, tmp_path: Path) -> None:
    scene.publish("web-1")
    nobody = scene.server.grant("nobody", "default", [])
    (tmp_path / "kubeconfig").write_text(kubeconfig(scene.server, nobody))
    missing = (await scene.read("web-1")).missing or ""
    assert "metrics.k8s.io" in missing
    assert "`scaler rbac` prints the Role" in missing


async def test_a_cluster_that_is_not_there_is_a_reason(scene: Scene) -> None:
    await scene.server.down()
    missing = (await scene.read("web-1")).missing or ""
    assert scene.server.url in missing
