"""CPU and memory of pods, from the kubelets of the nodes they run on: every few seconds.

It needs the right to `nodes/proxy` in the whole cluster, so it is off unless a policy names it.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import field_validator

from scaler.clients.kube_desk import Desks
from scaler.clients.kube_reading import PodReading
from scaler.clients.kubelet import Kubelets
from scaler.clients.kubernetes import Api, Clusters
from scaler.core.document import Source, Target, within
from scaler.core.model import Fleet, Reading
from scaler.core.policy import Metric
from scaler.core.units import Span
from scaler.errors import ConfigError, ScalerError
from scaler.interfaces import Context

ONCE: Final = "the kubelets have said it once; a rate takes two answers"


class KubeletSource(Source):
    """The kubelet of each node that runs a pod of the target."""

    every: Span = timedelta(seconds=5)
    """A node is asked no more often than that, for all policies that say the same."""

    @field_validator("every")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(seconds=1), timedelta(minutes=1))


@dataclass
class Nodes:
    """The kubelets of each cluster, as a part of `Context.shared`."""

    clusters: Clusters
    desks: Desks
    open: dict[str, Kubelets] = field(default_factory=dict)

    async def at(self, context: str) -> tuple[Kubelets, Api]:
        """Those of one cluster, and how they are reached.

        Raises:
            ConfigError: no cluster is known.
        """
        api = await self.clusters.at(context)
        if context not in self.open:
            self.open[context] = Kubelets(api)
        return self.open[context], api

    def of(self, context: str, namespace: str, pod: str) -> str:
        """The node that a pod runs on, as the mirror of the provider has it; empty: unknown."""
        desk = self.desks.open.get((context, namespace))
        found = desk.pods.items.get(pod) if desk is not None else None
        return found.node if found is not None else ""

    async def aclose(self) -> None:
        for kubelets in self.open.values():
            await kubelets.aclose()


class KubeletMetrics:
    """One metric of one target."""

    def __init__(self, metric: Metric, target: Any, nodes: Nodes) -> None:
        self._source: Any = metric.source
        self._target = target
        self._nodes = nodes
        self._reading = PodReading(metric, target.container)

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - kubelets have no past
        running, why = self._reading.running(fleet)
        if why:
            return self._reading.missing(why)
        try:
            kubelets, api = await self._nodes.at(self._target.context)
        except ScalerError as error:
            return self._reading.missing(str(error))
        namespace = self._target.namespace or api.namespace
        found = {self._nodes.of(self._target.context, namespace, i.id) for i in running} - {""}
        if not found:
            return self._reading.missing("which nodes the pods run on is not known yet")
        pods, trouble = await kubelets.look(namespace, found, self._source.every)
        return self._reading.of(running, pods, now, trouble=trouble, nothing=ONCE)

    async def aclose(self) -> None:
        """The kubelets are asked for others too; those that nobody asks for are forgotten."""


class _Plugin:
    source = KubeletSource

    def open(self, metric: Metric, target: Target, context: Context) -> KubeletMetrics:
        if target.kind != "kubernetes":
            raise ConfigError("kubelet measures pods; it is for targets of kubernetes")
        shared = context.shared
        clusters = shared.setdefault(Clusters, Clusters(context.clock, context.random))
        desks = shared.setdefault(Desks, Desks())
        return KubeletMetrics(metric, target, shared.setdefault(Nodes, Nodes(clusters, desks)))


PLUGIN: Final = _Plugin()
