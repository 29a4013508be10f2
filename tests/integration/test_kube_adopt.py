"""`scaler adopt`: the HPA goes when the daemon is ready to go on from its count, and not before."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaler import policyfile
from scaler.cli import adopt
from scaler.cli.client import Daemon
from scaler.errors import ConfigError, Conflict, NotFound, Refused
from tests.fakes.kubernetes import Server, kubeconfig

POLICY = "policies: {web: {target: {kubernetes: deployment/web}, limits: {min: 2, max: 10}}}"


class Listening(Daemon):
    """A daemon that answers what it is told to, and writes down what it hears."""

    def __init__(self, server: Server) -> None:
        super().__init__(Path("/nonexistent"))
        self.condition = "managed-elsewhere"
        self.heard: list[tuple[str, int, bool]] = []  # command, count, whether the HPA is there
        self.refuses = False
        self._server = server

    def get(self, *parts: str, **query: str | None) -> dict[str, Any]:
        return {"targets": [{"name": "web", "condition": self.condition}]}

    def post(self, *parts: str, body: Mapping[str, object] | str | None = None) -> dict[str, Any]:
        if self.refuses:
            raise Refused("outside the limits")
        assert isinstance(body, Mapping)
        count = body["count"]
        assert isinstance(count, int)
        self.heard.append((" ".join(parts), count, there(self._server)))
        return {}


def there(server: Server) -> bool:
    return bool(server.all("HorizontalPodAutoscaler"))


def hpa(name: str = "web", workload: str = "web", **meta: Any) -> dict[str, Any]:
    goal = {"type": "Utilization", "averageUtilization": 60}
    return {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, **meta},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload},
            "minReplicas": 2,
            "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": goal}}],
        },
        "status": {"desiredReplicas": 7, "currentReplicas": 6},
    }


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Server]:
    async with Server() as made:
        (tmp_path / "kubeconfig").write_text(kubeconfig(made))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.chdir(tmp_path)
        yield made


@pytest.fixture
def daemon(server: Server) -> Listening:
    return Listening(server)


Run = Callable[..., Any]


@pytest.fixture
def run(daemon: Listening, tmp_path: Path) -> Run:
    async def call(what: str = "web", policy: str = POLICY, *, yes: bool = True) -> None:
        (tmp_path / "web.yaml").write_text(policy)
        policies = policyfile.load([tmp_path / "web.yaml"]).insist()
        asked = adopt.Asked(what=what, namespace="", context="", keep=None)
        await asyncio.to_thread(adopt.run, asked, policies, daemon, yes=yes)

    return call


@pytest.mark.parametrize("what", ["web", "hpa/web"])
async def test_the_count_is_told_before_the_hpa_goes_and_after(
    what: str, server: Server, daemon: Listening, run: Run, tmp_path: Path
) -> None:
    server.put(hpa())
    await run(what)
    assert daemon.heard == [("scale web", 7, True), ("scale web", 7, False)]
    (deleted,) = server.calls("delete", "horizontalpodautoscalers")
    assert deleted.code == 200
    kept = json.loads((tmp_path / "default-web.hpa.json").read_text())
    server.put(kept)
    assert server.get("HorizontalPodAutoscaler", "web")["spec"] == hpa()["spec"], "it can be undone"


async def test_without_a_yes_the_steps_are_printed_and_nothing_is_done(
    server: Server, daemon: Listening, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(hpa())
    await run(yes=False)
    said = capsys.readouterr().err
    assert "asks for 7" in said
    assert "kubectl delete -n default hpa web" in said
    assert there(server)
    assert daemon.heard == []


async def test_without_a_policy_it_prints_one(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put(hpa("api", "api"))
    with pytest.raises(Refused, match="deployments/api"):
        await run("hpa/api")
    made = yaml.safe_load(capsys.readouterr().out)["policies"]["api"]
    assert made["metrics"] == [{"cpu": "60%", "of": "request", "window": "0s"}]
    assert there(server)


async def test_what_keda_owns_is_left_to_it(server: Server, run: Run) -> None:
    owner = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "so", "uid": "1"}
    server.put(hpa(ownerReferences=[owner]))
    with pytest.raises(Refused, match=r"scaledobject so autoscaling\.keda\.sh/paused=true"):
        await run()
    assert there(server)


@pytest.mark.parametrize("condition", ["ok", "starting", "parked"])
async def test_a_daemon_that_would_not_take_over_keeps_the_hpa(
    condition: str, server: Server, daemon: Listening, run: Run
) -> None:
    server.put(hpa())
    daemon.condition = condition
    with pytest.raises(Refused, match=condition):
        await run()
    assert there(server)


async def test_a_policy_that_observes_keeps_the_hpa(server: Server, run: Run) -> None:
    server.put(hpa())
    with pytest.raises(Refused, match="mode: act"):
        await run(policy=POLICY.replace("limits", "mode: observe, limits"))
    assert there(server)


async def test_a_count_that_the_daemon_refuses_keeps_the_hpa(
    server: Server, daemon: Listening, run: Run
) -> None:
    server.put(hpa())
    daemon.refuses = True
    with pytest.raises(Refused, match="outside"):
        await run()
    assert there(server)


async def test_an_hpa_that_changes_meanwhile_stays(
    server: Server, daemon: Listening, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put(hpa())

    def changed(*_: object, **__: object) -> dict[str, Any]:
        server.put({**hpa(), "spec": {**hpa()["spec"], "maxReplicas": 50}})
        return {}

    monkeypatch.setattr(daemon, "post", changed)
    with pytest.raises(Conflict, match="changed meanwhile"):
        await run()
    assert there(server)


async def test_a_manifest_that_was_kept_is_not_overwritten(
    server: Server, run: Run, tmp_path: Path
) -> None:
    server.put(hpa())
    (tmp_path / "default-web.hpa.json").write_text("mine")
    with pytest.raises(ConfigError, match="--keep"):
        await run()
    assert (tmp_path / "default-web.hpa.json").read_text() == "mine"
    assert there(server)


async def test_what_is_not_there_is_named(server: Server, run: Run) -> None:
    with pytest.raises(NotFound, match="deployments/web in default"):
        await run()
    with pytest.raises(NotFound, match="hpa/NAME"):
        await run("nothing")
    server.put(hpa("one"))
    server.put(hpa("two"))
    with pytest.raises(Conflict, match="one, two"):
        await run()
