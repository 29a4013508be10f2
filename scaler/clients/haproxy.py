"""The runtime API of HAProxy: one batch of commands per connection, by unix socket or TCP.

HAProxy answers a line of commands in their order and closes. An answer is complete when it ends
with a newline, a table when an empty line follows it.
Source: HAProxy's management.txt, chapter 9.3, and what 2.6.12 answers.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from scaler.errors import Conflict, Forbidden, NotFound, PermanentError, ScalerError, Unavailable
from scaler.errors import Unsupported as TooOld

TIMEOUT: Final = timedelta(seconds=5)  # for a whole batch; HAProxy itself answers in under 1 ms
MOST_BYTES: Final = 4 << 20  # about 10,000 servers
LONGEST_LINE: Final = 15_000  # below tune.bufsize, which is 16 KiB when nobody sets it
OLDEST: Final = (2, 5)  # before it servers cannot be added
_CHUNK: Final = 1 << 16
_ADMIN: Final = (
    "write `level admin` behind its `stats socket` in the global section of HAProxy and reload it"
)
_DONE: Final = re.compile(
    r"(New server registered|Server deleted)\."
    r"|(IP changed from|no need to change the addr|port changed from).*"
    r"|Health check was not configured on this server, cannot enable\."
)
_REFUSALS: Final[tuple[tuple[str, type[ScalerError], str], ...]] = (
    ("Permission denied", Forbidden, _ADMIN),
    ("Unknown command", TooOld, "HAProxy 2.5 or newer is needed"),
    ("No such backend", NotFound, "mend the name of the backend"),
    ("No such server", Conflict, "it is looked at again"),
    ("Already exists", Conflict, "it is looked at again"),
    ("still has", Conflict, "it is tried again"),
    (
        "dynamic load balancing",
        PermanentError,
        "write `balance roundrobin` or `balance leastconn` in the backend",
    ),
)


class Haproxy:
    """A way to one HAProxy; nothing is held open between two batches."""

    def __init__(self, address: str, *, timeout: timedelta = TIMEOUT) -> None:
        """`address` is the path of a socket, or `tcp://host:port`."""
        self.address = address
        self._timeout = timeout

    async def ask(self, *commands: str) -> str:
        """The answers to all commands, one after the other.

        Raises:
            Unavailable: nobody answers, not in time, not to the end, or far too much.
            Forbidden: the socket may not be opened.
        """
        line = "; ".join(commands)
        if len(line) > LONGEST_LINE or "\n" in line:
            raise PermanentError(f"{line[:50]}... is no command that HAProxy reads; shorten it")
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                answer = await self._exchanged(line.encode() + b"\n")
        except TimeoutError as error:
            span = f"{self._timeout.total_seconds():g} s"
            raise Unavailable(f"HAProxy at {self.address} did not answer within {span}") from error
        except PermissionError as error:
            remedy = "let the user of scaler open it (`user`, `group` or `mode` of `stats socket`)"
            raise Forbidden(f"permission denied for {self.address}; {remedy}") from error
        except OSError as error:
            remedy = "is HAProxy running, with this `stats socket` in its global section?"
            raise Unavailable(f"nobody answers at {self.address} ({error}); {remedy}") from error
        if not answer.endswith(b"\n"):
            raise Unavailable(f"HAProxy at {self.address} broke off its answer; it is asked again")
        return answer.decode(errors="replace")

    async def tell(self, *commands: str, doing: str) -> None:
        """Have changes made; `doing` begins the message when HAProxy refuses.

        Raises:
            ScalerError: it refused, or does not answer.
        """
        for line in (await self.ask(*commands)).splitlines():
            if line.strip() and not _DONE.fullmatch(line.strip()):
                raise _refusal(doing, line.strip())

    async def version(self) -> str:
        """Such as `2.6.12-1+deb12u4`.

        Raises:
            Unsupported: it is too old for servers that come and go.
        """
        answer = await self.ask("show info")
        found = re.search(r"^Version: *((\d+)\.(\d+)\S*)", answer, re.MULTILINE)
        if not found:
            raise PermanentError(f"what listens at {self.address} is no HAProxy; mend `socket`")
        if (int(found[2]), int(found[3])) < OLDEST:
            raise TooOld(f"HAProxy {found[1]} cannot add servers; install 2.5 or newer")
        return found[1]

    async def _exchanged(self, request: bytes) -> bytes:
        if self.address.startswith("tcp://"):
            host, _, port = self.address.removeprefix("tcp://").rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        else:
            reader, writer = await asyncio.open_unix_connection(self.address)
        try:
            writer.write(request)
            await writer.drain()
            answer = bytearray()
            while chunk := await reader.read(_CHUNK):
                answer += chunk
                if len(answer) > MOST_BYTES:
                    raise Unavailable(f"{self.address} answers more than {MOST_BYTES >> 20} MiB")
            return bytes(answer)
        finally:
            writer.close()


def rows(answer: str, first: str) -> list[Mapping[str, str]] | None:
    """The table whose first column is `first`; None when the answer has none.

    Raises:
        Unavailable: it breaks off, so rows may be missing.
    """
    begin = re.search(rf"^# ({first}[ ,].*)\n", answer, re.MULTILINE)
    if begin is None:
        return None
    body, end, _ = answer[begin.end() - 1 :].partition("\n\n")
    if not end:
        raise Unavailable("HAProxy broke off its answer; it is asked again")
    mark = "," if "," in begin[1] else " "
    names = begin[1].split(mark)
    return [dict(zip(names, line.split(mark), strict=False)) for line in body.split("\n")[1:]]


def _refusal(doing: str, said: str) -> ScalerError:
    for words, kind, remedy in _REFUSALS:
        if words in said:
            return kind(f"{doing}: HAProxy says: {said.rstrip('.')}; {remedy}")
    return PermanentError(f"{doing}: HAProxy says: {said}")
