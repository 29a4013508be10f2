"""Ports are given out once, and a person reads who has the others."""

import os
import socket
from collections.abc import Iterator

import pytest

from scaler.clients import ports
from scaler.clients.ports import Ports


@pytest.fixture
def busy() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_busy_port_is_not_chosen_and_its_holder_is_named(busy: int) -> None:
    port, because = ports.choose(Ports(busy, busy), set(), None)
    assert port is None
    assert f"{busy} is used by pid {os.getpid()}" in because


def test_a_port_given_out_already_is_not_chosen_again(busy: int) -> None:
    port, because = ports.choose(Ports(busy, busy), {busy}, None)
    assert (port, because) == (
        None,
        f"no port of {busy}-{busy} is free; widen the range or lower max",
    )


def test_a_restart_keeps_its_port() -> None:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
        free = sorted(one.getsockname()[1] for one in (first, second))
    span = Ports(free[0], free[1])
    between = set(range(free[0] + 1, free[1]))
    assert ports.choose(span, between, free[1])[0] == free[1]
    assert ports.choose(span, between, None)[0] == free[0]


def test_a_shared_port_is_not_asked_after(busy: int) -> None:
    assert ports.choose(Ports(busy, busy, shared=True), {busy}, None) == (busy, "")


def test_a_port_with_old_connections_comes_last() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = server.accept()
        served.close()  # the side that closes first waits
        client.recv(1)
        client.close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        fresh = other.getsockname()[1]
    assert ports.first_free([port, fresh]) == fresh
    assert ports.first_free([port]) == port
