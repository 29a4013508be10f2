"""An API server that is gone, refuses, cuts its streams, or repeats old numbers.

In each trouble the load that is visible falls to nothing, which must remove nobody, and rises once
it is over; the time until it is answered is measured, as are the requests made meanwhile.
"""

import asyncio
import os
import time
from datetime import timedelta

from benchmarks.kube.daemon import Daemon, served
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server

GONE_S = float(os.environ.get("SCALER_BENCH_GONE_SECONDS", "600"))
TROUBLE_S = float(os.environ.get("SCALER_BENCH_TROUBLE_SECONDS", "100"))
TARGETS = 20
POLICY = """\
  web-{n}:
    every: 5s
    target: {{kubernetes: web-{n}}}
    metrics: [{{cpu: 70%, window: 0s}}]
    limits: {{max: 20, settle_down: 0s, grow: {{at_most: 100, per: 1s}}}}
"""


class Doors:
    """Takes every connection at a port and hangs up: what a server that is gone is asked."""

    def __init__(self, host: str, port: int) -> None:
        self._at = host, port
        self._server: asyncio.Server | None = None
        self.knocks = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._hang_up, *self._at)

    async def _hang_up(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.knocks += 1
        writer.close()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()


class Rig:
    """Twenty Deployments of four pods each, at their goal."""

    def __init__(self, server: Server, cluster: Cluster) -> None:
        self.server = server
        self.busy = False
        self.cores = 0.35
        cluster.load = self.load
        for number in range(TARGETS):
            cluster.deploy(f"web-{number}", 4)

    def load(self, _: Json) -> tuple[float, int]:
        return self.cores, 64 << 20

    def shrunk(self) -> int:
        """Writes of fewer than the four that there were."""
        bodies = [call.body for call in self.server.writes() if call.body]
        return sum(body["spec"]["replicas"] < 4 for body in bodies)

    async def grown(self) -> float:
        """Seconds until every target is above four."""
        began = time.monotonic()
        async with asyncio.timeout(120):
            while True:
                counts = [d["spec"]["replicas"] for d in self.server.all("Deployment")]
                if min(counts) > 4:
                    return time.monotonic() - began
                await asyncio.sleep(0.05)


async def _during(trouble: str) -> dict[str, float]:
    async with served(metrics_every=1.0) as (server, cluster, folder):
        rig = Rig(server, cluster)
        policies = "policies:\n" + "".join(POLICY.format(n=n) for n in range(TARGETS))
        daemon = Daemon(folder / "d", server, policies, folder / "ca.crt")
        daemon.start()
        try:
            await daemon.ready(TARGETS)
            requests, span = await _suffer(trouble, rig)
            back = await rig.grown()
        finally:
            daemon.stop()
    return {
        f"{trouble}: scale-ins": rig.shrunk(),
        f"{trouble}: requests_per_min": round(60 * requests / span, 1),
        f"{trouble}: right_again_after_s": round(back, 2),
    }


async def _suffer(trouble: str, rig: Rig) -> tuple[float, float]:
    """Bring it about, let it last, and end it; how many requests were made meanwhile, in what time.

    What is seen falls while the trouble hides it, and is high when it is over.
    """
    server, before = rig.server, len(rig.server.audit)
    if trouble == "gone":
        await server.down()
        doors = Doors(server.host, server.port)
        await doors.open()
        rig.cores = 0.0
        await asyncio.sleep(GONE_S)
        rig.cores = 0.7
        await asyncio.sleep(2)
        await doors.close()
        await server.up()
        return doors.knocks, GONE_S + 2
    rig.cores = 0.0 if trouble != "watch cut" else 0.35
    if trouble in ("500", "429"):
        server.faults.errors(int(trouble), retry_after=1 if trouble == "429" else None)
        server.faults.cut_watches()
    elif trouble == "watch cut":
        server.faults.cut_watches_every(timedelta(seconds=5))
        server.faults.cut_watches()
    else:
        server.faults.freeze_metrics()
    await asyncio.sleep(TROUBLE_S)
    made = len(server.audit) - before
    rig.cores = 0.7
    await asyncio.sleep(1.5)
    server.faults.clear()
    return made, TROUBLE_S


async def measure() -> dict[str, float]:
    """All troubles side by side, each with a server and a daemon of its own."""
    troubles = ("gone", "500", "429", "watch cut", "metrics frozen")
    found: dict[str, float] = {}
    for each in await asyncio.gather(*map(_during, troubles)):
        found |= each
    return found
