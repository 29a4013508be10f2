"""37 checks that a fake Kubernetes API server should pass to be a faithful test double for an autoscaler.

usage: python k8s_fake_battery.py URL ADMIN_TOKEN UNPRIVILEGED_TOKEN LABEL
needs: kubernetes>=37, requests.  The target needs an empty namespace "default"; the admin token must be able
to do everything in it, the unprivileged token nothing.  A real kube-apiserver 1.36.2 (RBAC, token file,
no controllers) passes 37 of 37.
"""

import json
import sys
import threading
import time

import requests
import urllib3
from kubernetes import client, watch
from kubernetes.client.rest import ApiException

urllib3.disable_warnings()
url, token, bad, which = sys.argv[1:5]
NS = "default"
RQ = requests.Session()
RQ.trust_env = False
RQ.verify = False
RQ.headers["Authorization"] = "Bearer " + token


def mk(tok):
    c = client.Configuration()
    c.host = url
    c.verify_ssl = False
    c.retries = False
    c.api_key = {"authorization": tok}
    c.api_key_prefix = {"authorization": "Bearer"}
    return client.ApiClient(c)


A = mk(token)
apps, core, coord = client.AppsV1Api(A), client.CoreV1Api(A), client.CoordinationV1Api(A)
pol, co = client.PolicyV1Api(A), client.CustomObjectsApi(A)


def dep(name="web", rep=2):
    lab = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": lab},
        "spec": {
            "replicas": rep,
            "selector": {"matchLabels": lab},
            "template": {
                "metadata": {"labels": lab},
                "spec": {"containers": [{"name": "a", "image": "x:1"}]},
            },
        },
    }


def pod(name, labels=None):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {"app": "p"}},
        "spec": {"containers": [{"name": "a", "image": "x:1"}]},
    }


def eviction(name):
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": NS},
    }


def status(fn, code, reason=None):
    try:
        fn()
    except ApiException as e:
        if e.status != code:
            raise
        try:
            body = json.loads(e.body)
        except (TypeError, ValueError):
            body = {}
        return reason is None or body.get("reason") == reason
    return False


R = []


def t(name):
    def deco(f):
        try:
            ok, det = bool(f()), ""
        except ApiException as e:
            ok, det = False, f"ApiException {e.status} {e.reason} {(e.body or '')[:150]}"
        except Exception as e:  # noqa: BLE001
            ok, det = False, f"{type(e).__name__}: {str(e)[:160]}"
        R.append(ok)
        print(("PASS " if ok else "FAIL ") + name, det, flush=True)
        return f

    return deco


for make in (
    lambda: core.create_namespace({"metadata": {"name": NS}}),
    lambda: core.create_namespaced_service_account(NS, {"metadata": {"name": "default"}}),
):
    try:
        make()
    except Exception:  # noqa: BLE001, S110
        pass


@t("01 discovery lists apps and coordination.k8s.io")
def _():
    return {g.name for g in client.ApisApi(A).get_api_versions().groups} >= {
        "apps",
        "coordination.k8s.io",
    }


@t("02 create returns uid, resourceVersion, creationTimestamp")
def _():
    d = apps.create_namespaced_deployment(NS, dep())
    return d.metadata.uid and d.metadata.resource_version and d.metadata.creation_timestamp


@t("03 duplicate create is 409 AlreadyExists")
def _():
    return status(lambda: apps.create_namespaced_deployment(NS, dep()), 409, "AlreadyExists")


@t("04 missing object is 404 NotFound")
def _():
    return status(lambda: apps.read_namespaced_deployment("nope", NS), 404, "NotFound")


@t("05 generation rises on a spec change, not on a label change")
def _():
    g = apps.read_namespaced_deployment("web", NS).metadata.generation
    g2 = apps.patch_namespaced_deployment("web", NS, {"spec": {"replicas": 3}}).metadata.generation
    g3 = apps.patch_namespaced_deployment(
        "web", NS, {"metadata": {"labels": {"zz": "b"}}}
    ).metadata.generation
    apps.patch_namespaced_deployment("web", NS, {"metadata": {"annotations": {"a": "b"}}})
    return g2 == g + 1 and g3 == g2


@t("06 label selector")
def _():
    apps.create_namespaced_deployment(NS, dep("api"))
    return [
        d.metadata.name for d in apps.list_namespaced_deployment(NS, label_selector="app=api").items
    ] == ["api"]


