"""What `scaler loadtest --manifest` prints is valid, confined, and starts processes that meet."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scaler.cli.commands import scaler
from scaler.loadtest.part import share_of
from tests.integration.dockerd import Engine
from tests.integration.running import until
from tests.integration.swarms import started
from tests.integration.test_kube_manifests import insist

PLAN = "target: http://web\nload: {replay: {file: trace.csv}}\n"
THROUGH = "redis://:s$cret@redis/0"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "trace.csv").write_text("timestamp,value\n0,30\n10,60\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def asked(*words: str) -> Result:
    return CliRunner().invoke(scaler, ["loadtest", *words])


def printed(plan: Path, kind: str, *more: str) -> list[dict[str, Any]]:
    ended = asked(
        str(plan), "--through", THROUGH, "--run", "shop", "--parts", "3", "--allow-host",
        "--threshold", "p99<1s", "--manifest", kind, *more,
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    return list(yaml.safe_load_all(ended.output))


def test_on_kubernetes_an_indexed_job_and_one_that_reports(plan: Path) -> None:
    objects = printed(plan, "kubernetes")
    for one in objects:
        insist(one)
    config, secret, parts, report = objects
    assert config["data"] == {
        "plan.yaml": PLAN,
        "trace.csv": plan.with_name("trace.csv").read_text(),
    }
    assert secret["stringData"] == {"through": THROUGH}
    assert THROUGH not in json.dumps([config, parts, report])
    spec = parts["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    assert spec["backoffLimitPerIndex"] == report["spec"]["backoffLimit"] == 0
    assert spec["activeDeadlineSeconds"] > 20 + 30 + 120, "the trace, the last answers, the start"
    words = [words_of(job) for job in (parts, report)]
    assert words[0][-3:] == ["--allow-host", "--part", "$(JOB_COMPLETION_INDEX)/3"]
    assert words[1][2:] == ["--run", "shop", "--parts", "3", "--threshold", "p99<1s"]


def words_of(job: dict[str, Any]) -> list[str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["args"][:2] == ["loadtest", "/plan/plan.yaml"]
    return list(container["args"])


def test_on_swarm_two_jobs(plan: Path) -> None:
    (stack,) = printed(plan, "swarm")
    part, report = stack["services"]["part"], stack["services"]["report"]
    assert part["deploy"]["mode"] == report["deploy"]["mode"] == "replicated-job"
    assert (part["deploy"]["replicas"], report["deploy"]["replicas"]) == (3, 1)
    assert part["environment"]["SCALER_LOADTEST_THROUGH"] == THROUGH.replace("$", "$$")
    assert part["environment"]["SCALER_LOADTEST_PART"] == "{{.Task.Slot}}/3"
    mounted = {one["target"]: stack["configs"][one["source"]]["file"] for one in part["configs"]}
    assert mounted == {
        "/plan/plan.yaml": str(plan),
        "/plan/trace.csv": str(plan.with_name("trace.csv")),
    }


@pytest.mark.parametrize("first", [0, 1], ids=["from zero", "from one"])
def test_parts_are_counted_as_each_platform_counts(first: int) -> None:
    shares = {share_of(f"{number}/3") for number in range(first, first + 3)}
    assert sorted(share.number for share in shares) == [0, 1, 2]


@pytest.mark.live
def test_the_tasks_of_a_real_swarm_are_all_the_parts(plan: Path, engine: Engine) -> None:
    (stack,) = printed(plan, "swarm")
    part = f"PART={stack['services']['part']['environment']['SCALER_LOADTEST_PART']}"
    said = ("service", "logs", "--raw", "parts")
    with started(engine) as swarm:
        swarm.create("parts", "--mode=replicated-job", "--replicas=3", "--restart-condition=none",
                     "--env", part, run=("sh", "-c", "echo $PART"))  # fmt: skip
        until(lambda: len(engine.docker(*said).stdout.split()) == 3, "all three have spoken")
        shares = [share_of(word) for word in engine.docker(*said).stdout.split()]
    assert sorted((share.number, share.of) for share in shares) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(["http://web/", "--allow-host"], 3, "write it to a file", id="no file"),
        pytest.param(["plan.yaml"], 3, "add --allow-host", id="another machine"),
    ],
)
def test_what_is_missing_is_said(words: list[str], code: int, said: str, plan: Path) -> None:
    place = [str(plan) if word == "plan.yaml" else word for word in words]
    ended = asked(*place, "--through", THROUGH, "--parts", "3", "--manifest", "swarm")
    assert (ended.exit_code, said in ended.output) == (code, True), ended.output
