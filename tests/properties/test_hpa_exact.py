"""`compatibility: hpa` against a second writing of upstream, in lockstep over many passes."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scaler.core.decide import decide
from scaler.core.model import History
from tests.fakes import hpa_bridge
from tests.fakes.hpa import Autoscaler, MetricSpec, Pod, PodSample, Rules, ScalingPolicy

PERIODS = st.sampled_from([15.0, 30.0, 60.0, 180.0])


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    policies = draw(
        st.lists(
            st.builds(
                ScalingPolicy,
                st.sampled_from(["Pods", "Percent"]),
                st.integers(1, 200),
                PERIODS,
            ),
            min_size=1,
            max_size=3,
        )
    )
    for policy in policies:
        if policy.kind == "Pods":
            policy.value = policy.value % 6 + 1
    select = draw(st.sampled_from(["Max", "Max", "Min", "Disabled"]))
    return Rules(policies, select, draw(st.sampled_from([0.0, 30.0, 120.0, 300.0])))


@st.composite
def autoscalers(draw: st.DrawFn) -> Autoscaler:
    low = draw(st.integers(0, 4))
    kinds = draw(
        st.lists(
            st.sampled_from(["utilization", "pods", "object", "object-average"]),
            min_size=1,
            max_size=3,
        )
    )
    metrics: list[MetricSpec] = []
    for number, kind in enumerate(kinds):
        name = ("cpu" if number == 0 else "memory") if kind == "utilization" else f"m{number}"
        if any(metric.name == name for metric in metrics):
            continue
        target = draw(st.integers(1, 150) if kind == "utilization" else st.integers(1, 30_000))
        metrics.append(MetricSpec(name, kind, target))
    behavior = draw(st.booleans())
    return Autoscaler(
        min=low,
        max=draw(st.integers(max(1, low), 20)),
        metrics=metrics,
        behavior=behavior,
        up=draw(st.none() | rules()) if behavior else None,
        down=draw(st.none() | rules()) if behavior else None,
        tolerance_up=draw(st.sampled_from([0.1, 0.1, 0.05, 0.25])),
        tolerance_down=draw(st.sampled_from([0.1, 0.1, 0.0, 0.25])),
    )


@st.composite
def pods(draw: st.DrawFn, count: int, now: float) -> list[Pod]:
    found = []
    for number in range(count):
        start = now - draw(st.sampled_from([5.0, 40.0, 200.0, 400.0, 5000.0]))
        phase = draw(st.sampled_from(["Running"] * 8 + ["Pending", "Failed"]))
        readiness = [True, True, True, True, False, None] if phase == "Running" else [False, None]
        found.append(
            Pod(
                name=f"web-{number}",
                phase=phase,
                deleted=draw(st.integers(0, 11)) == 0,
                ready=draw(st.sampled_from(readiness)),
                start=start,
                ready_changed=start + draw(st.sampled_from([0.0, 2.0, 20.0, 31.0, 60.0])),
                requests={
                    "cpu": draw(st.sampled_from([100, 1000, 1000, 1500])),
                    "memory": 1000,
                },
            )
        )
    return found


@st.composite
def samples(draw: st.DrawFn, metric: MetricSpec, there: list[Pod], now: float) -> None:
    """Fill in what the metric says at this pass."""
    metric.error = draw(st.integers(0, 9)) == 0
    metric.whole = [draw(st.integers(0, 100_000))]
    metric.samples = {
        pod.name: PodSample(
            draw(st.integers(0, 3000)),
            now - draw(st.sampled_from([0.0, 10.0])),
            draw(st.sampled_from([15.0, 60.0])),
        )
        for pod in there
        if draw(st.integers(0, 7))
    }


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_every_pass_of_every_life_gives_the_count_that_upstream_gives(data: Any) -> None:
    reference = data.draw(autoscalers())
    policy = hpa_bridge.policy(reference)
    history, now = History(), 0.0
    spec = data.draw(st.integers(0, 12))
    for _ in range(data.draw(st.integers(1, 8))):
        now += data.draw(st.sampled_from([15.0, 15.0, 15.0, 14.0, 30.0, 120.0]))
        there = data.draw(pods(data.draw(st.sampled_from([spec, spec, spec + 1, 0])), now))
        for metric in reference.metrics:
            data.draw(samples(metric, there, now))
        decision, history = decide(
            policy,
            hpa_bridge.fleet(spec, there, now),
            hpa_bridge.readings(reference, there, now),
            history,
            hpa_bridge.moment(now),
        )
        expected = reference.reconcile(spec, there, now)
        assert decision.desired == expected
        spec = expected
