"""CPU and memory of pods, as metrics.k8s.io has them, or as the pods tell each other.

Samples carry the moment and window of the metrics-server, so numbers that stand still grow old and
are no data in the end. A sidecar asks the sidecars of the other pods, whose numbers are a second
old; whoever does not answer it is looked up in metrics.k8s.io.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from scaler.clients.kube_metrics import Gauge, Usage
from scaler.clients.kube_reading import PodReading
from scaler.clients.kube_resource import SELF
from scaler.clients.kubernetes import Api, Clusters
from scaler.clients.notices import Notices
from scaler.clients.peers import Peers, Told, together
from scaler.core.document import Source, Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.errors import ScalerError
from scaler.interfaces import Context

OLD: Final = timedelta(minutes=1)  # numbers that are no answer any more when nobody answers
NO_NUMBERS: Final = "metrics.k8s.io has no numbers of these pods yet"


class KubernetesSource(Source):
    """What metrics.k8s.io says of the pods; there is nothing to configure."""


@dataclass
class Gauges:
    """One gauge for each namespace of each cluster, as a part of `Context.shared`."""

    clusters: Clusters
    notices: Notices
    open: dict[tuple[str, str], Gauge] = field(default_factory=dict)

    async def at(self, context: str, namespace: str) -> Gauge:
        """The one of a namespace; an empty name is where we are.

        Raises:
            ConfigError: no cluster is known.
        """
        api: Api = await self.clusters.at(context)
        key = context, namespace or api.namespace
        if key not in self.open:
            self.open[key] = Gauge(api, key[1], self.notices)
        return self.open[key]

    async def aclose(self) -> None:
        for gauge in self.open.values():
            await gauge.aclose()


class KubernetesMetrics:
    """One metric of one target."""

    def __init__(
        self, metric: Metric, target: Any, gauges: Gauges, peers: Peers | None = None
    ) -> None:
        """`peers` are the sidecars of the same target, when this process is one of them."""
        self._metric = metric
        self._target = target
        self._gauges = gauges
        self._peers = peers
        self._gauge: Gauge | None = None
        self._told_at: datetime | None = None
        self._reading = PodReading(metric, target.container)

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - a gauge has no past
        name = self._metric.name
        running = [i for i in fleet.instances if i.state is State.RUNNING]
        if not running:
            return Reading(metric=name, missing="no pod is running")
        if why := self._reading.baseless(running):
            return Reading(metric=name, missing=why)
        heard = {} if self._peers is None else await self._peers.ask(running)
        told = self._told(heard, now)
        silent = [instance for instance in running if instance.id not in told]
        trouble, pods = "", told
        if silent or not told:
            trouble, known = await self._known(fleet.target, silent, wait=not told)
            pods = {**known, **told}
        samples = self._reading.samples(running, pods, now)
        if trouble and all(now - sample.at > OLD for sample in samples):
            return Reading(metric=name, missing=_both(trouble, heard))
        missing = None if samples else _both(NO_NUMBERS, heard)
        return Reading(metric=name, samples=samples, missing=missing)

    async def _known(
        self, policy: str, pods: Sequence[Instance], *, wait: bool
    ) -> tuple[str, Mapping[str, Usage]]:
        """What metrics.k8s.io says, and why it says nothing newer.

        A server that lets us wait must not cost us what others have told already.
        """
        try:
            if self._gauge is None:
                at = self._gauges.at(self._target.context, self._target.namespace)
                self._gauge = await at
            known = await self._gauge.look(policy, [pod.id for pod in pods], wait=wait)
        except ScalerError as error:
            return str(error), {}
        return self._gauge.trouble, known

    def _told(self, heard: Mapping[InstanceId, Told], now: datetime) -> Mapping[str, Usage]:
        """The last seconds of each pod whose sidecar answers: the newer half since the last time.

        The older half would hide a load that has just begun. It tells of the pod as a whole, so
        with a container named it counts where there is one.
        """
        only = self._target.container
        before, self._told_at = self._told_at or now, now
        after = before + (now - before) / 2
        newest = {
            pod: together(told, after) for pod, told in heard.items() if not isinstance(told, str)
        }
        return {
            pod: Usage(one.at, one.window, ((only, one.cpu, one.memory),))
            for pod, one in newest.items()
            if not only or one.containers == 1
        }

    async def aclose(self) -> None:
        if self._gauge is not None:
            self._gauge.forget(self._target.policy)


def _both(why: str, heard: Mapping[InstanceId, Told]) -> str:
    """Why neither says anything; of the sidecars one stands for all."""
    silent = next((told for told in heard.values() if isinstance(told, str)), "")
    return f"{silent}; {why}" if silent else why


class _Plugin:
    source = KubernetesSource

    def open(self, metric: Metric, target: Target, context: Context) -> KubernetesMetrics:
        shared = context.shared
        clusters = shared.setdefault(Clusters, Clusters(context.clock, context.random))
        notices = shared.setdefault(Notices, Notices())
        gauges = shared.setdefault(Gauges, Gauges(clusters, notices))
        beside = getattr(target, "workload", "") == SELF
        return KubernetesMetrics(metric, target, gauges, shared.get(Peers) if beside else None)


PLUGIN: Final = _Plugin()
