"""What runs a load test on Kubernetes or Docker Swarm: its parts, and who gathers the figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from scaler.errors import ConfigError
from scaler.loadtest.part import WAIT_S
from scaler.loadtest.plan import Plan

IMAGE: Final = "scaler"
FOLDER: Final = "/plan"
KEPT_S: Final = 86_400  # a job that has ended, with its log
SPARE_S: Final = 60  # to start, and to tell the figures
THROUGH: Final = "SCALER_LOADTEST_THROUGH"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is the same on both."""

    name: str
    parts: int
    through: str
    words: tuple[str, ...]  # more for who gathers the figures, such as thresholds

    def gathering(self, file: str) -> list[str]:
        words = ["loadtest", f"{FOLDER}/{file}", "--run", self.name, "--parts", str(self.parts)]
        return [*words, *self.words]

    def part(self, file: str) -> list[str]:
        return ["loadtest", f"{FOLDER}/{file}", "--run", self.name, "--allow-host"]


def kubernetes(wanted: Wanted, file: Path, plan: Plan) -> str:
    """An indexed Job whose pods share the load, and a Job whose log is the report."""
    ending = plan.timeouts.end.total_seconds()
    deadline = round(WAIT_S + plan.load.seconds() + ending + SPARE_S)
    name, parts = wanted.name, wanted.parts
    files = {one.name: one.read_text("utf-8") for one in _files(file, plan)}
    shares = [*wanted.part(file.name), "--part", f"$(JOB_COMPLETION_INDEX)/{parts}"]
    objects = [
        _object("v1", "ConfigMap", name, data=files),
        _object("v1", "Secret", name, stringData={"through": wanted.through}),
        _job(
            f"{name}-parts", name, shares, deadline, cpu="1",
            completions=parts, parallelism=parts, completionMode="Indexed",
            backoffLimitPerIndex=0,  # a part that has failed is missed; the others go on
        ),
        _job(name, name, wanted.gathering(file.name), deadline, cpu="100m", backoffLimit=0),
    ]  # fmt: skip
    said = (
        f"# {parts} parts of a load test, and a job that reports: kubectl logs -f job/{name}\n"
        f"# It fails when a threshold does. Variables that auth names: the Secret {name}-env.\n"
    )
    return said + yaml.dump_all(objects, Dumper=_Plain, sort_keys=False)


def _object(version: str, kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **more}


def _job(
    name: str, of: str, words: list[str], deadline: int, *, cpu: str, **more: Any
) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": name}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [spread],
        "containers": [_container(of, words, cpu)],
        "volumes": [{"name": "plan", "configMap": {"name": of}}],
    }
    spec = {
        **more,
        "activeDeadlineSeconds": deadline,
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return _object("batch/v1", "Job", name, spec=spec)


def _container(of: str, words: list[str], cpu: str) -> dict[str, Any]:
    secret = {"secretKeyRef": {"name": of, "key": "through"}}
    return {
        "name": "loadtest",
        "image": IMAGE,
        "args": words,
        "env": [{"name": THROUGH, "valueFrom": secret}],
        "envFrom": [{"secretRef": {"name": f"{of}-env", "optional": True}}],
        "resources": {"requests": {"cpu": cpu, "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "plan", "mountPath": FOLDER}],
    }


def swarm(wanted: Wanted, file: Path, plan: Plan) -> str:
    """A stack with two jobs; the files of the plan stay beside it."""
    files = _files(file, plan)
    mounted = [
        {"source": f"file{number}", "target": f"{FOLDER}/{one.name}"}
        for number, one in enumerate(files)
    ]

    def service(words: list[str], replicas: int, more: Mapping[str, str]) -> dict[str, Any]:
        return {
            "image": IMAGE,
            "command": [_literal(word) for word in words],
            "environment": {THROUGH: _literal(wanted.through), **more},
            "configs": mounted,
            "deploy": {
                "mode": "replicated-job",
                "replicas": replicas,
                "restart_policy": {"condition": "none"},
            },
        }

    number = {"SCALER_LOADTEST_PART": "{{.Task.Slot}}/" + str(wanted.parts)}
    stack = {
        "version": "3.8",
        "services": {
            "part": service(wanted.part(file.name), wanted.parts, number),
            "report": service(wanted.gathering(file.name), 1, {}),
        },
        "configs": {f"file{number}": {"file": str(one)} for number, one in enumerate(files)},
    }
    name = wanted.name
    said = f"# docker stack deploy -c FILE {name}; docker service logs -f --raw {name}_report\n"
    return said + yaml.dump(stack, Dumper=_Plain, sort_keys=False)


class _Plain(yaml.SafeDumper):
    """As people write it: what is there twice stands there twice, and text keeps its lines."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Plain.add_representer(str, _text)


def _literal(word: str) -> str:
    """As stack files want it: a dollar would name a variable."""
    return word.replace("$", "$$")


def _files(file: Path, plan: Plan) -> list[Path]:
    """The plan, and the trace that it names."""
    trace = plan.load.replay.file if plan.load.replay else None
    if trace and trace.parent != file.parent:
        raise ConfigError(f"{trace} is not beside {file}; a manifest takes one folder along")
    return [file, trace] if trace else [file]
