"""`scaler run` for real: load, kills, reloads, commands, a full disk, a full pipe."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from scaler.core.decide import decide
from scaler.core.journal import entry_from_json, policy_of
from tests.integration.ports import free_ports
from tests.integration.running import SERVICE, SLEEPER, Running, until

pytestmark = pytest.mark.live

WEB = """\
policies:
  web:
    every: 500ms
    target:
      local:
        command: [python3, {service}, --port, "{{port}}", --work-ms, "10"]
        port: {ports}
        cpu: 0.2
        grace: 2s
    metrics: [{{cpu: 60%, window: 2s}}]
    limits: {{min: 1, max: 3, settle_down: 3s, shrink: {{at_most: 100%, per: 1s}}}}
    health:
      readiness: {{http: {{path: /readyz}}, every: 500ms}}
      liveness: {{http: {{path: /healthz}}, every: 1s, timeout: 1s, fail_after: 2}}
"""


def port_range(count: int) -> str:
    """So many ports of this machine that nobody listens on, as a policy names them."""
    first = free_ports(count)
    return f"{first}-{first + count - 1}"


def test_a_service_under_load_grows_and_shrinks_beside_two_others_and_every_step_is_explained(
    running: Running,
) -> None:
    running.write("web", WEB.format(service=SERVICE, ports=port_range(3)))
    running.write("api", SLEEPER.format(name="api", count=2))
    running.write("batch", SLEEPER.format(name="batch", count=1))
    running.start()
    until(lambda: running.status()["web"]["ready"] == 1, "the first instance is ready")
    stop = threading.Event()
    load = threading.Thread(target=send, args=(running, stop))
    load.start()
    try:
        until(lambda: (running.status()["web"]["wanted"] or 0) >= 2, "it grows under load")
    finally:
        stop.set()
        load.join()
    until(lambda: running.status()["web"]["wanted"] == 1, "it shrinks again", 60)
    shown = running.ask("explain", "web").stdout
    assert "cpu" in shown
    assert "against 60 %" in shown
    assert "last change:" in shown
    against = running.ask("explain", "web", "--why-not", "9").stdout
    assert "max is 3" in against
    assert len(running.instances("api")) == 2
    assert len(running.instances("batch")) == 1
    assert running.stop() == 0
    assert_every_decision_replays(running.state / "scaler.db")


def send(running: Running, stop: threading.Event) -> None:
    """About forty requests per second to the first instance."""
    while not stop.is_set():
        for instance in running.status()["web"]["instances"]:
            for _ in range(20):
                try:
                    url = f"http://127.0.0.1:{instance['port']}/work"
                    urllib.request.urlopen(url, timeout=5).read()
                except OSError:
                    break


def assert_every_decision_replays(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        bodies = connection.execute("SELECT body FROM entries WHERE kind = 'decided'").fetchall()
    connection.close()
    assert bodies
    for (body,) in bodies:
        entry = entry_from_json(body)
        assert entry.facts is not None
        facts = entry.facts
        again, _ = decide(policy_of(facts), facts.fleet, facts.readings, facts.history, entry.at)
        assert again == entry.decision


def test_killed_at_twenty_random_moments_it_finds_the_same_processes_and_doubles_none(
    running: Running,
) -> None:
    running.write("web", SLEEPER.format(name="web", count=4))
    draw = random.Random(11)
    running.start()
    until(lambda: len(running.instances("web")) == 4, "four instances run")
    before = running.instances("web")
    for _ in range(20):
        running.kill()
        running.start(ready=False)
        time.sleep(draw.uniform(0.0, 0.9))
    until(lambda: running.ask("status").returncode == 0, "the daemon answers")
    until(lambda: running.status()["web"]["ready"] == 4, "it has looked")
    assert running.instances("web") == before
    assert running.marked() == set(before.values())
    history = json.loads(running.ask("history", "web", "--json", "--limit", "1000").stdout)
    changes = [e["decision"] for e in history if e["decision"]]
    assert [(d["current"], d["desired"]) for d in changes if d["current"] != d["desired"]] == [
        (0, 4)
    ], "nothing was done twice"


def test_a_killed_instance_is_replaced_at_once(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=2).replace("500ms", "1h"))
    running.start()
    until(lambda: len(running.instances("web")) == 2, "two instances run")
    name, pid = next(iter(running.instances("web").items()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: running.instances("web").get(name) not in (None, pid), "it is replaced", 10)
    assert "killed by SIGKILL" in running.ask("history", "web").stdout


def test_the_first_start_with_a_bad_file_ends_with_78(running: Running) -> None:
    bad = running.write("web", SLEEPER.format(name="web", count="two"))
    ended = running.ask("run", str(running.policies))
    assert ended.returncode == 78
    assert f"{bad}:5:19: error: policies.web.limits.min:" in ended.stderr
    checked = running.ask("check", str(running.policies))
    assert checked.returncode == 3
    assert checked.stdout == ""


@pytest.mark.parametrize("way", ["SIGHUP", "reload", "file change"])
def test_an_invalid_reload_keeps_the_old_policies_and_says_why(running: Running, way: str) -> None:
    running.write("web", SLEEPER.format(name="web", count=1))
    running.start()
    until(lambda: running.status()["web"]["wanted"] == 1, "it runs")

    def reload() -> int:
        if way == "SIGHUP":
            assert running.daemon is not None
            running.daemon.send_signal(signal.SIGHUP)
        return running.ask("reload").returncode if way == "reload" else 0

    running.write("web", SLEEPER.format(name="web", count="many"))
    assert reload() == (3 if way == "reload" else 0)
    until(lambda: "limits.min" in running.ask("status").stdout, "the mistake is in status")
    assert running.status()["web"]["wanted"] == 1
    running.write("web", SLEEPER.format(name="web", count=3))
    assert reload() == 0
    until(lambda: running.status()["web"]["wanted"] == 3, "the good file counts")
    assert "limits.min" not in running.ask("status").stdout


def test_what_people_say_is_done_shown_and_remembered(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=1))
    running.start()
    until(lambda: running.status()["web"]["wanted"] == 1, "it runs")

    assert running.ask("scale", "web", "3", "--hold", "1h", "--reason", "sale").returncode == 0
    until(lambda: running.status()["web"]["wanted"] == 3, "set by hand")
    refused = running.ask("scale", "web", "99")
    assert refused.returncode == 5
    assert "outside the limits of web, 1 to 10" in refused.stderr
    unknown = running.ask("pause", "wep")
    assert unknown.returncode == 1
    assert 'did you mean "web"?' in unknown.stderr

    assert running.ask("pause", "web", "--for", "1h", "--reason", "deploy").returncode == 0
    assert running.ask("scale", "web", "2").returncode == 5
    running.kill()
    running.start()
    shown = until(lambda: running.status()["web"]["paused"], "the pause outlasts a kill")
    assert shown["reason"] == "deploy"
    assert running.status()["web"]["held"]["count"] == 3
    assert "paused" in running.ask("status").stdout
    assert running.ask("resume", "--all").returncode == 0
    until(lambda: running.status()["web"]["wanted"] == 1, "the rules take over", 60)

    name, pid = next(iter(until(lambda: running.instances("web"), "it runs").items()))
    assert running.ask("restart", "web", name).returncode == 0
    until(lambda: running.instances("web").get(name) not in (None, pid), "it was restarted")
    assert running.ask("restart", "web", "web-77").returncode == 1
    told = running.ask("history", "web").stdout
    for words in ("set to 3 by hand", "sale", "paused until", "deploy", "resumed"):
        assert words in told


def test_a_plan_says_what_would_happen_and_changes_nothing(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=2))
    without = running.ask("plan", "--exit-code", str(running.policies))
    assert without.returncode == 6, without.stderr
    assert "0 → 2" in without.stdout
    assert running.marked() == set()
    running.start()
    until(lambda: running.status()["web"]["wanted"] == 2, "it runs")
    assert running.ask("plan", "--exit-code").returncode == 0
    other = running.folder / "other.yaml"
    other.write_text(SLEEPER.format(name="web", count=5))
    with_other = running.ask("plan", "--exit-code", "--json", str(other))
    assert with_other.returncode == 6
    assert json.loads(with_other.stdout)["decisions"][0]["desired"] == 5
    assert running.status()["web"]["wanted"] == 2


def test_observing_only_it_decides_and_touches_nothing(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=2))
    running.start("--observe")
    until(lambda: running.status()["web"]["desired"] == 2, "it decides")
    assert running.marked() == set()
    assert "observing only: web 0 → 2" in running.ask("history").stdout


def test_once_looks_acts_and_ends(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=2))
    assert running.ask("run", "--once", str(running.policies)).returncode == 0
    assert len(running.marked()) == 2


def test_without_a_daemon_the_commands_say_so_and_exit_with_4(running: Running) -> None:
    for words in (["status"], ["explain", "web"], ["history"], ["reload"], ["resume", "--all"]):
        ended = running.ask(*words)
        assert ended.returncode == 4
        assert "no daemon answers" in ended.stderr


def test_a_second_daemon_on_the_same_folder_is_refused(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=1))
    running.start()
    second = running.ask("run", str(running.policies))
    assert second.returncode == 5
    assert "another scaler runs" in second.stderr
    assert running.ask("status").returncode == 0


def test_a_stop_drains_and_leaves_the_instances_alone(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=2))
    running.start()
    before = until(lambda: len(running.instances("web")) == 2 and running.instances("web"), "run")
    assert running.stop() == 0
    assert running.marked() == set(before.values())
    assert not running.socket.exists()


def test_a_reader_of_stderr_who_stops_reading_stops_nothing(running: Running) -> None:
    running.write("web", SLEEPER.format(name="web", count=1))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)  # full from the start
    except BlockingIOError:
        os.set_blocking(writing, True)
    try:
        running.start(stderr=writing)
        for count in (3, 1, 4):
            running.write("web", SLEEPER.format(name="web", count=count))
            running.ask("reload")
            until(lambda: running.status()["web"]["wanted"] >= count, "it goes on")  # noqa: B023
        assert running.stop() == 0
    finally:
        os.close(writing)
        os.close(reading)


def test_a_full_disk_is_said_and_scaling_goes_on_and_recovers(running: Running) -> None:
    running.state.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=2m", "scaler-test", str(running.state)]
    subprocess.run(mounted, check=True)
    filler = running.state / "filler"
    try:
        running.write("web", SLEEPER.format(name="web", count=1))
        running.start()
        until(lambda: running.status()["web"]["wanted"] == 1, "it runs")
        fill(filler)
        assert running.ask("scale", "web", "3", "--hold", "1h").returncode == 0
        until(lambda: len(running.instances("web")) == 3, "it scales on a full disk")
        until(
            lambda: (
                "kept in memory" in running.ask("history").stdout
                or "scaler.db" in running.ask("status").stdout
            ),
            "the full disk is in status",
        )
        filler.unlink()
        until(lambda: "scaler.db" not in running.ask("status").stdout, "it recovers", 60)
        running.kill()
        running.start()
        until(lambda: len(running.instances("web")) == 3, "all is remembered")
        told = running.ask("history").stdout
        assert "set to 3 by hand" in told
        assert "the store can be written again" in told
    finally:
        running.clear()
        subprocess.run(["umount", str(running.state)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
