"""Manifests of other autoscalers as policies: what maps, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from scaler import located, policyfile
from scaler.cli.commands import scaler
from scaler.cli.imports import translated
from scaler.core.policy import Policy
from scaler.errors import ConfigError
from scaler.importing import cron, written
from scaler.importing.draft import Draft, Options


def hpa(spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web", **meta},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 10,
            **spec,
        },
    }


def scaled(spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "web", **meta},
        "spec": {"scaleTargetRef": {"name": "web"}, **spec},
    }


def imported(manifest: dict[str, Any], options: Options | None = None) -> Draft:
    kind = "hpa" if manifest["kind"] == "HorizontalPodAutoscaler" else "scaledobject"
    (made,) = translated(kind, json.dumps(manifest), "file", options or Options())
    return made


def loaded(draft: Draft) -> Policy:
    """The policy, by way of the text that a person gets."""
    text = written.policies([draft], "test")
    document = located.parse(Path("made.yaml"), text)
    (policy,) = policyfile.policies_of(document, {}).values() or [None]
    assert not document.problems, [problem.text() for problem in document.problems]
    assert policy is not None
    return policy


LIST: dict[str, Any] = {
    "type": "redis",
    "metadata": {"address": "redis:6379", "listName": "jobs", "listLength": "20"},
}


def postgresql(**more: Any) -> dict[str, Any]:
    asked = {"host": "db", "query": "SELECT count(*) FROM jobs", "targetQueryValue": "5"}
    return {"type": "postgresql", "metadata": {**asked, **more}}


def redis_list(**more: Any) -> dict[str, Any]:
    return {**LIST, "metadata": {**LIST["metadata"], **more}}


def redis_stream(**more: Any) -> dict[str, Any]:
    return {
        "type": "redis-streams",
        "metadata": {"address": "redis:6379", "stream": "events", **more},
    }


def resource(name: str = "cpu", **target: Any) -> dict[str, Any]:
    return {"type": "Resource", "resource": {"name": name, "target": target}}


HALF = resource(type="Utilization", averageUtilization=50)
RATES = {
    "grow": {"at_most": 4, "or": "100%", "per": "15s"},
    "shrink": {"at_most": "100%", "per": "15s"},
}


@pytest.mark.parametrize(
    ("spec", "path", "value"),
    [
        pytest.param({}, "target", {"kubernetes": "deployment/web"}, id="a Deployment"),
        pytest.param(
            {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}},
            "target",
            {"kubernetes": "statefulset/db"},
            id="a StatefulSet",
        ),
        pytest.param({}, "limits.min", 1, id="min has its default"),
        pytest.param({"minReplicas": 0}, "limits.min", 0, id="min of zero"),
        pytest.param({"minReplicas": 3}, "limits.min", 3, id="min"),
        pytest.param({"maxReplicas": 30}, "limits.max", 30, id="max"),
        pytest.param(
            {},
            "metrics",
            [{"cpu": "80%", "of": "request", "window": "0s"}],
            id="no metric is 80 % CPU",
        ),
        pytest.param(
            {"metrics": [HALF]},
            "metrics",
            [{"cpu": "50%", "of": "request", "window": "0s"}],
            id="utilization",
        ),
        pytest.param(
            {"metrics": [resource(type="AverageValue", averageValue="500m")]},
            "metrics",
            [{"name": "cpu", "goal": {"per_instance": "500m"}, "window": "0s"}],
            id="so much CPU for each",
        ),
        pytest.param(
            {"metrics": [resource("memory", type="AverageValue", averageValue="1Gi")]},
            "metrics",
            [{"name": "memory", "goal": {"per_instance": "1Gi"}, "window": "0s"}],
            id="so much memory for each",
        ),
        pytest.param({}, "limits.tolerance", "10%", id="the tolerance has its default"),
        pytest.param({}, "limits.settle_down", "5m", id="the window has its default"),
        pytest.param({}, "limits.grow", RATES["grow"], id="growth has its defaults"),
        pytest.param({}, "limits.shrink", RATES["shrink"], id="shrinking has its defaults"),
        pytest.param(
            {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 90}}},
            "limits.settle_down",
            "1m30s",
            id="window down",
        ),
        pytest.param(
            {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
            "limits.settle_down",
            "0s",
            id="no window down",
        ),
        pytest.param(
            {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 30}}},
            "limits.settle_up",
            "30s",
            id="window up",
        ),
        pytest.param(
            {"behavior": {"scaleUp": {"tolerance": "0.05"}}},
            "limits.tolerance_up",
            "5%",
            id="tolerance up",
        ),
        pytest.param(
            {"behavior": {"scaleDown": {"tolerance": "50m"}}},
            "limits.tolerance_down",
            "5%",
            id="tolerance in thousandths",
        ),
        pytest.param(
            {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}},
            "limits.shrink",
            {"pick": "none"},
            id="a direction that is off",
        ),
        pytest.param(
            {
                "behavior": {
                    "scaleUp": {
                        "selectPolicy": "Min",
                        "policies": [
                            {"type": "Pods", "value": 2, "periodSeconds": 60},
                            {"type": "Percent", "value": 10, "periodSeconds": 120},
                        ],
                    }
                }
            },
            "limits.grow",
            {
                "rules": [{"at_most": 2, "per": "1m"}, {"at_most": "10%", "per": "2m"}],
                "pick": "smaller",
            },
            id="rates over two spans",
        ),
    ],
)
def test_a_field_of_an_hpa(spec: dict[str, Any], path: str, value: Any) -> None:
    made = imported(hpa(spec))
    found: Any = made.fields
    for part in path.split("."):
        found = found[part]
    assert found == value
    assert not made.remarks
    loaded(made)


def test_a_metric_of_one_container_measures_that_container() -> None:
    inner = {"name": "cpu", "container": "app", "target": {"averageUtilization": 50}}
    made = imported(hpa({"metrics": [{"type": "ContainerResource", "containerResource": inner}]}))
    assert made.fields["target"] == {
        "kubernetes": {"workload": "deployment/web", "container": "app"}
    }
    assert made.fields["metrics"] == [{"cpu": "50%", "of": "request", "window": "0s"}]
    assert not made.remarks


PODS = {
    "type": "Pods",
    "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1k"}},
}
OBJECT = {
    "type": "Object",
    "object": {
        "metric": {"name": "rps"},
        "describedObject": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "name": "main",
        },
        "target": {"type": "Value", "value": "10k"},
    },
}
EXTERNAL = {
    "type": "External",
    "external": {
        "metric": {
            "name": "depth",
            "selector": {
                "matchLabels": {"queue": 'a"b'},
                "matchExpressions": [
                    {"key": "zone", "operator": "In", "values": ["x", "y"]},
                    {"key": "old", "operator": "DoesNotExist"},
                ],
            },
        },
        "target": {"type": "AverageValue", "averageValue": "30"},
    },
}


@pytest.mark.parametrize(
    ("metric", "query", "goal"),
    [
        pytest.param(
            PODS, 'rps{namespace="shop",pod=~"web-.*"}', {"per_instance": "1k"}, id="of pods"
        ),
        pytest.param(
            OBJECT, 'sum(rps{namespace="shop",ingress="main"})', {"value": "10k"}, id="of an object"
        ),
        pytest.param(
            EXTERNAL,
            'sum(depth{queue="a\\"b",zone=~"x|y",old=""})',
            {"per_instance": 30},
            id="from outside",
        ),
    ],
)
def test_a_metric_of_an_adapter_is_a_query_that_somebody_must_look_at(
    metric: dict[str, Any], query: str, goal: dict[str, Any]
) -> None:
    made = imported(hpa({"metrics": [HALF, metric]}, namespace="shop"))
    found = made.fields["metrics"][1]
    assert found["source"]["prometheus"]["query"] == query
    assert found["goal"] == goal
    assert [(r.kind, r.at) for r in made.remarks] == [("todo", ("metrics", 1))]
    policy = loaded(made)
    assert policy.mode == "observe", "a guess changes nothing"
    assert policy.metrics[1].source.model_dump()["query"] == query


@pytest.mark.parametrize(
    ("manifest", "field", "word"),
    [
        pytest.param(
            hpa(
                {
                    "metrics": [
                        HALF,
                        {
                            "type": "ContainerResource",
                            "containerResource": {
                                "name": "cpu",
                                "container": "app",
                                "target": {"averageUtilization": 50},
                            },
                        },
                    ]
                }
            ),
            "spec.metrics[1].containerResource",
            "container app",
            id="a container beside pods",
        ),
        pytest.param(
            hpa({"metrics": [resource("ephemeral-storage", averageValue="1Gi")]}),
            "spec.metrics[0].resource.name",
            "by hand",
            id="another resource",
        ),
        pytest.param(
            hpa({"metrics": [{"type": "Magic"}]}),
            "spec.metrics[0].type",
            "Magic",
            id="unknown kind",
        ),
        pytest.param(hpa({"maxReplicas": 5000}), "max", "lowered", id="more than a thousand"),
        pytest.param(
            hpa({}, ownerReferences=[{"kind": "ScaledObject", "name": "web"}]),
            "metadata.ownerReferences",
            "scaler import scaledobject",
            id="made by KEDA",
        ),
        pytest.param(
            hpa(
                {
                    "scaleTargetRef": {
                        "apiVersion": "argoproj.io/v1alpha1",
                        "kind": "Rollout",
                        "name": "web",
                    }
                }
            ),
            "spec.scaleTargetRef.kind",
            "kubectl api-resources",
            id="another kind of workload",
        ),
        pytest.param(
            hpa(
                {
                    "scaleTargetRef": {
                        "apiVersion": "v1",
                        "kind": "ReplicationController",
                        "name": "web",
                    }
                }
            ),
            "spec.scaleTargetRef.kind",
            "Deployment",
            id="a kind that has ended",
        ),
        pytest.param(
            {
                **hpa({}, annotations={"autoscaling.alpha.kubernetes.io/metrics": "[]"}),
                "apiVersion": "autoscaling/v1",
            },
            "metadata.annotations[autoscaling.alpha.kubernetes.io/metrics]",
            "hpa.v2",
            id="version 1 that hides something",
        ),
        pytest.param(
            scaled({"idleReplicaCount": 0, "minReplicaCount": 2}),
            "spec.idleReplicaCount",
            "min: 0",
            id="idle",
        ),
        pytest.param(
            scaled({"triggers": [{"type": "kafka", "metadata": {}}]}),
            "spec.triggers[0]",
            "kafka",
            id="another trigger",
        ),
        pytest.param(
            scaled({"triggers": [{"type": "redis-cluster", "metadata": {"listName": "jobs"}}]}),
            "spec.triggers[0]",
            "no cluster or sentinel is followed",
            id="a cluster of Redis",
        ),
        pytest.param(
            scaled({"triggers": [{"type": "redis", "metadata": {"address": "redis:6379"}}]}),
            "spec.triggers[0].metadata",
            "the name of the list is missing",
            id="a list without a name",
        ),
        pytest.param(
            scaled({"triggers": [{**LIST, "authenticationRef": {"name": "secret"}}]}),
            "spec.triggers[0].authenticationRef",
            "REDIS_URL_WEB, such as redis://user:password@redis:6379",
            id="credentials of Redis",
        ),
        pytest.param(
            scaled({"triggers": [redis_list(passwordFromEnv="PASSWORD", databaseIndex="2")]}),
            "spec.triggers[0].metadata.passwordFromEnv",
            "REDIS_URL_WEB, such as redis://user:password@redis:6379/2",
            id="a password of Redis",
        ),
        pytest.param(
            scaled({"triggers": [redis_list(address=None, addressFromEnv="REDIS")]}),
            "spec.triggers[0].metadata.addressFromEnv",
            "REDIS_URL_WEB, such as redis://user:password@host:6379",
            id="an address of Redis that is in a variable",
        ),
        pytest.param(
            scaled({"triggers": [redis_list(activationListLength="3")]}),
            "spec.triggers[0].metadata.activationListLength",
            "not above 3",
            id="a threshold of Redis",
        ),
        pytest.param(
            scaled({"triggers": [redis_list(enableTLS="true", unsafeSsl="true")]}),
            "spec.triggers[0].metadata.unsafeSsl",
            "ssl_ca_certs",
            id="unchecked certificates of Redis",
        ),
        pytest.param(
            scaled({"triggers": [postgresql(query=None)]}),
            "spec.triggers[0].metadata",
            "query is missing",
            id="PostgreSQL without a query",
        ),
        pytest.param(
            scaled({"triggers": [postgresql(userName="eye", passwordFromEnv="PASSWORD")]}),
            "spec.triggers[0].metadata.passwordFromEnv",
            "POSTGRES_DSN_WEB, such as postgresql://eye:password@db:5432/",
            id="a password of PostgreSQL",
        ),
        pytest.param(
            scaled({"triggers": [postgresql(host=None, connectionFromEnv="PG")]}),
            "spec.triggers[0].metadata.connectionFromEnv",
            "POSTGRES_DSN_WEB, such as postgresql://user:password@host:5432/database",
            id="an address of PostgreSQL that is in a variable",
        ),
        pytest.param(
            scaled({"triggers": [{**postgresql(), "authenticationRef": {"name": "secret"}}]}),
            "spec.triggers[0].authenticationRef",
            "POSTGRES_DSN_WEB, such as postgresql://user:password@db:5432/",
            id="credentials of PostgreSQL",
        ),
        pytest.param(
            scaled({"triggers": [postgresql(activationTargetQueryValue="3")]}),
            "spec.triggers[0].metadata.activationTargetQueryValue",
            "subtract 3 in the query",
            id="a threshold of PostgreSQL",
        ),
        pytest.param(
            scaled({"advanced": {"scalingModifiers": {"formula": "a + b"}}}),
            "spec.advanced.scalingModifiers",
            "query",
            id="formulas",
        ),
        pytest.param(
            scaled(
                {
                    "triggers": [
                        {
                            "type": "cron",
                            "metadata": {
                                "start": "0 8 1 * *",
                                "end": "0 9 1 * *",
                                "desiredReplicas": "3",
                            },
                        }
                    ]
                }
            ),
            "spec.triggers[0].metadata",
            "days of a month",
            id="cron by days of the month",
        ),
        pytest.param(
            scaled(
                {
                    "triggers": [
                        {
                            "type": "prometheus",
                            "authenticationRef": {"name": "key"},
                            "metadata": {
                                "serverAddress": "http://p:9090",
                                "query": "q",
                                "threshold": "1",
                            },
                        }
                    ]
                }
            ),
            "spec.triggers[0].authenticationRef",
            "token_file",
            id="credentials",
        ),
        pytest.param(
            scaled({}, annotations={"autoscaling.keda.sh/force-activation": "true"}),
            "metadata.annotations[autoscaling.keda.sh/force-activation]",
            "min: 1",
            id="forced",
        ),
    ],
)
def test_what_does_not_map_is_named_with_a_remedy(
    manifest: dict[str, Any], field: str, word: str
) -> None:
    made = imported(manifest)
    said = [r for r in made.remarks if r.kind != "differs"]
    assert [remark.field for remark in said] == [field]
    assert word in said[0].message
    assert loaded(made).mode == "observe"
    comments = " ".join(
        line.strip(" #") for line in written.policies([made], "").splitlines() if "#" in line
    )
    assert said[0].message in comments


@pytest.mark.parametrize(
    ("trigger", "source", "goal"),
    [
        pytest.param(
            LIST,
            {"url": "redis://redis:6379", "list": "jobs"},
            {"per_instance": 20},
            id="a list",
        ),
        pytest.param(
            redis_list(address=None, host="redis", port=6380, listLength=None),
            {"url": "redis://redis:6380", "list": "jobs"},
            {"per_instance": 5},
            id="host and port, and the default of KEDA",
        ),
        pytest.param(
            redis_list(databaseIndex="3", enableTLS="true"),
            {"url": "rediss://redis:6379/3", "list": "jobs"},
            {"per_instance": 20},
            id="a database and TLS",
        ),
        pytest.param(
            {**LIST, "metricType": "Value"},
            {"url": "redis://redis:6379", "list": "jobs"},
            {"value": 20},
            id="one value",
        ),
        pytest.param(
            redis_stream(),
            {"url": "redis://redis:6379", "stream": "events"},
            {"per_instance": 5},
            id="a stream",
        ),
        pytest.param(
            redis_stream(streamLength="50"),
            {"url": "redis://redis:6379", "stream": "events"},
            {"per_instance": 50},
            id="the length of a stream",
        ),
        pytest.param(
            redis_stream(consumerGroup="mail", pendingEntriesCount="7"),
            {"url": "redis://redis:6379", "stream": "events", "group": "mail"},
            {"per_instance": 7},
            id="pending entries of a group",
        ),
        pytest.param(
            redis_stream(consumerGroup="mail", lagCount="9", activationLagCount="0"),
            {"url": "redis://redis:6379", "stream": "events", "group": "mail"},
            {"per_instance": 9},
            id="the lag of a group",
        ),
    ],
)
def test_triggers_of_redis(
    trigger: dict[str, Any], source: dict[str, str], goal: dict[str, int]
) -> None:
    made = imported(scaled({"triggers": [trigger]}))
    (metric,) = made.fields["metrics"]
    assert metric["source"] == {"redis": source}
    assert metric["goal"] == goal
    assert not made.needs_somebody
    counted = [r for r in made.remarks if "both wait to be done" in r.message]
    assert bool(counted) == ("group" in source)
    assert loaded(made).metrics[0].source.kind == "redis"


@pytest.mark.parametrize(
    ("trigger", "dsn", "goal"),
    [
        pytest.param(
            postgresql(userName="eye", dbName="shop", sslmode="disable", port=6432),
            "postgresql://eye@db:6432/shop?sslmode=disable",
            {"per_instance": 5},
            id="all parts",
        ),
        pytest.param(
            {**postgresql(activationTargetQueryValue="0.0"), "metricType": "Value"},
            "postgresql://db:5432/",
            {"value": 5},
            id="one value, and the default of KEDA",
        ),
    ],
)
def test_triggers_of_postgresql(trigger: dict[str, Any], dsn: str, goal: dict[str, int]) -> None:
    made = imported(scaled({"triggers": [trigger]}))
    (metric,) = made.fields["metrics"]
    query = "SELECT count(*) FROM jobs"
    assert metric["source"] == {"postgres": {"dsn": dsn, "query": query}}
    assert metric["goal"] == goal
    assert not made.needs_somebody
    assert loaded(made).metrics[0].source.kind == "postgres"


@pytest.mark.parametrize(
    ("version", "spec", "metrics"),
    [
        ("autoscaling/v1", {"targetCPUUtilizationPercentage": 60}, "60%"),
        ("autoscaling/v1", {}, "80%"),
        ("autoscaling/v2beta2", {"metrics": [HALF]}, "50%"),
    ],
)
def test_older_versions(version: str, spec: dict[str, Any], metrics: str) -> None:
    made = imported({**hpa(spec), "apiVersion": version})
    assert made.fields["metrics"] == [{"cpu": metrics, "of": "request", "window": "0s"}]


def test_exact_is_the_hpa_to_the_number() -> None:
    plain = imported(hpa({}), Options(exact=True))
    assert plain.fields["compatibility"] == "hpa"
    assert plain.fields["limits"] == {"min": 1, "max": 10}, "other rules without a behavior"
    shaped = imported(hpa({"behavior": {"scaleUp": {}}}), Options(exact=True))
    assert shaped.fields["limits"]["grow"] == RATES["grow"]
    assert loaded(shaped).every.total_seconds() == 15


PROMETHEUS = {
    "type": "prometheus",
    "name": "requests",
    "metadata": {
        "serverAddress": "http://prometheus:9090",
        "query": "sum(rate(http_requests_total[2m]))",
        "threshold": "100",
        "ignoreNullValues": "false",
    },
}


@pytest.mark.parametrize(
    ("spec", "path", "value"),
    [
        pytest.param({}, "limits.min", 0, id="min has its default"),
        pytest.param({}, "limits.max", 100, id="max has its default"),
        pytest.param({"minReplicaCount": 2}, "limits.min", 2, id="min"),
        pytest.param({"maxReplicaCount": 7}, "limits.max", 7, id="max"),
        pytest.param({}, "limits.settle_down", "5m", id="the cooldown has its default"),
        pytest.param({"cooldownPeriod": 900}, "limits.settle_down", "15m", id="a longer cooldown"),
        pytest.param({"cooldownPeriod": 30}, "limits.settle_down", "5m", id="a shorter cooldown"),
        pytest.param({"pollingInterval": 10}, "every", "10s", id="polling"),
        pytest.param(
            {"scaleTargetRef": {"kind": "StatefulSet", "name": "db"}},
            "target",
            {"kubernetes": "statefulset/db"},
            id="a StatefulSet",
        ),
        pytest.param(
            {
                "triggers": [
                    {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "60"}}
                ]
            },
            "metrics",
            [{"cpu": "60%", "of": "request", "window": "0s"}],
            id="CPU",
        ),
        pytest.param(
            {
                "triggers": [
                    {"type": "memory", "metadata": {"type": "AverageValue", "value": "1Gi"}}
                ]
            },
            "metrics",
            [{"name": "memory", "goal": {"per_instance": "1Gi"}, "window": "0s"}],
            id="memory",
        ),
        pytest.param(
            {"triggers": [{"type": "cpu", "metadata": {"value": "60", "containerName": "app"}}]},
            "target",
            {"kubernetes": {"workload": "deployment/web", "container": "app"}},
            id="one container",
        ),
        pytest.param(
            {"triggers": [PROMETHEUS]},
            "metrics",
            [
                {
                    "name": "requests",
                    "source": {
                        "prometheus": {
                            "url": "http://prometheus:9090",
                            "query": "sum(rate(http_requests_total[2m]))",
                        }
                    },
                    "goal": {"per_instance": 100},
                    "window": "0s",
                }
            ],
            id="Prometheus",
        ),
        pytest.param(
            {
                "triggers": [
                    PROMETHEUS,
                    {
                        "type": "cron",
                        "metadata": {
                            "timezone": "Europe/Paris",
                            "start": "0 8 * * 1-5",
                            "end": "30 18 * * 1-5",
                            "desiredReplicas": "5",
                        },
                    },
                ]
            },
            "schedule",
            [{"days": "mon-fri", "from": "08:00", "to": "18:30", "zone": "Europe/Paris", "min": 5}],
            id="cron is a floor",
        ),
        pytest.param(
            {
                "fallback": {
                    "failureThreshold": 3,
                    "replicas": 6,
                    "behavior": "currentReplicasIfHigher",
                }
            },
            "missing",
            {"do": "fallback", "count": 6, "after": "1m30s"},
            id="fallback",
        ),
        pytest.param(
            {
                "advanced": {
                    "horizontalPodAutoscalerConfig": {
                        "behavior": {"scaleDown": {"selectPolicy": "Disabled"}}
                    }
                }
            },
            "limits.shrink",
            {"pick": "none"},
            id="behavior",
        ),
    ],
)
def test_a_field_of_a_scaled_object(spec: dict[str, Any], path: str, value: Any) -> None:
    made = imported(scaled(spec))
    found: Any = made.fields
    for part in path.split("."):
        found = found[part]
    assert found == value
    assert not made.remarks
    loaded(made)


def test_cron_alone_says_the_count_outside_of_its_windows_too() -> None:
    trigger = {
        "type": "cron",
        "metadata": {"start": "0 8 * * *", "end": "0 20 * * *", "desiredReplicas": "5"},
    }
    made = imported(scaled({"minReplicaCount": 1, "triggers": [trigger]}))
    assert made.fields["schedule"] == [
        {"from": "08:00", "to": "20:00", "min": 5, "max": 5},
        {"from": "00:00", "to": "24:00", "min": 1, "max": 1},
    ]
    loaded(made)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "left"),
    [
        ("paused", "true", "mode", "observe"),
        ("paused-replicas", "3", "mode", "observe"),
        ("paused-scale-in", "true", "limits.shrink", {"pick": "none"}),
        ("paused-scale-out", "true", "limits.grow", {"pick": "none"}),
    ],
)
def test_a_pause_of_keda_is_kept(annotation: str, value: str, path: str, left: Any) -> None:
    made = imported(scaled({}, annotations={f"autoscaling.keda.sh/{annotation}": value}))
    found: Any = made.fields
    for part in path.split("."):
        found = found[part]
    assert found == left
    assert "scaler " in made.remarks[0].message
    loaded(made)


@pytest.mark.parametrize(
    ("start", "end", "windows"),
    [
        pytest.param("0 8 * * *", "0 20 * * *", [("", "08:00", "20:00")], id="every day"),
        pytest.param(
            "0 8 * * mon-fri", "0 20 * * 1-5", [("mon-fri", "08:00", "20:00")], id="names"
        ),
        pytest.param("0 22 * * 5", "0 6 * * 6", [("fri", "22:00", "06:00")], id="over midnight"),
        pytest.param("0 0 * * 0", "0 0 * * 1", [("sun", "00:00", "00:00")], id="a whole day"),
        pytest.param(
            "0 18 * * 5",
            "0 8 * * 1",
            [("sat,sun", "00:00", "00:00"), ("mon", "00:00", "08:00"), ("fri", "18:00", "00:00")],
            id="over a weekend",
        ),
        pytest.param(
            "0 6,18 * * *",
            "0 8,20 * * *",
            [("", "06:00", "08:00"), ("", "18:00", "20:00")],
            id="twice a day",
        ),
    ],
)
def test_cron_windows(start: str, end: str, windows: list[tuple[str, str, str]]) -> None:
    found = cron.windows(start, end)
    assert [(w.get("days", ""), w["from"], w["to"]) for w in found] == windows


@pytest.mark.parametrize(
    "wrong", ["", "* * * *", "0 8 1 * *", "0 25 * * *", "x 8 * * *", "* * * * *"]
)
def test_a_cron_expression_that_cannot_be_said_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        cron.windows(wrong, "0 9 * * *")


def run(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(scaler, ["import", *words], input=given)


def test_lists_and_several_documents_from_standard_input() -> None:
    other = hpa({}, namespace="b")
    many = {"apiVersion": "v1", "kind": "List", "items": [hpa({}), {"kind": "Service"}]}
    ended = run("hpa", "-", given=yaml.safe_dump_all([many, None, other, scaled({})]))
    assert ended.exit_code == 0, ended.output
    assert list(yaml.safe_load(ended.stdout)["policies"]) == ["web", "web-2"]


def test_what_needs_somebody_is_said_and_counts(tmp_path: Path) -> None:
    file = tmp_path / "web.json"
    file.write_text(json.dumps(hpa({"metrics": [EXTERNAL]})))
    ended = run("hpa", str(file))
    assert ended.exit_code == 7
    assert "todo: spec.metrics[0].external:" in ended.stderr
    answer = json.loads(run("hpa", str(file), "--json").stdout)
    assert answer["policies"]["web"]["mode"] == "observe"
    assert answer["remarks"][0]["at"] == "metrics[0]"


def test_a_file_is_written_once(tmp_path: Path) -> None:
    file, into = tmp_path / "hpa.yaml", tmp_path / "web.yaml"
    file.write_text(yaml.safe_dump(hpa({})))
    assert run("hpa", str(file), "-o", str(into)).exit_code == 0
    before = into.read_text()
    assert policyfile.load([into]).insist()
    ended = run("hpa", str(file), "-o", str(into))
    assert ended.exit_code == 3
    assert "not overwritten" in ended.stderr
    assert into.read_text() == before


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("a: [", "it is no YAML", id="no YAML"),
        pytest.param("- 1", "is no object", id="no object"),
        pytest.param("kind: Service", "there is no HorizontalPodAutoscaler", id="something else"),
        pytest.param(json.dumps({**hpa({}), "spec": []}), "spec: must be a map", id="a wrong type"),
        pytest.param(
            json.dumps(hpa({"maxReplicas": "x"})), "spec.maxReplicas: must be a", id="no number"
        ),
        pytest.param(json.dumps(hpa({"minReplicas": 20})), "above max", id="min above max"),
        pytest.param(
            json.dumps({**hpa({}), "apiVersion": "autoscaling/v2beta1"}), "hpa.v2", id="too old"
        ),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_word(text: str, word: str) -> None:
    ended = run("hpa", "-", given=text)
    assert ended.exit_code == 3
    assert word in ended.stderr


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9999) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(["metrics", "behavior", "scaleTargetRef", "minReplicas"]), JUNK)
def test_a_hostile_hpa_is_refused_or_remarked_on(field: str, junk: Any) -> None:
    try:
        made = imported(hpa({field: junk}))
    except ConfigError:
        return
    assert yaml.safe_load(written.policies([made], "x"))["policies"]


@given(
    st.sampled_from(["triggers", "fallback", "advanced", "cooldownPeriod", "pollingInterval"]), JUNK
)
def test_a_hostile_scaled_object_is_refused_or_remarked_on(field: str, junk: Any) -> None:
    try:
        made = imported(scaled({field: junk}))
    except ConfigError:
        return
    assert yaml.safe_load(written.policies([made], "x"))["policies"]


@given(st.text(max_size=40))
def test_text_reads_back_as_it_was(text: str) -> None:
    made = imported(hpa({"metrics": [PODS]}))
    made.fields["metrics"][0]["source"]["prometheus"]["query"] = text
    document = located.parse(Path("made"), written.policies([made], "x"))
    (policy,) = document.plain["policies"].values()
    assert policy["metrics"][0]["source"]["prometheus"]["query"] == text
