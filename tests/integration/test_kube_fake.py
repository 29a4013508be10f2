"""The fake API server, held against what a real one does."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from scaler.clients.kube_login import Login
from scaler.clients.kube_mirror import Mirror
from scaler.clients.kubernetes import MERGE, Api, Gone, Json
from scaler.clock import SystemClock
from scaler.errors import Conflict, Forbidden, PermanentError, Unavailable
from tests.fakes.kube_objects import COST
from tests.fakes.kubernetes import Server, usage
from tests.integration.running import eventually as until

BATTERY = "tests/data/kube_battery.py"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as made:
        yield made


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    made = connect(server)
    yield made
    await made.aclose()


def connect(server: Server, token: str = "") -> Api:
    async def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token or server.admin}"}

    login = Login(url=server.url, namespace="default", tls=None, headers=headers, about="a test")
    return Api(login, SystemClock(), Random(1))


def deployment(name: str = "web", replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
        },
    }


async def test_it_passes_what_a_real_server_passes(server: Server) -> None:
    """The 37 checks are made with the official client, which is not ours."""
    server.publish("default", [usage("default", "web-1", {"a": (0.25, 1 << 20)})])
    nobody = server.grant("nobody", "default", [])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, BATTERY, server.url, server.admin, nobody, "fake"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    lines = output.decode().splitlines()
    assert [line for line in lines if line.startswith("FAIL")] == []
    assert lines[-1] == "SCORE fake 37 / 37"


async def test_a_version_that_was_forgotten_is_gone(server: Server, api: Api) -> None:
    version = (await api.get(DEPLOYMENTS))["metadata"]["resourceVersion"]
    server.put(deployment())
    server.objects.compact()
    with pytest.raises(Gone, match="too old resource version"):
        async for _ in api.watch(DEPLOYMENTS, span=timedelta(seconds=5), resourceVersion=version):
            pass


async def test_a_mirror_follows_through_cuts_and_forgetting(server: Server, api: Api) -> None:
    server.put(deployment("a"))

    def name(item: Json) -> str:
        return str(item["metadata"]["name"])

    mirror = Mirror(api, DEPLOYMENTS, trim=name)
    await mirror.ready()
    for number in range(5):
        server.put(deployment(f"b{number}"))
        server.faults.cut_watches()
        if number == 3:
            server.objects.compact()
    server.delete("Deployment", "a")
    await until(lambda: set(mirror.items) == {f"b{n}" for n in range(5)})
    await mirror.aclose()


async def test_a_server_that_was_away_is_followed_again(server: Server, api: Api) -> None:
    mirror = Mirror(api, DEPLOYMENTS, trim=lambda item: item["metadata"]["name"])
    await mirror.ready()
    await server.down()

    def away() -> bool:
        try:
            mirror.insist()
        except Unavailable:
            return True
        return False

    await until(away)
    server.put(deployment("late"))
    await server.up()
    await until(lambda: "late" in mirror.items and not away())
    await mirror.aclose()


async def test_who_set_the_count_is_known(server: Server, api: Api) -> None:
    server.put(deployment())
    scale = f"{DEPLOYMENTS}/web/scale"
    await api.send("PATCH", scale, {"spec": {"replicas": 5}}, content=MERGE, fieldManager="scaler")
    entry = server.get("Deployment", "web")["metadata"]["managedFields"][0]
    assert (entry["manager"], entry["subresource"]) == ("scaler", "scale")
    server.scale("Deployment", "web", 3, manager="argocd-controller")
    entry = server.get("Deployment", "web")["metadata"]["managedFields"][0]
    assert entry["manager"] == "argocd-controller"
    assert server.writes("web")[-1].manager == "scaler"


async def test_a_stale_count_is_refused(server: Server, api: Api) -> None:
    old = server.put(deployment())["metadata"]["resourceVersion"]
    server.scale("Deployment", "web", 3, manager="somebody")
    body = {"metadata": {"resourceVersion": old}, "spec": {"replicas": 9}}
    with pytest.raises(Conflict, match="the object has been modified"):
        await api.send("PATCH", f"{DEPLOYMENTS}/web/scale", body, content=MERGE)
    assert server.get("Deployment", "web")["spec"]["replicas"] == 3


async def test_a_role_is_kept_to_the_letter(server: Server) -> None:
    server.put(deployment("web"))
    server.put(deployment("api"))
    rule = {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]}
    token = server.grant("robot", "default", [{**rule, "resourceNames": ["web"]}])
    api = connect(server, token)
    body = {"spec": {"replicas": 4}}
    await api.send("PATCH", f"{DEPLOYMENTS}/web/scale", body, content=MERGE)
    for path in (f"{DEPLOYMENTS}/api/scale", f"{DEPLOYMENTS}/web"):
        with pytest.raises(Forbidden, match=r'cannot patch resource "deployments'):
            await api.send("PATCH", path, body, content=MERGE)
    assert [c.code for c in server.calls("patch")] == [200, 403, 403]
    await api.aclose()


async def test_pods_go_gracefully_where_somebody_runs_them(server: Server, api: Api) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}
    server.objects.graceful = True
    uid = server.put(pod)["metadata"]["uid"]
    with pytest.raises(Conflict, match="Precondition failed"):
        await api.send("DELETE", f"{PODS}/p", {"preconditions": {"uid": "another"}})
    await api.send("DELETE", f"{PODS}/p", {"preconditions": {"uid": uid}})
    assert server.get("Pod", "p")["metadata"]["deletionTimestamp"]
    await api.send("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert server.all("Pod") == []


async def test_it_fails_when_it_is_told_to(server: Server, api: Api) -> None:
    server.faults.errors(503, "deployments", times=1, retry_after=2)
    with pytest.raises(Unavailable, match="a scripted error 503") as caught:
        await api.get(DEPLOYMENTS)
    assert caught.value.retry_after == timedelta(seconds=2)
    await api.get(DEPLOYMENTS)


async def test_another_of_the_same_name_is_not_patched(server: Server, api: Api) -> None:
    server.put(deployment())
    body = {"metadata": {"uid": "another", "annotations": {"a": "b"}}}
    with pytest.raises(PermanentError, match=r"metadata\.uid: .*field is immutable"):
        await api.send("PATCH", f"{DEPLOYMENTS}/web", body, content=MERGE)
    assert "annotations" not in server.get("Deployment", "web")["metadata"]


@pytest.mark.parametrize(
    ("kind", "meta", "rest", "why"),
    [
        pytest.param("pods", {"name": "Web_1"}, {}, "RFC 1123", id="a name in capitals"),
        pytest.param("pods", {"annotations": {COST: "1.5"}}, {}, "32bit integer", id="half a cost"),
        pytest.param("pods", {"annotations": {"a": 1}}, {}, "of type string", id="a number"),
        pytest.param(
            "events",
            {},
            {"involvedObject": {"namespace": "shop"}},
            "does not match",
            id="elsewhere",
        ),
    ],
)
async def test_what_a_real_server_refuses(
    api: Api, kind: str, meta: dict[str, Any], rest: dict[str, Any], why: str
) -> None:
    body = {"metadata": {"name": "one", **meta}, **rest}
    with pytest.raises(PermanentError, match=why):
        await api.send("POST", f"/api/v1/namespaces/default/{kind}", body)


async def test_the_times_of_a_lease_have_six_digits(api: Api) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    spec = {"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00Z"}
    body = {"metadata": {"name": "ldr"}, "spec": spec}
    with pytest.raises(PermanentError, match="cannot be handled as a Lease: parsing time"):
        await api.send("POST", leases, body)
    spec["renewTime"] = "2026-01-01T00:00:00.000000Z"
    await api.send("POST", leases, body)


async def test_all_pages_show_what_the_first_one_saw(server: Server, api: Api) -> None:
    for name in "abcd":
        server.put(deployment(name))
    first = await api.get(DEPLOYMENTS, limit="2")
    server.delete("Deployment", "c")
    server.put(deployment("cc"))
    server.scale("Deployment", "d", 9, manager="somebody")
    place = first["metadata"]["continue"]
    second = await api.get(DEPLOYMENTS, limit="2", **{"continue": place})
    seen = [(i["metadata"]["name"], i["spec"]["replicas"]) for i in second["items"]]
    assert seen == [("c", 2), ("d", 2)]
    server.objects.compact()
    with pytest.raises(Gone, match="continue parameter is too old"):
        await api.get(DEPLOYMENTS, **{"continue": place})


async def watched(api: Api, seconds: int, **query: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Type, name and labels of all that a watch tells, but for its beginning."""
    found = []
    async for event in api.watch(DEPLOYMENTS, span=timedelta(seconds=seconds), **query):
        if event["type"] != "OPENED":
            meta = event["object"]["metadata"]
            found.append((event["type"], meta.get("name", ""), meta.get("labels", {})))
    return found


