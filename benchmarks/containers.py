"""A compose project under three waves of load: no request lost, and a clean project afterwards.

`web` stands behind HAProxy and is scaled 1 → 8 → 1 three times while one container is killed and
one hangs; `worker` is kept at two and one of them is killed; `db` has a volume of its own and must
be refused. The limit in the same run is what was sent: every request that fails counts. It needs
root, docker.io, haproxy, busybox-static and docker-compose.

SCALER_BENCH_WAVES and SCALER_BENCH_WAVE_S make it shorter.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.outcome import Outcome
from scaler.clock import SystemClock
from scaler.loadtest.plan import of_fields
from scaler.loadtest.report import Report
from scaler.loadtest.schedule import Schedule, wave
from scaler.loadtest.tester import LoadTester
from tests.integration.dockerd import BUSYBOX, PYTHON, Engine, busybox_files, linked
from tests.integration.ports import free_port
from tests.integration.running import Running, until

WAVES = int(os.environ.get("SCALER_BENCH_WAVES", "3"))
WAVE_S = float(os.environ.get("SCALER_BENCH_WAVE_S", "150"))
LOWEST, HIGHEST = 4.0, 130.0  # requests per second
LATENCIES = ("p50", "p90", "p99", "max")
HAPROXY = "haproxy:test"
COMPOSE = """\
version: "2.4"
services:
  lb:
    image: {haproxy}
    ports: ["127.0.0.1:{port}:8080"]
    volumes: ["{folder}/lb:/lb"]
  web:
    image: {python}
    command: [/bin/python3, /service.py, --host, 0.0.0.0, --port, "8000", --work-ms, "4"]
    cpus: 0.1
    mem_limit: 64m
    expose: ["8000"]
    volumes: [/scratch]
    healthcheck:
      test: [CMD, wget, -q, -O-, "http://127.0.0.1:8000/healthz"]
      interval: 2s
      timeout: 3s
      retries: 2
  worker:
    image: {busybox}
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    volumes: [/scratch]
  db:
    image: {busybox}
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]
    volumes: ["data:/data"]
volumes:
  data: {{}}
"""
BALANCER = """\
global
  stats socket /lb/admin.sock mode 600 level admin
  maxconn 2000
defaults
  mode http
  timeout connect 1s
  timeout client 20s
  timeout server 4s
  timeout queue 15s
  retries 4
  option redispatch 1
  retry-on all-retryable-errors
frontend in
  bind :8080
  default_backend web
backend web
  balance leastconn
"""
POLICIES = """\
version: 1
policies:
  web:
    every: 1s
    target:
      docker: {{service: web, project: soak, engine: "{url}", network: soak_default, port: 8000,
               grace: 5s}}
    metrics: [{{cpu: 60%, window: 6s}}]
    limits:
      max: 8
      settle_down: 10s
      grow: {{at_most: 100%, or: 4, per: 5s}}
      shrink: {{at_most: 50%, or: 1, per: 5s}}
      reversals: 100 per 1h
    balancer: {{haproxy: {{backend: web, socket: "{folder}/lb/admin.sock", drain: 20s}}}}
  worker:
    every: 1s
    target: {{docker: {{service: worker, project: soak, engine: "{url}"}}}}
    limits: {{min: 2, max: 2}}
  db:
    every: 1s
    target: {{docker: {{service: db, project: soak, engine: "{url}"}}}}
    limits: {{min: 2, max: 2}}
"""


def haproxy_files() -> Iterator[tuple[str, Path | bytes]]:
    """HAProxy of this machine with what it is linked to."""
    binary = Path(shutil.which("haproxy") or "/usr/sbin/haproxy")
    yield from busybox_files()
    yield "usr/sbin/haproxy", binary
    for library in sorted(linked(binary)):
        yield str(library).lstrip("/"), library


class Project:
    """The compose project, and what is seen of it while it runs."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.port = free_port()
        self.seen: list[int] = []  # how many web containers run, looked at again and again
        self.harmed: list[tuple[str, str, str]] = []  # policy, name, words of its restart
        self._end = threading.Event()

    def compose(self, *words: str, check: bool = True) -> str:
        ended = subprocess.run(
            ["docker-compose", "--project-name", "soak", "--file", "compose.yaml", *words],
            cwd=self.folder,
            env={**os.environ, "DOCKER_HOST": self.engine.url, "COMPOSE_ANSI": "never"},
            capture_output=True,
            text=True,
            check=check,
        )
        return ended.stdout

    def up(self) -> None:
        (self.folder / "lb").mkdir()
        (self.folder / "lb" / "haproxy.cfg").write_text(BALANCER)
        self.engine.load(
            HAPROXY, haproxy_files(), "/usr/sbin/haproxy", "-W", "-db", "-f", "/lb/haproxy.cfg"
        )
        written = COMPOSE.format(
            haproxy=HAPROXY, python=PYTHON, busybox=BUSYBOX, port=self.port, folder=self.folder
        )
        (self.folder / "compose.yaml").write_text(written)
        self.compose("up", "--detach")

    def names(self, service: str, *filters: str) -> list[str]:
        return self.engine.names(f"label=com.docker.compose.service={service}", *filters)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as door:
                door.settimeout(5)
                door.sendall(b"GET /work HTTP/1.0\r\n\r\n")
                return door.recv(64).startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
        except OSError:
            return False

    def watch(self) -> None:
        while not self._end.wait(1):
            self.seen.append(len(self.names("web", "status=running")))

    def harm(self) -> None:
        """One is killed, one hangs, each at the height of a wave, and so is a worker."""
        if not self._end.wait(0.45 * WAVE_S):
            for service in ("web", "worker"):
                name = self._clone(service)
                self.harmed.append((service, name, "SIGKILL"))
                self.engine.docker("kill", "--signal", "KILL", name, check=False)
        if not self._end.wait(WAVE_S if WAVES > 1 else 0.05 * WAVE_S):
            name = self._clone("web")
            self.harmed.append(("web", name, "unhealthy: health check: Health check exceeded"))
            ask = ("wget", "-q", "-O-", "http://127.0.0.1:8000/hang")
            self.engine.docker("exec", "--detach", name, *ask, check=False)

    def _clone(self, service: str) -> str:
        """The newest one."""
        return max(self.names(service, "status=running"), key=lambda n: int(n.rsplit("_", 1)[-1]))

    def end(self) -> None:
        self._end.set()


