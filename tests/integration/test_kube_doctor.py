"""`scaler doctor` on Kubernetes: each right is asked for, and a missing one is named as a rule."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scaler import policyfile
from scaler.cli.commands import scaler
from scaler.clients import kube_rights
from scaler.settings import Lease
from tests.fakes.kubernetes import Server, kubeconfig, usage
from tests.integration.redises import RedisServer, insist_on_redis

POLICY = """
policies:
  web:
    target: {kubernetes: deployment/web}
    metrics: [{cpu: 70%}]
    health: {liveness: {tcp: {}}}
"""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as made:
        made.publish("default", [usage("default", "web-1", {"app": (0.1, 1 << 20)})])
        yield made


class Bench:
    """A doctor with a policy and a kubeconfig of its own."""

    def __init__(self, folder: Path) -> None:
        self.policies = folder / "policies"
        self.policies.mkdir()
        self.settings = folder / "scaler.yaml"
        self.settings.write_text(f"policies: [policies]\nstate_dir: {folder}\n")
        self.config = folder / "kubeconfig"
        self.logins = 0
        self.write(POLICY)

    def write(self, text: str) -> None:
        (self.policies / "web.yaml").write_text(text)

    def login(self, server: Server, rules: list[dict[str, Any]] | None = None) -> None:
        self.logins += 1  # each as somebody new, since a server adds to what somebody may do
        user = f"robot-{self.logins}"
        token = "" if rules is None else server.grant(user, "default", rules)
        self.config.write_text(kubeconfig(server, token))

    def needed(self) -> list[kube_rights.Right]:
        return kube_rights.needed(policyfile.load([self.policies]).insist().values())

    def share(self, lease: str) -> None:
        """Several daemons share a lease, written as in the settings."""
        with self.settings.open("a") as file:
            file.write(f"lease: {lease}\n")

    async def findings(self, subject: str = "kubernetes") -> list[tuple[bool, str]]:
        """What is said of Kubernetes, or of something else."""
        words = ["-c", str(self.settings), "doctor", "--json"]
        environment = {"KUBECONFIG": str(self.config), "SCALER_SOCKET": "/nonexistent/socket"}
        ended = await asyncio.to_thread(CliRunner().invoke, scaler, words, env=environment)
        found = json.loads(ended.stdout)["findings"]
        return [(f["ok"], f["detail"]) for f in found if f["subject"] == subject]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_with_the_printed_role_nothing_is_missing(server: Server, bench: Bench) -> None:
    rules = [rule.plain() for rule in kube_rights.rules(bench.needed())]
    bench.login(server, rules)
    found = await bench.findings()
    assert [ok for ok, _ in found] == [True, True], found
    assert "context fake" in found[0][1]
    assert "may do all" in found[1][1]
    changed = [call for call in server.writes() if call.resource != "selfsubjectaccessreviews"]
    assert changed == [], "it only asks"


async def test_without_one_rule_that_rule_is_named(server: Server, bench: Bench) -> None:
    needed = bench.needed()
    for left_out in kube_rights.rules(needed):
        rest = [rule.plain() for rule in kube_rights.rules(needed) if rule != left_out]
        bench.login(server, rest)
        (_, *missing) = await bench.findings()
        assert [ok for ok, _ in missing] == [False], missing
        line = missing[0][1]
        assert left_out.why in line
        assert f"resources: [{left_out.path}], verbs: [{', '.join(left_out.verbs)}]" in line


async def test_the_rights_on_the_lease_are_asked_for_too(server: Server, bench: Bench) -> None:
    needed = [rule.plain() for rule in kube_rights.rules(bench.needed())]
    lease = kube_rights.of_lease(Lease(store="kubernetes", name="sizes"))
    bench.share("{store: kubernetes, name: sizes}")
    bench.login(server, needed)
    (_, *missing) = await bench.findings()
    assert [ok for ok, _ in missing] == [False, False], missing
    assert "[leases], verbs: [get, watch, update], resourceNames: [sizes]" in missing[0][1]
    assert "[leases], verbs: [create]" in missing[1][1]
    bench.login(server, [*needed, *(rule.plain() for rule in kube_rights.rules(lease))])
    assert [ok for ok, _ in await bench.findings()] == [True, True]


async def test_the_lease_is_examined_though_no_policy_is_about_kubernetes(
    server: Server, bench: Bench
) -> None:
    bench.write("policies: {web: {target: {docker: web}}}")
    bench.share("{store: kubernetes, namespace: ops}")
    bench.login(server, [])
    (_, *missing) = await bench.findings()
    assert len(missing) == 2, missing
    assert all("Role in ops" in detail for _, detail in missing)


@pytest.mark.live
async def test_a_redis_with_the_lease_is_asked_without_a_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    insist_on_redis()
    bench.write("policies: {web: {target: {docker: web}}}")
    bench.share("{store: redis}")
    redis = RedisServer()
    monkeypatch.setenv("SCALER_LEASE__REDIS_URL", redis.url)
    try:
        await asyncio.to_thread(redis.start)
        assert await bench.findings("lease") == [
            (True, "Redis answers and may be written to; nobody holds the lease")
        ]
        assert redis.ask("dbsize").strip() == "0"
        redis.ask("hset", "scaler:lease:scaler", "holder", "alice", "fence", "1")
        ((_, detail),) = await bench.findings("lease")
        assert "alice holds the lease" in detail
        assert redis.ask("hlen", "scaler:lease:scaler").strip() == "2"
        redis.ask("replicaof", "127.0.0.1", "1")
        ((ok, detail),) = await bench.findings("lease")
        assert not ok, "a replica takes no lease"
        assert "lease.redis_url" in detail
        redis.kill()
        ((ok, detail),) = await bench.findings("lease")
        assert not ok
    finally:
        redis.stop()


async def test_a_role_for_another_name_is_not_enough(server: Server, bench: Bench) -> None:
    rules = [rule.plain() for rule in kube_rights.rules(bench.needed())]
    for rule in rules:
        if "resourceNames" in rule:
            rule["resourceNames"] = ["api"]
    bench.login(server, rules)
    assert "resourceNames: [web]" in (await bench.findings())[1][1]


async def test_a_missing_metrics_server_is_named(bench: Bench) -> None:
    async with Server() as bare:
        bench.login(bare)
        ok, detail = (await bench.findings())[-1]
    assert not ok
    assert "metrics-server is not installed" in detail


async def test_a_server_that_is_away_is_named_with_its_address(
    server: Server, bench: Bench
) -> None:
    bench.login(server)
    await server.down()
    ((ok, detail),) = await bench.findings()
    assert not ok
    assert server.url in detail


async def test_a_context_that_is_not_there_is_named(server: Server, bench: Bench) -> None:
    bench.login(server)
    bench.write("policies: {web: {target: {kubernetes: {workload: web, context: prod}}}}")
    ((ok, detail),) = await bench.findings()
    assert not ok
    assert "prod" in detail


async def test_a_sidecar_needs_the_rights_for_the_owner_of_its_pod(
    server: Server, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "shop-5d9c", "uid": "1"}
    server.put(
        {
            "kind": "Pod",
            "metadata": {
                "name": "shop-5d9c-x",
                "labels": {"pod-template-hash": "5d9c"},
                "ownerReferences": [{**owner, "controller": True}],
            },
            "spec": {"containers": []},
        }
    )
    monkeypatch.setenv("POD_NAME", "shop-5d9c-x")
    bench.write("policies: {web: {target: {kubernetes: self}}}")
    bench.login(server, [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}])
    found = await bench.findings()
    assert any("deployments/scale], verbs: [patch], resourceNames: [shop]" in d for _, d in found)