async def test_what_leaves_a_selector_is_shown_as_it_was(server: Server, api: Api) -> None:
    version = server.put(deployment())["metadata"]["resourceVersion"]
    server.update("Deployment", "web", lambda d: d["metadata"].update(labels={"app": "other"}))
    told = await watched(api, 1, resourceVersion=version, labelSelector="app=web")
    assert told == [("DELETED", "web", {"app": "web"})]


async def test_a_bookmark_comes_before_the_end(server: Server, api: Api) -> None:
    version = server.put(deployment())["metadata"]["resourceVersion"]
    query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
    assert await watched(api, 3, **query) == [("BOOKMARK", "", {})]
    assert await watched(api, 1, resourceVersion=version) == []


async def test_a_forgotten_version_is_told_in_the_stream_or_at_once(
    server: Server, api: Api
) -> None:
    version = server.put(deployment())["metadata"]["resourceVersion"]
    server.put(deployment("later"))
    server.objects.compact()
    for at_once in (False, True):
        server.faults.gone_at_once = at_once
        with pytest.raises(Gone, match="too old resource version"):
            await watched(api, 5, resourceVersion=version)
    assert [c.code for c in server.calls("watch")] == [200, 410]


async def test_rules_are_told_for_the_namespace_asked_for(server: Server) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    robot = connect(server, server.grant("robot", "default", [rule]))
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    for namespace, rules in (("default", [rule]), ("kube-system", [])):
        answer = await robot.send("POST", path, {"spec": {"namespace": namespace}})
        assert answer["status"]["resourceRules"] == rules
    await robot.aclose()


