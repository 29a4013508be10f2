"""Three pods of one application, each with a scaler beside it: one acts, and another takes over."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server
from tests.integration import pods
from tests.integration.pods import SidecarPod
from tests.integration.running import eventually as until
from tests.integration.running import without

TTL_S = 3.0
BUSY = 0.25  # of a core, where 0.14 is the goal


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tls=pods.certified(tmp_path)) as made:
        yield made


@pytest.fixture
async def three(server: Server, tmp_path: Path) -> AsyncIterator[list[SidecarPod]]:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        without("needs root and unshare, to give each pod namespaces of its own")
    async with Cluster(server, metrics_every=3600) as cluster:
        made = await pods.application(tmp_path, server, cluster, 3, ttl=TTL_S)
        try:
            yield made
        finally:
            for pod in made:
                pod.kill()


@pytest.mark.live
async def test_one_acts_on_what_all_use_and_another_takes_over(
    server: Server, three: list[SidecarPod]
) -> None:
    def replicas() -> int:
        return int(server.get("Deployment", "web")["spec"]["replicas"])

    await until(lambda: pods.leader(server), "one of them leads")
    first = next(pod for pod in three if pods.leader(server).startswith(pod.name))
    for pod in three:
        if pod is not first:
            pod.burn(BUSY)  # only the others are busy: the one that acts has it from them
    await until(lambda: replicas() > 3, "the load of the others is answered")

    first.kill()
    server.delete("Pod", first.name)
    await until(
        lambda: pods.leader(server) and not pods.leader(server).startswith(first.name),
        "another leads",
    )
    before = replicas()
    for pod in three:
        if pod is not first:
            pod.burn(0.9)
    await until(lambda: replicas() > before, "the load is answered again")
