"""Kubernetes: reaction beside the HPA's, sidecars, a thousand Deployments, and a server in trouble.

Everything runs on the fake API server with simulated controllers; what stands beside it as the
HPA's was measured on a real 1.36.2 control plane with two cores (metrics every 15 s, a step of load
from one to three replicas, 50 steps at random moments). Takes about thirteen minutes; the variables
SCALER_BENCH_... shorten it.
"""

import asyncio
import json
import subprocess
import sys

from benchmarks.kube import reaction, sidecar, size
from benchmarks.outcome import Outcome

HPA = {
    "hpa_100_objects_step_to_write_p50_s": 11.6,
    "hpa_100_objects_step_to_write_p90_s": 18.6,
    "hpa_1000_objects_step_to_write_p50_s": 32.0,
    "hpa_1000_objects_step_to_write_p90_s": 53.4,
}
OUTAGE = """
import asyncio, json
from benchmarks.kube import outage
print(json.dumps(asyncio.run(outage.measure())))
"""


def run() -> Outcome:
    outcome = Outcome()
    aside = subprocess.Popen([sys.executable, "-c", OUTAGE], stdout=subprocess.PIPE, text=True)
    try:
        found: dict[str, float] = {}
        found |= asyncio.run(reaction.measure())
        found |= HPA
        found |= asyncio.run(sidecar.measure())
        found |= asyncio.run(size.measure())
        printed, _ = aside.communicate()
    finally:
        aside.kill()
    troubles: dict[str, float] = json.loads(printed)
    outcome.figures = {**found, **troubles}
    shrunk = sum(count for name, count in troubles.items() if name.endswith("scale-ins"))
    back = max(span for name, span in troubles.items() if name.endswith("again_after_s"))
    asked = max(rate for name, rate in troubles.items() if name.endswith("per_min"))
    goal = outcome.goal
    goal("first sample over the goal to the write, p95, s", found["sample_to_write_p95_s"], most=16)
    goal("age of the sample at the write, p95, s", found["sample_to_write_p95_s"], most=1)
    goal("overshoot at 60 s start-up, %", found["overshoot_at_60_s_start_up_percent"], most=10)
    goal("step to write by sidecars, p95, s", found["sidecar_step_to_write_p95_s"], most=3)
    goal("memory of a sidecar, MiB", found["sidecar_rss_max_mib"], most=64)
    goal("take-over after the acting pod ends, s", found["sidecar_taken_over_after_s"], most=16)
    goal("memory with 10,000 pods, MiB", found["steady_rss_mib"], most=150)
    goal(
        "requests, % of one per target and 15 s", found["requests_share_of_naive_percent"], most=10
    )
    goal("scale-ins while nothing is known", shrunk, most=0)
    goal("right again after a trouble, s", back, most=5)
    goal("requests a minute of 20 targets in trouble", asked, most=240)
    return outcome
