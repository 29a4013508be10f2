"""Other load testers, each on one core of its own: what it prints, read into the same figures.

Latencies are in seconds. `per_cpu_s` are answers per CPU-second of the client, the cost of its
start-up taken off where that is not next to nothing (k6, Locust).
"""

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from typing import Any, Final

from benchmarks.loadbench.places import client, python_client

Figures = dict[str, float]
Peer = Callable[[str, float], Figures]

CONNECTIONS: Final = 64
UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
PERCENTILES: Final = ("50", "90", "99")
K6: Final = """\
import http from 'k6/http';
export const options = {discardResponseBodies: true, summaryTrendStats: ['p(50)', 'p(90)', 'p(99)'],
  scenarios: {one: SCENARIO}};
export default function () { http.get('URL'); }
export function handleSummary(data) { return {stdout: JSON.stringify(data.metrics)}; }
"""


def there() -> dict[str, bool]:
    """Which of them are installed."""
    names = ("wrk", "wrk2", "ab", "hey", "k6")
    locust = importlib.util.find_spec("locust") is not None
    return {**{name: shutil.which(name) is not None for name in names}, "locust": locust}


def wrk(url: str, seconds: float) -> Figures:
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--latency", url]
    return _of_wrk(*client(words), seconds)


def wrk2(url: str, seconds: float, rate: float) -> Figures:
    """It leaves out its first ten seconds, unless the run ends before; these do."""
    words = ["wrk2", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", f"-R{rate:g}", "-L", url]
    return _of_wrk(*client(words), seconds)


def _of_wrk(printed: str, cpu: float, seconds: float) -> Figures:
    spans = dict(
        re.findall(r"^ *(\d+)(?:\.000)?% +([\d.]+(?:us|ms|s|m)) *$", printed, re.MULTILINE)
    )
    # wrk2 has some of them finer, too: in place of 1.02s it is 1021.951 ms
    lines = re.findall(r"^ +([\d.]+) +0\.(\d{6}) ", printed, re.MULTILINE)
    finer = {share: float(ms) / 1000 for ms, share in lines}
    total = re.search(r"(\d+) requests in", printed)
    count = float(total[1]) if total else 0.0
    found = {f"p{n}": finer.get(n.ljust(6, "0"), _span(spans[n])) for n in PERCENTILES}
    return {**found, "rate": count / seconds, "per_cpu_s": count / cpu}


def _span(written: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", written).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def ab(url: str, seconds: float) -> Figures:
    """Whole milliseconds; HTTP/1.0 with connections kept."""
    words = ["ab", "-q", "-k", f"-c{CONNECTIONS}", "-n100000000", f"-t{seconds:g}", url]
    printed, cpu = client(words)
    spans = dict(re.findall(r"^ +(\d+)% +(\d+)", printed, re.MULTILINE))
    total = re.search(r"Complete requests: +(\d+)", printed)
    count = float(total[1]) if total else 0.0
    found = {f"p{name}": float(spans[name]) / 1000 for name in PERCENTILES}
    return {**found, "rate": count / seconds, "per_cpu_s": count / cpu}


def hey(url: str, seconds: float, rate: float = 0.0) -> Figures:
    """With a rate, each of 50 workers has its part of it and drops what it cannot keep up with."""
    workers = 50 if rate else CONNECTIONS
    limit = ["-q", f"{rate / workers:g}"] if rate else []
    printed, cpu = client(["hey", "-z", f"{seconds:g}s", "-c", str(workers), *limit, url])
    spans = dict(re.findall(r"(\d+)%+ in ([\d.]+) secs", printed))
    each = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    total = re.search(r"Total:\s+([\d.]+) secs", printed)
    count = float(each[1]) * float(total[1]) if each and total else 0.0
    found = {f"p{name}": float(spans[name]) for name in PERCENTILES}
    return {**found, "rate": count / seconds, "per_cpu_s": count / cpu}


def k6(url: str, seconds: float, rate: float = 0.0) -> Figures:
    """Users in a closed loop; with a rate, arrivals that as many users serve."""
    scenario: dict[str, Any] = {"executor": "constant-vus", "vus": CONNECTIONS}
    if rate:
        users = {"preAllocatedVUs": CONNECTIONS, "maxVUs": CONNECTIONS}
        scenario = {"executor": "constant-arrival-rate", "rate": rate, **users}
    metrics, cpu = _k6(url, {**scenario, "duration": f"{seconds:g}s"})
    once = {"executor": "per-vu-iterations", "vus": CONNECTIONS, "iterations": 1}
    _, starting = _k6(url, once)
    spans = metrics["http_req_duration"]["values"]
    count = metrics["http_reqs"]["values"]["count"]
    found = {f"p{name}": spans[f"p({name})"] / 1000 for name in PERCENTILES}
    return {**found, "rate": count / seconds, "per_cpu_s": count / max(cpu - starting, 0.01)}


def _k6(url: str, scenario: dict[str, Any]) -> tuple[dict[str, Any], float]:
    script = K6.replace("SCENARIO", json.dumps(scenario)).replace("URL", url)
    printed, cpu = client(["k6", "run", "--quiet", "--no-usage-report", "-"], given=script)
    metrics: dict[str, Any] = json.loads(printed[printed.index("{") :])
    return metrics, cpu


def locust(url: str, seconds: float, rate: float = 0.0) -> Figures:
    """FastHttpUser; with a rate, each of 50 users keeps its part of it while it can."""
    users = 50 if rate else CONNECTIONS
    return python_client("locust_peer", url=url, users=users, seconds=seconds, rate=rate)


def aiohttp(url: str, seconds: float) -> Figures:
    return python_client("plain_aiohttp", url=url, users=CONNECTIONS, seconds=seconds)
