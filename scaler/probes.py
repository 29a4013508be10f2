"""Probes by HTTP, TCP and command. Deadlines and streaks belong to the HealthMonitor."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scaler.clients import commands
from scaler.clients.http import HttpClient
from scaler.core.healthpolicy import HttpProbe, Probe, TcpProbe
from scaler.core.model import Health, Instance
from scaler.errors import Unavailable
from scaler.interfaces import Executing, HealthProbe, Verdict

LONGEST_WORD: Final = 200  # characters of a command's output that a verdict repeats


def open_probe(
    probe: Probe, http: HttpClient, inside: Callable[[], object] = lambda: None
) -> HealthProbe:
    """A way to ask. `inside` opens the platform, which may be able to run commands in instances."""
    if probe.http is not None:
        return HttpCheck(probe.http, http)
    if probe.tcp is not None:
        return TcpCheck(probe.tcp)
    assert probe.command is not None  # noqa: S101 - the model asks for exactly one
    return CommandCheck(probe.command, inside)


def _unknown(because: str) -> Verdict:
    return Verdict(health=Health.UNKNOWN, because=because)


def _sick(because: str) -> Verdict:
    return Verdict(health=Health.UNHEALTHY, because=because)


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """Healthy when the status is in the expected range."""

    probe: HttpProbe
    client: HttpClient

    async def check(self, instance: Instance) -> Verdict:
        port = self.probe.port or instance.port
        if port is None:
            return _unknown("the instance has no port; give the probe one")
        host = self.probe.host or instance.host or "127.0.0.1"
        url = f"http://{host}:{port}{self.probe.path}"
        try:
            answer = await self.client.get(url)
        except Unavailable as error:
            return _sick(str(error))
        low, _, high = self.probe.expect.partition("-")
        if int(low) <= answer.status <= int(high or low):
            return Verdict(health=Health.HEALTHY)
        return _sick(f"GET {url} answered {answer.status}")


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """Healthy when the connection is accepted."""

    probe: TcpProbe

    async def check(self, instance: Instance) -> Verdict:
        port = self.probe.port or instance.port
        if port is None:
            return _unknown("the instance has no port; give the probe one")
        host = self.probe.host or instance.host or "127.0.0.1"
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            return _sick(f"connecting to {host}:{port}: {error.strerror or error}")
        writer.close()
        return Verdict(health=Health.HEALTHY)


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """Healthy when the command ends with 0. It is killed when nobody waits for it any more."""

    command: tuple[str, ...]
    inside: Callable[[], object]

    async def check(self, instance: Instance) -> Verdict:
        words = commands.filled(self.command, instance)
        platform = self.inside()
        if isinstance(platform, Executing):
            return _ended(words[0], *await platform.execute(instance, words))
        try:
            return _ended(words[0], *await commands.run(words))
        except Unavailable as error:
            return _unknown(str(error))


def _ended(name: str, code: int, output: str) -> Verdict:
    if code == 0:
        return Verdict(health=Health.HEALTHY)
    said = output.strip().rpartition("\n")[2][:LONGEST_WORD]
    return _sick(f"{name} ended with {code}{f': {said}' if said else ''}")
