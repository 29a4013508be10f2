"""A world in memory: services under load, with instances that boot, end and hang.

It stands in for the adapters, so the engine that runs here is the one that runs live. The world
goes on while the engine is dead, as the real one does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scaler.clock import ManualClock
from scaler.core.document import Balancer, Target
from scaler.core.healthpolicy import Probe
from scaler.core.model import Fleet, Health, Instance, InstanceId, Reading, Sample, State, is_fit
from scaler.core.policy import Metric
from scaler.errors import NotFound, Unavailable
from scaler.interfaces import Ability, Verdict
from scaler.simulation.faults import Fault, Trouble

KIND = "world"


@dataclass(slots=True, kw_only=True)
class _Unit:
    """One instance of a simulated service."""

    id: InstanceId
    run: int  # grows with every start
    started_at: datetime
    failed_at: datetime | None = None
    because: str = ""


@dataclass(slots=True, kw_only=True)
class Service:
    """One simulated service, and how it behaves."""

    load: Callable[[datetime], float] = lambda _: 0.0  # work asked for, in cores
    cores: float = 1.0  # what one instance can do
    boot: timedelta = timedelta(seconds=5)  # from its start until it is ready
    request: timedelta = timedelta()  # how long the longest request takes
    lives: timedelta | None = None  # every instance ends by itself after so long
    wanted: int = 0
    units: dict[InstanceId, _Unit] = field(default_factory=dict)
    starts: list[tuple[datetime, InstanceId]] = field(default_factory=list)
    runs: int = 0
    calls: list[tuple[datetime, int]] = field(default_factory=list)  # of `scale`, as asked
    routed: set[InstanceId] = field(default_factory=set)  # get new requests
    quiet: dict[InstanceId, datetime] = field(default_factory=dict)  # have got none since
    broken: int = 0  # instances that were stopped with requests open


class World:
    """The services by policy name. It is the `Adapters` of a simulated engine."""

    def __init__(
        self,
        clock: ManualClock,
        services: dict[str, Service],
        faults: Sequence[Fault] = (),
        passing: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`passing` hears of every call before and after its effect: the place to end the engine.

        It may raise anything, as a `kill -9` would end everything.
        """
        self.clock = clock
        self.services = services
        self.faults = faults
        self.passing = passing

    def provider(self, kind: str) -> "WorldProvider":
        if kind != KIND:
            raise NotFound(f'a simulated world has no platform "{kind}"')
        return WorldProvider(self)

    def source(self, metric: Metric, target: Target) -> "WorldSource":
        return WorldSource(self, metric.name, target.policy)

    def probe(self, probe: Probe, kind: str) -> "WorldProbe":  # noqa: ARG002 - it has one platform
        return WorldProbe(self, probe)

    def balancer(self, rules: Balancer, target: Target) -> "WorldBalancer":  # noqa: ARG002
        return WorldBalancer(self, target.policy)

    async def aclose(self) -> None:
        """Nothing is held."""

    def troubled(self, trouble: Trouble, name: str) -> bool:
        now = self.clock.now()
        return any(fault.strikes(trouble, name, now) for fault in self.faults)

    def settle(self, name: str) -> Service:
        """The service with everything that has happened to it until now."""
        if name not in self.services:
            raise NotFound(f'nothing is named "{name}"')
        service, now = self.services[name], self.clock.now()
        if service.lives is not None:
            for unit in service.units.values():
                ends_at = unit.started_at + service.lives
                if unit.failed_at is None and ends_at <= now:
                    unit.failed_at, unit.because = ends_at, "exit code 1"
        for fault in self.faults:
            if fault.trouble is Trouble.CRASH and fault.strikes(Trouble.CRASH, name, now):
                for unit in service.units.values():
                    if unit.failed_at is None and unit.started_at < fault.begin:
                        unit.failed_at, unit.because = fault.begin, "killed by SIGKILL"
        return service

    def busy(self, service: Service, unit: InstanceId) -> bool:
        """Whether a balancer sends requests there, or did so a moment ago."""
        quiet_at = service.quiet.get(unit)
        late = quiet_at is not None and self.clock.now() - quiet_at < service.request
        return unit in service.routed or late

    def ready(self, service: Service) -> list[_Unit]:
        now = self.clock.now()
        return [
            unit
            for unit in service.units.values()
            if unit.failed_at is None and now >= unit.started_at + service.boot
        ]

    def start(self, name: str, instance: InstanceId) -> None:
        service, now = self.services[name], self.clock.now()
        service.runs += 1
        service.units[instance] = _Unit(id=instance, run=service.runs, started_at=now)
        service.starts.append((now, instance))


