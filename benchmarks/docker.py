"""What an idle daemon with many containers costs: CPU and memory, looking every five seconds.

SCALER_BENCH_CONTAINERS (200) containers of a Docker engine of its own, one policy, no change. The
measured minute begins when the daemon has seen them all. The figure to compare with is a bare list
of the same containers, once for each look: what a daemon without events would do at least.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.outcome import Outcome
from benchmarks.start import AS_INSTALLED, rss_mib
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import SCALER, until

COUNT = int(os.environ.get("SCALER_BENCH_CONTAINERS", "200"))
SPAN_S = float(os.environ.get("SCALER_BENCH_SECONDS", "60"))
LOOKS = 12  # in a minute
SETTLE_S = 10.0
POLICY = """\
policies:
  web:
    target: {{docker: {{label: bench, engine: "{url}"}}}}
    metrics: [{{cpu: 70%}}, {{memory: 80%}}]
    limits: {{min: {count}, max: {count}}}
"""
LISTS = """
import sys, time
from docker.api.client import APIClient
api = APIClient(base_url=sys.argv[1], version="auto")
api.containers(all=True)
before = time.process_time()
for _ in range(int(sys.argv[2])):
    api.containers(all=True)
print(time.process_time() - before)
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(engine: Engine, folder: Path) -> tuple[float, float]:
    """CPU of the measured span as a share of a core, and MiB at its end."""
    policies = folder / "policies"
    policies.mkdir()
    (policies / "web.yaml").write_text(POLICY.format(url=engine.url, count=COUNT))
    socket = str(folder / "s.sock")
    environment = {**os.environ, "SCALER_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-c", AS_INSTALLED, "--socket", socket, "run", str(policies)]
    daemon = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def sees_all() -> bool:
        asked = [SCALER, "--socket", socket, "status", "--json"]
        answer = subprocess.run(asked, env=environment, capture_output=True, check=False).stdout
        return bool(answer) and json.loads(answer)["targets"][0]["wanted"] == COUNT

    try:
        until(sees_all, "the daemon sees all containers", 120)
        time.sleep(SETTLE_S)
        before, began = cpu_s(daemon.pid), time.monotonic()
        time.sleep(SPAN_S)
        share = (cpu_s(daemon.pid) - before) / (time.monotonic() - began)
        return share, rss_mib(daemon.pid)
    finally:
        daemon.terminate()
        daemon.wait(60)


def run() -> Outcome:
    engine = Engine()
    outcome = Outcome()
    try:
        engine.start()
        for number in range(COUNT):
            engine.run(f"b-{number}", "--network=none", "--label=bench", BUSYBOX, "sleep", "100000")
        with tempfile.TemporaryDirectory() as folder:
            share, memory = idle(engine, Path(folder))
        lists = subprocess.run(
            [sys.executable, "-c", LISTS, engine.url, str(LOOKS)],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        engine.stop()
    outcome.figures = {
        "containers": COUNT,
        "idle_cpu_percent": round(100 * share, 2),
        "lists_only_cpu_percent": round(100 * float(lists.stdout) / 60, 2),
        "idle_rss_mib": round(memory, 1),
    }
    outcome.goal("CPU of an idle daemon, % of a core", outcome.figures["idle_cpu_percent"], most=1)
    outcome.goal("memory of an idle daemon in MiB", outcome.figures["idle_rss_mib"], most=80)
    return outcome
