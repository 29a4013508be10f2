"""Where leases are kept, for the tests of every kind of lease, with ways there that can be cut."""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from scaler.clients.kube_login import Login
from scaler.clients.kubernetes import Api
from scaler.clients.redis import Redis
from scaler.clock import SystemClock
from scaler.interfaces import Lease
from scaler.stores.kubernetes import KubernetesLease
from scaler.stores.redis import RedisLease
from tests.fakes.kubernetes import Server
from tests.fakes.lease import MemoryLease, Network, Record
from tests.fakes.tcp_proxy import Streams, TcpProxy
from tests.integration.redises import RedisServer

NAME = "scaler"
CLOCK = SystemClock()


class Way(Protocol):
    """From one candidate to where the lease is kept."""

    def cut(self) -> None: ...
    def heal(self) -> None: ...


@dataclass
class Candidate:
    """A lease as one process has it, and its way to the server."""

    lease: Lease
    way: Way


class Place(Protocol):
    """One kind of lease on one server."""

    async def candidate(self) -> Candidate: ...
    async def lose(self) -> None:
        """The server forgets the record, as after a deletion or a restart without a disk."""
        ...

    async def aclose(self) -> None: ...


@dataclass
class MemoryWay:
    network: Network

    def cut(self) -> None:
        self.network.cut = True

    def heal(self) -> None:
        self.network.cut = False


class InMemory:
    def __init__(self) -> None:
        self._record = Record()

    async def candidate(self) -> Candidate:
        network = Network(Random(1))
        return Candidate(MemoryLease(self._record, network, CLOCK), MemoryWay(network))

    async def lose(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        return


@dataclass
class OnKubernetes:
    server: Server
    proxies: list[TcpProxy] = field(default_factory=list)
    apis: list[Api] = field(default_factory=list)
    token: str = ""

    async def candidate(self) -> Candidate:
        port = int(self.server.url.rpartition(":")[2])

        async def connect() -> Streams:
            return await asyncio.open_connection("127.0.0.1", port)

        proxy = TcpProxy(connect)
        self.proxies.append(proxy)
        api = connected(f"http://127.0.0.1:{await proxy.start()}", self.token or self.server.admin)
        self.apis.append(api)
        return Candidate(on_kubernetes(api), proxy)

    async def lose(self) -> None:
        self.server.delete("Lease", NAME)

    async def aclose(self) -> None:
        for api in self.apis:
            await api.aclose()
        for proxy in self.proxies:
            await proxy.stop()
        await self.server.stop()


@dataclass
class OnRedis:
    server: RedisServer
    proxies: list[TcpProxy] = field(default_factory=list)
    leases: list[RedisLease] = field(default_factory=list)

    async def candidate(self) -> Candidate:
        async def connect() -> Streams:
            return await asyncio.open_unix_connection(self.server.socket)

        proxy = TcpProxy(connect)
        self.proxies.append(proxy)
        lease = on_redis(f"redis://127.0.0.1:{await proxy.start()}")
        self.leases.append(lease)
        return Candidate(lease, proxy)

    async def lose(self) -> None:
        self.server.ask("flushall")

    async def aclose(self) -> None:
        for lease in self.leases:
            await lease.aclose()
        for proxy in self.proxies:
            await proxy.stop()
        self.server.stop()


def connected(url: str, token: str) -> Api:
    async def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    login = Login(url=url, namespace="default", tls=None, headers=headers, about="a test")
    return Api(login, CLOCK, Random())


def on_kubernetes(api: Api) -> KubernetesLease:
    async def at() -> Api:
        return api

    return KubernetesLease(at, name=NAME)


def on_redis(url: str) -> RedisLease:
    return RedisLease(Redis(url), CLOCK, name=NAME)
