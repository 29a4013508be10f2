"""`scaler doctor`: everything the daemon needs here, each with a remedy when it is missing."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import click

from scaler.cli.client import Daemon, NoDaemon
from scaler.cli.output import show, styled
from scaler.errors import ConfigError, ScalerError

if TYPE_CHECKING:
    from scaler.clients import kube_doctor
    from scaler.clients.docker_doctor import Right
    from scaler.core.policy import Policy
    from scaler.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    ok: bool
    detail: str
    needed: bool = True  # a daemon that does not run yet is no fault


def run(settings: "Callable[[], Settings]", form: str) -> int:
    """Print every finding; 1 when something needed is missing."""
    findings = list(_examine(settings))
    failed = any(not f.ok and f.needed for f in findings)

    def as_table() -> str:
        return "\n".join(_line(finding) for finding in findings)

    plain = {"version": 1, "ok": not failed, "findings": [asdict(f) for f in findings]}
    show(form, plain, as_table)
    if failed and form == "table":
        click.echo("\nmend what is marked with ✗ and run it again", err=True)
    return int(failed)


def _line(finding: Finding) -> str:
    mark = "✓" if finding.ok else ("✗" if finding.needed else "·")
    word = "ok" if finding.ok else ("broken" if finding.needed else "starting")
    return f"{styled(mark, word)} {finding.subject}: {finding.detail}"


def _examine(open_settings: "Callable[[], Settings]") -> Iterator[Finding]:
    version = sys.version.split()[0]
    yield Finding("Python", ok=sys.version_info >= (3, 11), detail=f"{version}, 3.11 is the least")
    yield _pidfd()
    try:
        settings = open_settings()
    except ConfigError as error:
        yield Finding("settings", ok=False, detail=str(error))
        return
    yield Finding("settings", ok=True, detail=settings.origin)
    yield _policies(settings)
    yield _writable("state", Path(settings.state_dir))
    yield _writable("socket", Path(settings.socket).parent)
    yield from _engines(settings)
    yield from _clusters(settings)
    yield from _redis(settings)
    yield from _postgres(settings)
    yield from _partitions(settings)
    yield _daemon(Path(settings.socket))


def _partitions(settings: "Settings") -> Iterator[Finding]:
    """Every database whose partitions are kept, with the grants that are missing."""
    if settings.partitions is None:
        return
    try:
        from scaler.cli import partition_sets  # noqa: PLC0415 - start-up time
        from scaler.maintenance.partition_file import load_partitions  # noqa: PLC0415

        databases = load_partitions(settings.partitions).chosen(None)
    except (ScalerError, ModuleNotFoundError) as error:
        yield Finding("partitions", ok=False, detail=str(error))
        return
    for entry in partition_sets.verified(databases):
        wrong = [entry.get("trouble", ""), *entry.get("alarms", ()), *entry.get("grants", ())]
        said = "; ".join(text for text in wrong if text)
        detail = f"{entry['database']}: {said or 'can be kept'}"
        yield Finding("partitions", ok=entry["ok"], detail=detail)


def _pidfd() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        detail = f"not available ({error}); deaths of local processes are noticed by polling"
        return Finding("pidfd", ok=False, detail=detail, needed=False)
    return Finding("pidfd", ok=True, detail="deaths of local processes are noticed at once")


def _policies(settings: "Settings") -> Finding:
    from scaler import policyfile  # noqa: PLC0415 - start-up time

    shown = ", ".join(str(path) for path in settings.policies)
    try:
        found = policyfile.load(settings.policies)
    except ScalerError as error:
        return Finding("policies", ok=False, detail=str(error))
    if found.problems:
        count = len(found.problems)
        errors = "1 error" if count == 1 else f"{count} errors"
        detail = f"{errors} in {shown}; see them with: scaler check"
        return Finding("policies", ok=False, detail=detail)
    return Finding("policies", ok=True, detail=f"{len(found.policies)} in {shown}")


def _engines(settings: "Settings") -> Iterator[Finding]:
    """Every Docker engine that a policy or the settings name."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time
    from scaler.clients import docker_doctor  # noqa: PLC0415

    wanted: dict[str, set[docker_doctor.Right]] = {}
    rights = {"docker": docker_doctor.CONTAINERS, "swarm": docker_doctor.SERVICES}
    labelled = [kind for kind in rights if getattr(settings.labels, kind)]
    targets = [p.target for p in policyfile.load(settings.policies).policies.values()]
    named = [(t.kind, getattr(t, "engine", "")) for t in targets if t.kind in rights]
    for kind, url in [*named, *((kind, "") for kind in labelled)]:
        wanted.setdefault(url, set(docker_doctor.BASE)).update(rights[kind])
    for url, asked in wanted.items():
        yield from _engine(url, sorted(asked, key=lambda right: right.what_for))


def _engine(url: str, rights: Sequence["Right"]) -> Iterator[Finding]:
    from scaler.clients import docker, docker_doctor  # noqa: PLC0415 - start-up time

    async def ask() -> docker_doctor.Examination:
        engine = docker.Engine(url or docker.default_url())
        try:
            return await docker_doctor.examine(engine, rights)
        finally:
            await engine.aclose()

    seen = asyncio.run(ask())
    if seen.trouble:
        yield Finding("docker", ok=False, detail=seen.trouble)
        return
    yield Finding("docker", ok=True, detail=seen.about)
    if not seen.missing:
        detail = "nothing is kept away from scaler: who may use this socket is root on its host"
        yield Finding("docker", ok=True, detail=f"{detail}; a socket proxy narrows it")
    for right in seen.missing:
        needed = right.switch != "EXEC=1"
        detail = f"may not {right.what_for}; in a socket proxy set {right.switch}"
        yield Finding("docker", ok=False, detail=detail, needed=needed)


