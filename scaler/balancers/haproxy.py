"""HAProxy as balancer: its servers of one backend follow the instances, by its runtime API.

Servers that are ours are named after policy and instance; all others are left alone. Each look
reads what HAProxy has and changes what differs, so a reload, which forgets our servers, is mended
by the next look.
"""

import hashlib
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, field_validator

from scaler.clients.haproxy import Haproxy, rows
from scaler.core.document import Balancer, Target
from scaler.core.model import Fleet, Instance, InstanceId, State, is_fit
from scaler.errors import Conflict, NotFound, PermanentError
from scaler.interfaces import Context

# 2.6.12 can crash when a server is deleted for which a request still waits in a queue.
REST: Final = timedelta(seconds=30)  # in maintenance and idle for so long before it is deleted
# Another thread of HAProxy may just have chosen the server and not counted the request yet.
SETTLE: Final = timedelta(milliseconds=20)
LONGEST_NAME: Final = 100
_MAINTENANCE: Final = 0x01 | 0x02 | 0x04 | 0x20 | 0x40  # srv_admin_state: forced, inherited, ...
_DRAINING: Final = 0x08 | 0x10


class HaproxyBalancer(Balancer):
    """Servers of one backend of HAProxy 2.5 or newer."""

    backend: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
    """The backend that they are added to; it needs a dynamic `balance` such as `leastconn`."""
    socket: str = "/run/haproxy/admin.sock"
    """Its `stats socket` with `level admin`: a path, or `tcp://127.0.0.1:9999`."""
    check: bool = False
    """HAProxy checks each server itself too, as `default-server` of the backend says."""
    maxconn: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Most requests at a time for each server added from now on; more wait in a queue."""

    @field_validator("socket")
    @classmethod
    def _reachable(cls, written: str) -> str:
        tcp = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.]+\]|[^:/\s]+):(\d{1,5})", written)
        if tcp and 1 <= int(tcp[2]) <= 65535:
            return written
        if not written.startswith("/"):
            raise ValueError(
                f'"{written}" is no socket; write a path such as /run/haproxy/admin.sock, '
                "or tcp://127.0.0.1:9999"
            )
        return written


class _Plugin:
    balancer = HaproxyBalancer

    def open(self, rules: HaproxyBalancer, target: Target, context: Context) -> "HaproxyRoutes":
        return HaproxyRoutes(rules, target.policy, context)


PLUGIN: Final = _Plugin()


class Place(StrEnum):
    """What an instance is to HAProxy."""

    READY = "ready"  # gets requests
    DRAIN = "drain"  # answers those it has
    MAINT = "maint"  # gets none


@dataclass(frozen=True, slots=True)
class Server:
    """One server as HAProxy has it."""

    name: str
    place: Place
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be changed at one server."""

    doing: str
    commands: tuple[str, ...]


class HaproxyRoutes:
    """The way of requests to one target."""

    def __init__(self, rules: HaproxyBalancer, policy: str, context: Context) -> None:
        self._rules = rules
        self._policy = policy
        self._clock = context.clock
        self._haproxy = Haproxy(rules.socket)
        self._version = ""
        self._known: frozenset[str] = frozenset()  # our servers as the last look left them
        self._idle: dict[str, timedelta] = {}  # gone ones in maintenance, idle since
        self._gone: frozenset[str] = frozenset()
        self._forgot_at: timedelta | None = None

    async def route(
        self, fleet: Fleet, leaving: Collection[InstanceId]
    ) -> Mapping[InstanceId, int]:
        if not self._version:
            self._version = await self._haproxy.version()
        servers, open_ = await self._look(with_open=bool(leaving or self._gone))
        now = self._clock.monotonic()
        if self._known - servers.keys():
            self._forgot_at = now
        names = {i.id: server_name(self._policy, i.id) for i in fleet.instances}
        self._gone = frozenset(servers.keys() - names.values())
        orders = plan_orders(self._rules, self._policy, fleet, leaving, servers)
        for order in orders:
            await self._haproxy.tell(*order.commands, doing=order.doing)
        if orders and leaving:
            await self._clock.sleep(SETTLE)
            _, open_ = await self._look(with_open=True)
        deleted = await self._delete(servers, open_, now)
        ready = {
            names[i.id]
            for i in fleet.instances
            if place(i, leaving) is Place.READY and address_of(i)
        }
        self._known = frozenset(servers.keys() - deleted | ready)
        _insist_on_addresses(fleet, leaving)
        return self._busy({i: open_.get(names.get(i, ""), 0) for i in leaving}, now)

    async def _look(self, *, with_open: bool) -> tuple[dict[str, Server], dict[str, int]]:
        """Our servers, and the requests that are open or queued for each."""
        backend = self._rules.backend
        asked = [f"show servers state {backend}"]
        asked += [f"show stat {backend} 4 -1"] if with_open else []
        answer = await self._haproxy.ask(*asked)
        listed = rows(answer, "be_id")
        if listed is None:
            listed = await self._explain(answer)
        ours = f"s-{self._policy}:"
        counted = rows(answer, "pxname") or ()
        return (
            {row["srv_name"]: _server(row) for row in listed if row["srv_name"].startswith(ours)},
            {row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0) for row in counted},
        )

    async def _explain(self, answer: str) -> list[Mapping[str, str]]:
        """Why there is no table."""
        backend = self._rules.backend
        if "Can't find backend" not in answer:
            said = answer.strip().partition("\n")[0]
            raise PermanentError(f"looking at backend {backend}: HAProxy says: {said}")
        found = (await self._haproxy.ask("show backend")).splitlines()
        names = ", ".join(sorted(name for name in found if name and not name.startswith("#")))
        raise NotFound(f'HAProxy has no backend "{backend}"; it has: {names or "none"}')

    async def _delete(
        self, servers: Mapping[str, Server], open_: Mapping[str, int], now: timedelta
    ) -> set[str]:
        """Delete servers of instances that are gone, when nothing can want them any more."""
        resting = {
            name
            for name in self._gone
            if servers[name].place is Place.MAINT and open_.get(name) == 0
        }
        self._idle = {name: self._idle.get(name, now) for name in resting}
        deleted = set()
        for name, since in tuple(self._idle.items()):
            if now - since < REST:
                continue
            try:
                command = f"del server {self._rules.backend}/{name}"
                await self._haproxy.tell(command, doing=f"deleting server {name}")
            except Conflict:
                self._idle[name] = now  # a connection is kept open to it; there is no hurry
            else:
                deleted.add(name)
        return deleted

    def _busy(self, open_: Mapping[InstanceId, int], now: timedelta) -> dict[InstanceId, int]:
        """After a reload the old HAProxy answers what it has, and nobody can count that."""
        unsure = self._forgot_at is not None and now - self._forgot_at < self._rules.drain
        counts = {i: max(count, 1) if unsure else count for i, count in open_.items()}
        return {i: count for i, count in counts.items() if count}

    async def aclose(self) -> None:
        """Nothing is held: each batch has a connection of its own."""


