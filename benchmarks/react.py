"""How soon a death, a sick container and a step of load are acted upon.

Deaths: from SIGKILL of a container's first process to the decision to start it again, beside what
the engine itself needs to tell of it. Sickness:
from the engine's `unhealthy` to the decision, beside a loop that asks every five seconds as
docker-autoheal does (that one itself is a container image, which cannot be had here; it sees no
deaths at all). Steps: from the moment load begins to the moment a new container has been started
by the engine, at an interval of one second, beside what the engine needs for a start by itself;
once with a number that jumps (requests waiting, by HTTP), which the goal is for, and once with CPU:
that is the mean of an interval, so against a goal of 50 % with 10 % tolerance a step is seen by the
first look that has 55 % of its interval behind it, up to 1.55 s later. It needs root,
docker.io and busybox-static.

SCALER_BENCH_ROUNDS says how often each is tried.
"""

import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from docker.api.client import APIClient

from benchmarks.outcome import Outcome
from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.running import Running, until

ROUNDS = int(os.environ.get("SCALER_BENCH_ROUNDS", "20"))
POLL_S = 5.0  # AUTOHEAL_INTERVAL of docker-autoheal
IDLE = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"
HEALTH = ("--health-cmd", "test ! -e /tmp/sick", "--health-interval", "5s", "--health-retries", "1")
POLICIES = """\
version: 1
policies:
  dying:
    every: 5s
    target: {{docker: {{container: dying, engine: "{url}"}}}}
    limits: {{min: {rounds}, max: {rounds}, grow: {{at_most: {rounds}, per: 1s}}}}
  sick:
    every: 5s
    target: {{docker: {{container: sick, engine: "{url}"}}}}
    limits: {{min: {rounds}, max: {rounds}, grow: {{at_most: {rounds}, per: 1s}}}}
  queue:
    every: 1s
    target: {{docker: {{container: queue, engine: "{url}"}}}}
    metrics:
      - name: waiting
        source: {{http: {{url: "http://127.0.0.1:{port}/", json: "$.waiting"}}}}
        goal: {{per_instance: 10}}
        window: 0s
    limits: {{max: 2, settle_down: 0s, reversals: 100 per 1h, shrink: {{at_most: 100%, per: 1s}}}}
  busy:
    every: 1s
    target: {{docker: {{container: busy, engine: "{url}"}}}}
    metrics: [{{cpu: 50%, window: 0s}}]
    limits: {{max: 2, settle_down: 0s, reversals: 100 per 1h, shrink: {{at_most: 100%, per: 1s}}}}
"""


