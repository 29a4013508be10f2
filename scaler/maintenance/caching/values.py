"""How a value stands in the shared cache: sealed for its key, dated, never executable.

    version  kind  seal's id  - | seal 16 | fresh until 8 | until 8 | took 4 | tags 1 | tokens data

The seal is BLAKE2b over the key and all that follows it, keyed when a secret is configured. What
does not have exactly this form, was sealed for another key or cannot be the declared type is no
value; nothing that stands in an entry chooses how it is checked. Moments are milliseconds on the
server's clock.
"""

import hmac
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final

import msgspec

VERSION: Final = 1
HEAD: Final = struct.Struct(">BBBx16sQQIB")
SEAL_AT: Final = slice(4, 20)
AFTER_SEAL: Final = 20
TOKEN: Final = 8  # bytes
MOST_TAGS: Final = 16
MOST_BYTES: Final = 64 * 1024 * 1024  # of one value, whatever it says it unpacks to
COMPRESSED: Final = 0x80
LEAST_SECRET: Final = 16  # bytes
NO_SECRET: Final = b""
DAMAGED: Final = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    zlib.error,
)


class Kind(IntEnum):
    """What an entry is."""

    VALUE = 0
    MISSING = 1  # the backend said that there is nothing
    ERROR = 2  # the backend failed
    PASS = 3  # the backend answered what is not to be kept; whoever asks calls it


@dataclass(slots=True)
class Entry:
    """One answer of the backend."""

    kind: Kind
    value: Any  # of an error: its class and its text
    fresh_until_ms: int
    until_ms: int
    took_ms: int  # the backend needed
    tokens: tuple[bytes, ...]  # of its tags, from before the backend was called
    seal: bytes = b""
    size: int = 0  # bytes


class Codec:
    """Values of one declared type as msgpack.

    A type that msgpack does not know by itself (Decimal, tuples, dataclasses) comes back right only
    when the function says that it returns it.
    """

    def __init__(self, declared: Any = Any) -> None:
        """Raises TypeError for a type that cannot be read back."""
        self.encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
        self.decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(declared).decode

    def faithful(self, value: Any) -> bytes:
        """The encoded value.

        Raises:
            ValueError, TypeError: it would come back as something else, or not at all.
        """
        data = self.encode(value)
        back = self.decode(data)
        if type(back) is not type(value) or (back != value and repr(back) != repr(value)):
            raise TypeError(f"a {type(value).__name__} comes back different from the cache")
        return data


class Seals:
    """Seals entries with the first secret and knows those of all of them."""

    def __init__(self, secrets: Sequence[bytes] = (), *, compress_above: int = 4096) -> None:
        """Raises ValueError for a secret that is too short."""
        if any(len(secret) < LEAST_SECRET for secret in secrets):
            raise ValueError(f"a secret of a cache needs {LEAST_SECRET} bytes or more")
        keys = [blake2b(secret, digest_size=32).digest() for secret in secrets] or [NO_SECRET]
        self._keys = {_id(key): key for key in reversed(keys)}
        self._first = _id(keys[0])
        self._compress_above = compress_above

    def sealed(self, key: str, entry: Entry, data: bytes) -> bytes:
        """The entry as bytes; `data` is its encoded value."""
        flags = int(entry.kind)
        if len(data) > self._compress_above:
            packed = zlib.compress(data, 1)
            if len(packed) < len(data) * 0.9:
                data, flags = packed, flags | COMPRESSED
        bare = HEAD.pack(
            VERSION,
            flags,
            self._first,
            bytes(16),
            entry.fresh_until_ms,
            entry.until_ms,
            min(entry.took_ms, 0xFFFFFFFF),
            len(entry.tokens),
        )
        body = bare[AFTER_SEAL:] + b"".join(entry.tokens) + data
        return bare[:4] + self._seal(self._first, key, bare[:4], body) + body

    def opened(self, key: str, raw: bytes, decode: Callable[[bytes], Any]) -> Entry | None:
        """The entry, or None for what is none. Raises nothing, whatever stands there."""
        if len(raw) < HEAD.size:
            return None
        version, flags, secret, seal, fresh, until, took, tags = HEAD.unpack_from(raw)
        if version != VERSION or secret not in self._keys or tags > MOST_TAGS:
            return None
        if not hmac.compare_digest(seal, self._seal(secret, key, raw[:4], raw[AFTER_SEAL:])):
            return None
        begin = HEAD.size + tags * TOKEN
        tokens = tuple([raw[at : at + TOKEN] for at in range(HEAD.size, begin, TOKEN)])
        data = raw[begin:]
        try:
            kind = _KINDS[flags & ~COMPRESSED]
            if flags & COMPRESSED:
                data = _unpacked(data)
            value = decode(data) if kind is Kind.VALUE else _PLAIN.decode(data)
        except DAMAGED:
            return None
        return Entry(kind, value, fresh, until, took, tokens, seal, len(raw))

    def _seal(self, secret: int, key: str, head: bytes, body: bytes) -> bytes:
        name = key.encode()
        sealed = b"%d:%b%b%b" % (len(name), name, head, body)
        return blake2b(sealed, digest_size=16, key=self._keys[secret]).digest()


_KINDS: Final = {int(kind): kind for kind in Kind}
_PLAIN: Final = msgspec.msgpack.Decoder()


def _id(key: bytes) -> int:
    """Tells secrets apart in an entry; it chooses among ours and nothing else."""
    return 0 if not key else blake2b(key, digest_size=1, person=b"id").digest()[0] | 1


def _unpacked(data: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    whole = unpacking.decompress(data, MOST_BYTES)
    if not unpacking.eof:
        raise ValueError("it is larger than a value may be, or cut off")
    return whole