async def test_a_budget_that_nobody_has_looked_at_forbids(server: Server, api: Api) -> None:
    labels = {"app": "web"}
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    meta = {"name": "p", "labels": labels}
    server.put({"kind": "Pod", "metadata": meta, "spec": {"containers": []}, "status": ready})
    spec = {"minAvailable": 0, "selector": {"matchLabels": labels}}
    server.put({"kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": spec})
    body = {"kind": "Eviction", "metadata": {"name": "p"}}
    with pytest.raises(Unavailable, match="b is still being processed by the server") as caught:
        await api.send("POST", f"{PODS}/p/eviction", body)
    assert caught.value.retry_after == timedelta(seconds=10)


async def test_two_evictions_do_not_spend_the_same_disruption(server: Server, api: Api) -> None:
    """Also before the controller has looked again; here there is none."""
    labels = {"app": "web"}
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    for name in "ab":
        meta = {"name": name, "labels": labels}
        server.put({"kind": "Pod", "metadata": meta, "spec": {"containers": []}, "status": ready})
    known = {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 1}
    spec = {"minAvailable": 1, "selector": {"matchLabels": labels}}
    meta = {"name": "most"}
    server.put({"kind": "PodDisruptionBudget", "metadata": meta, "spec": spec, "status": known})
    await api.send("POST", f"{PODS}/a/eviction", {"kind": "Eviction", "metadata": {"name": "a"}})
    with pytest.raises(Unavailable, match="most needs 1 healthy pods"):
        await api.send(
            "POST", f"{PODS}/b/eviction", {"kind": "Eviction", "metadata": {"name": "b"}}
        )
