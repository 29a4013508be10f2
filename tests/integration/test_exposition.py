"""What Prometheus reads is what `status` says."""

import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.running import SLEEPER, Running, until


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.live
def test_the_metrics_are_what_status_says(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(
        Running, "environment", {**running.environment, "SCALER_HTTP": f"127.0.0.1:{port}"}
    )
    running.write("web", SLEEPER.format(name="web", count=2))
    running.start()
    until(lambda: running.status()["web"]["ready"] == 2, "both run")
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    target = running.status()["web"]
    for field in ("wanted", "desired", "ready", "min", "max"):
        assert found[f"scaler_{field}", "web"] == target[field]
    assert found["scaler_condition", "web", "ok"] == 1
    assert found["scaler_condition", "web", "parked"] == 0
    assert found["scaler_leader",] == 1
    assert found["scaler_defects_total",] == 0
    assert found["scaler_last_tick_age_seconds",] < 60
