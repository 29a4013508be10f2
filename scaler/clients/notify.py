"""The service manager's socket: ready, reloading, stopping, a status line, and the watchdog.

Datagrams that never block and never raise: a manager that does not listen is not our trouble.
"""

import os
import socket
from datetime import timedelta

from scaler.clock import Clock


class Notifier:
    """Speaks to `NOTIFY_SOCKET`, or to nobody when there is none."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @property
    def watchdog_every(self) -> timedelta | None:
        """How often `watchdog` is to be called: a third of what the manager allows."""
        allowed, meant = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if self._socket is None or not allowed.isdigit() or meant not in {"", str(os.getpid())}:
            return None
        return timedelta(microseconds=int(allowed)) / 3

    def ready(self, status: str) -> None:
        self._send("READY=1", status)

    def reloading(self) -> None:
        """Followed by `ready` when it has been done."""
        now = self._clock.monotonic() // timedelta(microseconds=1)
        self._send("RELOADING=1", "reading the policies again", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        self._send("STOPPING=1", "ending what is under way")

    def status(self, text: str) -> None:
        self._send("", text)

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, state: str, status: str = "", more: str = "") -> None:
        if self._socket is None:
            return
        lines = [state, f"STATUS={status}" if status else "", more]
        text = "\n".join(line.replace("\n", " ") for line in lines if line)
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError:
            return  # gone or full; the next word may reach it

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