def place(instance: Instance, leaving: Collection[InstanceId]) -> Place:
    """What becomes of an instance."""
    if instance.state is not State.RUNNING:
        return Place.MAINT
    if instance.id in leaving:
        return Place.DRAIN
    return Place.READY if is_fit(instance) else Place.MAINT


def plan_orders(
    rules: HaproxyBalancer,
    policy: str,
    fleet: Fleet,
    leaving: Collection[InstanceId],
    servers: Mapping[str, Server],
) -> list[Order]:
    """What has to change, in this order: no requests to the dead, then some to the new ones."""
    quiet: list[Order] = []
    ready: list[Order] = []
    drain: list[Order] = []
    wanted = {server_name(policy, i.id): i for i in fleet.instances}
    for name in sorted(servers.keys() | wanted.keys()):
        instance, server, path = wanted.get(name), servers.get(name), f"{rules.backend}/{name}"
        where = Place.MAINT if instance is None else place(instance, leaving)
        if where is Place.READY and instance is not None:
            if address := address_of(instance):
                ready += _made_ready(rules, path, server, *address)
        elif server is None or server.place is Place.MAINT or server.place is where:
            continue
        else:
            order = Order(f"taking requests from {path}", (f"set server {path} state {where}",))
            (drain if where is Place.DRAIN else quiet).append(order)
    return quiet + ready + drain


def _made_ready(
    rules: HaproxyBalancer, path: str, server: Server | None, host: str, port: int
) -> list[Order]:
    checked = (f"enable health {path}",) if rules.check else ()
    begin = (f"set server {path} state ready", *checked)
    if server is None:
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        words = f"add server {path} {at}"
        words += f" maxconn {rules.maxconn}" if rules.maxconn else ""
        words += " check" if rules.check else ""
        # Alone, since what follows a refusal would be refused in other words.
        return [
            Order(f"adding server {path}", (words,)),
            Order(f"sending requests to {path}", begin),
        ]
    commands: tuple[str, ...] = ()
    if (server.host, server.port) != (host, port):
        commands += (f"set server {path} addr {host} port {port}",)
    if server.place is not Place.READY:
        commands += begin
    return [Order(f"sending requests to {path}", commands)] if commands else []


def address_of(instance: Instance) -> tuple[str, int] | None:
    """Host as an IP address, and port; None when one is not known."""
    host = "127.0.0.1" if instance.host == "localhost" else instance.host
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (str(known), instance.port) if instance.port else None


def server_name(policy: str, instance: InstanceId) -> str:
    """The name of our server for an instance: readable, unique, and nobody else's."""
    name = f"s-{policy}:{instance}"
    if re.fullmatch(rf"[A-Za-z0-9_.:-]{{1,{LONGEST_NAME}}}", name):
        return name
    digest = hashlib.sha256(instance.encode()).hexdigest()[:12]
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", name)[: LONGEST_NAME - 13] + "-" + digest


def _server(row: Mapping[str, str]) -> Server:
    admin = int(row["srv_admin_state"])
    where = Place.DRAIN if admin & _DRAINING else Place.READY
    where = Place.MAINT if admin & _MAINTENANCE else where
    return Server(row["srv_name"], where, row["srv_addr"], int(row["srv_port"] or 0))


def _insist_on_addresses(fleet: Fleet, leaving: Collection[InstanceId]) -> None:
    """All others are routed by now.

    Raises:
        PermanentError: an instance is ready, and nobody knows where.
    """
    for i in fleet.instances:
        if place(i, leaving) is Place.READY and address_of(i) is None:
            found = f'host "{i.host}" and port {i.port}' if i.host or i.port else "neither"
            raise PermanentError(
                f"{i.id} can get no requests by HAProxy, which needs an IP address and a port, "
                f"and it has {found}; give the target a port"
            )
