"""What a thousand Deployments with ten thousand pods cost while nothing happens."""

import asyncio
import os
import time
from collections import Counter

from benchmarks.kube.daemon import Daemon, served

TARGETS = int(os.environ.get("SCALER_BENCH_TARGETS", "1000"))
PODS_EACH = 10
SPAN_S = float(os.environ.get("SCALER_BENCH_SECONDS", "60"))
SETTLE_S = 45.0
NAIVE_PER_MIN = 4  # requests of one target that asks for its own metrics every 15 s
POLICY = """\
  web-{n}:
    every: 15s
    target: {{kubernetes: web-{n}}}
    metrics: [{{cpu: 70%}}]
    limits: {{min: {pods}, max: 20}}
"""


async def measure() -> dict[str, float]:
    """CPU in percent of a core, memory in MiB, requests a minute."""
    async with served(start_up=0.05, metrics_every=15.0) as (server, cluster, folder):
        cluster.load = lambda _: (0.35, 128 << 20)
        for number in range(TARGETS):
            cluster.deploy(f"web-{number}", PODS_EACH)
            await asyncio.sleep(0)
        async with asyncio.timeout(300):
            while len(server.metrics) < TARGETS * PODS_EACH:
                await asyncio.sleep(1)
        policies = "policies:\n" + "".join(
            POLICY.format(n=n, pods=PODS_EACH) for n in range(TARGETS)
        )
        daemon = Daemon(folder / "d", server, policies, folder / "ca.crt")
        daemon.start()
        try:
            await daemon.ready(TARGETS)
            await asyncio.sleep(SETTLE_S)
            calls, used, began = len(server.audit), daemon.cpu_s, time.monotonic()
            await asyncio.sleep(SPAN_S)
            took = time.monotonic() - began
            made = server.audit[calls:]
            used = daemon.cpu_s - used
            memory = daemon.rss_mib
        finally:
            daemon.stop()
    by_kind = Counter(f"{c.verb} {c.what}" for c in made)
    per_min = 60 * len(made) / took
    return {
        "targets": TARGETS,
        "pods": TARGETS * PODS_EACH,
        "steady_cpu_percent": round(100 * used / took, 1),
        "steady_rss_mib": round(memory, 1),
        "requests_per_min": round(per_min, 1),
        "requests_share_of_naive_percent": round(100 * per_min / (TARGETS * NAIVE_PER_MIN), 2),
        **{f"requests {what}": count for what, count in by_kind.most_common(4)},
    }
