"""`scaler adopt`: the count of a workload from its HPA to a policy, without a jump.

The daemon first hears what the HPA asks for now, so that nothing shrinks below that for as long as
`settle_down` says; then the HPA goes, which leaves the count as it is; then the daemon looks.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, TypeVar

import click

from scaler.cli.client import Daemon
from scaler.clients import kube_handover, kube_resource, kube_rights, kube_self
from scaler.clients.kube_handover import Hpa
from scaler.clients.kubernetes import Api, Clusters
from scaler.clock import SystemClock
from scaler.core.policy import Policy
from scaler.errors import ConfigError, NotFound, Refused
from scaler.importing import hpa as importing
from scaler.importing import written
from scaler.importing.draft import Options

T = TypeVar("T")

BY_NAME: Final = "hpa/"
ELSEWHERE: Final = "managed-elsewhere"
REASON: Final = "adopted from HorizontalPodAutoscaler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be adopted, as it was written."""

    what: str  # the name of a policy, or hpa/NAME
    namespace: str
    context: str
    keep: Path | None  # where the manifest of the HPA is kept


def run(asked: Asked, policies: Mapping[str, Policy], daemon: Daemon, *, yes: bool) -> None:
    """Hand over, or print how that is done when nobody agrees to it.

    Raises:
        ScalerError: there is nothing to adopt, KEDA owns it, or the daemon does not know it yet.
    """
    found, policy = _with_api(asked, policies, lambda api: _find(api, asked, policies))
    if owner := importing.scaled_object(found.body):
        raise Refused(_of_keda(owner, found.namespace))
    if policy is None:
        _print(found, asked.context)
        raise Refused(
            f"no policy is about {found.workload.plural}/{found.workload.name}; put what stands "
            "on stdout into one of its own, load it, and run this again"
        )
    _compare(found, policy)
    count = found.desired
    click.echo(f"{policy.name}: HorizontalPodAutoscaler {found.name} asks for {count}", err=True)
    if not yes and not (sys.stdin.isatty() and click.confirm("delete it and go on from there?")):
        click.echo(_steps(found, policy.name), err=True)
        return
    _insist(daemon, policy)
    kept = _keep(found, asked.keep)
    body = {"count": count, "hold": False, "for": None, "reason": f"{REASON} {found.name}"}
    daemon.post("scale", policy.name, body=body)
    _with_api(asked, policies, lambda api: kube_handover.delete(api, found))
    daemon.post("scale", policy.name, body=body)
    click.echo(f"{policy.name}: adopted at {count}; undo: kubectl apply -f {kept}", err=True)


def _with_api(
    asked: Asked, policies: Mapping[str, Policy], use: Callable[[Api], Awaitable[T]]
) -> T:
    named = policies.get(asked.what)
    context = asked.context or str(getattr(named and named.target, "context", ""))

    async def opened() -> T:
        clusters = Clusters(SystemClock(), Random())
        try:
            return await use(await clusters.at(context))
        finally:
            await clusters.aclose()

    return asyncio.run(opened())


async def _find(
    api: Api, asked: Asked, policies: Mapping[str, Policy]
) -> tuple[Hpa, Policy | None]:
    """The HPA that is meant, and the policy with the same target."""
    if asked.what.startswith(BY_NAME):
        namespace = asked.namespace or api.namespace
        found = await kube_handover.named(api, namespace, asked.what.removeprefix(BY_NAME))
        same = (p for p in policies.values() if _is_about(p, found, api.namespace, asked.context))
        return found, next(same, None)
    policy = policies.get(asked.what)
    if policy is None:
        known = ", ".join(sorted(policies)) or "none"
        raise NotFound(f'there is no policy "{asked.what}"; there are: {known}; or name hpa/NAME')
    if policy.target.kind != kube_rights.KIND:
        raise ConfigError(f"the target of {policy.name} is not on kubernetes")
    namespace = str(getattr(policy.target, "namespace", "")) or asked.namespace or api.namespace
    written_ = str(getattr(policy.target, "workload", ""))
    own = written_ == kube_resource.SELF
    meant = await kube_self.workload(api, namespace) if own else kube_resource.parse(written_)
    return await kube_handover.of(api, namespace, meant), policy


def _is_about(policy: Policy, found: Hpa, default: str, context: str) -> bool:
    if policy.target.kind != kube_rights.KIND:
        return False
    written_ = str(getattr(policy.target, "workload", ""))
    place = str(getattr(policy.target, "namespace", "")) or default
    where = str(getattr(policy.target, "context", ""))
    return (
        written_ != kube_resource.SELF
        and kube_resource.parse(written_) == found.workload
        and place == found.namespace
        and where == context
    )


def _of_keda(owner: str, namespace: str) -> str:
    annotate = (
        f"kubectl annotate -n {namespace} scaledobject {owner} autoscaling.keda.sh/paused=true"
    )
    return (
        f"KEDA makes this HorizontalPodAutoscaler from ScaledObject {owner} and would make it "
        f"again. Take over its settings with: scaler import scaledobject; then pause it: {annotate}"
    )


def _print(found: Hpa, context: str) -> None:
    options = Options(namespace=found.namespace, context=context)
    draft = importing.policy({"apiVersion": "autoscaling/v2", **found.body}, options)
    click.echo(written.policies([draft], f"scaler adopt hpa/{found.name}"), nl=False)
    for remark in draft.remarks:
        click.echo(f"{draft.origin}: {remark.text()}", err=True)


def _compare(found: Hpa, policy: Policy) -> None:
    """Bounds that differ would move the count at once: say so."""
    spec = found.body.get("spec") or {}
    theirs = (int(spec.get("minReplicas", 1)), int(spec.get("maxReplicas", 1)))
    ours = (policy.limits.min, policy.limits.max)
    if theirs != ours:
        click.echo(
            f"{policy.name}: its limits are {ours[0]} to {ours[1]}, those of the "
            f"HorizontalPodAutoscaler {theirs[0]} to {theirs[1]}",
            err=True,
        )


def _steps(found: Hpa, name: str) -> str:
    return (
        "nothing was changed. With --yes this is done:\n"
        f"  scaler scale {name} {found.desired} --reason '{REASON} {found.name}'\n"
        f"  kubectl delete -n {found.namespace} hpa {found.name}\n"
        f"  scaler status {name}"
    )


def _insist(daemon: Daemon, policy: Policy) -> None:
    """The daemon knows the policy, and nothing but the HPA keeps it from acting."""
    if policy.mode != "act":
        raise Refused(
            f"{policy.name} is in mode {policy.mode}; write mode: act, and run this again"
        )
    targets = {one["name"]: one for one in daemon.get("status")["targets"]}
    condition = targets.get(policy.name, {}).get("condition")
    if condition != ELSEWHERE:
        state = f"says {condition}" if condition else "has no such policy"
        raise Refused(
            f"the daemon {state} where {ELSEWHERE} is expected for {policy.name}, so it would not "
            f"take over; see: scaler status {policy.name}"
        )


def _keep(found: Hpa, file: Path | None) -> Path:
    """Write down what makes the HPA again."""
    into = file or Path(f"{found.namespace}-{found.name}.hpa.json")
    try:
        with into.open("x") as opened:
            opened.write(found.manifest())
    except FileExistsError as error:
        raise ConfigError(
            f"{into} exists and is not overwritten; name another with --keep"
        ) from error
    except OSError as error:
        raise ConfigError(f"{into} cannot be written: {error.strerror}; see --keep") from error
    return into
