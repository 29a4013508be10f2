"""The daemon's HTTP interface, on a unix socket for people and on a port for probes.

Plain JSON with a `version`. Who asks on the socket is known from the kernel, so a pause or a hold
is recorded with the name of the person and not with what the client claims.
"""

import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from scaler.api import exposition
from scaler.clock import Clock
from scaler.core import explain
from scaler.core.journal import Entry, Kind, decision_to_dict, entry_to_dict, policy_of
from scaler.core.model import Hold, Pause
from scaler.engine import status
from scaler.engine.commands import Commands
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.errors import ConfigError, NotFound, Refused, ScalerError, TransientError

if TYPE_CHECKING:
    from scaler.maintenance.cache_job import CacheJob

VERSION: Final = 1
STATUS_OF: Final[Mapping[type[ScalerError], int]] = {
    NotFound: 404,
    Refused: 409,
    ConfigError: 422,
    TransientError: 503,
    ScalerError: 500,
}
MOST_ENTRIES: Final = 10_000
PATIENCE: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The requests, over what the daemon is made of."""

    manager: ScalingManager
    commands: Commands
    recorder: Recorder
    clock: Clock
    about: Callable[[], dict[str, Any]]  # version, degraded, files that failed, ...
    reload: Callable[[], Awaitable[dict[str, Any]]]
    plan: Callable[[Sequence[Path]], Awaitable[list[dict[str, Any]]]]
    alive: Callable[[], str]  # why not, or nothing
    ready: Callable[[], str]
    caches: Callable[[], Sequence["CacheJob"]] = tuple

    def application(self) -> web.Application:
        """Everything; for the socket."""
        application = self.probes()
        application.add_routes(
            [
                web.get("/v1/status", self._status),
                web.get("/v1/explain/{name}", self._explain),
                web.get("/v1/history", self._history),
                web.post("/v1/plan", self._plan),
                web.post("/v1/pause", self._pause),
                web.post("/v1/resume", self._resume),
                web.post("/v1/scale/{name}", self._scale),
                web.post("/v1/restart/{name}/{instance}", self._restart),
                web.post("/v1/reload", self._reload),
            ]
        )
        return application

    def probes(self) -> web.Application:
        """Whether it lives and is ready, and its metrics; for a port that others can reach."""
        application = web.Application(middlewares=[_errors])
        application.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        return application

    async def _metrics(self, _: web.Request) -> web.Response:
        now, monotonic = self.clock.now(), self.clock.monotonic()
        version = str(self.about()["version"])
        body = exposition.text(self.manager, now, monotonic, version, self.caches())
        return web.Response(body=body.encode(), headers={"Content-Type": exposition.CONTENT})

    async def _livez(self, _: web.Request) -> web.Response:
        return _probe(self.alive())

    async def _readyz(self, _: web.Request) -> web.Response:
        return _probe(self.ready())

    async def _status(self, request: web.Request) -> web.Response:
        name = request.query.get("name")
        now = self.clock.now()
        chosen = [self.manager.named(name)] if name else self.manager.watched.values()
        targets = [status.of(it, now) for it in chosen]
        return _json(daemon=self.about(), at=now.isoformat(), targets=targets)

    async def _explain(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        at = _moment(request.query.get("at"), "at")
        count = _number(request.query.get("why_not"), "why_not")
        if at is not None:
            return await self._explain_then(name, at, count)
        it = self.manager.named(name)
        if it.decision is None or it.facts is None:
            trouble = f": {it.trouble}" if it.trouble else ""
            return _json(name=name, lines=[f"{name} was not looked at yet{trouble}"], decision=None)
        lines = list(explain.lines(it.decision))
        if it.trouble:
            lines.append(f"  trouble  {it.trouble}")
        if count is not None:
            against = explain.why_not(
                it.policy, it.facts.fleet, it.facts.history, it.decision, count
            )
            lines = list(against)
        elif it.decision.desired == it.decision.current:
            lines += await self._last_change(name, it.decision.at)
        return _json(name=name, lines=lines, decision=decision_to_dict(it.decision))

    async def _last_change(self, name: str, until: datetime) -> list[str]:
        entries = await self._read(target=name, until=until, kinds=[Kind.DECIDED])
        for entry in reversed(entries):
            made = entry.decision
            if made is not None and made.desired != made.current:
                return ["", "last change:", *explain.lines(made)]
        return []

    async def _explain_then(self, name: str, at: datetime, count: int | None) -> web.Response:
        entries = await self._read(target=name, until=at, kinds=[Kind.DECIDED], limit=1)
        if not entries or entries[0].decision is None:
            raise NotFound(f"the journal holds no decision about {name} at or before {at}")
        entry = entries[0]
        assert entry.decision is not None  # noqa: S101 - looked at above
        lines = explain.lines(entry.decision)
        if count is not None and entry.facts is not None:
            lines = explain.why_not(
                policy_of(entry.facts),
                entry.facts.fleet,
                entry.facts.history,
                entry.decision,
                count,
            )
        return _json(name=name, lines=list(lines), decision=decision_to_dict(entry.decision))

    async def _history(self, request: web.Request) -> web.Response:
        query = request.query
        kinds = [_kind(word) for word in query.getall("kind", [])]
        limit = _number(query.get("limit"), "limit") or 100
        entries = await self._read(
            target=query.get("name"),
            since=_moment(query.get("since"), "since"),
            until=_moment(query.get("until"), "until"),
            kinds=kinds,
            limit=min(limit, MOST_ENTRIES),
        )
        facts = query.get("facts") == "1"
        return _json(entries=[entry_to_dict(entry, facts=facts) for entry in entries])

    async def _plan(self, request: web.Request) -> web.Response:
        files = (await _body(request)).get("files", [])
        if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
            raise ConfigError("files must be a list of paths")
        return _json(decisions=await self.plan([Path(file) for file in files]))

    async def _pause(self, request: web.Request) -> web.Response:
        asked = await _body(request)
        pause = Pause(
            scale_in=bool(asked.get("scale_in", True)),
            scale_out=bool(asked.get("scale_out", True)),
            until=self._until(asked.get("for")),
            reason=str(asked.get("reason", "")),
            by=_person(request),
        )
        names = self._names(asked)
        for name in names:
            self.commands.pause(name, pause)
        return _json(paused=names)

    async def _resume(self, request: web.Request) -> web.Response:
        names = self._names(await _body(request))
        for name in names:
            self.commands.resume(name, _person(request))
        return _json(resumed=names)

    async def _scale(self, request: web.Request) -> web.Response:
        asked = await _body(request)
        name = request.match_info["name"]
        count = asked.get("count")
        if not isinstance(count, int) or isinstance(count, bool):
            raise ConfigError("count must be a whole number")
        hold = Hold(
            count=count,
            until=self._until(asked.get("for")),
            reason=str(asked.get("reason", "")),
            by=_person(request),
        )
        self.commands.scale(name, hold, lasting=bool(asked.get("hold", False)))
        return _json(name=name, count=count)

    async def _restart(self, request: web.Request) -> web.Response:
        name, instance = request.match_info["name"], request.match_info["instance"]
        await self.commands.restart(name, instance, _person(request))
        return _json(name=name, instance=instance)

    async def _reload(self, _: web.Request) -> web.Response:
        return _json(**await self.reload())

    async def _read(self, **what: Any) -> Sequence[Entry]:
        """From the journal, what was written a moment ago included."""
        await self.recorder.flush(PATIENCE)
        return await self.recorder.store.read(**what)

    def _names(self, asked: Mapping[str, Any]) -> list[str]:
        names = list(self.manager.watched) if asked.get("all") else asked.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError("names must be a list of policies; or say all: true")
        return [self.manager.named(name).name for name in names]

    def _until(self, seconds: object) -> datetime | None:
        if seconds is None:
            return None
        if not isinstance(seconds, int | float) or not 0 < seconds <= 366 * 86400:
            raise ConfigError("for must be a number of seconds, up to a year")
        return self.clock.now() + timedelta(seconds=seconds)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Our errors as JSON with a fitting status; a defect says what it was and nothing more."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except ScalerError as error:
        status_code = next(code for kind, code in STATUS_OF.items() if isinstance(error, kind))
        return _json(status=status_code, error=str(error))
    except Exception as error:  # noqa: BLE001 - the boundary of one request
        return _json(status=500, error=f"a defect of scaler: {type(error).__name__}: {error}")


def _json(*, status: int = 200, **fields: object) -> web.Response:
    return web.json_response({"version": VERSION, **fields}, status=status)


def _probe(trouble: str) -> web.Response:
    return web.Response(text=f"{trouble or 'ok'}\n", status=503 if trouble else 200)


async def _body(request: web.Request) -> Mapping[str, Any]:
    try:
        asked = await request.json()
    except ValueError:
        raise ConfigError("the body is not JSON") from None
    if not isinstance(asked, dict):
        raise ConfigError("the body must be a JSON object")
    return asked


def _moment(written: str | None, field: str) -> datetime | None:
    if written is None:
        return None
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise ConfigError(
            f'{field}: "{written}" is not a moment; write it like 2026-01-31T12:00:00Z'
        ) from None
    if moment.tzinfo is None:
        raise ConfigError(f'{field}: "{written}" has no time zone; end it with Z for UTC')
    return moment


def _number(written: str | None, field: str) -> int | None:
    if written is None:
        return None
    if not written.isdigit():
        raise ConfigError(f'{field}: "{written}" is not a whole number')
    return int(written)


def _kind(word: str) -> Kind:
    try:
        return Kind(word)
    except ValueError:
        raise ConfigError(f'kind: "{word}" is not one of {", ".join(Kind)}') from None


def _person(request: web.Request) -> str:
    """Who is at the other end of the socket, as the kernel knows it."""
    transport = request.transport
    end = transport.get_extra_info("socket") if transport is not None else None
    if end is None or end.family != socket.AF_UNIX:
        return "somebody"
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
