"""The Kubernetes 1.36 HorizontalPodAutoscaler, written down a second time from upstream.

Function by function as in `pkg/controller/podautoscaler` (names in comments), with pods, metrics
and events as upstream has them, and nothing from `scaler.core`. It exists to disagree with
`scaler/core/hpa.py` when one of them is wrong.
"""

import math
from dataclasses import dataclass, field

MAX_INT32 = 2**31 - 1
CPU_INITIALIZATION_S = 300.0
READINESS_DELAY_S = 30.0


class MetricError(Exception):
    """The proposal of a metric is invalid."""


@dataclass
class Pod:
    name: str
    phase: str = "Running"  # Pending, Running, Failed
    deleted: bool = False
    ready: bool | None = True
    start: float | None = -3600.0
    ready_changed: float = -3600.0
    requests: dict[str, int] = field(default_factory=dict)  # milli-units by resource


@dataclass
class PodSample:
    value: int  # milli-units
    at: float = 0.0
    window: float = 60.0


@dataclass
class MetricSpec:
    name: str
    kind: str  # utilization | pods | object | object-average
    target: int  # percent, or milli-units
    samples: dict[str, PodSample] = field(default_factory=dict)
    whole: list[int] = field(default_factory=list)
    error: bool = False


@dataclass
class ScalingPolicy:
    kind: str  # Pods | Percent
    value: int
    period: float


@dataclass
class Rules:
    policies: list[ScalingPolicy]
    select: str = "Max"
    window: float = 0.0