@t("07 field selector")
def _():
    items = apps.list_namespaced_deployment(NS, field_selector="metadata.name=api").items
    return [d.metadata.name for d in items] == ["api"]


@t("08 limit and continue")
def _():
    r = apps.list_namespaced_deployment(NS, limit=1)
    return len(r.items) == 1 and r.metadata._continue


@t("09 GET scale gives a Scale with a selector")
def _():
    s = apps.read_namespaced_deployment_scale("web", NS)
    return s.kind == "Scale" and s.spec.replicas == 3 and "app=web" in (s.status.selector or "")


@t("10 PATCH scale changes the parent")
def _():
    apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 5}})
    return apps.read_namespaced_deployment("web", NS).spec.replicas == 5


@t("11 PUT scale with a stale resourceVersion is 409 Conflict")
def _():
    s = apps.read_namespaced_deployment_scale("web", NS)
    apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 6}})
    s.spec.replicas = 7
    return status(lambda: apps.replace_namespaced_deployment_scale("web", NS, s), 409, "Conflict")


@t("12 PUT with a stale resourceVersion is 409 Conflict")
def _():
    d = apps.read_namespaced_deployment("web", NS)
    apps.patch_namespaced_deployment("web", NS, {"spec": {"replicas": 4}})
    d.spec.replicas = 9
    return status(lambda: apps.replace_namespaced_deployment("web", NS, d), 409, "Conflict")


@t("13 PATCH carrying a stale resourceVersion is 409 Conflict")
def _():
    body = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 4}}
    return status(lambda: apps.patch_namespaced_deployment("web", NS, body), 409, "Conflict")


@t("14 Lease: create, update, stale update is 409")
def _():
    old = coord.create_namespaced_lease(
        NS,
        {"metadata": {"name": "ldr"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}},
    )
    new = coord.read_namespaced_lease("ldr", NS)
    new.spec.holder_identity = "b"
    coord.replace_namespaced_lease("ldr", NS, new)
    old.spec.holder_identity = "c"
    return (
        status(lambda: coord.replace_namespaced_lease("ldr", NS, old), 409, "Conflict")
        and coord.read_namespaced_lease("ldr", NS).spec.holder_identity == "b"
    )


@t("15 watch from a list's resourceVersion sees later events only")
def _():
    rv, ev = apps.list_namespaced_deployment(NS).metadata.resource_version, []

    def go():
        time.sleep(0.5)
        apps.patch_namespaced_deployment("api", NS, {"spec": {"replicas": 8}})

    th = threading.Thread(target=go)
    th.start()
    for e in watch.Watch().stream(
        apps.list_namespaced_deployment,
        NS,
        resource_version=rv,
        timeout_seconds=3,
        _request_timeout=5,
    ):
        ev.append((e["type"], e["object"].metadata.name))
    th.join()
    return ev == [("MODIFIED", "api")]


@t("16 the server ends a watch at timeoutSeconds")
def _():
    s = time.time()
    for _e in watch.Watch().stream(
        apps.list_namespaced_deployment, NS, timeout_seconds=2, _request_timeout=6
    ):
        pass
    return 1.5 < time.time() - s < 4


@t("17 merge patch: null deletes a key")
def _():
    d = apps.patch_namespaced_deployment("web", NS, {"metadata": {"annotations": {"a": None}}})
    return "a" not in (d.metadata.annotations or {})


@t("18 strategic merge: containers merge by name")
def _():
    body = {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "y:1"}]}}}}
    d = apps.patch_namespaced_deployment("web", NS, body)
    return {c.name for c in d.spec.template.spec.containers} == {"a", "b"}


@t("19 JSON patch")
def _():
    d = apps.patch_namespaced_deployment(
        "api", NS, [{"op": "replace", "path": "/spec/replicas", "value": 1}]
    )
    return d.spec.replicas == 1


@t("20 server-side apply: another field owner is 409")
def _():
    def apply(manager, rep):
        return RQ.patch(
            f"{url}/apis/apps/v1/namespaces/{NS}/deployments/ssa?fieldManager={manager}",
            headers={"Content-Type": "application/apply-patch+yaml"},
            data=json.dumps(dep("ssa", rep)),
        )

    return apply("m1", 1).status_code in (200, 201) and apply("m2", 2).status_code == 409


