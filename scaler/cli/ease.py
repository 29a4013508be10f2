"""Whether heavy work on a database waits for policies, as a daemon on this machine sees them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from scaler.cli.client import Daemon
from scaler.clock import Clock
from scaler.errors import ScalerError

FRESH: Final = timedelta(seconds=1)  # an answer is taken to hold for so long


def unsettled(daemon: Daemon | None, names: tuple[str, ...], clock: Clock) -> Callable[[], str]:
    """What says why it waits, as in `web is above its goal`; empty when it need not.

    Without a daemon nothing waits, and nothing waits for a policy that it does not have.
    """
    asked, said = clock.monotonic() - FRESH, ""

    def ask() -> str:
        nonlocal asked, said
        if daemon is not None and names and clock.monotonic() - asked >= FRESH:
            asked, said = clock.monotonic(), _said(daemon, names)
        return said

    return ask


def _said(daemon: Daemon, names: tuple[str, ...]) -> str:
    try:
        targets = daemon.get("status")["targets"]
    except ScalerError:
        return ""
    found = {str(target["name"]): str(target["unsettled"]) for target in targets}
    return next((why for name in names if (why := found.get(name, ""))), "")
