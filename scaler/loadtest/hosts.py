"""Where a target is, and whether that is this machine: load goes to nobody else by accident."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from scaler.errors import Refused

PATIENCE_S: Final = 5.0  # for the resolver
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of a URL that connections are made to."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...] = ()  # none: the name leads nowhere

    @property
    def named(self) -> str:
        """As in a Host field: without the port that the scheme implies."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


async def locate(url: str, *, allow_host: bool = False) -> Origin:
    """Where `url` leads.

    Raises:
        Refused: not to this machine, and nobody has allowed that.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or PORTS[parts.scheme]
    addresses = await _resolved(host, port)
    if not allow_host:
        strange = [address for address in addresses if not is_here(address)]
        if strange or not addresses:
            found = "leads nowhere" if not strange else f"leads to {strange[0]}"
            shown = f"{host} {found}, which" if strange != [host] else host
            raise Refused(
                f"{shown} is not this machine; "
                "load tests of other machines need --allow-host, and their owner's leave"
            )
    return Origin(parts.scheme, host, port, addresses)


async def _resolved(host: str, port: int) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return ()
    # IPv4 first: servers that are started by hand seldom listen on ::1
    ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in ordered))


def is_here(address: str) -> bool:
    """Whether an address is one of this machine's own: loopback, or one that can be bound."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.is_loopback:
        return True
    if parsed.is_unspecified or parsed.is_multicast:
        return False
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
