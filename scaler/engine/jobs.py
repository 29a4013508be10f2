"""Periodic work, and the one place where a bug is caught so that the rest goes on."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something to be started again and again. `run` starts it and returns at once."""

    name: str
    every: timedelta
    run: Callable[[], object]


async def guarded(work: Awaitable[T], on_bug: Callable[[Exception], None]) -> T | None:
    """The result of `work`, or None after a bug in it was handed to `on_bug`.

    Errors that we raise on purpose are dealt with where they are understood; what arrives here is
    a defect of ours and must not stop the work on other targets.
    """
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - the boundary of one tick
        on_bug(error)
        return None
