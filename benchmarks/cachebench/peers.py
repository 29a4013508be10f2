"""The caches that are compared, each behind the same few calls and with its own defaults.

A peer that is not installed is named as missing and left out. What is set against the defaults
is set so that the peer is right: cashews hears nothing of foreign writes when redis-py speaks
RESP3, so its local tier speaks RESP2.
"""

import importlib
import importlib.metadata
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import redis.asyncio

import scaler

Quote = Callable[[str], Awaitable[Any]]
NAMESPACE = "bench"
PACKAGES = ("cashews", "aiocache", "dogpile.cache")
OURS = Path(scaler.__file__).with_name("maintenance") / "cache.py"
SHORT = bool(os.environ.get("SCALER_BENCH_SHORT"))
BARS = 20


def sized(full: float, short: float) -> float:
    """How much of something is measured: less of it in a short run."""
    return short if SHORT else full


def quote_of(symbol: str) -> dict[str, Any]:
    """A value of about 1 KB as JSON: the last 20 bars of a symbol."""
    bars = [
        [1_700_000_000 + 60 * n, 101.25 + n, 102.5 + n, 99.75 + n, 7000 + n] for n in range(BARS)
    ]
    return {"symbol": symbol, "currency": "USD", "venue": "XNAS", "bars": bars, "adjusted": True}


