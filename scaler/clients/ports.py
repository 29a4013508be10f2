"""TCP ports for processes of this machine: which are free, and who has the others."""

import errno
import socket
from collections.abc import Container, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ports:
    """`9000-9020`: one for each instance. `9000`: the same for all."""

    low: int
    high: int
    shared: bool = False

    def __str__(self) -> str:
        return str(self.low) if self.shared else f"{self.low}-{self.high}"


def choose(span: Ports, taken: Container[int | None], before: int | None) -> tuple[int | None, str]:
    """A port, or why there is none."""
    if span.shared:
        return span.low, ""
    everything = range(span.low, span.high + 1)
    candidates = [port for port in everything if port not in taken]
    if before in candidates:
        candidates.sort(key=lambda port: port != before)
    port = first_free(candidates)
    if port is not None:
        return port, ""
    because = f"no port of {span} is free"
    if candidates:
        who = holder(candidates[0]) or "another process"
        because += f" ({candidates[0]} is used by {who})"
    return None, f"{because}; widen the range or lower max"


def first_free(ports: Iterable[int]) -> int | None:
    """One that can be bound on every address, if possible without old connections.

    A port whose last connections are in TIME_WAIT comes after all others: servers that do not set
    SO_REUSEADDR cannot have it.
    """
    lingering = None
    for port in ports:
        if _can_bind(port, reuse=False):
            return port
        if lingering is None and _can_bind(port, reuse=True):
            lingering = port
    return lingering


def _can_bind(port: int, *, reuse: bool) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind(("", port))
            if reuse:
                probe.listen(1)  # with SO_REUSEADDR only listening finds another listener
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def holder(port: int) -> str:
    """Who listens there, such as `pid 4711`; empty when the system does not tell us."""
    import psutil  # noqa: PLC0415 - needed for a message only

    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    pids = (c.pid for c in found if c.laddr and c.laddr.port == port and c.pid)
    return next((f"pid {pid}" for pid in pids), "")
