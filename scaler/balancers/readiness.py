"""For routers that follow health checks, such as Traefik: who is to go is made unready from inside.

A command in the instance makes its own health check fail; the router notices and sends nothing
more. How many requests are open nobody says, so the instance is busy until the router has had its
time.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field, field_validator

from scaler.clients import commands
from scaler.core.document import Balancer, Target, within
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.core.units import Span
from scaler.errors import Unavailable
from scaler.interfaces import Context, Executing, Platforms

AT_ONCE: Final = 4  # commands; a container takes about 0.1 s for one, whoever else waits
LONGEST_WORD: Final = 200  # characters of a command's output that a message repeats

Words = Annotated[tuple[str, ...], Field(min_length=1)]


class ReadinessBalancer(Balancer):
    """A router that looks at the health of each instance by itself."""

    sickens = True

    command: Words
    """Run inside an instance that is to go, so that its health check fails from then on."""
    undo: Words
    """Run inside an instance that stays after all, and in all when the daemon starts."""
    settle: Span = timedelta(seconds=5)
    """After this long the router has noticed, and what was open is answered; then it goes."""

    @field_validator("settle")
    @classmethod
    def _bounded_settle(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(0), timedelta(hours=1))


class _Plugin:
    balancer = ReadinessBalancer

    def open(self, rules: ReadinessBalancer, target: Target, context: Context) -> "ReadinessRoutes":
        return ReadinessRoutes(rules, target, context)


PLUGIN: Final = _Plugin()


class ReadinessRoutes:
    """Who is unready on our word. Started anew, it takes back all that an earlier daemon said."""

    def __init__(self, rules: ReadinessBalancer, target: Target, context: Context) -> None:
        self._rules = rules
        self._target = target
        self._clock = context.clock
        self._platforms: Platforms | None = context.shared.get(Platforms)
        # Lives that are unready on our word, and since when; None: perhaps, nobody knows.
        self._quiet: dict[str, timedelta | None] = {}
        self._fresh = True
        self._room = asyncio.Semaphore(AT_ONCE)

    async def route(
        self, fleet: Fleet, leaving: Collection[InstanceId]
    ) -> Mapping[InstanceId, int]:
        running = {_life(i): i for i in fleet.instances if i.state is State.RUNNING}
        going = {life: i for life, i in running.items() if i.id in leaving}
        if self._fresh:  # an earlier daemon may have said so of any
            self._fresh, self._quiet = False, dict.fromkeys(running)
        self._quiet = {life: at for life, at in self._quiet.items() if life in running}
        told = [i for life, i in going.items() if self._quiet.get(life) is None]
        stay = [running[life] for life in self._quiet if life not in going]
        outcomes = await asyncio.gather(
            *(self._tell(i, self._rules.command, quiet=True) for i in told),
            *(self._tell(i, self._rules.undo, quiet=False) for i in stay),
            return_exceptions=True,
        )
        for outcome in outcomes:  # each has had its try by now
            if outcome is not None:
                raise outcome
        now = self._clock.monotonic()
        return {
            i.id: 1
            for life, i in going.items()
            if (at := self._quiet[life]) is None or now - at < self._rules.settle
        }

    async def _tell(self, instance: Instance, command: Sequence[str], *, quiet: bool) -> None:
        words, life = commands.filled(command, instance), _life(instance)
        self._quiet[life] = None  # until it has ended well, also when nobody waits for it any more
        async with self._room:
            platform = self._platforms.open(self._target.kind) if self._platforms else None
            if isinstance(platform, Executing):
                code, output = await platform.execute(instance, words)
            else:
                code, output = await commands.run(words)
        if code:
            said = output.strip().rpartition("\n")[2][:LONGEST_WORD]
            raise Unavailable(f"{words[0]} in {instance.id} ended with {code}: {said or 'silent'}")
        if quiet:
            self._quiet[life] = self._clock.monotonic()
        else:
            del self._quiet[life]

    async def aclose(self) -> None:
        """Nothing is held."""


def _life(instance: Instance) -> str:
    return f"{instance.id} {instance.incarnation}"
