"""What happened to a target, as Events beside it: what `kubectl describe` shows.

Few and never in the way: one Event per policy and reason, counted up when it happens again, at most
one write of it a minute, from a short queue; what cannot be written is dropped.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from scaler.clients.kube_desk import Desk
from scaler.clients.kube_resource import Resource
from scaler.clients.kubernetes import MERGE
from scaler.clock import Clock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Decision
from scaler.errors import NotFound, ScalerError

log = structlog.get_logger(__name__)

QUIET: Final = timedelta(minutes=1)  # between two writes about the same
SERIES: Final = timedelta(minutes=10)  # what comes later begins anew
MOST_WAITING: Final = 100
LONGEST: Final = 1024  # bytes of a message that the server takes


@dataclass(slots=True)
class _Series:
    """One Event, and what has not been added to it yet."""

    name: str = ""
    count: int = 0
    written: int = 0
    message: str = ""
    first_at: datetime | None = None
    last_at: datetime | None = None
    written_at: timedelta | None = None  # on the monotonic clock


@dataclass(frozen=True, slots=True)
class _Subject:
    """What an Event is about."""

    desk: Desk = field(compare=False, hash=False)
    resource: Resource
    name: str
    policy: str
    reason: str
    warning: bool


def reason(entry: Entry) -> tuple[str, bool]:
    """What the Event of an entry is called, and whether it is a warning; empty for none."""
    said = entry.summary
    if entry.kind is Kind.ACTED:
        if "scale to" in said:
            return "Scaled", False
        return ("RestartedUnhealthy", True) if "restart" in said else ("", False)
    if entry.kind in (Kind.PARKED, Kind.DEFERRED):
        if "decides on the count" in said or "managed elsewhere" in said:
            return "ManagedElsewhere", True
        parked = "Parked" if entry.kind is Kind.PARKED else ""
        return ("ScaleFailed" if "scale to" in said else parked), True
    if entry.kind is Kind.DECIDED and entry.decision is not None:
        return _of_decision(entry.decision), True
    return "", False


def _of_decision(decision: Decision) -> str:
    """What kept the count from being what the metrics ask for."""
    rules = {step.rule for step in decision.steps if step.before != step.after}
    if "missing" in rules or (decision.wishes and all(w.blocks for w in decision.wishes)):
        return "MetricsMissing"
    return "ScaleLimited" if "bound" in rules and decision.wishes else ""


class Events:
    """Writes in the background what it is told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._series: dict[_Subject, _Series] = {}
        self._waiting: dict[_Subject, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._dropped = False  # said once

    def announce(
        self, desk: Desk, resource: Resource, name: str, policy: str, entry: Entry
    ) -> None:
        called, warning = reason(entry)
        if not called:
            return
        subject = _Subject(desk, resource, name, policy, called, warning)
        if len(self._waiting) >= MOST_WAITING and subject not in self._waiting:
            return
        series = self._series.setdefault(subject, _Series())
        if series.last_at is not None and entry.at - series.last_at > SERIES:
            self._series[subject] = series = _Series()
        series.count += 1
        series.message = said(entry)
        series.first_at = series.first_at or entry.at
        series.last_at = entry.at
        self._waiting[subject] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="kubernetes events")

    async def _write(self) -> None:
        """Until nothing waits any more."""
        while self._waiting:
            now = self._clock.monotonic()
            due = {s: self._due(s) for s in self._waiting}
            subject = min(due, key=lambda s: due[s])
            if due[subject] > now:
                await self._clock.sleep(min(due[subject] - now, timedelta(seconds=1)))
                continue
            del self._waiting[subject]
            series = self._series[subject]
            series.written_at = now
            try:
                await self._send(subject, series)
            except ScalerError as error:  # an Event is a courtesy; the journal has it all
                if not self._dropped:
                    log.warning("event.dropped", target=subject.policy, error=str(error))
                self._dropped = True

    def _due(self, subject: _Subject) -> timedelta:
        at = self._series[subject].written_at
        return timedelta() if at is None else at + QUIET

    async def _send(self, subject: _Subject, series: _Series) -> None:
        api, namespace = subject.desk.api, subject.desk.namespace
        path = f"/api/v1/namespaces/{namespace}/events"
        if series.name:
            body = {
                "count": series.count,
                "message": series.message,
                "lastTimestamp": _stamp(series.last_at),
            }
            try:
                await api.send("PATCH", f"{path}/{series.name}", body, content=MERGE)
            except NotFound:
                series.name = ""  # the server has forgotten it
            else:
                return
        made = await api.send("POST", path, _event(subject, series))
        series.name = str(made.get("metadata", {}).get("name", ""))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def said(entry: Entry) -> str:
    text = entry.summary.removeprefix(f"{entry.target}: ")
    return text.encode()[:LONGEST].decode(errors="ignore")


def _event(subject: _Subject, series: _Series) -> Mapping[str, Any]:
    resource, desk = subject.resource, subject.desk
    found = desk.newest(resource, subject.name)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{subject.name}.", "namespace": desk.namespace},
        "involvedObject": {
            "apiVersion": f"{resource.group}/{resource.version}",
            "kind": resource.kind,
            "name": subject.name,
            "namespace": desk.namespace,
            "uid": found.uid if found else "",
        },
        "reason": subject.reason,
        "message": series.message,
        "type": "Warning" if subject.warning else "Normal",
        "count": series.count,
        "firstTimestamp": _stamp(series.first_at),
        "lastTimestamp": _stamp(series.last_at),
        "source": {"component": "scaler"},
        "reportingComponent": "scaler",
    }


def _stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")
