"""HTTP/1.1 answers from bytes, as they come: no socket, no clock, one answer at a time.

Servers send nearly the same head each time, so what a head means is remembered: most answers cost
one search and one look into a dictionary. Source: RFC 9112, sections 2 to 7; lenient nowhere, for
a server that breaks the framing is a finding.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

MOST_HEAD: Final = 65_536  # bytes of status line and header fields
MOST_LINE: Final = 4_096  # bytes of a chunk size with its extensions
MOST_REMEMBERED: Final = 128  # heads, of at most MOST_HEAD bytes each
UNTIL_CLOSE: Final = -1
CHUNKED: Final = -2
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [^\r\n\0]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n\0]*)?")
_BEGIN: Final = b"HTTP/1."


class Malformed(Exception):
    """These bytes are no HTTP/1.1 answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of an answer says about the rest."""

    status: int
    keep: bool  # the connection may carry another request
    length: int  # of the body in bytes, or UNTIL_CLOSE or CHUNKED


class _At(Enum):
    HEAD = auto()
    BODY = auto()
    SIZE = auto()
    AFTER_CHUNK = auto()
    TRAILER = auto()
    CLOSE = auto()
    DONE = auto()


class Parser:
    """Reads one answer after the other; `begin` stands before each."""

    __slots__ = ("_at", "_buffer", "_heads", "_left", "_most", "_no_body", "_size", "_wanted",
                 "body", "keep", "started", "status")  # fmt: skip

    def __init__(self, most: int, heads: dict[bytes, Head] | None = None) -> None:
        """An answer has at most so many bytes; `heads` may be shared between parsers."""
        self._most = most
        self._heads = {} if heads is None else heads
        self._buffer = b""
        self._at = _At.DONE
        self.begin()

    def begin(self, *, no_body: bool = False, wanted: bool = False) -> None:
        """Expect an answer; `no_body` to HEAD, `wanted` keeps the body."""
        self._at = _At.HEAD
        self._no_body = no_body
        self._wanted = wanted
        self._left = 0
        self._size = 0
        self._buffer = b""
        self.status = 0
        self.keep = False
        self.started = False  # something has come
        self.body = b""

    def feed(self, data: bytes) -> bool:
        """Whether the answer is whole now. What comes after its end makes `keep` false.

        Raises:
            Malformed: it is no HTTP/1.1 answer.
        """
        self.started = True
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        while self._at is not _At.DONE:
            rest = _STEPS[self._at](self, data)
            if rest is None:
                return False
            data = rest
        self.keep = self.keep and not data
        return True

    def end(self) -> bool:
        """Whether the answer is whole now that the server has closed."""
        if self._at is _At.CLOSE:
            self._at = _At.DONE
        return self._at is _At.DONE

    def _head(self, data: bytes) -> bytes | None:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = _begun(data)
            return None
        head = self._known(data[:end])
        rest = data[end + 4 :]
        if head.status < 200:
            if head.status == 101:
                raise Malformed("switches to another protocol, which nobody asked for")
            return rest  # 100 Continue or 103 Early Hints: the answer follows
        self.status = head.status
        self.keep = head.keep
        if self._no_body or head.length == 0 or head.status in {204, 304}:
            self._at = _At.DONE
        elif head.length == CHUNKED:
            self._at = _At.SIZE
        elif head.length == UNTIL_CLOSE:
            self.keep = False
            self._at = _At.CLOSE
        else:
            self._grow(head.length)
            self._left = head.length
            self._at = _At.BODY
        return rest

    def _known(self, written: bytes) -> Head:
        head = self._heads.get(written)
        if head is None:
            head = read_head(written)
            if len(self._heads) >= MOST_REMEMBERED:
                self._heads.clear()
            self._heads[written] = head
        return head

    def _grow(self, by: int) -> None:
        self._size += by
        if self._size > self._most:
            raise Malformed(f"is longer than {self._most} bytes; raise bounds.response")

    def _body(self, data: bytes) -> bytes | None:
        """The bytes of a body of known length."""
        taken = data[: self._left]
        if self._wanted:
            self.body += taken
        self._left -= len(taken)
        if self._left:
            return None
        self._at = _At.DONE
        return data[len(taken) :]

    def _line(self, data: bytes) -> tuple[bytes, bytes] | None:
        end = data.find(b"\r\n")
        if end < 0 or end > MOST_LINE:
            if len(data) > MOST_LINE:
                raise Malformed(f"a line is longer than {MOST_LINE} bytes")
            self._buffer = data
            return None
        return data[:end], data[end + 2 :]

    def _chunk_size(self, data: bytes) -> bytes | None:
        line = self._line(data)
        if line is None:
            return None
        found = _SIZE.fullmatch(line[0])
        if found is None:
            raise Malformed(f"{line[0][:20]!r} is no size of a chunk")
        size = int(found[1], 16)
        self._grow(size)
        self._left = size
        self._at = _At.AFTER_CHUNK if size else _At.TRAILER
        return line[1]

    def _after_chunk(self, data: bytes) -> bytes | None:
        """The bytes of a chunk, and the end of the line after them."""
        if self._left:
            taken = data[: self._left]
            if self._wanted:
                self.body += taken
            self._left -= len(taken)
            data = data[len(taken) :]
            if self._left:
                return None
        if len(data) < 2:
            if data not in {b"", b"\r"}:
                raise Malformed("a chunk is longer than its size")
            self._buffer = data
            return None
        if data[:2] != b"\r\n":
            raise Malformed("a chunk is longer than its size")
        self._at = _At.SIZE
        return data[2:]

    def _trailer(self, data: bytes) -> bytes | None:
        line = self._line(data)
        if line is None:
            return None
        if not line[0]:
            self._at = _At.DONE
        elif _FIELD.fullmatch(line[0]) is None:
            raise Malformed(f"{line[0][:20]!r} is no trailer")
        else:
            self._grow(len(line[0]))
        return line[1]

    def _until_close(self, data: bytes) -> None:
        self._grow(len(data))
        if self._wanted:
            self.body += data


_STEPS: Final[dict[_At, Callable[[Parser, bytes], bytes | None]]] = {
    _At.HEAD: Parser._head,  # noqa: SLF001 - the table is part of the class
    _At.BODY: Parser._body,  # noqa: SLF001
    _At.SIZE: Parser._chunk_size,  # noqa: SLF001
    _At.AFTER_CHUNK: Parser._after_chunk,  # noqa: SLF001
    _At.TRAILER: Parser._trailer,  # noqa: SLF001
    _At.CLOSE: Parser._until_close,  # noqa: SLF001
}


def _begun(data: bytes) -> bytes:
    """The begin of a head, as far as it has come."""
    if data[: len(_BEGIN)] != _BEGIN[: len(data)]:
        raise Malformed(f"begins with {data[:20]!r}")
    if len(data) > MOST_HEAD:
        raise Malformed(f"the head is longer than {MOST_HEAD} bytes")
    return data


def read_head(written: bytes) -> Head:
    """What a head means, given without the empty line after it.

    Raises:
        Malformed: it is none, or its framing contradicts itself.
    """
    first, *lines = written.split(b"\r\n")
    found = _STATUS.fullmatch(first)
    if found is None:
        raise Malformed(f"{first[:40]!r} is no status line of HTTP/1.1")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        pair = _FIELD.fullmatch(line)
        if pair is None:
            raise Malformed(f"{line[:40]!r} is no header field")
        fields.setdefault(pair[1].lower(), []).extend(
            part.strip().lower() for part in pair[2].split(b",")
        )
    status, minor = int(found[2]), int(found[1])
    options = fields.get(b"connection", [])
    keep = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    codings = fields.get(b"transfer-encoding")
    lengths = set(fields.get(b"content-length", []))
    if codings is not None:
        if lengths:
            raise Malformed("has both a length and a transfer encoding")
        return Head(status, keep, CHUNKED if codings[-1] == b"chunked" else UNTIL_CLOSE)
    if not lengths:
        return Head(status, keep, UNTIL_CLOSE)
    if len(lengths) > 1 or not re.fullmatch(rb"\d{1,15}", min(lengths)):
        raise Malformed(f"{sorted(lengths)!r} is no length of a body")
    return Head(status, keep, int(lengths.pop()))
