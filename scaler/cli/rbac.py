"""`scaler rbac`: the Roles that the policies need, with a word for each rule on why it is there."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from scaler.clients import kube_rights
from scaler.clients.kube_rights import Right, Rule
from scaler.core.policy import Policy
from scaler.errors import ConfigError

RBAC: Final = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who gets the rights."""

    name: str
    namespace: str  # empty: kustomize fills it in
    makes: bool = True  # print the account itself too

    def subject(self) -> dict[str, str]:
        return {"kind": "ServiceAccount", **_named(self.name, self.namespace)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object, and the reasons for its rules where it has any."""

    body: Mapping[str, Any]
    about: str = ""
    rules: Sequence[Rule] = ()


def run(policies: Iterable[Policy], account: Account, form: str, **facts: Any) -> None:
    """Print the objects. `facts` are those of `kube_rights.needed`.

    Raises:
        ConfigError: no policy is about Kubernetes, or a target names nothing that is known.
    """
    rights = kube_rights.needed(policies, **facts)
    if not rights:
        raise ConfigError("no policy has a target on kubernetes, so no right is needed")
    found = manifests(rights, account)
    if form == "json":
        items = [dict(one.body) for one in found]
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2))
    else:
        click.echo(text(found), nl=False)


def manifests(rights: Iterable[Right], account: Account) -> list[Manifest]:
    """The account, then a Role and its binding for each namespace of each cluster."""
    found = []
    if account.makes:
        meta = _named(account.name, account.namespace)
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
        found.append(Manifest(body=body))
    places = kube_rights.by_place(rights, account.namespace)
    for (context, where, everywhere), given in places.items():
        about = f"in the cluster of kubeconfig context {context}" if context else ""
        kind = "ClusterRole" if everywhere else "Role"
        found += _bound(kind, where, kube_rights.rules(given), account, about)
    return found


def _bound(
    kind: str, where: str, rules: Sequence[Rule], account: Account, about: str
) -> list[Manifest]:
    meta = _named(account.name, where)
    version = {"apiVersion": f"{RBAC}/v1"}
    role = {**version, "kind": kind, "metadata": meta, "rules": [rule.plain() for rule in rules]}
    reference = {"apiGroup": RBAC, "kind": kind, "name": account.name}
    binding = {
        **version,
        "kind": f"{kind}Binding",
        "metadata": meta,
        "roleRef": reference,
        "subjects": [account.subject()],
    }
    return [Manifest(body=role, about=about, rules=rules), Manifest(body=binding, about=about)]


def _named(name: str, namespace: str) -> dict[str, str]:
    return {"name": name, "namespace": namespace} if namespace else {"name": name}


def text(found: Iterable[Manifest]) -> str:
    """The objects as YAML, each rule on one line below its reason."""
    return "---\n".join("\n".join(_lines(one)) + "\n" for one in found)


def _lines(one: Manifest) -> list[str]:
    lines = [f"# {one.about}"] if one.about else []
    for key, value in one.body.items():
        if key == "rules":
            lines.append("rules:")
            for rule in one.rules:
                lines += [f"  # {rule.why}", f"  - {_flow(rule.plain())}"]
        elif isinstance(value, list):
            lines += [f"{key}:", *(f"  - {_flow(item)}" for item in value)]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    """Names of Kubernetes need no quotes; the core group, which has none, does."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return str(value) if value else '""'
