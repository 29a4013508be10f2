"""`scaler calibrate` on a real server with a pool of workers, whose capacity is known."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.calibration.server import pool
from scaler.cli.calibrate_rig import rig
from scaler.cli.commands import scaler
from scaler.clock import SystemClock
from scaler.core.policy import Policy
from scaler.errors import ConfigError
from scaler.loadtest.calibrate import ServiceLoad
from scaler.loadtest.evidence import Objective
from scaler.loadtest.plan import of_fields
from scaler.providers.local import LocalTarget
from tests.integration.test_daemon import port_range

WRITTEN = """\
version: 1
policies:
  web:
    target: {local: {command: [sleep, "9"]}}
    metrics:
      - name: requests
        goal: {per_instance: 100}
        source: {http: {url: "http://127.0.0.1:9/", json: $.x}}
"""


async def test_load_on_a_service_is_counted_by_the_second() -> None:
    """Four workers of 10 ms carry 400/s: half of it is in time, twice as much is late."""
    objective = Objective(within=timedelta(milliseconds=250), share=0.01)
    async with pool(4, 0.01) as url:
        plan = of_fields({"target": url, "load": {"rate": "1/s"}})
        load = ServiceLoad(plan, objective, SystemClock())
        calm, wild = await load(100, 2), await load(900, 3)
    assert sum(batch.due for batch in calm.batches) == pytest.approx(200, rel=0.4)
    assert len(wild.batches) == 3
    late = sum(batch.late for batch in wild.batches) / sum(batch.due for batch in wild.batches)
    assert late > 0.3
    assert sum(b.late for b in calm.batches) / sum(b.due for b in calm.batches) < late / 2


def test_nobody_there_ends_with_1_and_the_reason_as_json(tmp_path: Path) -> None:
    file, page = tmp_path / "web.yaml", tmp_path / "page.html"
    file.write_text(WRITTEN)
    asked = ["calibrate", "http://127.0.0.1:9/", "--slo", "p99<250ms", "--json"]
    done = CliRunner().invoke(
        scaler, [*asked, "--html", str(page), "--write", str(file), "--policy", "web"]
    )
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["found"] is False
    assert "connection refused" in said["because"]
    assert file.read_text() == WRITTEN
    assert "NO CAPACITY" in page.read_text()


@pytest.mark.parametrize(
    ("given", "code", "because"),
    [
        (["--slo", "fast"], 3, "no objective"),
        (["--slo", "p99<1s", "--lowest", "9/s", "--highest", "3/s"], 3, "below --highest"),
        (["--slo", "p99<1s", "--growth", "much"], 3, "--growth"),
        (["--slo", "p99<1s", "--instances", "1,x"], 3, "1,2,4"),
        (["--slo", "p99<1s", "--instances", "1,2"], 3, "for the name of a policy"),
        (["--slo", "p99<1s", "--point", "two"], 3, "2=350"),
        (["--slo", "p99<1s", "--write", "/nowhere/x.yaml"], 3, "cannot be read"),
        ([], 2, "--slo"),
    ],
)
def test_wrong_use_is_told_before_there_is_load(given: list[str], code: int, because: str) -> None:
    done = CliRunner().invoke(scaler, ["calibrate", "http://127.0.0.1:9/", *given])
    assert done.exit_code == code
    assert because in done.stderr


SERVED = """\
version: 1
policies:
  web:
    target:
      local:
        command: [{python}, -m, scaler.demo.service, --port, "{{port}}", --work-ms, "4"]
        port: {ports}
    metrics:
      - cpu: 50%  # a guess
"""


def calibrated(tmp_path: Path, *asked: str) -> tuple[Result, Path]:
    """A policy of the demo's service, by its name, and what became of its file."""
    file = tmp_path / "policies" / "web.yaml"
    file.parent.mkdir()
    file.write_text(SERVED.format(python=sys.executable, ports=port_range(6)))
    settings = tmp_path / "scaler.yaml"
    settings.write_text(f"policies: [{file.parent}]\nstate_dir: {tmp_path / 'state'}\n")
    done = CliRunner().invoke(
        scaler,
        ["-c", str(settings), "calibrate", "web", "--slo", "p50<900ms", "--path", "/work", *asked],
    )
    return done, file


def test_a_policy_by_its_name_is_started_measured_written_and_stopped(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done, file = calibrated(
        tmp_path, "--for", "90s", "--lowest", "30/s", "--highest", "40/s", "--json",
        "--html", str(page),
    )  # fmt: skip
    assert done.exit_code == 1, done.output  # it carries more than it may get here
    assert "still holds at 40/s" in json.loads(done.stdout)["because"]
    assert json.loads(done.stdout)["ready_s"] > 0
    assert file.read_text().count("50%") == 1
    assert page.exists()


def test_a_name_that_no_policy_has_is_told(tmp_path: Path) -> None:
    settings = tmp_path / "scaler.yaml"
    (tmp_path / "policies").mkdir()
    settings.write_text(f"policies: [{tmp_path / 'policies'}]\n")
    done = CliRunner().invoke(
        scaler, ["-c", str(settings), "calibrate", "nobody", "--slo", "p99<1s"]
    )
    assert done.exit_code == 3
    assert "no URL, no file and no policy" in done.stderr


def test_what_cannot_be_started_here_is_told(tmp_path: Path) -> None:
    settings = tmp_path / "scaler.yaml"
    settings.write_text(f"policies: [{tmp_path / 'web.yaml'}]\n")
    (tmp_path / "web.yaml").write_text(WRITTEN)
    done = CliRunner().invoke(scaler, ["-c", str(settings), "calibrate", "web", "--slo", "p99<1s"])
    assert done.exit_code == 3
    assert "give the URL of one instance" in done.stderr


async def test_a_port_that_all_share_must_be_free() -> None:
    async with pool(1, 0.01) as url:
        target = LocalTarget.model_validate(
            {
                "kind": "local",
                "policy": "web",
                "command": ["sleep", "9"],
                "port": url.rpartition(":")[2],
            }
        )
        policy = Policy.model_validate({"name": "web", "target": target})
        with pytest.raises(ConfigError, match="in use; stop web first"):
            async with rig(policy, SystemClock()):
                pass
