"""The example policies under exactly the Role that is printed for them.

Nothing is refused, and no right is there that the run does not use.
"""

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path

import pytest

from scaler import policyfile
from scaler.clients import kube_events, kube_rights
from scaler.clock import SystemClock
from scaler.daemon import Daemon
from scaler.settings import Lease, Settings
from scaler.stores.memory import MemoryStore
from tests.fakes.kubernetes import kubeconfig
from tests.fakes.webserver import WebServer
from tests.integration.kube_rig import Rig, rig
from tests.integration.running import eventually as until

EXAMPLE = Path("deploy/kubernetes/overlays/shop/policies/shop.yaml")


def few() -> bytes:
    """What a Prometheus answers: one request a second, now."""
    result = [{"value": [time.time(), "1"]}]
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data}).encode()


def hastened(text: str, prometheus: str) -> str:
    """The example, in a hurry and with a Prometheus that is there. No right depends on that."""
    for old, new in (
        ("http://prometheus.monitoring:9090", prometheus),
        ("    target:", "    every: 500ms\n    target:"),
        ("max: 20}", "max: 20, settle_down: 0s}"),
        ("settle_down: 10m", "settle_down: 0s"),
        ("every: 10s}", "every: 200ms, timeout: 100ms}"),
    ):
        assert old in text, f"the example has changed: {old}"
        text = text.replace(old, new)
    return text


def second(one: Rig, lease: Lease) -> Daemon:
    """Another daemon on the same targets, as the example has two."""
    folder = one.folder / "second"
    chosen = Settings(
        policies=(one.folder / "policies.yaml",),
        state_dir=folder,
        socket=folder / "s",
        store="memory",
        lease=lease,
    )
    return Daemon(chosen, clock=SystemClock(), store=MemoryStore(), tell=lambda _: None)


@pytest.mark.timeout(120)
async def test_a_run_of_the_example_uses_all_of_its_role_and_needs_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_events, "QUIET", timedelta(seconds=1))
    prometheus = WebServer()
    await prometheus.start()
    policies = policyfile.load([EXAMPLE]).insist().values()
    lease = Lease(store="kubernetes", ttl=timedelta(seconds=3))
    needed = kube_rights.needed(policies, lease=kube_rights.of_lease(lease))
    async with rig(tmp_path, monkeypatch, metrics_every=1.0) as one:
        rules = [rule.plain() for rule in kube_rights.rules(needed)]
        token = one.server.grant("scaler", "default", rules)
        (tmp_path / "kubeconfig").write_text(kubeconfig(one.server, token))
        one.cluster.load = lambda _: (0.1, 64 << 20)
        one.cluster.deploy("web", 9, port=18081)
        one.cluster.deploy("worker", 3, kind="StatefulSet")
        await one.start(hastened(EXAMPLE.read_text(), prometheus.url), lease=lease)
        await until(lambda: one.server.calls("update", "leases"))
        follower = second(one, lease)
        await follower.start()
        follower.begin()
        wanted = {(right.verb, right.group, right.path) for right in needed}

        def used() -> set[tuple[str, str, str]]:
            mine = [call for call in one.server.audit if call.user.endswith(":scaler")]
            assert [call for call in mine if call.code in (401, 403)] == []
            return {(call.verb, call.group, call.what) for call in mine if call.resource[0] != "/"}

        try:
            async with asyncio.timeout(60):
                while used() != wanted:
                    prometheus.answers["/api/v1/query"] = few()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            assert used() == wanted
        finally:
            await follower.stop()
            await prometheus.stop()
