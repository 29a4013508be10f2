"""`scaler run` with Docker: killed at any moment, and with containers that fail or are sick."""

import json
import time
from datetime import datetime
from itertools import pairwise

import pytest

from tests.integration.dockerd import BUSYBOX, Engine
from tests.integration.harbour import ALONE, SLEEP
from tests.integration.running import Running, until

pytestmark = pytest.mark.live

POLICY = """\
policies:
  web:
    every: 500ms
    target: {{docker: {{container: web, engine: "{url}"}}}}
    limits: {{min: {count}, max: {count}}}
    health: {health}
"""


def write(running: Running, engine: Engine, count: int, health: str = "{}") -> None:
    running.write("web", POLICY.format(url=engine.url, count=count, health=health))


def started(engine: Engine) -> dict[str, str]:
    """When each running container was started, by name."""
    names = engine.names("status=running")
    if not names:
        return {}
    form = "{{.Name}} {{.State.StartedAt}}"
    lines = engine.docker("inspect", "--format", form, *names, check=False).stdout.splitlines()
    return {line.split()[0].lstrip("/"): line.split()[1] for line in lines}


def restarts(running: Running) -> list[datetime]:
    """When the daemon asked for the restart of anything."""
    told = json.loads(running.ask("history", "web", "--json", "--limit", "1000").stdout)
    entries = told["entries"] if isinstance(told, dict) else told
    return [
        datetime.fromisoformat(e["at"]) for e in entries if "platform to restart" in e["summary"]
    ]


def test_a_daemon_that_is_killed_again_and_again_arrives_at_its_count(
    running: Running, engine: Engine
) -> None:
    engine.run("web", *ALONE, *SLEEP)
    write(running, engine, 6)
    for wait_s in (0.0, 0.3, 0.6, 1.0, 1.5):
        running.start()
        time.sleep(wait_s)  # the moment is what is tested
        running.kill()
    running.start()
    until(lambda: len(running.instances("web")) == 6, "six are there")
    before = started(engine)
    running.kill()
    running.start()
    until(lambda: len(running.instances("web")) == 6, "they are found again")
    assert started(engine) == before
    assert len(engine.names()) == 6, "nothing doubled, no corpses"
    assert running.stop() == 0
    assert started(engine) == before, "what runs goes on without a daemon"


def test_what_always_fails_is_started_with_back_off(running: Running, engine: Engine) -> None:
    engine.run("web", "--network=none", BUSYBOX, "sh", "-c", "sleep 0.1; exit 3")
    write(running, engine, 1)
    running.start()
    until(lambda: len(restarts(running)) >= 5, "it is started five times")
    at = restarts(running)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(at)]
    assert all(gap >= least for gap, least in zip(gaps, (0.9, 1.9, 3.9, 7.9), strict=False)), gaps
    shown = running.ask("explain", "web").stdout
    assert "ended with 3; started" in shown
    assert running.stop() == 0


def test_ten_that_are_found_sick_together_restart_one_canary(
    running: Running, engine: Engine
) -> None:
    """Their health hangs on one file, as it would on a service that all of them need."""
    folder = engine.folder / f"shared{time.monotonic_ns()}"
    folder.mkdir()
    (folder / "up").touch()
    check = ("--health-cmd=test -e /shared/up", "--health-interval=3s", "--health-retries=2")
    engine.run("web", *ALONE, f"--volume={folder}:/shared:ro", *check, *SLEEP)
    write(running, engine, 10, "{restart: {backoff: 100ms..1s}}")
    running.start()
    until(lambda: len(engine.names("health=healthy")) == 10, "ten are healthy", 90)
    before = started(engine)
    assert running.ask("pause", "web").returncode == 0  # each is found by a check of its own
    (folder / "up").unlink()
    until(lambda: len(engine.names("health=unhealthy")) == 10, "all are sick", 60)
    assert restarts(running) == []
    assert running.ask("resume", "web").returncode == 0
    until(lambda: restarts(running), "a canary is restarted", 60)
    until(lambda: len(engine.names("health=unhealthy")) == 10, "it is as sick as before", 60)
    time.sleep(10)  # ten times the longest back-off, in which nothing is to happen
    after = started(engine)
    assert len([name for name in before if before[name] != after.get(name)]) == 1
    assert len(restarts(running)) == 1
    (folder / "up").touch()
    until(lambda: len(engine.names("health=healthy")) == 10, "all are well again", 60)
    assert running.stop() == 0
