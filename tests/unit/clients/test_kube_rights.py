"""Each policy needs exactly the rights for the requests that a run with it makes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from scaler import located, policyfile
from scaler.cli.commands import scaler
from scaler.clients import kube_rights
from scaler.core.policy import Policy
from scaler.errors import ConfigError
from scaler.settings import Lease


def policy(target: Any, **fields: Any) -> Policy:
    document = located.Document(Path("test"), [])
    document.plain = {"policies": {"web": {"target": {"kubernetes": target}, **fields}}}
    (made,) = policyfile.policies_of(document, {}).values()
    return made


def allowed(*policies: Policy, **facts: Any) -> set[str]:
    """Every right as `verb group/resource name`."""
    return {
        " ".join(filter(None, (r.verb, f"{r.group}/{r.path}", r.name)))
        for r in kube_rights.needed(policies, **facts)
    }


LOOK = {
    f"{verb} {what}"
    for verb in ("list", "watch")
    for what in ("/pods", "autoscaling/horizontalpodautoscalers")
}
DEPLOYMENT = LOOK | {
    f"{verb} apps/{kind}" for verb in ("list", "watch") for kind in ("deployments", "replicasets")
}
STATEFULSET = LOOK | {"list apps/statefulsets", "watch apps/statefulsets"}
SCALE = {"patch apps/deployments/scale web"}
WRITE = {"create /events", "patch /events"}
SICK: dict[str, Any] = {"liveness": {"http": {}}}


@pytest.mark.parametrize(
    ("target", "fields", "rights"),
    [
        pytest.param("web", {"mode": "observe"}, DEPLOYMENT, id="observing needs to see"),
        pytest.param(
            "web", {}, DEPLOYMENT | SCALE | WRITE | {"patch /pods"}, id="acting needs to scale"
        ),
        pytest.param("web", {"mode": "heal"}, DEPLOYMENT | WRITE, id="healing does not scale"),
        pytest.param(
            "web",
            {"mode": "heal", "health": SICK},
            DEPLOYMENT | WRITE | {"create /pods/eviction"},
            id="the sick are evicted",
        ),
        pytest.param(
            {"workload": "web", "restart": "delete"},
            {"mode": "heal", "health": SICK},
            DEPLOYMENT | WRITE | {"delete /pods"},
            id="or deleted",
        ),
        pytest.param(
            "web", {"mode": "observe", "health": SICK}, DEPLOYMENT, id="observing restarts nobody"
        ),
        pytest.param(
            "statefulset/db",
            {},
            STATEFULSET | {"patch apps/statefulsets/scale db"} | WRITE,
            id="a StatefulSet chooses by itself",
        ),
        pytest.param(
            "rs/old",
            {"mode": "observe"},
            LOOK | {"list apps/replicasets", "watch apps/replicasets"},
            id="a ReplicaSet",
        ),
        pytest.param(
            "rollouts.argoproj.io/web",
            {"mode": "observe"},
            LOOK
            | {
                "list argoproj.io/rollouts",
                "watch argoproj.io/rollouts",
                "get argoproj.io/rollouts/scale web",
            },
            id="another kind says which pods are its own",
        ),
        pytest.param(
            "web",
            {"mode": "observe", "metrics": [{"cpu": "70%"}]},
            DEPLOYMENT | {"list metrics.k8s.io/pods"},
            id="CPU is measured",
        ),
        pytest.param(
            "web",
            {
                "mode": "observe",
                "metrics": [
                    {
                        "name": "rps",
                        "source": {"prometheus": {"url": "http://p:1", "query": "q"}},
                        "goal": {"value": 1},
                    }
                ],
            },
            DEPLOYMENT,
            id="Prometheus is asked elsewhere",
        ),
    ],
)
def test_a_policy_needs(target: Any, fields: dict[str, Any], rights: set[str]) -> None:
    assert allowed(policy(target, **fields)) == rights


def test_a_daemon_that_observes_needs_to_see_whatever_the_policies_say() -> None:
    assert allowed(policy("web", health=SICK), act=False) == DEPLOYMENT


def test_a_lease_is_shared_under_one_name() -> None:
    found = allowed(lease=kube_rights.of_lease(Lease(store="kubernetes")))
    assert found == allowed(lease=kube_rights.of_lease(Lease(), "scaler"))
    assert kube_rights.of_lease(Lease()) == []
    lease = "coordination.k8s.io/leases"
    assert found == {
        f"create {lease}",
        *(f"{v} {lease} scaler" for v in ("get", "watch", "update")),
    }


def test_a_sidecar_finds_its_owner() -> None:
    own = policy("self", mode="observe")
    assert allowed(own, own="deployment/web") == DEPLOYMENT | {"get /pods"}
    with pytest.raises(ConfigError, match="--sidecar deployment/web"):
        allowed(own)


def test_a_sidecar_of_nothing_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match="magic"):
        allowed(policy("self"), own="magic/web")


def run(folder: Path, text: str, *words: str) -> Result:
    (folder / "web.yaml").write_text(text)
    return CliRunner().invoke(scaler, ["rbac", str(folder), *words])


TWO_PLACES = """
policies:
  web: {target: {kubernetes: {workload: web, namespace: shop}}}
  api: {target: {kubernetes: {workload: api, namespace: shop}}}
  db: {target: {kubernetes: {workload: sts/db, namespace: data}}, mode: observe}
