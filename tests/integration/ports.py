"""Ports for the servers of tests.

They are below those which the kernel gives to whoever connects or binds to none in particular:
one of these, free a moment ago, may be taken when a server comes to it. Each worker of the tests
has ports of its own, and a process is given the same again only after all others.
"""

import itertools
import os
import socket

EACH, WORKERS = 1_000, 8
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_first = 10_000 + _worker * EACH
_begin = _first + os.getpid() % EACH  # so that two runs beside each other seldom meet
_ports = itertools.cycle([*range(_begin, _first + EACH), *range(_first, _begin)])


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    row: list[int] = []
    for port in itertools.islice(_ports, EACH):
        if not _is_free(port):
            row = []
            continue
        row = [*row, port] if row and port == row[-1] + 1 else [port]
        if len(row) == count:
            return row[0]
    raise AssertionError(f"no {count} ports in a row are free above {_first}")


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
