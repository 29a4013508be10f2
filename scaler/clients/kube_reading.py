"""What a metric of the platform is, made of what the pods of a target use.

Without a word about it 100 % is what the containers request, as for the HorizontalPodAutoscaler.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from scaler import mistakes
from scaler.clients.kube_metrics import Usage
from scaler.core.model import Fleet, Instance, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError

METRICS: Final = ("cpu", "memory")
OLD: Final = timedelta(minutes=1)  # numbers that are no answer any more when nobody answers


class PodReading:
    """One metric of one target."""

    def __init__(self, metric: Metric, container: str) -> None:
        """`container` is whose it is; that of the whole pod when it is empty.

        Raises:
            ConfigError: pods have no such metric.
        """
        if metric.name not in METRICS:
            remedy = mistakes.meant(metric.name, METRICS) or "known are cpu, memory"
            raise ConfigError(
                f'kubernetes has no metric "{metric.name}"; {remedy} or name a source for it'
            )
        if metric.of == "host":
            raise ConfigError(
                f"{metric.name}: how large nodes are needs a right on the whole cluster; write of: "
                "request or of: limit"
            )
        self._metric = metric
        self._container = container
        of = metric.of if "of" in metric.model_fields_set else "request"
        self._base = f"{metric.name}_limit" if of == "limit" else metric.name
        self._noun = f"{of} of {metric.name}"

    def running(self, fleet: Fleet) -> tuple[Sequence[Instance], str]:
        """The pods that can be measured, or why none can be."""
        found = [i for i in fleet.instances if i.state is State.RUNNING]
        return found, self._baseless(found) if found else "no pod is running"

    def of(
        self,
        running: Sequence[Instance],
        pods: Mapping[str, Usage],
        now: datetime,
        *,
        trouble: str,
        nothing: str,
    ) -> Reading:
        """A sample of each pod that something is known of.

        `trouble` is why nothing newer is known, and the reading once all that is known is old;
        `nothing` is why there may be no numbers although all is well.
        """
        samples = self._samples(running, pods, now)
        if trouble and all(now - sample.at > OLD for sample in samples):
            return self.missing(trouble)
        missing = None if samples else nothing
        return Reading(metric=self._metric.name, samples=samples, missing=missing)

    def missing(self, why: str) -> Reading:
        return Reading(metric=self._metric.name, missing=why)

    def _baseless(self, running: Sequence[Instance]) -> str:
        """Whose containers do not say what 100 % is, when that is needed."""
        goal = self._metric.keep
        if goal is not None and goal.utilization is None:
            return ""
        without = next((i.id for i in running if not i.bases.get(self._base)), None)
        if without is None:
            return ""
        which = self._container or "each container"
        return (
            f"{without} has no {self._noun}, so no share of it can be told; set it for {which} in "
            "the pod template, or write value: in place of a percentage"
        )

    def _samples(
        self, running: Sequence[Instance], pods: Mapping[str, Usage], now: datetime
    ) -> tuple[Sample, ...]:
        samples = []
        for instance in running:
            usage = pods.get(instance.id)
            if usage is None or (value := self._value(usage)) is None:
                continue
            samples.append(
                Sample(
                    at=min(usage.at, now),  # the server's clock may be ahead of ours
                    value=value,
                    instance=instance.id,
                    base=instance.bases.get(self._base),
                    window=usage.window,
                )
            )
        return tuple(samples)

    def _value(self, usage: Usage) -> float | None:
        """Of the chosen container, or of all together."""
        which = METRICS.index(self._metric.name) + 1
        only = self._container
        amounts = [float(c[which]) for c in usage.containers if only in ("", c[0])]
        return sum(amounts) if amounts else None
