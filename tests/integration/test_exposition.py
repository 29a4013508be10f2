"""What Prometheus reads is what `status` says."""

import asyncio
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.webserver import WebServer
from tests.integration.ports import free_port
from tests.integration.running import SLEEPER, Running, until

Found = dict[tuple[str, ...], float]


@pytest.fixture
def read(running: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Found]:
    """What Prometheus would read from the daemon, by series and labels."""
    port = free_port()
    environment = {**running.environment, "SCALER_HTTP": f"127.0.0.1:{port}"}
    monkeypatch.setattr(Running, "environment", environment)

    def ask() -> Found:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples]
        return {(one.name, *one.labels.values()): one.value for one in samples}

    return ask


@pytest.mark.live
def test_the_metrics_are_what_status_says(running: Running, read: Callable[[], Found]) -> None:
    running.write("web", SLEEPER.format(name="web", count=2))
    running.start()
    until(lambda: running.status()["web"]["ready"] == 2, "both run")
    found = read()
    target = running.status()["web"]
    for field in ("wanted", "desired", "ready", "min", "max"):
        assert found[f"scaler_{field}", "web"] == target[field]
    assert found["scaler_condition", "web", "ok"] == 1
    assert found["scaler_condition", "web", "parked"] == 0
    assert found["scaler_leader",] == 1
    assert found["scaler_defects_total",] == 0
    assert found["scaler_last_tick_age_seconds",] < 60


@pytest.mark.live
def test_what_was_done_is_counted_also_when_the_policy_changes(
    running: Running, read: Callable[[], Found]
) -> None:
    running.write("web", SLEEPER.format(name="web", count=1))
    running.start()
    until(lambda: running.status()["web"]["ready"] == 1, "it runs")
    grown = read()["scaler_changes_total", "web"]
    running.write("web", SLEEPER.format(name="web", count=3))
    until(lambda: running.status()["web"]["ready"] == 3, "it grows")
    assert read()["scaler_changes_total", "web"] == grown + 1
    assert read()["scaler_restarts_total", "web"] == 0
    (name, *_) = running.instances("web")
    assert running.ask("restart", "web", name).returncode == 0
    until(lambda: read()["scaler_restarts_total", "web"] == 1, "the restart is counted")
    assert read()["scaler_changes_total", "web"] == grown + 1


METRIC = """\
    metrics:
      - name: backlog
        source: {{http: {{url: "{url}/backlog", json: $.bytes}}}}
        goal: {{per_instance: 123456789}}
"""


@pytest.mark.live
async def test_no_digit_of_a_metric_is_lost(running: Running, read: Callable[[], Found]) -> None:
    server = WebServer()
    await server.start()
    server.answers["/backlog"] = b'{"bytes": 123456791}'
    policy = SLEEPER.format(name="web", count=1) + METRIC.format(url=server.url)
    running.write("web", policy)
    await asyncio.to_thread(running.start)
    key = ("scaler_metric_value", "web", "backlog")
    found = await asyncio.to_thread(until, lambda: key in (now := read()) and now, "it is read")
    assert found[key] == 123456791
    assert found["scaler_metric_goal", "web", "backlog"] == 123456789
    await server.stop()
