"""What is installed, opened when it is first needed: adapters, the store and the lease."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scaler import plugins
from scaler.clients.http import HttpClient
from scaler.clock import Clock
from scaler.core.document import Balancer as BalancerRules
from scaler.core.document import Target
from scaler.core.healthpolicy import Probe
from scaler.core.policy import Metric
from scaler.errors import ConfigError
from scaler.interfaces import (
    Balancer,
    Closing,
    Context,
    HealthProbe,
    Lease,
    MetricSource,
    Platforms,
    Provider,
    Store,
)
from scaler.maintenance.duty import Duty
from scaler.probes import open_probe
from scaler.settings import Settings
from scaler.stores.memory import MemoryStore

if TYPE_CHECKING:
    from scaler.clients.peers import Peers
    from scaler.maintenance.cache_job import CacheJob
    from scaler.maintenance.partition_job import PartitionJob


class Installed:
    """The adapters that are installed, each connection opened when it is first needed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.shared[Platforms] = Platforms(self.provider)
        self._providers: dict[str, Provider[Any]] = {}
        self._http = HttpClient()

    def provider(self, kind: str) -> Provider[Any]:
        if kind not in self._providers:
            self._providers[kind] = plugins.provider(kind).open(self._context)
        return self._providers[kind]

    def source(self, metric: Metric, target: Target) -> MetricSource:
        kind = metric.source.kind
        plugin = plugins.source(target.kind if kind == "platform" else kind)
        return plugin.open(metric, target, self._context)

    def probe(self, probe: Probe, kind: str) -> HealthProbe:
        return open_probe(probe, self._http, lambda: self.provider(kind) if kind else None)

    def balancer(self, rules: BalancerRules, target: Target) -> Balancer:
        return plugins.balancer(rules.kind).open(rules, target, self._context)

    async def aclose(self) -> None:
        for provider in self._providers.values():
            await provider.aclose()
        for client in reversed(self._context.shared.values()):  # who uses before who is used
            if isinstance(client, Closing):
                await client.aclose()
        await self._http.aclose()


@dataclass(frozen=True, slots=True)
class Upkeep:
    """The jobs for caches, and for partitions of databases."""

    caches: "tuple[CacheJob, ...]" = ()
    partitions: "tuple[PartitionJob, ...]" = ()

    @property
    def jobs(self) -> "tuple[CacheJob | PartitionJob, ...]":
        return *self.caches, *self.partitions


def open_store(settings: Settings) -> Store:
    if settings.store == "memory":
        return MemoryStore()
    from scaler.stores.sqlite import SqliteStore  # noqa: PLC0415 - only where it is used

    return SqliteStore(settings.state_dir / "scaler.db")


def open_upkeep(settings: Settings, clock: Clock, duty: Duty) -> Upkeep:
    """Whatever is kept healthy beside the targets, as far as the settings name a file of it.

    Raises:
        ConfigError: a file is invalid, an address cannot be used, or an extra is not installed.
    """
    return Upkeep(_caches(settings, clock, duty), _partitions(settings, clock, duty))


def _caches(settings: Settings, clock: Clock, duty: Duty) -> "tuple[CacheJob, ...]":
    if settings.caches is None:
        return ()
    from scaler.maintenance.cache_file import load_caches  # noqa: PLC0415 - only where it is used
    from scaler.maintenance.cache_job import CacheJob  # noqa: PLC0415

    found = load_caches(settings.caches).rules.values()
    return tuple(CacheJob(rules, clock, duty) for rules in found)


def _partitions(settings: Settings, clock: Clock, duty: Duty) -> "tuple[PartitionJob, ...]":
    if settings.partitions is None:
        return ()
    try:
        from scaler.maintenance.partition_file import load_partitions  # noqa: PLC0415
        from scaler.maintenance.partition_job import PartitionJob  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"partitions: {error.name} is not installed; pip install 'scaler[postgres]'"
        ) from None
    found = load_partitions(settings.partitions).rules.values()
    return tuple(PartitionJob(rules, clock, duty) for rules in found)


def open_lease(settings: Settings, context: Context) -> Lease | None:
    """Where daemons find out which of them acts; None when there is only this one.

    Raises:
        ConfigError: it cannot be used as it is set.
    """
    wanted = settings.lease
    if wanted.store == "kubernetes":
        from scaler.clients.kubernetes import Clusters  # noqa: PLC0415 - only where it is used
        from scaler.stores.kubernetes import KubernetesLease  # noqa: PLC0415

        clusters = context.shared.setdefault(Clusters, Clusters(context.clock, context.random))
        at = partial(clusters.at, wanted.context)
        return KubernetesLease(at, name=wanted.name, namespace=wanted.namespace)
    if wanted.store == "redis":
        from scaler.clients.redis import Redis  # noqa: PLC0415 - only where it is used
        from scaler.stores.redis import RedisLease  # noqa: PLC0415

        redis = Redis(wanted.redis_url.get_secret_value())
        return RedisLease(redis, context.clock, name=wanted.name)
    return None


def open_peers(settings: Settings, context: Context) -> "Peers | None":
    """The pods that tell each other what they use, also as a part of `Context.shared`."""
    if not settings.sidecar.listen:
        return None
    from scaler.clients import peers  # noqa: PLC0415 - only in a sidecar

    opened = peers.opened(settings.sidecar, context.clock, context.random)
    context.shared[peers.Peers] = opened
    return opened
