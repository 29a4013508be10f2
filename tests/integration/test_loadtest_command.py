"""`scaler loadtest` as people and programs call it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.running import SCALER

pytestmark = pytest.mark.live
SERVER = "import asyncio, tests.integration.faultyserver as f; asyncio.run(f.forever())"


@pytest.fixture
def port() -> Iterator[int]:
    process = subprocess.Popen(
        [str(Path(SCALER).with_name("python")), "-c", SERVER], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()


def asked(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCALER, "loadtest", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_a_run_with_everything_that_it_can_write(port: int, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("r.html", "r.prom", "r.json")}
    url = f"http://127.0.0.1:{port}/ok?x=1"
    ended = asked(
        url, "--stages", "100/s:0s,100/s:1s", "--threshold", "p99<30s, errors<0.1%",
        "--html", str(files["r.html"]), "--prometheus", str(files["r.prom"]),
        "--save", str(files["r.json"]),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "100 due, 100 answered well" in ended.stdout
    assert all(file.stat().st_size for file in files.values())
    again = asked(url, "--rate", "100/s", "--for", "1s", "--compare", str(files["r.json"]))
    assert again.returncode == 0
    assert "before" in again.stdout


def test_a_missed_threshold_is_exit_code_8(port: int) -> None:
    url = f"http://127.0.0.1:{port}/error"
    ended = asked(url, "--rate", "50/s", "--for", "200ms", "--threshold", "errors<1%", "--json")
    assert ended.returncode == 8
    printed = json.loads(ended.stdout)
    assert (printed["passed"], printed["record"]["failures"]) == (False, {"wrong status": 10})


def test_a_plan_and_a_threshold_of_the_command_line(port: int, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        f"target: http://127.0.0.1:{port}\nload: {{rate: 50/s, for: 200ms}}\n"
        "scenario:\n  - {path: /ok, weight: 3}\n  - {name: slow, path: /chunked}\n"
    )
    ended = asked(str(file), "--threshold", "rate>=1000/s")
    assert ended.returncode == 8
    assert "slow" in ended.stdout
    assert asked(str(file), "--rate", "1/s").returncode == 3


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_it_with_what_there_is(port: int, workers: str, tmp_path: Path) -> None:
    words = [SCALER, "loadtest", f"http://127.0.0.1:{port}/ok", "--rate", "20/s", "--for", "1h"]
    process = subprocess.Popen(
        [*words, "--workers", workers, "--save", str(tmp_path / "r.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert "p99" in process.stderr.readline()  # it tells how it stands
    os.killpg(process.pid, signal.SIGINT)
    printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "answered well" in printed
    assert "Traceback" not in said
    assert json.loads((tmp_path / "r.json").read_text())["record"]["due"] > 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(["http://192.0.2.1/"], 5, "--allow-host", id="another machine"),
        pytest.param(
            ["http://127.0.0.1:1/", "--rate", "3"], 3, "write it like 500/s", id="no unit"
        ),
        pytest.param(["http://127.0.0.1:1/", "--stages", "3"], 3, "is no stage", id="no stage"),
        pytest.param(["nowhere.yaml"], 3, "nowhere.yaml:1:1", id="no file"),
        pytest.param(
            ["http://127.0.0.1:1/", "--html", "/nowhere/r.html"], 3, "is no folder", id="no folder"
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_load(
    words: list[str], code: int, said: str
) -> None:
    ended = asked(*words)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
