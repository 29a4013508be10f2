"""CPU and memory of pods from kubelets, asked through the API server."""

from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler import plugins
from scaler.clients.kubelet import Kubelets
from scaler.clients.kubernetes import Clusters
from scaler.clock import ManualClock
from scaler.core.model import Fleet, Reading, Sample
from scaler.core.policy import Metric
from scaler.errors import ConfigError
from scaler.interfaces import Closing, Context
from scaler.providers import kubernetes
from scaler.providers.docker import DockerTarget
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import fleet_until

SECOND = timedelta(seconds=1)
READ = {"apiGroups": ["", "apps", "autoscaling"], "resources": ["*"], "verbs": ["list", "watch"]}
OTHER = 'container_cpu_usage_seconds_total{container="log",namespace="default",pod="POD"}'
PROXY = {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get"]}


class Bench:
    """A cluster of three nodes with a target of three pods, and whoever measures them."""

    def __init__(self, server: Server, cluster: Cluster, folder: Path) -> None:
        self.server = server
        self.cluster = cluster
        self.clock = ManualClock()
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self.provider = kubernetes.PLUGIN.open(self.context)
        self.target = kubernetes.KubernetesTarget(workload="web", policy="web", kind="kubernetes")
        self.cpu: defaultdict[str, float] = defaultdict(float)  # seconds, by pod
        self.ahead = timedelta()  # the clocks of the nodes
        self.sources: dict[str, Any] = {}

    async def fleet(self, count: int = 3) -> Fleet:
        return await fleet_until(
            self.provider, self.target, lambda f: sum(i.ready is True for i in f.instances) == count
        )

    async def uses(self, cores: float, span: timedelta = 5 * SECOND, *, more: str = "") -> None:
        """So much by each pod for a while; then the kubelets have looked."""
        await self.clock.advance(span)
        pages: defaultdict[str, str] = defaultdict(str)
        at = round((self.clock.now() + self.ahead).timestamp() * 1000)
        for pod in self.cluster.pods():
            name = pod["metadata"]["name"]
            self.cpu[name] += cores * span.total_seconds()
            of = f'{{container="app",namespace="default",pod="{name}"}}'
            pages[pod["spec"]["nodeName"]] += (
                "# TYPE container_cpu_usage_seconds_total counter\n"
                f"container_cpu_usage_seconds_total{of} {self.cpu[name]!r} {at}\n"
                f"container_memory_working_set_bytes{of} 1.048576e+06 {at}\n"
                f"container_start_time_seconds{of} 1.7e+09\n"
                f'pod_cpu_usage_seconds_total{{namespace="default",pod="{name}"}} 99 {at}\n'
                f"node_cpu_usage_seconds_total 12345.6 {at}\n{more.replace('POD', name)}"
            )
        for node, page in pages.items():
            self.server.texts[page_of(node)] = page

    async def read(self, name: str = "cpu") -> Reading:
        if name not in self.sources:
            plugin = plugins.source("kubelet")
            rules = plugin.source.model_validate({"kind": "kubelet"})
            metric = Metric(name=name, source=rules, goal={"utilization": "50%"})
            self.sources[name] = plugin.open(metric, self.target, self.context)
        fleet, now = await self.fleet(), self.clock.now()
        found: Reading = await self.sources[name].read(fleet, now - SECOND, now)
        return found

    async def values(self, name: str = "cpu") -> list[tuple[float, float | None]]:
        reading = await self.read(name)
        return [(round(sample.value, 6), sample.base) for sample in reading.samples]

    async def aclose(self) -> None:
        await self.provider.aclose()
        for client in reversed(self.context.shared.values()):
            if isinstance(client, Closing):
                await client.aclose()


def page_of(node: str) -> str:
    return f"/api/v1/nodes/{node}/proxy/metrics/resource"


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    async with Server() as server, Cluster(server) as cluster:
        cluster.deploy(replicas=3)
        for n in range(3):
            server.put({"kind": "Node", "metadata": {"name": f"node-{n}"}})
        (tmp_path / "kubeconfig").write_text(kubeconfig(server))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        opened = Bench(server, cluster, tmp_path)
        await opened.fleet()
        await opened.uses(0.1)
        yield opened
        await opened.aclose()


async def test_a_rate_takes_two_answers_and_a_level_comes_with_it(bench: Bench) -> None:
    assert "a rate takes two answers" in str((await bench.read()).missing)
    await bench.uses(0.25)
    assert await bench.values() == [(0.25, 0.5)] * 3
    assert await bench.values("memory") == [(2.0**20, 256.0 * 2**20)] * 3
    (sample, *_) = (await bench.read()).samples
    assert (sample.at, sample.window) == (bench.clock.now(), 5 * SECOND)


async def test_each_node_is_asked_once_for_all_metrics_and_no_more_often_than_that(
    bench: Bench,
) -> None:
    await bench.values()
    await bench.values("memory")
    await bench.clock.advance(4 * SECOND)
    await bench.values()
    nodes = {pod["spec"]["nodeName"] for pod in bench.cluster.pods()}
    calls = bench.server.calls("get", "nodes/proxy")
    assert sorted(call.name for call in calls) == sorted(nodes)
    await bench.clock.advance(SECOND)
    await bench.values()
    assert len(bench.server.calls("get", "nodes/proxy")) == 2 * len(nodes)


async def test_numbers_that_stand_still_grow_old(bench: Bench) -> None:
    await bench.values()
    await bench.uses(0.25)
    assert await bench.values()
    then = bench.clock.now()
    await bench.clock.advance(60 * SECOND)
    assert {sample.at for sample in (await bench.read()).samples} == {then}


@pytest.mark.parametrize("answers", [True, False])
async def test_numbers_from_the_future_grow_old_too(bench: Bench, answers: bool) -> None:
    bench.ahead = timedelta(minutes=10)
    await bench.read()
    for _ in range(2):
        await bench.uses(0.25)
        await bench.read()
    seen_at = bench.clock.now()
    if not answers:
        bench.server.texts.clear()
    for _ in range(3):
        await bench.clock.advance(10 * SECOND)
        reading = await bench.read()
        assert {sample.at for sample in reading.samples} == {seen_at}


async def test_a_container_that_counts_from_nothing_again_is_no_sample(bench: Bench) -> None:
    await bench.values()
    await bench.uses(0.25)
    first = min(bench.cpu)
    assert len(await bench.values()) == 3
    bench.cpu[first] = 0.0
    await bench.uses(0.01)
    assert first not in {sample.instance for sample in (await bench.read()).samples}
    await bench.uses(0.25)
    assert await bench.values() == [(0.25, 0.5)] * 3


async def test_containers_that_kubelets_look_at_by_turns(bench: Bench) -> None:
    pod = bench.cluster.pods()[0]
    node, name = pod["spec"]["nodeName"], pod["metadata"]["name"]
    seconds = {"app": 0.0, "log": 0.0}
    read_at = dict.fromkeys(seconds, bench.clock.now())
    found: list[Sample] = []
    for turn in range(6):
        await bench.clock.advance(5 * SECOND)
        looked = ("app", "log")[turn % 2]
        seconds[looked] += 0.1 * (bench.clock.now() - read_at[looked]).total_seconds()
        read_at[looked] = bench.clock.now()
        bench.server.texts[page_of(node)] = "".join(
            f'container_{what}{{container="{c}",namespace="default",pod="{name}"}} '
            f"{value!r} {round(read_at[c].timestamp() * 1000)}\n"
            for c in seconds
            for what, value in (
                ("cpu_usage_seconds_total", seconds[c]),
                ("memory_working_set_bytes", 1000.0),
            )
        )
        found += [s for s in (await bench.read()).samples if s.instance == name]
    assert {round(sample.value, 6) for sample in found} == {0.2}
    assert found[-1].at == min(read_at.values())


async def test_a_kubelet_that_does_not_answer_takes_only_its_own_pods(bench: Bench) -> None:
    await bench.values()
    await bench.uses(0.25)
    await bench.values()
    node = bench.cluster.pods()[0]["spec"]["nodeName"]
    there = {p["metadata"]["name"] for p in bench.cluster.pods() if p["spec"]["nodeName"] == node}
    await bench.uses(0.5)
    del bench.server.texts[page_of(node)]
    found = {str(s.instance): round(s.value, 6) for s in (await bench.read()).samples}
    assert found == {name: 0.25 if name in there else 0.5 for name in found}
    assert len(found) == 3


async def test_when_nobody_answers_there_is_a_reason(bench: Bench) -> None:
    bench.server.texts.clear()
    assert "the kubelet does not answer" in str((await bench.read()).missing)


async def test_one_that_takes_too_long_is_not_waited_for(bench: Bench) -> None:
    bench.server.faults.slow(3 * SECOND, "nodes/")
    assert "did not answer within 2 s" in str((await bench.read()).missing)


async def test_without_the_right_the_reason_names_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bench.server.grant("scaler", "default", [READ])
    (tmp_path / "narrow").write_text(kubeconfig(bench.server, token))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "narrow"))
    narrow = Bench(bench.server, bench.cluster, tmp_path)
    why = str((await narrow.read()).missing)
    assert "nodes/proxy in the whole cluster" in why
    bench.server.grant("scaler", "", [PROXY])
    await narrow.clock.advance(5 * SECOND)
    assert "a rate takes two answers" in str((await narrow.read()).missing)
    await narrow.aclose()


