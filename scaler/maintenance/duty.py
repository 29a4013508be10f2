"""What the daemon's jobs for caches and databases have in common.

A step that is due while one is under way is left out, so there is never a queue. What keeps a job
from its work is said once, and so is that it is over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scaler.errors import ScalerError


class Note(Protocol):
    """Takes what is to be written into the journal."""

    def __call__(self, summary: str, *, ok: bool, data: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """What the daemon gives to each job."""

    note: Note
    act: bool  # else everything is only looked at
    leads: Callable[[], bool]  # whether this daemon may act now
    wrap: Callable[[Awaitable[None]], Awaitable[None]]  # takes care of our own defects
    hold: Callable[[tuple[str, ...]], str]  # why heavy steps wait for one of these policies

    @property
    def may_act(self) -> bool:
        return self.act and self.leads()


class Steps:
    """One job's steps and words, for as long as the daemon lives."""

    def __init__(self, name: str, duty: Duty) -> None:
        self.trouble = ""  # why the last step could not be made
        self._name = name
        self._duty = duty
        self._task: asyncio.Future[None] | None = None

    def start_soon(self, step: Callable[[], Awaitable[None]]) -> None:
        """Begin a step, unless one is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._duty.wrap(step()))

    def failed(self, error: ScalerError, then: str) -> None:
        """Say it once, and what happens `then`."""
        said = str(error)
        if said != self.trouble:
            self.say(f"{said}; {then}", ok=False)
        self.trouble = said

    def made(self) -> None:
        """Say that what stood in the way no longer does."""
        if self.trouble:
            self.trouble = ""
            self.say("answers again")

    def say(self, text: str, *, ok: bool = True, data: Mapping[str, Any] | None = None) -> None:
        self._duty.note(f"{self._name}: {text}", ok=ok, data=data or {})

    async def aclose(self) -> None:
        """End the step that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
