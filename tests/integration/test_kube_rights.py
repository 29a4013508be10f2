"""A daemon with exactly the printed Role does all of its work, and uses each right that it has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scaler import policyfile
from scaler.clients import kube_rights
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server, kubeconfig
from tests.integration.running import Running, until

ROBOT = "robot"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as made, Cluster(made) as cluster:
        cluster.deploy("web", 2)
        yield made


async def eventually(true: Callable[[], Any], what: str) -> Any:
    """As `until`, while the server goes on in this loop."""
    return await asyncio.to_thread(until, true, what)


def policy(server: Server, count: int) -> str:
    port = server.url.rpartition(":")[2]
    return (
        "policies:\n  web:\n    every: 500ms\n"
        "    target: {kubernetes: deployment/web}\n"
        f"    limits: {{min: {count}, max: {count}}}\n"
        f"    health: {{liveness: {{tcp: {{host: 127.0.0.1, port: {port}}}, every: 1s}}}}\n"
    )


@pytest.mark.live
async def test_a_run_needs_all_that_is_printed_and_nothing_else(
    server: Server, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.write("web", policy(server, 3))
    needed = kube_rights.needed(policyfile.load([running.policies]).insist().values())
    rules = [rule.plain() for rule in kube_rights.rules(needed)]
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig(server, server.grant(ROBOT, "default", rules)))
    monkeypatch.setenv("KUBECONFIG", str(config))

    await asyncio.to_thread(running.start)
    await eventually(lambda: _running(running) == 3, "it grows")
    running.write("web", policy(server, 2))
    await eventually(lambda: _running(running) == 2, "it shrinks")
    (one, _) = (await asyncio.to_thread(running.status))["web"]["instances"]
    ended = await asyncio.to_thread(running.ask, "restart", "web", one["id"])
    assert ended.returncode == 0, ended.stderr
    await eventually(lambda: server.calls("create", "pods/eviction"), "one is evicted")
    await eventually(lambda: server.calls("create", "events"), "it is told beside the workload")

    mine = [call for call in server.audit if call.user.endswith(f":{ROBOT}")]
    assert mine
    assert [call for call in mine if call.code in (401, 403)] == []
    used = {(call.verb, call.group, call.what) for call in mine}
    later = {("patch", "", "events")}  # what happens again is counted, a minute later
    assert used | later == {(right.verb, right.group, right.path) for right in needed}


def _running(running: Running) -> int:
    found = running.status()["web"]["instances"]
    return sum(1 for i in found if i["state"] == "running")


HPA = {
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "web"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "minReplicas": 1,
        "maxReplicas": 10,
    },
    "status": {"desiredReplicas": 2, "currentReplicas": 2},
}


@pytest.mark.live
async def test_a_daemon_adopts_without_a_jump(
    server: Server, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text(kubeconfig(server))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    settings = tmp_path / "scaler.yaml"
    settings.write_text("policies: [policies]\n")
    server.put(HPA)
    running.write(
        "web",
        "policies:\n  web:\n    every: 500ms\n    target: {kubernetes: web}\n"
        "    limits: {min: 1, max: 10}\n",
    )
    await asyncio.to_thread(running.start)
    words = ["-c", str(settings), "adopt", "web", "--yes", "--keep", str(tmp_path / "kept.json")]

    def condition() -> str:
        return str(running.status()["web"]["condition"])

    await eventually(lambda: condition() == "managed-elsewhere", "the HPA is respected")
    ended = await asyncio.to_thread(running.ask, *words)
    assert ended.returncode == 0, ended.stderr
    await eventually(lambda: condition() == "ok", "the daemon has taken over")
    assert server.all("HorizontalPodAutoscaler") == []
    assert server.get("Deployment", "web")["spec"]["replicas"] == 2
    assert [call for call in server.audit if call.what == "deployments/scale"] == []