@pytest.mark.parametrize(
    "line",
    [
        'container_cpu_usage_seconds_total{container="app"} 1 1700000000000',
        f"{OTHER} NaN",
        f"{OTHER} -1",
        f"{OTHER} 1 {9 * 10**14}",
        "container_cpu_usage_seconds_total{ 1\n<html>\n\x00",
    ],
)
async def test_lines_that_mean_nothing_are_left_out(bench: Bench, line: str) -> None:
    await bench.uses(0.25, more=f"{line}\n")
    await bench.values()
    await bench.uses(0.25, more=f"{line}\n")
    assert await bench.values() == [(0.25, 0.5)] * 3


@pytest.mark.parametrize("page", ["", "<html>", "scrape_error 1\n"])
async def test_a_page_without_containers_is_a_reason(bench: Bench, page: str) -> None:
    for node in list(bench.server.texts):
        bench.server.texts[node] = page
    assert "says nothing of any container" in str((await bench.read()).missing)


async def test_a_node_that_nobody_asks_for_is_forgotten(bench: Bench) -> None:
    api = await bench.context.shared[Clusters].at("")
    kubelets = Kubelets(api)
    await kubelets.look("default", {"node-0"}, SECOND)
    await bench.uses(0.25)
    assert (await kubelets.look("default", {"node-0"}, SECOND))[0]
    await bench.clock.advance(timedelta(minutes=6))
    assert (await kubelets.look("default", {"node-0"}, SECOND))[0] == {}


def test_it_is_for_pods_only(tmp_path: Path) -> None:
    plugin = plugins.source("kubelet")
    rules = plugin.source.model_validate({"kind": "kubelet"})
    metric = Metric(name="cpu", source=rules, goal={"utilization": "50%"})
    context = Context(clock=ManualClock(), state_dir=tmp_path, random=Random(1))
    target = DockerTarget(container="web", kind="docker")
    with pytest.raises(ConfigError, match="for targets of kubernetes"):
        plugin.open(metric, target, context)