class Opened(Protocol):
    """A connected cache."""

    def cached(self, backend: Quote, *, ttl_s: float, errors_s: float = 0) -> Quote:
        """The backend behind the cache. Who can share errors shares them for `errors_s`."""
        ...

    async def get(self, key: str) -> Any: ...

    async def set(self, key: str, value: Any, *, ttl_s: float) -> None: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One cache in one way of use."""

    package: str
    open: Callable[[str], Awaitable[Opened]]  # of a URL like unix:///tmp/x/s


class Scaler:
    """Ours; `local` is the tier in the process."""

    def __init__(self, url: str, *, local: bool) -> None:
        module: Any = importlib.import_module("scaler.maintenance.cache")
        self.manager = module.CacheManager(url, namespace=NAMESPACE, local=local)

    def cached(self, backend: Quote, *, ttl_s: float, errors_s: float = 0) -> Quote:
        more = {"errors": timedelta(seconds=errors_s)} if errors_s else {}
        ttl = timedelta(seconds=ttl_s)
        wrapped: Quote = self.manager.cached(ttl=ttl, key="quote:{symbol}", **more)(backend)
        return wrapped

    async def get(self, key: str) -> Any:
        return await self.manager.get(key)

    async def set(self, key: str, value: Any, *, ttl_s: float) -> None:
        await self.manager.set(key, value, ttl=timedelta(seconds=ttl_s))

    async def aclose(self) -> None:
        await self.manager.aclose()


class Cashews:
    """`how` is a decorator of cashews: simple, early, lock; `local` its client-side tier."""

    def __init__(self, url: str, *, how: str, local: bool, options: dict[str, Any]) -> None:
        cashews: Any = importlib.import_module("cashews")
        settings: Any = importlib.import_module("cashews.wrapper.backend_settings")
        settings._BACKENDS.setdefault("unix", settings._BACKENDS["redis"])
        self.cache = cashews.Cache()
        self.cache.setup(url, **({"client_side": True} if local else {}), **options)
        self.how = how

    def cached(self, backend: Quote, *, ttl_s: float, errors_s: float = 0) -> Quote:
        del errors_s  # cashews stores errors only by a condition on the result
        given: dict[str, Any] = {"ttl": timedelta(seconds=ttl_s), "key": "quote:{symbol}"}
        if self.how == "early":
            wrapped: Quote = self.cache.early(**given)(backend)
        else:
            wrapped = self.cache.cache(**given, lock=self.how == "lock")(backend)
        return wrapped

    async def get(self, key: str) -> Any:
        return await self.cache.get(key)

    async def set(self, key: str, value: Any, *, ttl_s: float) -> None:
        await self.cache.set(key, value, expire=ttl_s)

    async def aclose(self) -> None:
        await self.cache.close()


class Aiocache:
    """`stampede` is its decorator with a lock."""

    def __init__(self, url: str, *, stampede: bool) -> None:
        aiocache: Any = importlib.import_module("aiocache")
        serializers: Any = importlib.import_module("aiocache.serializers")
        self.aiocache, self.stampede = aiocache, stampede
        self.client = redis.asyncio.Redis.from_url(url)
        self.options = {
            "cache": aiocache.RedisCache,
            "namespace": NAMESPACE,
            "serializer": serializers.PickleSerializer(),
        }

    def cached(self, backend: Quote, *, ttl_s: float, errors_s: float = 0) -> Quote:
        del errors_s  # each caller asks again
        decorator = self.aiocache.cached_stampede if self.stampede else self.aiocache.cached
        wrapped: Any = decorator(
            ttl=ttl_s,
            key_builder=lambda _, symbol: f"quote:{symbol}",
            **self.options,
        )(backend)
        wrapped.cache.client = self.client  # its own knows no unix sockets
        quote: Quote = wrapped
        return quote

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def set(self, key: str, value: Any, *, ttl_s: float) -> None:
        await self.client.set(key, value, px=int(1000 * ttl_s))

    async def aclose(self) -> None:
        await self.client.aclose()


class Raw:
    """redis-py alone: what Redis itself does with a key."""

    def __init__(self, url: str) -> None:
        self.client = redis.asyncio.Redis.from_url(url)

    def cached(self, backend: Quote, *, ttl_s: float, errors_s: float = 0) -> Quote:
        del ttl_s, errors_s
        return backend

    async def get(self, key: str) -> Any:
        return await self.client.get(key)

    async def set(self, key: str, value: Any, *, ttl_s: float) -> None:
        await self.client.set(key, repr(value), px=int(1000 * ttl_s))

    async def aclose(self) -> None:
        await self.client.aclose()


def _raw() -> Peer:
    async def opened(url: str) -> Opened:
        return Raw(url)

    return Peer(package="redis", open=opened)


def _scaler(*, local: bool) -> Peer:
    async def opened(url: str) -> Opened:
        cache = Scaler(url, local=local)
        await cache.manager.start()
        return cache

    return Peer(package="scaler", open=opened)


def _cashews(how: str = "simple", *, local: bool = False, **options: Any) -> Peer:
    async def opened(url: str) -> Opened:
        return Cashews(url, how=how, local=local, options=options)

    return Peer(package="cashews", open=opened)


def _aiocache(*, stampede: bool) -> Peer:
    async def opened(url: str) -> Opened:
        return Aiocache(url, stampede=stampede)

    return Peer(package="aiocache", open=opened)


PEERS = {
    "raw": _raw(),
    "scaler": _scaler(local=True),
    "scaler_shared": _scaler(local=False),
    "cashews": _cashews(),
    "cashews_early": _cashews("early"),
    "cashews_lock": _cashews("lock"),
    "cashews_local": _cashews(local=True, protocol=2),
    "cashews_resp3": _cashews(local=True),  # as installed: never told of a foreign write
    "aiocache": _aiocache(stampede=False),
    "aiocache_stampede": _aiocache(stampede=True),
}


def version(package: str) -> str | None:
    """None when it is not installed; ours is there once its module is."""
    if package == "scaler":
        return "here" if OURS.exists() else None
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def present(*names: str) -> list[str]:
    """Those of these peers that can be measured here."""
    return [name for name in names if version(PEERS[name].package)]


def described() -> dict[str, str]:
    """Which peers there are, and which are missing."""
    found = {package: version(package) or "not installed" for package in PACKAGES}
    return {f"peer_{package.replace('.', '_')}": said for package, said in found.items()}