async def load(port: int) -> Report:
    plan = of_fields(
        {
            "target": f"http://127.0.0.1:{port}",
            "load": {"rate": f"{HIGHEST:g}/s"},
            "scenario": [{"path": "/work"}],
            "timeouts": {"first_byte": "20s", "whole": "20s"},
            "bounds": {"in_flight": 1000, "connections": 1000},
            "keep_alive": False,
        }
    )
    waves = Schedule(wave(LOWEST, HIGHEST, WAVE_S, WAVES * WAVE_S), seed=7)
    return await LoadTester(plan, clock=SystemClock(), schedule=waves).run()


def run() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="soak", dir="/tmp") as folder:
        engine = Engine()
        try:
            engine.start()
            return soaked(Project(engine, Path(folder)))
        finally:
            engine.stop()


def soaked(project: Project) -> Outcome:
    project.up()
    home = project.folder / "scaler"
    home.mkdir()
    scaler = Running(home)
    scaler.write("soak", POLICIES.format(url=project.engine.url, folder=project.folder))
    with (project.folder / "scaler.log").open("wb") as log:
        scaler.start(stderr=log)
    threads = [threading.Thread(target=work) for work in (project.watch, project.harm)]
    try:
        until(project.answers, "HAProxy sends requests to web", 60)
        for thread in threads:
            thread.start()
        result = asyncio.run(load(project.port))
        until(lambda: len(project.names("web")) == 1, "web is back at one", 120)
        time.sleep(2)
        return judged(project, scaler, result)
    finally:
        project.end()
        for thread in threads:
            if thread.ident:
                thread.join()
        scaler.clear()
        if kept := os.environ.get("SCALER_BENCH_KEEP"):
            shutil.copytree(project.folder, kept, dirs_exist_ok=True, ignore=ignored)


def ignored(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".sock", "s"))]


def judged(project: Project, scaler: Running, result: Report) -> Outcome:
    history = json.loads(scaler.ask("history", "--limit", "10000", "--json").stdout)
    decided = [e["decision"] for e in history if e.get("decision") and e["target"] == "web"]
    shrinks = [d for d in decided if d["desired"] < d["current"]]
    restarts = [
        (e["target"], r["instance"], r["because"])
        for e in history
        for r in (e.get("decision") or {"restarts": ()})["restarts"]
    ]
    healed = [
        one
        for one in project.harmed
        if any(one[:2] == done[:2] and one[2] in done[2] for done in restarts)
    ]
    listed = project.compose("ps")
    engine = project.engine
    outcome = Outcome()
    volumes = anonymous(engine)
    used = sum(
        mount.get("Type") == "volume" and len(str(mount.get("Name"))) == 64
        for name in engine.names()
        for mount in list_of(engine.inspect(name)["Mounts"])
    )
    outcome.figures = {
        "due": result.record.due,
        "failures": dict(result.record.failures),
        "doubts": result.doubts(),
        **{f"{k}_ms": round(1000 * result.figures().get(k, 0), 1) for k in LATENCIES},
        "peaks": peaks(project.seen),
        "scale_ins": len(shrinks),
        "removed": sum(d["current"] - d["desired"] for d in shrinks),
        "restarts": [f"{name}: {because}" for _, name, because in restarts],
        "db": scaler.status()["db"]["trouble"],
        "compose_ps": listed.strip().splitlines()[2:],
    }
    outcome.goal("requests", result.record.due, least=20_000 if WAVES >= 3 else 1)
    outcome.goal("requests failed", result.record.errors, most=0)
    outcome.goal(
        "waves that reached 8", sum(peak >= 8 for peak in peaks(project.seen)), least=WAVES
    )
    outcome.goal("instances removed under load", outcome.figures["removed"], least=7 * WAVES - 1)
    outcome.goal("killed and hung containers that were restarted", len(healed), least=3)
    outcome.goal("db containers", len(project.names("db")), most=1)
    outcome.goal("left in created", len(engine.names("status=created")), most=0)
    outcome.goal("anonymous volumes beyond those in use", volumes - used, most=0)
    unclean = [line for line in outcome.figures["compose_ps"] if " Up" not in line]
    outcome.goal("lines of compose ps that are not up", len(unclean), most=0)
    project.compose("down", "--volumes")
    outcome.goal("containers left after compose down", len(engine.names()), most=0)
    return outcome


def list_of(value: object) -> list[dict[str, Any]]:
    assert isinstance(value, list)
    return value


def anonymous(engine: Engine) -> int:
    listed = engine.docker("volume", "ls", "--format", "{{.Name}}").stdout.split()
    return sum(len(name) == 64 for name in listed)


def peaks(seen: list[int]) -> list[int]:
    """The most containers in each wave."""
    length = int(WAVE_S)
    return [max(seen[n * length : (n + 1) * length], default=0) for n in range(WAVES)]
