"""What a metric of the platform is, made of what the pods of a target use.

Without a word about it 100 % is what the containers request, as for the HorizontalPodAutoscaler.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from scaler import mistakes
from scaler.clients.kube_metrics import Usage
from scaler.core.model import Instance, Sample
from scaler.core.policy import Metric
from scaler.errors import ConfigError

METRICS: Final = ("cpu", "memory")


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

    def baseless(self, running: Sequence[Instance]) -> str:
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

    def samples(
        self, running: Sequence[Instance], pods: Mapping[str, Usage], now: datetime
    ) -> tuple[Sample, ...]:
        """One of each pod that something is known of."""
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
