"""Listens to the providers that notice changes by themselves, and brings ticks forward."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from scaler.clock import Clock
from scaler.errors import ScalerError
from scaler.interfaces import Watching

FOLLOW_AGAIN: Final = timedelta(seconds=5)


class Changes:
    """One listener for each provider."""

    def __init__(self, clock: Clock, wake: Callable[[str], None]) -> None:
        """`wake` hears the name of each policy whose fleet has changed."""
        self._clock = clock
        self._wake = wake
        self._listening: dict[int, asyncio.Task[None]] = {}

    def follow(self, provider: object) -> None:
        """Listen to it from now on, if it has anything to say."""
        if isinstance(provider, Watching) and id(provider) not in self._listening:
            task = asyncio.create_task(self._pass_on(provider), name="follow changes")
            self._listening[id(provider)] = task

    async def _pass_on(self, provider: Watching) -> None:
        while True:
            try:
                async for name in provider.changes():
                    self._wake(name)
            except ScalerError:
                pass  # the ticks go on without it
            await self._clock.sleep(FOLLOW_AGAIN)

    async def aclose(self) -> None:
        for task in self._listening.values():
            task.cancel()
        await asyncio.gather(*self._listening.values(), return_exceptions=True)
