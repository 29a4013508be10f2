"""What stands in `deploy/kubernetes` is valid, confined, complete, and has the rights it needs."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner

from scaler import policyfile, settings
from scaler.cli.commands import scaler

ROOT = Path("deploy/kubernetes")
KUSTOMIZATIONS = sorted(ROOT.rglob("kustomization.yaml"))
APPLIED = [ROOT / "overlays/shop", ROOT / "overlays/observe", ROOT / "sidecar"]
SETTINGS = sorted(ROOT.rglob("scaler.yaml"))
OF_KUSTOMIZE = ("kustomize.config.k8s.io/v1beta1", "kustomize.config.k8s.io/v1alpha1")
OF_OPERATORS = ("monitoring.coreos.com/v1",)  # their definitions are in no API of Kubernetes
WORKLOADS = [ROOT / "base/deployment.yaml", ROOT / "sidecar/deployment.yaml"]
KUBERNETES = "1.36"


def objects(file: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one]


MANIFESTS = [
    file
    for file in sorted(ROOT.rglob("*.yaml"))
    if file.parent.name != "policies" and file.name not in ("scaler.yaml", "kustomization.yaml")
]


def insist(one: Mapping[str, Any]) -> None:
    """Valid by the API of Kubernetes, where a field that is not known is an error."""
    if one["apiVersion"] in OF_OPERATORS:
        return
    kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", MANIFESTS, ids=str)
def test_each_object_is_valid(file: Path) -> None:
    for one in objects(file):
        insist(one)


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=str)
def test_what_is_listed_is_there_and_what_is_there_is_listed(file: Path) -> None:
    (listed,) = objects(file)
    assert listed["apiVersion"] in OF_KUSTOMIZE
    folder = file.parent
    names = [
        *listed.get("resources", ()),
        *(patch["path"] for patch in listed.get("patches", ())),
        *(name for made in listed.get("configMapGenerator", ()) for name in made["files"]),
    ]
    for name in names:
        assert (folder / name).exists(), name
    inside = {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}
    assert inside == {name for name in names if not name.startswith("..")} | {file.name}


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What would be applied."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl renders it; it is not here")
    command = ["kubectl", "kustomize", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [one for one in yaml.safe_load_all(ended.stdout) if one]


@pytest.mark.parametrize("folder", APPLIED, ids=str)
def test_what_would_be_applied_is_valid_and_fits_together(folder: Path) -> None:
    found = rendered(folder)
    for one in found:
        insist(one)
        assert one["kind"] != "Namespace", "deleting the overlay would delete the services"
        assert one["metadata"]["namespace"] == "shop"
    accounts = {o["metadata"]["name"] for o in found if o["kind"] == "ServiceAccount"}
    (binding,) = [o for o in found if o["kind"] == "RoleBinding"]
    assert [s["namespace"] for s in binding["subjects"]] == ["shop"]
    maps = {o["metadata"]["name"] for o in found if o["kind"] == "ConfigMap"}
    for one in found:
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            assert pod["serviceAccountName"] in accounts
            mounted = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
            assert mounted == maps
            for container in [*pod["containers"], *pod.get("initContainers", ())]:
                _, colon, tag = container["image"].partition(":")
                assert colon, f"{container['image']} names no version"
                assert tag != "latest"


def test_the_pod_monitor_joins_an_overlay(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tree := tmp_path / "kubernetes")
    with (tree / "overlays/shop/kustomization.yaml").open("a") as file:
        file.write("components: [../../components/podmonitor]\n")
    found = rendered(tree / "overlays/shop")
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert {("PodMonitor", "scaler"), ("NetworkPolicy", "scaler-metrics")} <= names
    assert {one["metadata"]["namespace"] for one in found} == {"shop"}


def test_observing_shrinks_the_rights_of_the_same_overlay() -> None:
    acting, observing = (
        {str(o["rules"]) for o in rendered(ROOT / "overlays" / name) if o["kind"] == "Role"}
        for name in ("shop", "observe")
    )
    assert "patch" in "".join(acting)
    assert not any(verb in "".join(observing) for verb in ("patch", "create", "delete", "update"))


@pytest.mark.parametrize("file", [ROOT / "base/network.yaml", ROOT / "base/disruption.yaml"])
def test_what_selects_pods_selects_the_daemon_and_nobody_else(file: Path) -> None:
    (deployment,) = objects(ROOT / "base/deployment.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    for one in objects(file):
        selector = one["spec"].get("podSelector") or one["spec"].get("selector")
        assert selector == {"matchLabels": labels}


@pytest.mark.parametrize("file", [*WORKLOADS, ROOT / "ledger/deployment.yaml"], ids=str)
def test_pods_are_confined(file: Path) -> None:
    (deployment,) = objects(file)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all({"configMap", "emptyDir", "secret"} & volume.keys() for volume in pod["volumes"])
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_the_pod_monitor_asks_the_port_that_the_daemon_names() -> None:
    (deployment,) = objects(ROOT / "base/deployment.yaml")
    (daemon,) = daemons(deployment["spec"]["template"]["spec"])
    (monitor,) = objects(ROOT / "components/podmonitor/podmonitor.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"] == {"matchLabels": labels}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert endpoint["port"] in {port["name"] for port in daemon["ports"]}


def daemons(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        if container["image"] == "scaler":
            yield container


@pytest.mark.parametrize("file", WORKLOADS, ids=str)
def test_probes_ask_where_the_daemon_answers(file: Path) -> None:
    (deployment,) = objects(file)
    (daemon,) = daemons(deployment["spec"]["template"]["spec"])
    chosen = settings.load(file.parent / "scaler.yaml")
    name = daemon["livenessProbe"]["httpGet"]["port"]
    (port,) = [port for port in daemon["ports"] if port["name"] == name]
    assert chosen.http == f"0.0.0.0:{port['containerPort']}"
    assert daemon["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port["name"]}
    mounts = {mount["mountPath"] for mount in daemon["volumeMounts"]}
    assert {"/var/lib/scaler", "/run/scaler", "/tmp"} <= mounts, "the root cannot be written"
    assert {str(path) for path in chosen.policies} <= mounts


@pytest.mark.parametrize("file", WORKLOADS, ids=str)
def test_of_several_daemons_one_acts(file: Path) -> None:
    (deployment,) = objects(file)
    assert deployment["spec"]["replicas"] > 1
    assert settings.load(file.parent / "scaler.yaml").lease.store == "kubernetes"
    (daemon,) = daemons(deployment["spec"]["template"]["spec"])
    assert "POD_NAME" in {variable["name"] for variable in daemon["env"]}


def test_sidecars_answer_each_other_and_nobody_else() -> None:
    (deployment,) = objects(ROOT / "sidecar/deployment.yaml")
    (daemon,) = daemons(deployment["spec"]["template"]["spec"])
    rules = settings.load(ROOT / "sidecar/scaler.yaml").sidecar
    assert rules.port in {port["containerPort"] for port in daemon["ports"]}
    folders = {mount["mountPath"] for mount in daemon["volumeMounts"]}
    assert str(Path(rules.token_file).parent) in folders
    (policy,) = objects(ROOT / "sidecar/network.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (rule,) = [r for r in policy["spec"]["ingress"] if r["ports"][0]["port"] == rules.port]
    assert rule["from"] == [{"podSelector": {"matchLabels": labels}}]


def test_daemons_of_different_targets_share_no_lease() -> None:
    """They may well stand in one namespace."""
    names = [settings.load(file.parent / "scaler.yaml").lease.name for file in WORKLOADS]
    assert len(set(names)) == len(names)


def test_a_node_can_be_emptied_and_a_daemon_stays() -> None:
    (deployment,) = objects(ROOT / "base/deployment.yaml")
    (budget,) = objects(ROOT / "base/disruption.yaml")
    assert 1 <= budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]


def test_the_application_of_a_sidecar_is_as_open_and_starts_as_surely_as_without() -> None:
    (deployment,) = objects(ROOT / "sidecar/deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert [secret["optional"] for secret in secrets] == [True]
    (policy,) = objects(ROOT / "sidecar/network.yaml")
    ports = {port["containerPort"] for one in pod["containers"] for port in one["ports"]}
    for_all = [rule for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert {port["port"] for rule in for_all for port in rule["ports"]} == ports


def test_a_sidecar_is_native_and_small() -> None:
    (deployment,) = objects(ROOT / "sidecar/deployment.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (sidecar,) = pod["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["resources"]["limits"]["memory"] == "64Mi"
    assert pod["shareProcessNamespace"] is True
    for container in [*pod["containers"], sidecar]:
        assert "runAsUser" not in container["securityContext"], "another user's group is not seen"
    given = {variable["name"] for variable in sidecar["env"]}
    assert {"POD_NAME", "POD_NAMESPACE", "POD_IP"} <= given


@pytest.mark.parametrize("file", SETTINGS, ids=str)
def test_settings_are_valid(file: Path) -> None:
    settings.load(file)


@pytest.mark.parametrize("folder", sorted(ROOT.rglob("policies")), ids=str)
def test_policies_are_valid(folder: Path) -> None:
    policies = policyfile.load([folder]).insist()
    assert {policy.target.kind for policy in policies.values()} == {"kubernetes"}


@pytest.mark.parametrize(
    ("role", "policies", "config", "words"),
    [
        pytest.param("base/rbac.yaml", "base", "base", [], id="base"),
        pytest.param("overlays/shop/role.yaml", "overlays/shop", "base", [], id="shop"),
        pytest.param(
            "overlays/observe/role.yaml", "overlays/shop", "overlays/observe", [], id="observing"
        ),
        pytest.param(
            "sidecar/rbac.yaml",
            "sidecar",
            "sidecar",
            ["--service-account", "web-scaler", "--sidecar", "deployment/web"],
            id="sidecar",
        ),
    ],
)
def test_the_rights_are_those_that_the_policies_need(
    role: str, policies: str, config: str, words: list[str]
) -> None:
    chosen = ["--config", str(ROOT / config / "scaler.yaml")]
    command = [*chosen, "rbac", "-n", "", str(ROOT / policies / "policies"), *words]
    printed = CliRunner().invoke(scaler, command, env=dict(os.environ)).stdout
    wanted = [one for one in yaml.safe_load_all(printed) if one]
    found = objects(ROOT / role)
    kinds = {one["kind"] for one in found}
    assert found == [one for one in wanted if one["kind"] in kinds], (
        f"run: scaler {' '.join(command)}"
    )