@t("21 dryRun=All is not kept")
def _():
    apps.patch_namespaced_deployment("api", NS, {"spec": {"replicas": 77}}, dry_run="All")
    return apps.read_namespaced_deployment("api", NS).spec.replicas != 77


@t("22 selector that does not match the template is 422 Invalid")
def _():
    b = dep("bad")
    b["spec"]["selector"] = {"matchLabels": {"zzz": "1"}}
    return status(lambda: apps.create_namespaced_deployment(NS, b), 422, "Invalid")


@t("23 replicas -1 is 422 Invalid")
def _():
    return status(
        lambda: apps.patch_namespaced_deployment_scale("api", NS, {"spec": {"replicas": -1}}),
        422,
        "Invalid",
    )


@t("24 generateName")
def _():
    r = RQ.post(
        f"{url}/api/v1/namespaces/{NS}/configmaps",
        json={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "cm-"}},
    )
    return r.json()["metadata"].get("name", "").startswith("cm-")


@t("25 status subresource leaves spec alone")
def _():
    core.create_namespaced_pod(NS, pod("p1"))
    core.patch_namespaced_pod_status("p1", NS, {"status": {"phase": "Running"}})
    q = core.read_namespaced_pod("p1", NS)
    return q.status.phase == "Running" and q.spec.containers


@t("26 eviction removes the pod")
def _():
    core.create_namespaced_pod_eviction("p1", NS, eviction("p1"))
    try:
        return core.read_namespaced_pod("p1", NS).metadata.deletion_timestamp is not None
    except ApiException as e:
        return e.status == 404


@t("27 eviction against a disruption budget is 429")
def _():
    core.create_namespaced_pod(NS, pod("p2", {"app": "g"}))
    pol.create_namespaced_pod_disruption_budget(
        NS,
        {
            "metadata": {"name": "b"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "g"}}},
        },
    )
    core.patch_namespaced_pod_status(
        "p2",
        NS,
        {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
    )
    return status(lambda: core.create_namespaced_pod_eviction("p2", NS, eviction("p2")), 429)


@t("28 wrong token is 401")
def _():
    return status(lambda: client.AppsV1Api(mk("wrong")).list_namespaced_deployment(NS), 401)


@t("29 token without rights is 403 Forbidden")
def _():
    api = client.AppsV1Api(mk(bad))
    return status(
        lambda: api.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 1}}),
        403,
        "Forbidden",
    )


@t("30 SelfSubjectAccessReview answers allowed")
def _():
    attrs = {
        "verb": "patch",
        "group": "apps",
        "resource": "deployments",
        "subresource": "scale",
        "namespace": NS,
    }
    r = client.AuthorizationV1Api(A).create_self_subject_access_review(
        {"spec": {"resourceAttributes": attrs}}
    )
    return r.status and r.status.allowed is True


@t("31 Event can be created")
def _():
    e = core.create_namespaced_event(
        NS,
        {
            "metadata": {"name": "e1"},
            "involvedObject": {"kind": "Deployment", "name": "web", "namespace": NS},
            "reason": "ScaledUp",
            "message": "m",
            "type": "Normal",
        },
    )
    return e.reason == "ScaledUp"


@t("32 create in a missing namespace is 404")
def _():
    return status(lambda: apps.create_namespaced_deployment("no-such-ns", dep("x")), 404)


@t("33 delete, then 404")
def _():
    apps.delete_namespaced_deployment("api", NS, propagation_policy="Background")
    return status(lambda: apps.read_namespaced_deployment("api", NS), 404)


@t("34 list has its kind and a numeric resourceVersion")
def _():
    r = apps.list_namespaced_deployment(NS)
    return r.kind == "DeploymentList" and r.metadata.resource_version.isdigit()


@t("35 PUT Lease without resourceVersion is 422 Invalid")
def _():
    body = {"metadata": {"name": "ldr"}, "spec": {"holderIdentity": "z"}}
    return status(lambda: coord.replace_namespaced_lease("ldr", NS, body), 422, "Invalid")


@t("36 metrics.k8s.io: preloaded numbers, or 404 on a server without metrics-server")
def _():
    try:
        m = co.list_namespaced_custom_object("metrics.k8s.io", "v1beta1", NS, "pods")
        return m["items"][0]["containers"][0]["usage"]["cpu"]
    except ApiException as e:
        return e.status == 404 and which == "real"


@t("37 /readyz")
def _():
    return RQ.get(url + "/readyz").status_code == 200


print("SCORE", which, sum(R), "/", len(R))