class WorldProvider:
    """Counts, starts and stops simulated instances."""

    abilities = frozenset(Ability)

    def __init__(self, world: World) -> None:
        self._world = world

    async def observe(self, target: Target) -> Fleet:
        self._world.passing("observe")
        self._answers(target)
        service = self._world.settle(target.policy)
        return Fleet(
            target=target.policy,
            at=self._world.clock.now(),
            wanted=service.wanted,
            instances=tuple(self._instance(unit, service) for unit in service.units.values()),
            complete=len(service.units) == service.wanted,
        )

    def _answers(self, target: Target) -> None:
        if self._world.troubled(Trouble.PLATFORM_DOWN, target.policy):
            raise Unavailable("the simulated platform is down")

    def _instance(self, unit: _Unit, service: Service) -> Instance:
        ready_at = unit.started_at + service.boot
        ready = self._world.clock.now() >= ready_at
        failed = unit.failed_at is not None
        return Instance(
            id=unit.id,
            incarnation=str(unit.run),
            state=State.FAILED if failed else State.RUNNING,
            created_at=unit.started_at,
            started_at=unit.started_at,
            ready=ready and not failed,
            ready_changed_at=ready_at if ready else unit.started_at,
            failed_at=unit.failed_at,
            because=unit.because,
        )

    async def scale(
        self, target: Target, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        self._world.passing("scale")
        self._answers(target)
        name = target.policy
        service = self._world.settle(name)
        service.calls.append((self._world.clock.now(), desired))
        service.wanted = desired
        going = [unit for unit in remove if unit in service.units]
        going += [unit for unit in reversed(service.units) if unit not in going]
        for unit in going[: max(0, len(service.units) - desired)]:
            service.broken += self._world.busy(service, unit)
            del service.units[unit]
        number = 0
        while len(service.units) < desired:
            slot = InstanceId(f"{name}-{number}")
            if slot not in service.units:
                self._world.start(name, slot)
            number += 1
        self._world.passing("scaled")

    async def restart(self, target: Target, instance: InstanceId) -> None:
        self._world.passing("restart")
        self._answers(target)
        if instance not in self._world.settle(target.policy).units:
            raise NotFound(f'{target.policy} has no instance "{instance}"')
        self._world.start(target.policy, instance)
        self._world.passing("restarted")

    async def aclose(self) -> None:
        """Nothing is held."""


class WorldSource:
    """The load shared out among the ready instances, each up to what it can do."""

    def __init__(self, world: World, metric: str, name: str) -> None:
        self._world = world
        self._metric = metric
        self._name = name

    async def read(self, _: Fleet, since: datetime, now: datetime) -> Reading:
        self._world.passing("read")
        if self._world.troubled(Trouble.METRICS_MISSING, self._name):
            return Reading(metric=self._metric, missing="connection refused")
        service = self._world.settle(self._name)
        working = self._world.ready(service)
        at = now
        if self._world.troubled(Trouble.METRICS_STALE, self._name):
            at = min(f.begin for f in self._world.faults if f.trouble is Trouble.METRICS_STALE)
        each = min(service.cores, service.load(at) / max(1, len(working)))
        return Reading(
            metric=self._metric,
            samples=tuple(
                Sample(at=at, value=each, base=service.cores, instance=unit.id, window=now - since)
                for unit in working
            ),
        )

    async def aclose(self) -> None:
        """Nothing is held."""


class WorldBalancer:
    """Sends requests to what is ready; each is answered after a time."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    async def route(
        self, fleet: Fleet, leaving: Collection[InstanceId]
    ) -> Mapping[InstanceId, int]:
        self._world.passing("route")
        if self._world.troubled(Trouble.BALANCER_DOWN, self._name):
            raise Unavailable("the simulated balancer is down")
        service, now = self._world.settle(self._name), self._world.clock.now()
        fit = {i.id for i in fleet.instances if is_fit(i)}
        routed = fit - set(leaving)
        known = {unit: at for unit, at in service.quiet.items() if unit in service.units}
        service.quiet = known | dict.fromkeys(service.routed - routed, now)
        service.routed = routed
        return {unit: 1 for unit in leaving if self._world.busy(service, unit)}

    async def aclose(self) -> None:
        """Nothing is held."""


class WorldProbe:
    """Healthy unless a fault says otherwise."""

    def __init__(self, world: World, probe: Probe) -> None:
        self._world = world
        self._probe = probe

    async def check(self, instance: Instance) -> Verdict:
        name = instance.id.rpartition("-")[0]
        if not name:  # a dependency; its id is its name
            down = self._world.troubled(Trouble.DEPENDENCY_DOWN, instance.id)
        else:
            down = self._world.troubled(Trouble.PROBES_FAIL, name)
        if down:
            return Verdict(health=Health.UNHEALTHY, because="no answer")
        return Verdict(health=Health.HEALTHY)
