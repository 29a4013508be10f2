"""How soon a load is answered, and by how much, when numbers come from metrics.k8s.io.

A hundred Deployments, of which most get a step of load at a moment of their own and the rest a
wave, with start-ups of 10 to 60 s, deployments and evictions in between. A reaction is the time
from the first sample over the goal to the write; what users feel begins with the load itself.
"""

import asyncio
import math
import os
import random
import time
from datetime import UTC, datetime, timedelta

from benchmarks.kube.daemon import Daemon, served
from benchmarks.outcome import percentile
from tests.fakes.kube_cluster import Cluster
from tests.fakes.kube_objects import Json
from tests.fakes.kubernetes import Server

COUNT = int(os.environ.get("SCALER_BENCH_DEPLOYMENTS", "100"))
SPAN_S = float(os.environ.get("SCALER_BENCH_REACTION_SECONDS", "300"))
WAVES = 12
EVERY_S = 15.0  # the metrics-server
GOAL = 0.35  # cores a pod: 70 % of the half that it requests
TOLERANCE = 0.1
CAP = 1.0  # cores that a pod can use
POLICY = """\
  {name}:
    every: 15s
    target: {{kubernetes: {name}}}
    metrics: [{{cpu: 70%, window: 0s}}]
    limits: {{max: 20, grow: {{at_most: 100, per: 1s}}}}
"""


class App:
    """One Deployment, its load, and when what happened."""

    def __init__(self, name: str, start_up: float, step_at: float | None, phase: float) -> None:
        self.name = name
        self.start_up = start_up
        self.step_at = step_at
        self._phase = phase
        self.over_at: float | None = None  # first sample that asks for more
        self.overshoot = 0.0
        self.peak = 0.0

    def cores(self, at: float) -> float:
        if self.step_at is not None:
            return 1.0 if at >= self.step_at else 0.3
        return 1.75 + 1.5 * math.sin(2 * math.pi * (at / 240 + self._phase))


class Run:
    """One daemon on one cluster."""

    def __init__(self, server: Server, cluster: Cluster, apps: list[App]) -> None:
        self.apps = {app.name: app for app in apps}
        self.samples: list[float] = []  # from the first sample to the write
        self.felt: list[float] = []  # from the step to the write
        self._server = server
        self._cluster = cluster
        self._ready: dict[str, int] = {}
        self._settled: dict[str, int] = {}
        self._seen = 0
        cluster.load = self.load
        cluster.start_up = lambda pod: self.apps[pod["metadata"]["labels"]["app"]].start_up
        cluster.scraped = self.scraped

    def load(self, pod: Json) -> tuple[float, int]:
        name = pod["metadata"]["labels"]["app"]
        conditions = pod["status"].get("conditions", ())
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        if not ready:
            return 0.0, 64 << 20
        return min(
            CAP, self.apps[name].cores(time.monotonic()) / max(1, self._ready[name])
        ), 1 << 26

    def count(self) -> None:
        """Who is ready, and who has been for a whole window: only their samples are of work."""
        found, settled = dict.fromkeys(self.apps, 0), dict.fromkeys(self.apps, 0)
        long_ago = datetime.now(UTC) - timedelta(seconds=EVERY_S + 1)
        for pod in self._server.all("Pod"):
            name = pod["metadata"]["labels"]["app"]
            for condition in pod["status"].get("conditions", ()):
                if condition["type"] == "Ready" and condition["status"] == "True":
                    found[name] += 1
                    since = datetime.fromisoformat(condition["lastTransitionTime"])
                    settled[name] += since < long_ago
        self._ready, self._settled = found, settled

    def scraped(self) -> None:
        """Who asks for more by the numbers that have just been published."""
        now = time.monotonic()
        for name, app in self.apps.items():
            replicas = self._server.get("Deployment", name)["spec"]["replicas"]
            ready = max(1, self._ready[name])
            used = min(CAP, app.cores(now) / ready)
            needed = math.ceil(used * self._settled.get(name, 0) / GOAL)
            asks = used / GOAL > 1 + TOLERANCE and needed > replicas
            app.over_at = (app.over_at or now) if asks else None

    def watch(self) -> None:
        """Match the writes since the last call with what they answer."""
        audit = self._server.audit
        for call in audit[self._seen :]:
            if call.subresource != "scale" or call.code >= 300 or not call.body:
                continue
            app = self.apps[call.name]
            if app.over_at is not None:
                self.samples.append(call.at - app.over_at)
                app.over_at = None
            if app.step_at is not None and call.at > app.step_at > 0:
                self.felt.append(call.at - app.step_at)
                app.step_at = -1.0  # answered
            app.peak = max(app.peak, call.body["spec"]["replicas"])
        self._seen = len(audit)


async def measure() -> dict[str, float]:
    """Seconds, and shares of 1 for the overshoot."""
    draw = random.Random(11)
    begin = time.monotonic() + 60
    apps = []
    for number in range(COUNT):
        wave = number < WAVES
        start_up = 10.0 * (1 + number % 6)
        step_at = None if wave else begin + draw.uniform(0, SPAN_S - 60)
        apps.append(App(f"web-{number}", start_up, step_at, draw.random()))
    async with served(metrics_every=EVERY_S, stop=5.0) as (server, cluster, folder):
        run = Run(server, cluster, apps)
        run._ready = dict.fromkeys(run.apps, 1)
        cluster.start_up = 0.1
        for app in apps:
            cluster.deploy(app.name)
        policies = "policies:\n" + "".join(POLICY.format(name=a.name) for a in apps)
        daemon = Daemon(folder / "d", server, policies, folder / "ca.crt")
        daemon.start()
        try:
            await daemon.ready(COUNT)
            cluster.start_up = lambda pod: run.apps[pod["metadata"]["labels"]["app"]].start_up
            await _pass(run, server, cluster, begin, draw)
        finally:
            daemon.stop()
    steps = [a for a in apps if a.step_at is not None]
    slow = [a.peak / math.ceil(1.0 / GOAL) - 1 for a in steps if a.start_up == 60 and a.peak]
    return {
        "answered_steps": len(run.felt),
        "sample_to_write_p50_s": round(percentile(run.samples, 0.5), 2),
        "sample_to_write_p95_s": round(percentile(run.samples, 0.95), 2),
        "step_to_write_p50_s": round(percentile(run.felt, 0.5), 1),
        "step_to_write_p90_s": round(percentile(run.felt, 0.9), 1),
        "overshoot_at_60_s_start_up_percent": round(100 * max(slow, default=0.0), 1),
    }


async def _pass(
    run: Run, server: Server, cluster: Cluster, begin: float, draw: random.Random
) -> None:
    """Let the time pass, with a deployment and an eviction of a wave now and then."""
    troubled = begin + 45
    while time.monotonic() < begin + SPAN_S:
        await asyncio.sleep(0.25)
        run.count()
        run.watch()
        if time.monotonic() > troubled:
            troubled += 45
            name = f"web-{draw.randrange(WAVES)}"
            server.update("Deployment", name, _new_image(str(troubled)))
            pods = cluster.ready(f"web-{draw.randrange(WAVES)}")
            if pods:
                server.delete("Pod", pods[0]["metadata"]["name"])
    run.watch()


def _new_image(image: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a change of an object
    def change(item: Json) -> None:
        item["spec"]["template"]["spec"]["containers"][0]["image"] = image

    return change