@dataclass
class Autoscaler:
    """One HPA object with everything its controller remembers of it."""

    min: int
    max: int
    metrics: list[MetricSpec]
    behavior: bool = False
    up: Rules | None = None
    down: Rules | None = None
    tolerance_up: float = 0.1
    tolerance_down: float = 0.1
    recommendations: list[tuple[float, int]] = field(default_factory=list)
    up_events: list[tuple[float, int]] = field(default_factory=list)
    down_events: list[tuple[float, int]] = field(default_factory=list)
    went_to_zero: bool = False
    seeded: bool = False

    # As in upstream: reconcileAutoscaler (horizontal.go).
    def reconcile(self, spec: int, pods: list[Pod], now: float) -> int:
        if not self.seeded:  # initial recommendation
            self.seeded = True
            self.recommendations.append((now, spec))
        if spec == 0 and (self.min != 0 or not self._may_leave_zero()):
            return spec
        if spec > self.max:
            desired = self.max
        elif spec < self.min:
            desired = self.min
        else:
            proposal = self._proposals(spec, pods, now)
            if proposal is None:
                return spec
            if self.behavior:
                desired = self._normalize_with_behaviors(spec, proposal, now)
            else:
                desired = self._normalize(spec, proposal, now)
        if desired != spec:
            self._store_event(spec, desired, now)
            self.went_to_zero = desired == 0
        return desired

    def _may_leave_zero(self) -> bool:
        return self.went_to_zero and any(m.kind != "utilization" for m in self.metrics)

    # As in upstream: computeReplicasForMetrics (horizontal.go).
    def _proposals(self, spec: int, pods: list[Pod], now: float) -> int | None:
        best, invalid = None, 0
        for metric in self.metrics:
            try:
                count = self.proposal(metric, spec, pods, now)
            except MetricError:
                invalid += 1
                continue
            if best is None or count > best:
                best = count
        if best is None or (invalid and best < spec):
            return None
        return best

    def proposal(self, metric: MetricSpec, spec: int, pods: list[Pod], now: float) -> int:
        if metric.error:
            raise MetricError("no metrics returned")
        if metric.kind == "object":
            return self._object(sum(metric.whole), metric.target, spec, pods)
        if metric.kind == "object-average":
            return self._object_average(sum(metric.whole), metric.target, pods)
        return self._resource(metric, spec, pods, now)

    def _tolerated(self, ratio: float) -> bool:
        return (1.0 - self.tolerance_down) <= ratio <= (1.0 + self.tolerance_up)

    # As in upstream: getUsageRatioReplicaCount (replica_calculator.go).
    def _object(self, usage: int, target: int, spec: int, pods: list[Pod]) -> int:
        ratio = usage / target
        if spec == 0:
            return math.ceil(ratio)
        if self._tolerated(ratio):
            return spec
        if not pods:
            raise MetricError("no pods returned by selector while calculating replica count")
        ready = sum(1 for pod in pods if pod.phase == "Running" and pod.ready)
        return min(math.ceil(ratio * ready), MAX_INT32)

    # As in upstream: GetExternalPerPodMetricReplicas and its twin (replica_calculator.go).
    def _object_average(self, usage: int, target: int, pods: list[Pod]) -> int:
        status = len(pods)
        if status and self._tolerated(usage / (target * status)):
            return status
        return min(math.ceil(usage / target), MAX_INT32)

    # As in upstream: GetResourceReplicas and calcPlainMetricReplicas (replica_calculator.go).
    def _resource(  # noqa: C901, PLR0912 - one function upstream too
        self, metric: MetricSpec, spec: int, pods: list[Pod], now: float
    ) -> int:
        if not pods:
            raise MetricError("no pods returned by selector while calculating replica count")
        usage, unready, missing = self._group(metric, pods, now)
        if not usage:
            raise MetricError("did not receive metrics for any ready pods")
        requests = {}
        if metric.kind == "utilization":
            for pod in pods:
                if metric.name not in pod.requests:
                    raise MetricError(f"missing request for {metric.name}")
                requests[pod.name] = pod.requests[metric.name]
        ratio = self._ratio(metric, usage, requests)
        rebalance = bool(unready) and ratio > 1.0
        if not rebalance and not missing:
            if self._tolerated(ratio):
                return spec
            return min(math.ceil(ratio * len(usage)), MAX_INT32)
        for name in missing:
            if ratio < 1.0:
                if metric.kind == "utilization":
                    usage[name] = max(100, metric.target) * requests[name] // 100
                else:
                    usage[name] = metric.target
            elif ratio > 1.0:
                usage[name] = 0
        if rebalance:
            for name in unready:
                usage[name] = 0
        new = self._ratio(metric, usage, requests)
        if self._tolerated(new) or (ratio < 1.0 < new) or (ratio > 1.0 > new):
            return spec
        count = math.ceil(new * len(usage))
        if (new < 1.0 and count > spec) or (new > 1.0 and count < spec):
            return spec
        return min(count, MAX_INT32)

    # metrics/utilization.go
    def _ratio(self, metric: MetricSpec, usage: dict[str, int], requests: dict[str, int]) -> float:
        if metric.kind != "utilization":
            return (sum(usage.values()) // len(usage)) / metric.target
        total = sum(requests[name] for name in usage)
        if total == 0:
            raise MetricError("no metrics returned matched known pods")
        return (sum(usage.values()) * 100 // total) / metric.target

    # As in upstream: groupPods (replica_calculator.go).
    def _group(
        self, metric: MetricSpec, pods: list[Pod], now: float
    ) -> tuple[dict[str, int], set[str], set[str]]:
        usage: dict[str, int] = {}
        unready: set[str] = set()
        missing: set[str] = set()
        for pod in pods:
            if pod.deleted or pod.phase == "Failed":
                continue
            if pod.phase == "Pending":
                unready.add(pod.name)
                continue
            sample = metric.samples.get(pod.name)
            if sample is None:
                missing.add(pod.name)
                continue
            if metric.name == "cpu":
                if pod.ready is None or pod.start is None:
                    unready.add(pod.name)
                    continue
                if pod.start + CPU_INITIALIZATION_S > now:
                    bad = not pod.ready or sample.at < pod.ready_changed + sample.window
                else:
                    bad = not pod.ready and pod.start + READINESS_DELAY_S > pod.ready_changed
                if bad:
                    unready.add(pod.name)
                    continue
            usage[pod.name] = sample.value
        return usage, unready, missing

    # As in upstream: normalizeDesiredReplicas (horizontal.go).
    def _normalize(self, spec: int, proposal: int, now: float) -> int:
        kept = [(at, count) for at, count in self.recommendations if not at < now - 300.0]
        stabilized = max([count for _, count in kept] + [proposal])
        self.recommendations = [*kept, (now, proposal)]
        most = min(max(2 * spec, 4), self.max)
        if stabilized < self.min:
            return self.min
        return min(stabilized, most)

    # As in upstream: normalizeDesiredReplicasWithBehaviors (horizontal.go).
    def _normalize_with_behaviors(self, spec: int, proposal: int, now: float) -> int:
        up = self.up or Rules([ScalingPolicy("Pods", 4, 15.0), ScalingPolicy("Percent", 100, 15.0)])
        down = self.down or Rules([ScalingPolicy("Percent", 100, 15.0)], window=300.0)
        highest = lowest = proposal
        for at, count in self.recommendations:
            if at > now - up.window:
                lowest = min(count, lowest)
            if at > now - down.window:
                highest = max(count, highest)
        self.recommendations.append((now, proposal))
        settled = spec
        settled = max(settled, lowest)
        settled = min(settled, highest)
        if settled > spec:
            limit = max(spec, self._up_limit(spec, up, now))
            return max(self.min, min(settled, limit, self.max))
        if settled < spec:
            limit = min(spec, self._down_limit(spec, down, now))
            return min(self.max, max(settled, limit, self.min))
        return settled

    def _base(self, spec: int, period: float, now: float) -> int:
        added = sum(count for at, count in self.up_events if at > now - period)
        removed = sum(count for at, count in self.down_events if at > now - period)
        return spec - added + removed

    def _up_limit(self, spec: int, rules: Rules, now: float) -> int:
        if rules.select == "Disabled":
            return spec
        found = []
        for policy in rules.policies:
            base = self._base(spec, policy.period, now)
            if policy.kind == "Pods":
                found.append(base + policy.value)
            else:
                found.append(math.ceil(base * (1 + policy.value / 100)))
        return max(found) if rules.select == "Max" else min(found)

    def _down_limit(self, spec: int, rules: Rules, now: float) -> int:
        if rules.select == "Disabled":
            return spec
        found = []
        for policy in rules.policies:
            base = self._base(spec, policy.period, now)
            if policy.kind == "Pods":
                found.append(base - policy.value)
            else:
                found.append(int(base * (1 - policy.value / 100)))
        return min(found) if rules.select == "Max" else max(found)

    # As in upstream: storeScaleEvent (horizontal.go).
    def _store_event(self, before: int, after: int, now: float) -> None:
        if after > before:
            self.up_events.append((now, after - before))
        else:
            self.down_events.append((now, before - after))
