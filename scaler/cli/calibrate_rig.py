"""Instances of a policy's own, for a calibration: started, made ready, counted and stopped again.

They run beside those of a daemon, from a folder of their own, and only on this machine.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from scaler import policyfile
from scaler.clock import Clock
from scaler.core.document import Target
from scaler.core.healthpolicy import Probe, TcpProbe
from scaler.core.model import Fleet, Health, Instance, InstanceId, State
from scaler.core.policy import Metric, Policy
from scaler.errors import ConfigError, Unavailable
from scaler.installed import Installed
from scaler.interfaces import Context, HealthProbe, Provider
from scaler.loadtest.delays import LOOK, Delays, delays

KIND: Final = "local"
MOST_START: Final = timedelta(minutes=5)  # until the instances that were asked for are ready


def policy_of(name: str, paths: Sequence[Path]) -> Policy:
    """A policy whose instances can be started here.

    Raises:
        ConfigError: there is none of that name, or it is not of local processes with a port.
    """
    known = policyfile.load(paths).insist()
    if name not in known:
        said = ", ".join(sorted(known)) or "none"
        raise ConfigError(f'"{name}" is no URL, no file and no policy; known policies: {said}')
    policy = known[name]
    if policy.target.kind != KIND or getattr(policy.target, "port", None) is None:
        raise ConfigError(
            f"{name} is not of local processes with a port, which alone can be started for this; "
            "give the URL of one instance"
        )
    return policy


@dataclass(slots=True)
class _Probed:
    """A provider whose instances are ready when the probe of the policy says so."""

    provider: Provider[Any]
    probe: HealthProbe

    abilities = frozenset()  # type: ignore[var-annotated]

    async def observe(self, target: Target) -> Fleet:
        fleet = await self.provider.observe(target)
        found = [replace(one, ready=await self._ready(one)) for one in fleet.instances]
        return replace(fleet, instances=tuple(found))

    async def _ready(self, instance: Instance) -> bool:
        if instance.state is not State.RUNNING:
            return False
        return (await self.probe.check(instance)).health is Health.HEALTHY

    async def scale(
        self, target: Target, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        await self.provider.scale(target, desired, remove=remove)

    async def restart(self, target: Target, instance: InstanceId) -> None:
        await self.provider.restart(target, instance)

    async def aclose(self) -> None:
        await self.provider.aclose()


class Rig:
    """The instances; made by `rig`."""

    def __init__(self, policy: Policy, installed: Installed, clock: Clock) -> None:
        probe = policy.health.readiness or policy.health.startup or Probe(tcp=TcpProbe())
        self._target = policy.target.model_copy(update={"on_exit": "stop"})
        self._provider = _Probed(installed.provider(KIND), installed.probe(probe, KIND))
        self._cpu = installed.source(Metric.model_validate({"cpu": "50%"}), self._target)
        self._clock = clock
        self._urls: tuple[str, ...] = ()

    def endpoints(self) -> Sequence[str]:
        return self._urls

    async def reach(self, count: int) -> None:
        """Have so many ready instances.

        Raises:
            Unavailable: they were not ready within MOST_START, or one has ended.
        """
        await self._provider.scale(self._target, count)
        begin = self._clock.monotonic()
        while True:
            fleet = await self._provider.observe(self._target)
            failed = [one for one in fleet.instances if one.state is State.FAILED]
            if failed:
                raise Unavailable(f"{failed[0].id} has ended: {failed[0].because}")
            ready = [one for one in fleet.instances if one.ready]
            if len(ready) == len(fleet.instances) == count:
                break
            if self._clock.monotonic() - begin > MOST_START:
                raise Unavailable(f"{len(ready)} of {count} instances are ready after {MOST_START}")
            await self._clock.sleep(LOOK)
        self._urls = tuple(sorted({f"http://{one.host}:{one.port}" for one in ready}))

    async def delays(self) -> Delays:
        """Of one instance more, and of one less."""
        return await delays(self._provider, self._target, self._clock)

    async def cpu(self) -> float | None:
        """Share of its cores that the mean instance has used since the last call."""
        fleet, now = await self._provider.provider.observe(self._target), self._clock.now()
        reading = await self._cpu.read(fleet, now - timedelta(minutes=5), self._clock.now())
        shares = [sample.value / (sample.base or 1.0) for sample in reading.samples]
        return sum(shares) / len(shares) if shares else None


@asynccontextmanager
async def rig(policy: Policy, clock: Clock) -> AsyncIterator[Rig]:
    """Nothing of it is left afterwards.

    Raises:
        ConfigError: the one port that all instances share is in use.
    """
    port = getattr(policy.target, "port", None)
    with tempfile.TemporaryDirectory(prefix="scaler-calibrate-") as folder:
        context = Context(clock=clock, state_dir=Path(folder), random=Random())
        installed = Installed(context)
        probed = installed.probe(Probe(tcp=TcpProbe()), KIND)
        if port is not None and port.shared:
            one = Instance(
                id=InstanceId(policy.name), state=State.RUNNING, host="127.0.0.1", port=port.low
            )
            if (await probed.check(one)).health is Health.HEALTHY:
                await installed.aclose()
                raise ConfigError(
                    f"port {port} is in use; stop {policy.name} first, for the load would go there"
                )
        made = Rig(policy, installed, clock)
        try:
            yield made
        finally:
            await installed.aclose()  # on_exit: stop
