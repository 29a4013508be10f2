"""A sidecar asks the other sidecars first; metrics.k8s.io stands in for who is silent."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from structlog.testing import capture_logs

from scaler.clients.kubernetes import Clusters
from scaler.clients.peers import Peers
from scaler.clients.pod_samples import PodSamples
from scaler.clock import ManualClock
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.interfaces import Context
from scaler.providers.kubernetes import KubernetesTarget
from scaler.settings import Sidecar
from scaler.sources import kubernetes as source
from tests.fakes.kubernetes import Server, kubeconfig, usage
from tests.fakes.pod_tree import LOG, WEB, Pod
from tests.fakes.webserver import WebServer

SECOND = timedelta(seconds=1)
OURS, OTHER = "web-1", "web-2"


class Sidecars:
    """We run in `web-1`; `web-2` answers what a test says, and so does the metrics-server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.clock = ManualClock()
        self.other = WebServer()
        self.tree = Pod(folder / "proc")
        self.tree.runs(20, WEB)
        self.tree.shows(20)
        self._context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self._token = folder / "token"
        self._token.write_text("of all pods")
        self._used_s = 0.0
        self._number = 0
        self._samples: list[dict[str, float]] = []
        self._open: dict[str, Any] = {}

    async def start(self) -> None:
        await self.other.start()
        listen = f"127.0.0.9:{self.other.port}"
        self.peers = Peers(
            Sidecar(listen=listen, token_file=str(self._token)),
            PodSamples(self.clock, self.tree.usage),
            pod=OURS,
            clock=self.clock,
            random=Random(1),
        )
        self._context.shared[Peers] = self.peers
        await self.second(0, 0)

    async def second(self, ours: float, other: float) -> None:
        """Both pods use so many cores for a second."""
        await self.clock.advance(SECOND)
        self._used_s += ours
        self.tree.uses(20, cpu_s=self._used_s, memory_bytes=1000)
        await self.peers.samples.look()
        for sample in self._samples:
            sample["age_ms"] += 1000
        self._number += 1
        one = {"age_ms": 0, "window_ms": 1000, "cpu": other, "memory": 500, "containers": 1}
        self._samples.append({"number": self._number, **one})
        told = {"version": 1, "pod": OTHER, "run": "a", "samples": self._samples[-5:]}
        self.other.answers["/readings"] = json.dumps(told).encode()

    def silence(self) -> None:
        self.other.answers.clear()

    def publish(self, cores: float) -> None:
        at = self.clock.now().isoformat()
        found = [usage("default", p, {"app": (cores, 64 << 20)}, at=at) for p in (OURS, OTHER)]
        self.server.publish("default", found)

    async def read(
        self, metric: str = "cpu", container: str = "", workload: str = "self"
    ) -> Reading:
        key = f"{metric} {container} {workload}"
        if key not in self._open:
            target = KubernetesTarget(workload=workload, container=container, policy="web")
            rules = Metric.model_validate({metric: "50%"})
            self._open[key] = source.PLUGIN.open(rules, target, self._context)
        now = self.clock.now()
        bases = {"cpu": 0.5, "memory": float(256 << 20)}
        instances = tuple(
            Instance(id=InstanceId(pod), state=State.RUNNING, bases=bases, host="127.0.0.1")
            for pod in (OURS, OTHER)
        )
        fleet = Fleet(target="web", at=now, wanted=2, instances=instances)
        found: Reading = await self._open[key].read(fleet, now - timedelta(minutes=1), now)
        assert (not found.samples) == bool(found.missing)
        return found

    @property
    def asked(self) -> int:
        """Questions to the API server."""
        return len(self.server.audit)

    async def aclose(self) -> None:
        await self._context.shared[source.Gauges].aclose()
        await self._context.shared[Clusters].aclose()
        await self.peers.aclose()
        await self.other.stop()


@pytest.fixture
async def sidecars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sidecars]:
    async with Server() as server:
        (tmp_path / "kubeconfig").write_text(kubeconfig(server))
        (tmp_path / "proc").mkdir()
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        made = Sidecars(server, tmp_path)
        await made.start()
        yield made
        await made.aclose()


def values(reading: Reading) -> dict[str | None, float]:
    return {sample.instance: round(sample.value, 3) for sample in reading.samples}


