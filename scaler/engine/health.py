"""HealthMonitor: asks the probes of every instance and says how each one fares.

It changes nothing. What it knows is laid over the fleet that the platform reported, so that
`decide` sees one picture; when a verdict turns, the tick of that target is brought forward.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from scaler.clock import Clock
from scaler.core.health import Streak, judged
from scaler.core.healthpolicy import Health as HealthRules
from scaler.core.healthpolicy import Probe
from scaler.core.model import Fleet, Health, Instance, InstanceId, State
from scaler.core.policy import Policy
from scaler.engine.jobs import guarded
from scaler.errors import ScalerError
from scaler.interfaces import Adapters, HealthProbe, Verdict

BEAT: Final = timedelta(milliseconds=250)  # how often `step` is to be called
UNTIL_READY: Final = timedelta(seconds=1)  # the longest period while an instance starts
AT_ONCE: Final = 64  # probes under way at one time

Role = str  # startup, readiness, liveness, or the name of a dependency


@dataclass(slots=True, kw_only=True)
class _Patient:
    """One run of one instance, or one dependency, and what its probes have said."""

    instance: Instance
    since: datetime  # when we first saw it
    adopted: bool  # it ran before we looked, so nobody knows since when it is ready
    streaks: dict[Role, Streak] = field(default_factory=dict)
    due: dict[Role, timedelta] = field(default_factory=dict)  # on the monotonic clock
    asking: set[Role] = field(default_factory=set)

    def says(self, role: Role) -> Health:
        return self.streaks[role].health if role in self.streaks else Health.UNKNOWN


@dataclass(slots=True, kw_only=True)
class _Ward:
    """The instances and dependencies of one policy."""

    policy: Policy
    opened_at: datetime
    patients: dict[InstanceId, _Patient] = field(default_factory=dict)
    dependencies: dict[str, _Patient] = field(default_factory=dict)
    probes: dict[Role, HealthProbe] = field(default_factory=dict)


class HealthMonitor:
    """Probes for all policies. `step` asks what is due, `enriched` tells what is known."""

    def __init__(
        self,
        adapters: Adapters,
        clock: Clock,
        on_turn: Callable[[str], None],
        on_bug: Callable[[Exception], None],
    ) -> None:
        """`on_turn` hears the name of a policy when a verdict about it turns."""
        self._adapters = adapters
        self._clock = clock
        self._on_turn = on_turn
        self._on_bug = on_bug
        self._wards: dict[str, _Ward] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self.under_way: set[asyncio.Task[object]] = set()

    def apply(self, policies: Mapping[str, Policy]) -> None:
        """Take over the policies; what is known of instances stays where probes are unchanged."""
        wards = {}
        for name, policy in policies.items():
            if not _roles(policy.health) and not policy.health.depends_on:
                continue
            old = self._wards.get(name)
            if old is not None and old.policy.health == policy.health:
                wards[name] = old
                old.policy = policy
            else:
                wards[name] = self._opened(policy)
        self._wards = wards

    def _opened(self, policy: Policy) -> _Ward:
        now = self._clock.now()
        ward = _Ward(policy=policy, opened_at=now)
        for role, probe in _roles(policy.health).items():
            ward.probes[role] = self._adapters.probe(probe, policy.target.kind)
        for name, probe in policy.health.depends_on.items():
            ward.probes[name] = self._adapters.probe(probe, "")
            outside = Instance(id=InstanceId(name), state=State.RUNNING, host="127.0.0.1")
            ward.dependencies[name] = _Patient(instance=outside, since=now, adopted=True)
        return ward

    @property
    def busy(self) -> bool:
        """Whether there is anything to probe at all."""
        return bool(self._wards)

    def enriched(self, policy: Policy, fleet: Fleet) -> Fleet:
        """`fleet` with health, readiness and dependencies as the probes know them."""
        ward = self._wards.get(policy.name)
        if ward is None:
            return fleet
        seen = {}
        instances = []
        for instance in fleet.instances:
            if instance.state is not State.RUNNING:
                instances.append(instance)
                continue
            patient = self._patient(ward, instance, fleet.at)
            seen[instance.id] = patient
            instances.append(_judged_instance(policy.health, patient))
        ward.patients = seen
        down = [n for n, p in ward.dependencies.items() if p.says(n) is Health.UNHEALTHY]
        return replace(
            fleet,
            instances=tuple(instances),
            dependency_down=fleet.dependency_down or ", ".join(sorted(down)),
        )

    def _patient(self, ward: _Ward, instance: Instance, now: datetime) -> _Patient:
        known = ward.patients.get(instance.id)
        if known is not None and known.instance.incarnation == instance.incarnation:
            known.instance = instance
            return known
        born = instance.started_at or instance.created_at
        adopted = born is not None and born < ward.opened_at
        return _Patient(instance=instance, since=now, adopted=adopted)

    def step(self) -> list[asyncio.Task[object]]:
        """Start every probe that is due, and return without waiting for the answers."""
        now = self._clock.monotonic()
        started = []
        for ward in self._wards.values():
            for patient in ward.patients.values():
                for role, probe in _roles(ward.policy.health).items():
                    if _waits_for_startup(ward.policy.health, role, patient):
                        continue
                    started += self._ask(ward, patient, role, probe, now)
            for name, outside in ward.dependencies.items():
                probe = ward.policy.health.depends_on[name]
                started += self._ask(ward, outside, name, probe, now)
        return started

    def _ask(
        self, ward: _Ward, patient: _Patient, role: Role, probe: Probe, now: timedelta
    ) -> list[asyncio.Task[object]]:
        if role in patient.asking or patient.due.get(role, now) > now:
            return []
        every = probe.every
        if role != "liveness" and patient.says(role) is not Health.HEALTHY:
            every = min(every, UNTIL_READY)
        patient.due[role] = now + every
        patient.asking.add(role)
        work = guarded(self._check(ward, patient, role, probe), self._on_bug)
        task: asyncio.Task[object] = asyncio.create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)
        return [task]

    async def _check(self, ward: _Ward, patient: _Patient, role: Role, probe: Probe) -> None:
        try:
            async with self._room:
                verdict = await self._verdict(ward.probes[role], patient.instance, probe.timeout)
        finally:
            patient.asking.discard(role)
        old = patient.streaks.get(role, Streak())
        new = judged(old, probe, verdict.health, verdict.because, self._clock.now())
        patient.streaks[role] = new
        if new.health is Health.UNHEALTHY:
            patient.adopted = False  # from here on we know when it becomes ready
        if new.health is not old.health:
            self._on_turn(ward.policy.name)

    async def _verdict(self, asked: HealthProbe, instance: Instance, timeout: timedelta) -> Verdict:
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                return await asked.check(instance)
        except TimeoutError:
            because = f"no answer within {timeout.total_seconds():g} seconds"
            return Verdict(health=Health.UNHEALTHY, because=because)
        except ScalerError as error:
            return Verdict(health=Health.UNKNOWN, because=str(error))

    async def aclose(self) -> None:
        for task in tuple(self.under_way):
            task.cancel()
        await asyncio.gather(*self.under_way, return_exceptions=True)


def _roles(rules: HealthRules) -> dict[Role, Probe]:
    given = {
        "startup": rules.startup,
        "readiness": rules.readiness,
        "liveness": rules.liveness,
    }
    return {role: probe for role, probe in given.items() if probe is not None}


def _waits_for_startup(rules: HealthRules, role: Role, patient: _Patient) -> bool:
    started = rules.startup is None or patient.says("startup") is Health.HEALTHY
    return started if role == "startup" and rules.startup is not None else not started


def _judged_instance(rules: HealthRules, patient: _Patient) -> Instance:
    """The instance as its probes see it: sick, ready since when, and what the probe saw."""
    instance = patient.instance
    sick = next((r for r in ("startup", "liveness") if patient.says(r) is Health.UNHEALTHY), "")
    health = instance.health
    because = instance.because
    if sick:
        health, because = Health.UNHEALTHY, f"{sick} probe: {patient.streaks[sick].because}"
    elif Health.HEALTHY in {patient.says("liveness"), patient.says("readiness")}:
        health = Health.HEALTHY
    judge = "readiness" if rules.readiness is not None else "startup"
    if (rules.readiness or rules.startup) is None:
        return replace(instance, health=health, because=because)
    says = patient.says(judge)
    waiting = rules.startup is not None and patient.says("startup") is not Health.HEALTHY
    if says is Health.UNKNOWN and patient.adopted:
        return replace(instance, health=health, because=because)
    ready = says is Health.HEALTHY and not waiting
    since = patient.streaks[judge].since if judge in patient.streaks else patient.since
    if not ready and not because:
        because = patient.streaks[judge].because if judge in patient.streaks else "not probed yet"
    return replace(
        instance,
        health=health,
        because=because,
        ready=ready,
        ready_changed_at=None if patient.adopted else since,
    )
