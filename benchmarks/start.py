"""What starting costs: CPU of `scaler --version`, and memory of a daemon with local policies.

The limit in the same run is the bare interpreter: `python -c pass`, and one that sleeps.
"""

import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.outcome import Outcome

SCALER = str(Path(sys.executable).with_name("scaler"))
RUNS = 9
# Without rich, which structlog loads when a development tool has brought it along.
AS_INSTALLED = "import sys; sys.modules['rich'] = None; from scaler.__main__ import main; main()"
POLICY = """\
policies:
  {name}:
    target: {{local: {{command: [sleep, "600"], on_exit: stop}}}}
    metrics: [{{cpu: 70%}}]
"""


def cpu_ms(*command: str) -> float:
    """CPU time of a command and of everything it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def daemon_rss() -> tuple[float, float]:
    """Memory of a daemon with three local policies after ten seconds, and of a bare interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        policies = Path(folder) / "policies"
        policies.mkdir()
        for name in ("web", "api", "worker"):
            (policies / f"{name}.yaml").write_text(POLICY.format(name=name))
        environment = {**os.environ, "SCALER_STATE_DIR": f"{folder}/state"}
        daemon = subprocess.Popen(
            [
                sys.executable,
                "-c",
                AS_INSTALLED,
                "--socket",
                f"{folder}/s.sock",
                "run",
                str(policies),
            ],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        bare = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        try:
            time.sleep(10)
            return rss_mib(daemon.pid), rss_mib(bare.pid)
        finally:
            bare.kill()
            bare.wait()
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


def run() -> Outcome:
    version, bare = [], []
    for _ in range(RUNS):
        version.append(cpu_ms(SCALER, "--version"))
        bare.append(cpu_ms(sys.executable, "-c", "pass"))
    memory, bare_memory = daemon_rss()
    outcome = Outcome()
    outcome.figures = {
        "version_cpu_ms": round(statistics.median(version), 1),
        "bare_python_cpu_ms": round(statistics.median(bare), 1),
        "run_rss_mib": round(memory, 1),
        "bare_python_rss_mib": round(bare_memory, 1),
    }
    outcome.goal("CPU of scaler --version in ms", outcome.figures["version_cpu_ms"], most=120)
    outcome.goal("memory of an idle scaler run in MiB", outcome.figures["run_rss_mib"], most=60)
    return outcome
