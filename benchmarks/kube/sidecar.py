"""How soon a load is answered when the pods tell each other what they use, and who takes over.

Three pods in namespaces of their own, each with an application that burns CPU when it is told to
and a scaler beside it, on a fake API server with TLS. The metrics API stands by, 5 s apart, for the
pods that come and go and have no scaler.
"""

import asyncio
import os
import random
import tempfile
import time
from pathlib import Path

from benchmarks.outcome import percentile
from benchmarks.start import rss_mib
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kubernetes import Server
from tests.integration import pods

STEPS = int(os.environ.get("SCALER_BENCH_STEPS", "20"))
TTL_S = 15.0
BUSY = 0.25  # of a core, where 0.14 is the goal


async def _until(true, patience_s: float = 60) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    async with asyncio.timeout(patience_s):
        while not true():
            await asyncio.sleep(0.01)


def _replicas(server: Server) -> int:
    return int(server.get("Deployment", "web")["spec"]["replicas"])


async def _step(server: Server, made: list[pods.SidecarPod]) -> float:
    """Seconds from a load to the write that answers it; then all is as before."""
    began = time.monotonic()
    for pod in made:
        pod.burn(BUSY)
    await _until(lambda: _replicas(server) > 3)
    took = time.monotonic() - began
    for pod in made:
        pod.burn(0)
    await _until(lambda: _replicas(server) == 3)
    return took


async def _taken_over(server: Server, cluster: Cluster, made: list[pods.SidecarPod]) -> float:
    """Seconds from the end of the pod that acts until another has the lease and acts."""
    holder = pods.leader(server)
    acting = next(pod for pod in made if holder.startswith(pod.name))
    acting.kill()
    began = time.monotonic()
    cluster.server.delete("Pod", acting.name)
    await _until(lambda: pods.leader(server) not in (holder, ""))
    took = time.monotonic() - began
    left = [pod for pod in made if pod is not acting]
    await _step(server, left)
    return took


async def measure() -> dict[str, float]:
    """Seconds and MiB."""
    draw = random.Random(3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            Server(tls=pods.certified(folder)) as server,
            Cluster(server, metrics_every=5.0) as cluster,
        ):
            cluster.load = lambda _: (0.0, 32 << 20)  # of the pods that come: they go first again
            made = await pods.application(folder, server, cluster, 3, ttl=TTL_S)
            try:
                await _until(lambda: pods.leader(server))
                await asyncio.sleep(10)
                took = []
                for _ in range(STEPS):
                    took.append(await _step(server, made))
                    await asyncio.sleep(3 + draw.random())
                actors = {c.user for c in server.writes()}
                memory = max(rss_mib(pod.scaler_pid) for pod in made)
                over = await _taken_over(server, cluster, made)
            finally:
                for pod in made:
                    pod.kill()
    return {
        "sidecar_steps": len(took),
        "sidecar_step_to_write_p50_s": round(percentile(took, 0.5), 2),
        "sidecar_step_to_write_p95_s": round(percentile(took, 0.95), 2),
        "sidecar_rss_max_mib": round(memory, 1),
        "sidecar_taken_over_after_s": round(over, 1),
        "sidecar_actors": len(actors),
    }
