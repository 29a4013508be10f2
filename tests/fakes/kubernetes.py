"""A Kubernetes API server in this process, faithful where an autoscaler can tell the difference.

One revision counter, optimistic locking, watches with bookmarks and 410, the three kinds of
patches, scale, Leases, evictions under budgets, metrics.k8s.io, tokens with Roles, access reviews,
dry run. It writes down every call, and does on command what no good server would. It passes the
same battery of checks as a real 1.36 server (`tests/integration/test_kube_fake.py`).
"""

import argparse
import asyncio
import base64
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Self

import orjson
from aiohttp import web

from tests.fakes import kube_objects as objects
from tests.fakes.kube_objects import Json, Kind, Objects, Refused

BOOKMARK_EVERY_S = 5.0
LAST_BOOKMARK_S = 2.0  # before the end, as `cacheWatcher.nextBookmarkTime` has it
DONE = b""  # ends a stream as its server does, not as a cut line does
METRICS = Kind("metrics.k8s.io", "v1beta1", "pods", "PodMetrics")
REVIEWS = {
    "selfsubjectaccessreviews": "SelfSubjectAccessReview",
    "selfsubjectrulesreviews": "SelfSubjectRulesReview",
}
PATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "application/merge-patch+json": objects.merged,
    "application/strategic-merge-patch+json": objects.strategic,
    "application/json-patch+json": objects.json_patched,
    "application/apply-patch+yaml": objects.strategic,
}


@dataclass(frozen=True)
class Call:
    """One request, as an audit log has it."""

    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user: str
    code: int
    at: float  # time.monotonic()
    manager: str
    body: Json | None = None
    sent: int = 0

    @property
    def what(self) -> str:
        """As in a Role: `deployments/scale`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass
class User:
    """Who a token stands for, and what it may do: rules of Roles, by namespace."""

    name: str
    rules: list[tuple[str, Json]] = field(default_factory=list)  # "" is the whole cluster

    def may(self, verb: str, group: str, resource: str, namespace: str, name: str) -> bool:
        return any(
            scope in ("", namespace)
            and _any(rule["verbs"], verb)
            and _any(rule.get("apiGroups", [""]), group)
            and _any(rule["resources"], resource)
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for scope, rule in self.rules
        )


def _any(words: list[str], word: str) -> bool:
    return "*" in words or word in words


@dataclass
class _Fault:
    match: re.Pattern[str]
    code: int = 0
    slow: float = 0.0
    hang: bool = False
    times: int | None = None
    retry_after: int | None = None


class Faults:
    """What goes wrong next. `match` is a pattern for `VERB /path`."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self.rules: list[_Fault] = []
        self.cut_every: float | None = None
        self.frozen = False
        self.gone_at_once = False  # 410 as the answer to a watch, as a proxy or cache may have it

    def errors(
        self,
        code: int,
        match: str = "",
        *,
        times: int | None = None,
        retry_after: int | None = None,
    ) -> None:
        rule = _Fault(re.compile(match), code=code, times=times, retry_after=retry_after)
        self.rules.append(rule)

    def slow(self, span: timedelta, match: str = "") -> None:
        self.rules.append(_Fault(re.compile(match), slow=span.total_seconds()))

    def hang(self, match: str = "") -> None:
        self.rules.append(_Fault(re.compile(match), hang=True))

    def cut_watches(self) -> None:
        """Every stream ends now, in the middle."""
        for watcher in tuple(self._server.watchers):
            watcher.cut()

    def cut_watches_every(self, span: timedelta) -> None:
        self.cut_every = span.total_seconds()

    def freeze_metrics(self) -> None:
        self.frozen = True

    def clear(self) -> None:
        self.rules.clear()
        self.cut_every, self.frozen, self.gone_at_once = None, False, False

    def due(self, line: str) -> _Fault | None:
        for rule in self.rules:
            if rule.match.search(line):
                if rule.times is not None:
                    rule.times -= 1
                    if rule.times <= 0:
                        self.rules.remove(rule)
                return rule
        return None