def _clusters(settings: "Settings") -> Iterator[Finding]:
    """Every Kubernetes cluster that a policy names, and the one with the lease."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time

    contexts: dict[str, list[Policy]] = {}
    for policy in policyfile.load(settings.policies).policies.values():
        if policy.target.kind == "kubernetes":
            contexts.setdefault(getattr(policy.target, "context", ""), []).append(policy)
    if settings.lease.on_kubernetes:
        contexts.setdefault(settings.lease.context, [])
    for context, policies in contexts.items():
        try:
            yield from _judged(asyncio.run(_cluster(context, policies, settings)))
        except ScalerError as error:
            yield Finding("kubernetes", ok=False, detail=str(error))


async def _cluster(
    context: str, policies: "Sequence[Policy]", settings: "Settings"
) -> "kube_doctor.Examination":
    from scaler.clients import kube_doctor, kube_rights, kube_self  # noqa: PLC0415 - start-up time
    from scaler.clients.kube_resource import SELF  # noqa: PLC0415
    from scaler.clients.kubernetes import Clusters  # noqa: PLC0415
    from scaler.clock import SystemClock  # noqa: PLC0415

    clusters = Clusters(SystemClock(), Random())
    try:
        api = await clusters.at(context)
        own = ""
        if any(getattr(policy.target, "workload", "") == SELF for policy in policies):
            found = await kube_self.workload(api, api.namespace)
            own = f"{found.plural}/{found.name}"
        lease = [r for r in kube_rights.of_lease(settings.lease) if r.context == context]
        rights = kube_rights.needed(policies, act=settings.act, own=own, lease=lease)
        return await kube_doctor.examine(api, rights)
    finally:
        await clusters.aclose()


def _judged(seen: "kube_doctor.Examination") -> Iterator[Finding]:
    from scaler.clients import kube_doctor  # noqa: PLC0415 - start-up time

    if seen.trouble:
        yield Finding("kubernetes", ok=False, detail=seen.trouble)
        return
    yield Finding("kubernetes", ok=not seen.slow, detail=seen.about, needed=False)
    for line in kube_doctor.lines(seen.missing):
        detail = f"{line}; `scaler rbac` prints the whole"
        yield Finding("kubernetes", ok=False, detail=detail)
    if not seen.missing:
        detail = f"may do all {seen.asked} things that are needed there"
        yield Finding("kubernetes", ok=True, detail=detail)
    if seen.metrics:
        yield Finding("kubernetes", ok=False, detail=seen.metrics)


def _redis(settings: "Settings") -> Iterator[Finding]:
    """Where it keeps the lease."""
    if settings.lease.store != "redis":
        return
    from scaler.clients.redis import Redis  # noqa: PLC0415 - start-up time
    from scaler.clock import SystemClock  # noqa: PLC0415
    from scaler.stores.redis import RedisLease  # noqa: PLC0415

    async def ask() -> str:
        redis = Redis(settings.lease.redis_url.get_secret_value())
        lease = RedisLease(redis, SystemClock(), name=settings.lease.name)
        try:
            await lease.examine()
        finally:
            await lease.aclose()
        return lease.holder

    try:
        holder = asyncio.run(ask())
    except ScalerError as error:
        yield Finding("lease", ok=False, detail=f"{error}; see lease.redis_url")
        return
    held = f"{holder} holds the lease" if holder else "nobody holds the lease"
    yield Finding("lease", ok=True, detail=f"Redis answers and may be written to; {held}")


def _postgres(settings: "Settings") -> Iterator[Finding]:
    """What a policy needs that asks PostgreSQL for a metric."""
    from scaler import policyfile  # noqa: PLC0415 - start-up time

    policies = policyfile.load(settings.policies).policies.values()
    if all(m.source.kind != "postgres" for policy in policies for m in policy.metrics):
        return
    found = find_spec("psycopg") is not None
    missing = "psycopg is not installed; pip install 'scaler[postgres]'"
    yield Finding("postgres", ok=found, detail="psycopg is installed" if found else missing)


def _writable(subject: str, folder: Path) -> Finding:
    existing = next((p for p in (folder, *folder.parents) if p.exists()), folder)
    if os.access(existing, os.W_OK | os.X_OK):
        made = "" if existing == folder else ", made at the first start"
        return Finding(subject, ok=True, detail=f"{folder} can be written{made}")
    detail = f"{existing} cannot be written; run as another user or set another folder"
    return Finding(subject, ok=False, detail=detail)


def _daemon(socket: Path) -> Finding:
    try:
        answer = Daemon(socket).get("status")
    except NoDaemon as error:
        return Finding("daemon", ok=False, detail=str(error), needed=False)
    except ScalerError as error:
        return Finding("daemon", ok=False, detail=str(error))
    troubles = answer["daemon"]["troubles"]
    if troubles:
        return Finding("daemon", ok=False, detail="; ".join(troubles))
    return Finding("daemon", ok=True, detail=f"answers, with {len(answer['targets'])} targets")