async def test_what_pods_tell_is_a_second_old_and_asks_no_api_server(sidecars: Sidecars) -> None:
    sidecars.publish(0.9)
    await sidecars.second(0.25, 0.4)
    found = await sidecars.read()
    assert values(found) == {OURS: 0.25, OTHER: 0.4}
    assert {(s.at, s.window) for s in found.samples} == {(sidecars.clock.now(), SECOND)}
    assert values(await sidecars.read("memory")) == {OURS: 1000, OTHER: 500}
    assert sidecars.asked == 0


async def test_who_looks_seldom_hears_of_the_newer_half_of_the_seconds_since(
    sidecars: Sidecars,
) -> None:
    await sidecars.second(0.25, 0.4)
    await sidecars.read()
    for cores in (0.1, 0.2, 0.6):
        await sidecars.second(cores, 2 * cores)
    found = await sidecars.read()
    assert values(found) == {OURS: 0.4, OTHER: 0.8}
    assert {(s.at, s.window) for s in found.samples} == {(sidecars.clock.now(), 2 * SECOND)}
    assert values(await sidecars.read()) == {OURS: 0.6, OTHER: 1.2}


async def test_the_metrics_server_stands_in_for_who_is_silent(sidecars: Sidecars) -> None:
    sidecars.publish(0.9)
    await sidecars.second(0.25, 0.4)
    sidecars.silence()

    async def until_it_stands_in() -> None:
        while values(await sidecars.read()) != {OURS: 0.25, OTHER: 0.9}:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_it_stands_in(), 20)


async def test_a_metrics_server_that_hangs_costs_nothing_of_what_is_told(
    sidecars: Sidecars,
) -> None:
    await sidecars.second(0.25, 0.4)
    sidecars.silence()
    sidecars.server.faults.hang("metrics.k8s.io")
    async with asyncio.timeout(5):
        assert values(await sidecars.read()) == {OURS: 0.25}


async def test_who_is_silent_everywhere_has_no_sample(sidecars: Sidecars) -> None:
    await sidecars.second(0.25, 0.4)
    sidecars.silence()
    assert values(await sidecars.read()) == {OURS: 0.25}


async def test_with_nobody_answering_both_reasons_are_given(sidecars: Sidecars) -> None:
    (sidecars.tree.proc / "20/cgroup").unlink()
    await sidecars.second(0.25, 0.4)
    await sidecars.clock.advance(10 * SECOND)
    sidecars.silence()
    missing = (await sidecars.read()).missing or ""
    assert "shareProcessNamespace: true" in missing
    assert "install the metrics-server" in missing


async def test_silence_is_told_once_until_it_is_over(sidecars: Sidecars) -> None:
    await sidecars.second(0.25, 0.4)
    with capture_logs() as said:
        for _ in range(2):
            sidecars.silence()
            await sidecars.read()
            await sidecars.clock.advance(SECOND)
            await sidecars.read("memory")
            await sidecars.second(0.25, 0.4)
            await sidecars.read()
            await sidecars.clock.advance(SECOND)
    missed = [line for line in said if line["event"] == "peer.missed"]
    assert [line["instance"] for line in missed] == [OTHER, OTHER]
    assert "404" in missed[0]["because"]


async def test_a_container_among_others_is_read_from_the_metrics_server(
    sidecars: Sidecars,
) -> None:
    sidecars.publish(0.9)
    await sidecars.second(0.25, 0.4)
    assert values(await sidecars.read(container="app")) == {OURS: 0.25, OTHER: 0.4}
    sidecars.tree.runs(30, LOG)
    sidecars.tree.shows(30)
    for _ in range(2):
        await sidecars.second(0.25, 0.4)
    while values(await sidecars.read(container="app")) != {OURS: 0.9, OTHER: 0.4}:
        await asyncio.sleep(0.01)
    assert OURS in values(await sidecars.read())


async def test_other_targets_are_not_asked_for_in_sidecars(sidecars: Sidecars) -> None:
    sidecars.publish(0.9)
    await sidecars.second(0.25, 0.4)
    assert values(await sidecars.read(workload="deployment/web")) == {OURS: 0.9, OTHER: 0.9}
    assert sidecars.other.heads == []