class Gauge(BaseHTTPRequestHandler):
    """How many requests wait, as an application would tell it."""

    waiting = 0

    def do_GET(self) -> None:
        body = json.dumps({"waiting": type(self).waiting}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


class Bench:
    """An engine, a daemon, and what is asked of both."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.api = APIClient(base_url=engine.url, version="auto")
        self.gauge = HTTPServer(("127.0.0.1", 0), Gauge)
        threading.Thread(target=self.gauge.serve_forever, daemon=True).start()
        for name in ("dying", "queue", "busy"):
            engine.run(name, "--cpus", "0.5", BUSYBOX, "sh", "-c", IDLE)
        engine.run("sick", *HEALTH, BUSYBOX, "sh", "-c", IDLE)
        self.scaler = Running(folder)
        port = self.gauge.server_port
        self.scaler.write("all", POLICIES.format(url=engine.url, port=port, rounds=ROUNDS))
        self.scaler.start()
        for name, count in (("dying", ROUNDS), ("sick", ROUNDS), ("queue", 1), ("busy", 1)):
            self.wait_for(name, count)
        until(
            lambda: all(
                "(healthy)" in c["Status"] for c in self.api.containers() if "sick" in c["Names"][0]
            ),
            "the sick are well before they fall ill",
            60,
        )

    def wait_for(self, name: str, count: int) -> None:
        until(lambda: len(self.scaler.instances(name)) == count, f"{count} {name}", 120)

    def close(self) -> None:
        self.scaler.clear()
        self.gauge.shutdown()
        self.gauge.server_close()
        self.api.close()

    def decisions(self, name: str, since: float) -> list[tuple[float, dict[str, Any]]]:
        moment = datetime.fromtimestamp(since).astimezone().isoformat()
        told = self.scaler.ask("history", name, "--since", moment, "--json", "--limit", "10000")
        entries = json.loads(told.stdout)
        return [
            (datetime.fromisoformat(e["at"]).timestamp(), e["decision"])
            for e in entries
            if e.get("decision")
        ]

    def restarted(self, name: str, instance: str, since: float) -> float:
        """When it was decided to start this one again."""
        found = until(
            lambda: [
                at
                for at, decision in self.decisions(name, since)
                if any(r["instance"] == instance for r in decision["restarts"])
            ],
            f"{instance} is restarted",
        )
        return float(found[0])

    def death(self, instance: str) -> tuple[float, float]:
        """Until our decision, and until the engine says so."""
        pid = self.api.inspect_container(instance)["State"]["Pid"]
        begin = time.time()
        os.kill(pid, signal.SIGKILL)
        took = self.restarted("dying", instance, begin - 1) - begin
        until(lambda: instance in self.scaler.instances("dying"), "it runs again")
        asked = {"container": instance, "event": "die"}
        [event] = self.api.events(since=begin, until=time.time(), decode=True, filters=asked)
        return 1000 * took, 1000 * (event["timeNano"] / 1e9 - begin)

    def sickness(self, instance: str) -> tuple[float, float]:
        """Until our decision, and until one who asks every five seconds would have seen it."""
        begin = time.time()
        polls = begin + POLL_S * (hash(instance) % 1000) / 1000
        self.engine.docker("exec", instance, "touch", "/tmp/sick")
        turned = next(
            event["timeNano"] / 1e9
            for event in self.api.events(
                since=begin, decode=True, filters={"container": instance, "event": "health_status"}
            )
            if event["status"].endswith("unhealthy")
        )
        at = self.restarted("sick", instance, begin - 1)
        while polls < turned:
            polls += POLL_S
        self.engine.docker("exec", instance, "rm", "-f", "/tmp/sick", check=False)
        return 1000 * (at - turned), 1000 * (polls - turned)

    def step(
        self, name: str, begin_load: Callable[[], None], end_load: Callable[[], None]
    ) -> float:
        before = {c["Id"] for c in self.named(name)}
        begin = time.time()
        begin_load()
        new = until(
            lambda: [
                c["Id"]
                for c in self.named(name)
                if c["Id"] not in before and c["State"] == "running"
            ],
            "a new container",
        )
        end_load()
        started = self.api.inspect_container(new[0])["State"]["StartedAt"]
        took = datetime.fromisoformat(started[:26] + "+00:00").timestamp() - begin
        until(lambda: len(self.named(name)) == 1, f"{name} is back at one")
        return 1000 * took

    def named(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.api.containers(all=True, filters={"name": name})
        return found

    def start(self) -> float:
        """What the engine needs for a container like the others."""
        begin = time.time()
        made = self.api.create_container(BUSYBOX, ["sh", "-c", IDLE])
        self.api.start(made)
        started = self.api.inspect_container(made)["State"]["StartedAt"]
        took = datetime.fromisoformat(started[:26] + "+00:00").timestamp() - begin
        self.api.remove_container(made, force=True, v=True)
        return 1000 * took

    def queue_step(self) -> float:
        def waiting(count: int) -> None:
            Gauge.waiting = count

        return self.step("queue", lambda: waiting(20), lambda: waiting(0))

    def busy_step(self) -> float:
        def burn() -> None:
            self.engine.docker("exec", "--detach", "busy", "sh", "-c", "while :; do :; done")

        def rest() -> None:
            for line in self.api.top("busy")["Processes"]:
                if "while :; do :; done" in line[-1]:
                    os.kill(int(line[1]), signal.SIGKILL)

        return self.step("busy", burn, rest)


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)]


def run() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="react", dir="/tmp") as folder:
        engine = Engine()
        bench = None
        try:
            engine.start()
            bench = Bench(engine, Path(folder))
            return measured(bench)
        finally:
            if bench is not None:
                bench.close()
            engine.stop()


def measured(bench: Bench) -> Outcome:
    deaths, told, ours, polled, starts, queues, busy = [], [], [], [], [], [], []
    dying, sick = sorted(bench.scaler.instances("dying")), sorted(bench.scaler.instances("sick"))
    for one, other in zip(dying, sick, strict=True):
        took, engine = bench.death(one)
        deaths.append(took)
        told.append(engine)
        mine, theirs = bench.sickness(other)
        ours.append(mine)
        polled.append(theirs)
        starts.append(bench.start())
        queues.append(bench.queue_step())
        busy.append(bench.busy_step())
    outcome = Outcome()
    columns = {
        "death_to_decision": deaths,
        "death_to_event_of_the_engine": told,
        "unhealthy_to_decision": ours,
        "unhealthy_to_next_poll_of_5s": polled,
        "engine_start": starts,
        "queue_step_to_started": queues,
        "cpu_step_to_started": busy,
    }
    for name, values in columns.items():
        outcome.figures[f"{name}_p50_ms"] = round(statistics.median(values), 1)
        outcome.figures[f"{name}_p95_ms"] = round(p95(values), 1)
    start = outcome.figures["engine_start_p95_ms"]
    goals = outcome.figures
    outcome.goal("p95 from death to decision in ms", goals["death_to_decision_p95_ms"], most=100)
    value = goals["queue_step_to_started_p95_ms"]
    name = "p95 from a step of load to a started container in ms, engine included"
    outcome.goal(name, value, most=round(1000 + start, 1))
    return outcome