"""


def test_there_is_one_role_per_namespace_bound_to_the_account_of_the_daemon(tmp_path: Path) -> None:
    ended = run(tmp_path, TWO_PLACES, "--namespace", "ops", "--service-account", "sizer")
    assert ended.exit_code == 0, ended.output
    objects = list(yaml.safe_load_all(ended.stdout))
    assert [(o["kind"], o["metadata"].get("namespace")) for o in objects] == [
        ("ServiceAccount", "ops"),
        ("Role", "shop"),
        ("RoleBinding", "shop"),
        ("Role", "data"),
        ("RoleBinding", "data"),
    ]
    subject = {"kind": "ServiceAccount", "name": "sizer", "namespace": "ops"}
    assert all(o["subjects"] == [subject] for o in objects if o["kind"] == "RoleBinding")
    rules = objects[1]["rules"]
    (scale,) = [rule for rule in rules if rule["resources"] == ["deployments/scale"]]
    assert scale["resourceNames"] == ["web", "api"]
    assert scale["verbs"] == ["patch"]
    assert "# set the count" in ended.stdout
    assert not any("*" in str(rule) for o in objects for rule in o.get("rules", ()))


ONE_PLACE = """
policies:
  web: {target: {kubernetes: {workload: web, namespace: shop}}}
  api: {target: {kubernetes: api}}
"""


def test_a_namespace_has_one_role_whoever_names_it(tmp_path: Path) -> None:
    """Of two with one name the last would be all there is, once they are applied."""
    ended = run(tmp_path, ONE_PLACE, "--namespace", "shop", "--lease", "scaler")
    objects = list(yaml.safe_load_all(ended.stdout))
    assert [o["kind"] for o in objects] == ["ServiceAccount", "Role", "RoleBinding"]
    rules = objects[1]["rules"]
    assert [r["resourceNames"] for r in rules if r["resources"] == ["deployments/scale"]] == [
        ["web", "api"]
    ]
    assert sum(r["resources"] == ["leases"] for r in rules) == 2
    assert sum(r["resources"] == ["deployments"] for r in rules) == 1


def test_the_lease_is_where_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    settings = tmp_path / "settings/scaler.yaml"
    settings.write_text("lease: {store: kubernetes, name: sizes, namespace: ops}\n")
    (tmp_path / "web.yaml").write_text(ONE_PLACE)
    words = ["-c", str(settings), "rbac", "-n", "shop", str(tmp_path / "web.yaml")]
    objects = list(yaml.safe_load_all(CliRunner().invoke(scaler, words).stdout))
    found = {
        o["metadata"]["namespace"]: {r["resources"][0] for r in o["rules"]}
        for o in objects
        if o["kind"] == "Role"
    }
    assert found["ops"] == {"leases"}
    assert "leases" not in found["shop"]


def test_as_json_it_is_a_list_that_can_be_applied(tmp_path: Path) -> None:
    plain = run(tmp_path, TWO_PLACES, "-n", "").stdout
    found = json.loads(run(tmp_path, TWO_PLACES, "-n", "", "--json").stdout)
    assert found["kind"] == "List"
    assert found["items"] == list(yaml.safe_load_all(plain))
    assert "namespace" not in found["items"][0]["metadata"], "left to kustomize"


def test_without_a_target_on_kubernetes_there_is_nothing_to_print(tmp_path: Path) -> None:
    ended = run(tmp_path, "policies: {web: {target: {docker: web}}}")
    assert ended.exit_code == 3
    assert "no right is needed" in ended.stderr