class Watcher:
    """One stream: its filter, and what it has not sent yet."""

    def __init__(self, accepts: Callable[[Json], bool], namespace: str) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._accepts = accepts
        self._namespace = namespace

    def offer(self, change: objects.Change) -> None:
        if self._namespace and change.new["metadata"].get("namespace") != self._namespace:
            return
        was = change.old is not None and self._accepts(change.old)
        is_ = change.type != "DELETED" and self._accepts(change.new)
        if is_:
            self.queue.put_nowait(change.line("MODIFIED" if was else "ADDED"))
        elif was:
            self.queue.put_nowait(change.line("DELETED"))

    def cut(self) -> None:
        self.queue.put_nowait(None)


@dataclass
class Target:
    """What a path means."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    sub: str = ""


class Server:
    """On 127.0.0.1, on a port that the system chooses unless one is given."""

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.admin = "admin-token"
        self._tls = tls
        self.host, self.port = host, port
        self.objects = Objects()
        self.audit: list[Call] = []
        self.faults = Faults(self)
        self.metrics: dict[tuple[str, str], Json] = {}
        self.metrics_known = False
        self.texts: dict[str, str] = {}  # by path, for what is no JSON
        self.watchers: set[Watcher] = set()
        self._users = {self.admin: User("admin", [("", _EVERYTHING)])}
        self._by_kind: dict[Kind, set[Watcher]] = {}
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.objects.subscribe(self._pass_on)
        for name in ("default", "kube-system"):
            self.put({"kind": "Namespace", "metadata": {"name": name}})

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/{path:.*}", self._serve)
        # A limit of 0 is none: who hangs on command would keep the server for an hour.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.up()

    async def up(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(
            self._runner, self.host, self.port, reuse_address=True, ssl_context=self._tls
        )
        await self._site.start()
        assert self._site._server is not None
        self.port = self._site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def down(self) -> None:
        """Nobody listens any more, and every connection is cut."""
        assert self._site is not None
        assert self._runner is not None
        await self._site.stop()
        self._site = None
        self.faults.cut_watches()
        if self._runner.server is not None:
            for connection in tuple(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    async def stop(self) -> None:
        if self._site is not None:
            await self.down()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # For tests and controllers, without HTTP.

    def put(self, item: Json, manager: str = "test") -> Json:
        """Create it, or put it in the place of what has its name."""
        kind = self.objects.kind(item["kind"])
        meta = item["metadata"]
        namespace = meta.get("namespace", "default") if kind.namespaced else ""
        old = self.objects.find(kind, namespace, meta.get("name", ""))
        if old is None:
            return self.objects.create(kind, namespace, item, manager)
        return self.objects.replace(kind, old, objects.copied(item), manager)

    def get(self, kind: str, name: str, namespace: str = "default") -> Json:
        known = self.objects.kind(kind)
        return self.objects.get(known, namespace if known.namespaced else "", name)

    def all(self, kind: str, namespace: str = "default") -> list[Json]:
        known = self.objects.kind(kind)
        return [*self.objects.inside(known, namespace if known.namespaced else "")]

    def update(
        self, kind: str, name: str, change: Callable[[Json], None], namespace: str = "default"
    ) -> Json:
        return self.objects.update(self.objects.kind(kind), namespace, name, change)

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        self.objects.delete(self.objects.kind(kind), namespace, name)

    def scale(
        self, kind: str, name: str, count: int, *, manager: str, namespace: str = "default"
    ) -> None:
        """As somebody else would."""
        known = self.objects.kind(kind)
        old = self.objects.get(known, namespace, name)
        item = objects.copied(old)
        item["spec"]["replicas"] = count
        self.objects.replace(known, old, item, manager)

    def grant(self, user: str, namespace: str, rules: list[Json]) -> str:
        """A token for `user` with these rules of a Role more; `""` is the whole cluster."""
        token = f"{user}-token"
        known = self._users.setdefault(token, User(f"system:serviceaccount:{namespace}:{user}"))
        known.rules += [(namespace, rule) for rule in rules]
        return token

    def publish(self, namespace: str, metrics: list[Json]) -> None:
        """What the metrics-server knows of the pods of a namespace from now on."""
        self.metrics_known = True
        if self.faults.frozen:
            return
        self.metrics = {key: m for key, m in self.metrics.items() if key[0] != namespace}
        self.metrics |= {(namespace, m["metadata"]["name"]): m for m in metrics}

    def calls(self, verb: str = "", what: str = "", name: str = "") -> list[Call]:
        return [
            c
            for c in self.audit
            if verb in ("", c.verb) and what in ("", c.what) and name in ("", c.name)
        ]

    def writes(self, name: str = "") -> list[Call]:
        """Successful writes of counts."""
        found = [c for c in self.calls("patch", name=name) if c.subresource == "scale"]
        found += [c for c in self.calls("update", name=name) if c.subresource == "scale"]
        return [c for c in found if c.code < 300]

    def _pass_on(self, change: objects.Change) -> None:
        for watcher in self._by_kind.get(change.kind, ()):
            watcher.offer(change)

    # HTTP.

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        fault = self.faults.due(f"{request.method} {request.path_qs}")
        if fault is not None:
            if fault.hang:
                await asyncio.sleep(3600)
            await asyncio.sleep(fault.slow)
            if fault.code:
                error = Refused(fault.code, "InternalError", f"a scripted error {fault.code}")
                if fault.retry_after is not None:
                    error.headers = {"Retry-After": str(fault.retry_after)}
                self._note(request, None, "", fault.code)
                return _answer(error.body, fault.code, error.headers)
        try:
            return await self._routed(request)
        except Refused as refused:
            return _answer(refused.body, refused.code, refused.headers)

    async def _routed(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in ("/readyz", "/livez", "/healthz"):
            return web.Response(text="ok")
        user = self._user(request)
        if path == "/version":
            self._note(request, None, user.name, 200)
            return _answer({"major": "1", "minor": "36", "gitVersion": "v1.36.2"})
        if (found := self._discovered(path)) is not None:
            self._note(request, None, user.name, 200)
            return _answer(found)
        body = await _body(request)
        if (resource := path.rpartition("/")[2]) in REVIEWS:
            return _answer(_review(user, resource, body), 201)
        target = self._target(path)
        verb = _verb(request, target)
        try:
            self._insist(user, verb, _one_of(target, request.query))
            _insist_on_object(verb, target, body)
            response = await self._do(request, verb, target, body, user)
        except Refused as refused:
            self._note(request, target, user.name, refused.code, verb, body)
            raise
        if verb != "watch":
            sent = response.content_length or 0
            self._note(request, target, user.name, response.status, verb, body, sent)
        return response

    def _user(self, request: web.Request) -> User:
        token = request.headers.get("Authorization", "").partition(" ")[2].strip()
        if token not in self._users:
            self._note(request, None, "", 401)
            raise Refused(401, "Unauthorized", "Unauthorized")
        return self._users[token]

    def _insist(self, user: User, verb: str, target: Target) -> None:
        kind = target.kind
        what = f"{kind.plural}/{target.sub}" if target.sub else kind.plural
        if user.may(verb, kind.group, what, target.namespace, target.name):
            return
        named = f' "{target.name}"' if target.name else ""
        where = (
            f' in the namespace "{target.namespace}"'
            if target.namespace
            else " at the cluster scope"
        )
        group = f".{kind.group}" if kind.group else ""
        raise Refused(
            403,
            "Forbidden",
            f'{what.split("/")[0]}{group}{named} is forbidden: User "{user.name}" cannot {verb} '
            f'resource "{what}" in API group "{kind.group}"{where}',
        )

    def _note(
        self,
        request: web.Request,
        target: Target | None,
        user: str,
        code: int,
        verb: str = "",
        body: Any = None,
        sent: int = 0,
    ) -> None:
        kind = target.kind if target else None
        self.audit.append(
            Call(
                verb=verb or request.method.lower(),
                group=kind.group if kind else "",
                resource=kind.plural if kind else request.path,
                subresource=target.sub if target else "",
                namespace=target.namespace if target else "",
                name=target.name if target else "",
                user=user,
                code=code,
                at=time.monotonic(),
                manager=_manager(request),
                body=body if isinstance(body, dict) else None,
                sent=sent,
            )
        )

    def _target(self, path: str) -> Target:
        """`/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/SUB`, or without what is not there."""
        parts = path.strip("/").split("/")
        unknown = Refused(404, "NotFound", "the server could not find the requested resource")
        if parts[0] == "api" and len(parts) > 2:
            group, version, rest = "", parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            raise unknown
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] != "status":
            namespace, rest = rest[1], rest[2:]
        kind = self.objects.kinds.get((group, rest[0]))
        if group == METRICS.group and self.metrics_known and rest[0] == "pods":
            kind = METRICS
        if kind is None or version != kind.version:
            raise unknown
        name = rest[1] if len(rest) > 1 else ""
        return Target(kind, namespace, name, "/".join(rest[2:3]))

    async def _do(
        self, request: web.Request, verb: str, target: Target, body: Any, user: User
    ) -> web.StreamResponse:
        if target.kind is METRICS:
            return _answer(self._metrics(target, request.query))
        if verb == "watch":
            return await self._watch(request, target, user)
        if verb == "list":
            return _answer(self._listed(target, request.query))
        if target.sub == "proxy":
            text = self.texts.get(request.path)
            if text is None:
                raise Refused(503, "ServiceUnavailable", "the kubelet does not answer")
            return web.Response(text=text)
        dry, manager = request.query.get("dryRun") == "All", _manager(request)
        if verb == "create" and target.sub == "eviction":
            return _answer(self._evict(target, body), 201)
        if verb == "create":
            made = self.objects.create(target.kind, target.namespace, body, manager, dry=dry)
            return _answer(made, 201)
        if verb == "delete":
            return _answer(self._delete(target, body, request.query))
        return _answer(self._on_object(request, verb, target, body, dry=dry))

    def _on_object(
        self, request: web.Request, verb: str, target: Target, body: Any, *, dry: bool
    ) -> Json:
        manager = _manager(request)
        if verb == "patch" and "apply-patch" in request.content_type:
            return self._apply(target, body, manager, forced=request.query.get("force"))
        old = self.objects.get(target.kind, target.namespace, target.name)
        if target.sub == "scale":
            if not target.kind.scale:
                raise Refused(404, "NotFound", "the server could not find the requested resource")
            return self._scale(verb, target, old, body, request, dry=dry)
        if verb == "get":
            return old
        item = self._changed(verb, old, body, request.content_type, target)
        return self.objects.replace(target.kind, old, item, manager, sub=target.sub, dry=dry)

    def _changed(self, verb: str, old: Json, body: Any, content: str, target: Target) -> Json:
        if verb == "update":
            if target.kind.plural == "leases" and not body["metadata"].get("resourceVersion"):
                why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
                raise Refused(422, "Invalid", f'leases "{target.name}" is invalid: {why}')
            item: Json = objects.copied(body)
        else:
            if content not in PATCHES:
                raise Refused(415, "UnsupportedMediaType", f"{content} is not supported")
            item = objects.copied(PATCHES[content](old, body))
            if isinstance(body, dict) and "resourceVersion" not in body.get("metadata", {}):
                item["metadata"].pop("resourceVersion", None)
        if target.sub == "status":
            item = {**old, "status": item.get("status", {}), "metadata": dict(item["metadata"])}
        return item

    def _scale(
        self,
        verb: str,
        target: Target,
        old: Json,
        body: Any,
        request: web.Request,
        *,
        dry: bool,
    ) -> Json:
        """The Scale of an object shares its version; what is written goes to its replicas."""
        if verb == "get":
            return _scale_of(old)
        scale = _scale_of(old)
        asked = self._changed(verb, scale, body, request.content_type, target)
        count = asked.get("spec", {}).get("replicas", 0)
        if count < 0:
            why = f"spec.replicas: Invalid value: {count}: must be greater than or equal to 0"
            raise Refused(422, "Invalid", f'Scale.autoscaling "{target.name}" is invalid: {why}')
        sent = asked["metadata"].get("resourceVersion")
        if sent and sent != old["metadata"]["resourceVersion"]:
            raise objects.conflict(target.kind, target.name)
        item = objects.copied(old)
        item["spec"]["replicas"] = count
        manager = _manager(request)
        return _scale_of(
            self.objects.replace(target.kind, old, item, manager, sub="scale", dry=dry)
        )

    def _apply(self, target: Target, body: Any, manager: str, *, forced: str | None) -> Json:
        """Server-side apply, as far as the owner of the count goes."""
        old = self.objects.find(target.kind, target.namespace, target.name)
        if old is None:
            return self.objects.create(target.kind, target.namespace, body, manager)
        count = body.get("spec", {}).get("replicas")
        entries = old["metadata"].get("managedFields", [])
        owner = entries[0]["manager"] if entries else manager
        if count not in (None, old["spec"].get("replicas")) and owner != manager and not forced:
            why = f'Apply failed with 1 conflict: conflict with "{owner}": .spec.replicas'
            raise Refused(409, "Conflict", why)
        item = objects.copied(objects.strategic(old, body))
        return self.objects.replace(target.kind, old, item, manager)

    def _delete(self, target: Target, body: Any, query: Mapping[str, str]) -> Json:
        options = body if isinstance(body, dict) else {}
        old = self.objects.get(target.kind, target.namespace, target.name)
        _precondition(target, old, options)
        grace = query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        done = self.objects.delete(
            target.kind, target.namespace, target.name, grace=None if grace is None else int(grace)
        )
        if target.kind.plural == "pods":
            return done
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _evict(self, target: Target, body: Any) -> Json:
        pod = self.objects.get(target.kind, target.namespace, target.name)
        options = body.get("deleteOptions") or {}
        _precondition(target, pod, options)
        if pod.get("status", {}).get("phase") == "Running" and not pod["metadata"].get(
            "deletionTimestamp"
        ):
            self._spend_budget(target.namespace, pod)
        grace = options.get("gracePeriodSeconds")
        self.objects.delete(target.kind, target.namespace, target.name, grace=grace)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        }

    def _spend_budget(self, namespace: str, pod: Json) -> None:
        """One disruption less of the budget that covers the pod (`eviction.go`)."""
        covering = [*self._budgets_of(namespace, pod)]
        if len(covering) > 1:
            why = "This pod has more than one PodDisruptionBudget, which the eviction subresource "
            raise Refused(500, "InternalError", f"{why}does not support.")
        if not covering:
            return
        budget = covering[0]
        name, status = budget["metadata"]["name"], budget.get("status", {})
        if not _is_ready(pod) and _unguarded(budget):
            return
        if status.get("observedGeneration", 0) < budget["metadata"]["generation"]:
            raise _violates(f"{name} is still being processed by the server.", retry_after=10)
        if not status.get("disruptionsAllowed", 0):
            needed, healthy = status.get("desiredHealthy", 0), status.get("currentHealthy", 0)
            raise _violates(f"{name} needs {needed} healthy pods and has {healthy} currently")

        def spend(fresh: Json) -> None:
            spent = fresh["status"].setdefault("disruptedPods", {})
            spent[pod["metadata"]["name"]] = objects.now()
            fresh["status"]["disruptionsAllowed"] -= 1

        self.objects.update(self.objects.kind("PodDisruptionBudget"), namespace, name, spend)

    def _budgets_of(self, namespace: str, pod: Json) -> Iterator[Json]:
        for budget in self.objects.inside(self.objects.kind("PodDisruptionBudget"), namespace):
            text = objects.selector_text(budget["spec"].get("selector") or {})
            if text and objects.label_selector(text)(pod["metadata"].get("labels") or {}):
                yield budget

    def _accepts(self, query: Mapping[str, str]) -> Callable[[Json], bool]:
        by_label = objects.label_selector(query.get("labelSelector", ""))
        by_field = objects.field_selector(query.get("fieldSelector", ""))
        return lambda item: by_label(item["metadata"].get("labels") or {}) and by_field(item)

    def _listed(self, target: Target, query: Mapping[str, str]) -> Json:
        accepts = self._accepts(query)
        version, after = self.objects.version, ""
        found = self.objects.inside(target.kind, target.namespace)
        if token := query.get("continue"):
            version, after = _place(token)
            if version < self.objects.floor:
                why = "The provided continue parameter is too old to display a consistent list"
                raise Refused(410, "Expired", f"{why} result.")
            found = self.objects.inside_at(target.kind, target.namespace, version)
        items = [i for i in found if accepts(i) and _key(i) > after]
        meta: Json = {"resourceVersion": str(version)}
        limit = int(query.get("limit") or 0)
        if limit and len(items) > limit:
            meta["remainingItemCount"] = len(items) - limit
            items = items[:limit]
            place = orjson.dumps([version, _key(items[-1])])
            meta["continue"] = base64.b64encode(place).decode()
        kind = target.kind
        return {
            "kind": f"{kind.kind}List",
            "apiVersion": kind.api_version,
            "metadata": meta,
            "items": items,
        }

    async def _watch(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        query = request.query
        accepts = self._accepts(query)
        wanted = query.get("resourceVersion", "")
        watcher = Watcher(accepts, target.namespace)
        if wanted in ("", "0"):
            for item in self.objects.inside(target.kind, target.namespace):
                watcher.offer(objects.Change(0, "ADDED", target.kind, item, None))
        else:
            self._replay(watcher, target.kind, wanted)
        self._note(request, target, user.name, 200, "watch")
        self.watchers.add(watcher)
        streams = self._by_kind.setdefault(target.kind, set())
        streams.add(watcher)
        try:
            return await self._stream(request, target, watcher)
        finally:
            self.watchers.discard(watcher)
            streams.discard(watcher)

    def _replay(self, watcher: Watcher, kind: Kind, wanted: str) -> None:
        """What happened since. A version that is forgotten is told in the stream (`cacher.go`)."""
        if not wanted.isdecimal():
            raise Refused(400, "BadRequest", f'Invalid value: "{wanted}": is no resourceVersion')
        try:
            for change in self.objects.since(kind, int(wanted)):
                watcher.offer(change)
        except Refused as gone:
            if self.faults.gone_at_once:
                raise
            watcher.queue.put_nowait(orjson.dumps({"type": "ERROR", "object": gone.body}) + b"\n")
            watcher.queue.put_nowait(DONE)

    async def _stream(
        self, request: web.Request, target: Target, watcher: Watcher
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        begin = time.monotonic()
        end = begin + float(request.query.get("timeoutSeconds") or 1800)
        cut = begin + (self.faults.cut_every or 1e9)
        marks = request.query.get("allowWatchBookmarks") == "true"
        due = _next_mark(end) if marks else end
        try:
            while (left := min(end, cut) - time.monotonic()) > 0:
                if marks and time.monotonic() >= due:  # behind all that waits to be sent
                    watcher.queue.put_nowait(self._bookmark(target.kind))
                    due = _next_mark(end)
                span = min(left, max(0.001, due - time.monotonic()))
                try:
                    line = await asyncio.wait_for(watcher.queue.get(), span)
                except TimeoutError:
                    continue
                if line is None:
                    break
                if line is DONE:
                    return response
                await response.write(line)
            if time.monotonic() >= end:
                return response
        except ConnectionError:
            return response
        if request.transport is not None:
            request.transport.abort()
        return response

    def _bookmark(self, kind: Kind) -> bytes:
        meta = {"resourceVersion": str(self.objects.version), "creationTimestamp": None}
        item = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
        return orjson.dumps({"type": "BOOKMARK", "object": item}) + b"\n"

    def _metrics(self, target: Target, query: Mapping[str, str]) -> Json:
        accepts = self._accepts(query)
        if target.name:
            found = self.metrics.get((target.namespace, target.name))
            if found is None:
                what = f"{target.namespace}/{target.name}"
                raise Refused(404, "NotFound", f'podmetrics.metrics.k8s.io "{what}" not found')
            return found
        items = [
            m
            for (namespace, _), m in sorted(self.metrics.items())
            if target.namespace in ("", namespace) and accepts(m)
        ]
        return {
            "kind": "PodMetricsList",
            "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {},
            "items": items,
        }

    def _discovered(self, path: str) -> Json | None:
        kinds = list(self.objects.kinds.values()) + ([METRICS] if self.metrics_known else [])
        groups = sorted({k.group for k in kinds if k.group} | {"authorization.k8s.io"})
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if path == "/apis":
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(name, kinds) for name in groups],
            }
        parts = path.strip("/").split("/")
        if parts[0] == "apis" and len(parts) == 2 and parts[1] in groups:
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], kinds)}
        for kind in kinds:
            base = f"/apis/{kind.api_version}" if kind.group else "/api/v1"
            if path == base:
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": kind.api_version,
                    "resources": [r for k in kinds if k.group == kind.group for r in _resources(k)],
                }
        return None


_EVERYTHING: Json = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}


def _key(item: Json) -> str:
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def _next_mark(end: float) -> float:
    now = time.monotonic()
    due = now + BOOKMARK_EVERY_S
    return min(due, end - LAST_BOOKMARK_S) if now < end - LAST_BOOKMARK_S else due


def _place(token: str) -> tuple[int, str]:
    """Which version a page is of, and what came last on the one before."""
    try:
        version, after = orjson.loads(base64.b64decode(token))
    except ValueError as error:
        raise Refused(400, "BadRequest", "continue key is not valid") from error
    return int(version), str(after)


def _group(name: str, kinds: list[Kind]) -> Json:
    versions = sorted({k.version for k in kinds if k.group == name} or {"v1"})
    found = [{"groupVersion": f"{name}/{v}", "version": v} for v in versions]
    return {"name": name, "versions": found, "preferredVersion": found[0]}


def _resources(kind: Kind) -> list[Json]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    made = {
        "name": kind.plural,
        "singularName": kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    }
    if not kind.scale:
        return [made]
    scale = {**made, "name": f"{kind.plural}/scale", "kind": "Scale", "group": "autoscaling"}
    return [made, {**scale, "version": "v1", "verbs": ["get", "patch", "update"]}]


def _review(user: User, resource: str, body: Any) -> Json:
    if resource == "selfsubjectrulesreviews":
        where = body["spec"].get("namespace", "")
        rules = [rule for scope, rule in user.rules if scope in ("", where)]
        status: Json = {"incomplete": False, "resourceRules": rules, "nonResourceRules": []}
    else:
        asked = body["spec"]["resourceAttributes"]
        what = asked.get("resource", "")
        if asked.get("subresource"):
            what += f"/{asked['subresource']}"
        allowed = user.may(
            asked.get("verb", ""),
            asked.get("group", ""),
            what,
            asked.get("namespace", ""),
            asked.get("name", ""),
        )
        status = {"allowed": allowed}
    api_version = "authorization.k8s.io/v1"
    return {**body, "kind": REVIEWS[resource], "apiVersion": api_version, "status": status}


def _scale_of(item: Json) -> Json:
    meta = item["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = item["spec"].get("selector")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept},
        "spec": {"replicas": item["spec"].get("replicas", 0)},
        "status": {
            "replicas": item.get("status", {}).get("replicas", 0),
            "selector": objects.selector_text(selector) if isinstance(selector, dict) else "",
        },
    }


def _one_of(target: Target, query: Mapping[str, str]) -> Target:
    """A list or watch of a single name is allowed by a rule for that name (`requestinfo.go`)."""
    key, _, name = query.get("fieldSelector", "").partition("=")
    return replace(target, name=name.lstrip("=")) if key == "metadata.name" else target


def _precondition(target: Target, old: Json, options: Mapping[str, Any]) -> None:
    for key, wanted in (options.get("preconditions") or {}).items():
        if old["metadata"].get(key) != wanted:
            raise Refused(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {target.kind.plural} "{target.name}": '
                f"Precondition failed: {key.upper()} in precondition: {wanted}, {key.upper()} in "
                f"object meta: {old['metadata'].get(key)}",
            )


def _is_ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _unguarded(budget: Json) -> bool:
    """Whether a pod that is not ready may go without asking: it was not counted as healthy."""
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status", {})
    needed = status.get("desiredHealthy", 0)
    return bool(needed > 0 and status.get("currentHealthy", 0) >= needed)


def _violates(why: str, *, retry_after: int | None = None) -> Refused:
    refused = Refused(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
        causes=[{"reason": "DisruptionBudget", "message": f"The disruption budget {why}"}],
        retryAfterSeconds=retry_after or 0,
    )
    if retry_after is not None:
        refused.headers = {"Retry-After": str(retry_after)}
    return refused


def _verb(request: web.Request, target: Target) -> str:
    if request.method == "GET" and not target.name:
        return "watch" if request.query.get("watch") in ("true", "1", "True") else "list"
    names = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    return names[request.method]


def _manager(request: web.Request) -> str:
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return request.query.get("fieldManager") or agent


def _insist_on_object(verb: str, target: Target, body: Any) -> None:
    """What is written is an object, of the name that its path has."""
    if verb not in ("create", "update") and not (verb == "patch" and body is None):
        return
    if not isinstance(body, dict):
        raise Refused(
            400, "BadRequest", "the object provided is unrecognized: Object 'Kind' is missing"
        )
    name = (body.get("metadata") or {}).get("name", target.name)
    if verb == "update" and name != target.name:
        why = f"the name of the object ({name}) does not match the name on the URL ({target.name})"
        raise Refused(400, "BadRequest", why)
    if target.sub == "eviction" and name != target.name:
        raise Refused(400, "BadRequest", "name in URL does not match name in Eviction object")


async def _body(request: web.Request) -> Any:
    raw = await request.read()
    if not raw:
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(400, "BadRequest", f"invalid JSON: {error}") from error


def _answer(item: Any, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(item), status=code, content_type="application/json", headers=headers
    )


def usage(
    namespace: str,
    pod: str,
    containers: Mapping[str, tuple[float, int]],
    *,
    at: str = "",
    window: str = "15s",
    labels: Mapping[str, str] | None = None,
) -> Json:
    """A PodMetrics object: cores and bytes of each container."""
    return {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": pod, "namespace": namespace, "labels": dict(labels or {})},
        "timestamp": at or objects.now(),
        "window": window,
        "containers": [
            {
                "name": name,
                "usage": {"cpu": f"{round(cores * 1e9)}n", "memory": f"{memory // 1024}Ki"},
            }
            for name, (cores, memory) in containers.items()
        ],
    }


def kubeconfig(server: Server, token: str = "", namespace: str = "default") -> str:
    """The text of a kubeconfig for a server."""
    return (
        "apiVersion: v1\nkind: Config\ncurrent-context: fake\n"
        f"clusters: [{{name: fake, cluster: {{server: '{server.url}'}}}}]\n"
        f"users: [{{name: me, user: {{token: '{token or server.admin}'}}}}]\n"
        "contexts: [{name: fake, context: "
        f"{{cluster: fake, user: me, namespace: {namespace}}}}}]\n"
    )


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    server = Server(port=parser.parse_args().port)
    async with server:
        nobody = server.grant("nobody", "default", [])
        server.publish("default", [usage("default", "preloaded", {"a": (0.25, 64 << 20)})])
        print(server.url, server.admin, nobody, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
