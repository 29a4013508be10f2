"""Entries of a shared cache: what is sealed comes back, and nothing else ever does."""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance.caching.values import HEAD, Codec, Entry, Kind, Seals

KEY = "ledger:{quote.00000000:AAPL}"
SECRET, OTHER = b"a secret of 16 b", b"another of 16 b."
PLAIN = Codec()
SEALS = Seals()


@dataclass(frozen=True)
class Quote:
    symbol: str
    price: Decimal
    at: datetime
    sizes: tuple[int, ...]


def entry(*, kind: Kind = Kind.VALUE, tokens: tuple[bytes, ...] = ()) -> Entry:
    return Entry(kind, None, 1_000, 2_000, 3, tokens)


def sealed(value: Any, seals: Seals = SEALS, key: str = KEY) -> bytes:
    return seals.sealed(key, entry(tokens=(b"12345678",)), PLAIN.encode(value))


def opened(raw: bytes, seals: Seals = SEALS, key: str = KEY) -> Entry | None:
    return seals.opened(key, raw, PLAIN.decode)


PLAIN_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN_DATA, st.sampled_from([SEALS, Seals([SECRET]), Seals(compress_above=0)]))
def test_what_is_sealed_comes_back(value: Any, seals: Seals) -> None:
    found = opened(sealed(value, seals), seals)
    assert found is not None
    assert found.value == value
    assert (found.fresh_until_ms, found.until_ms, found.took_ms) == (1_000, 2_000, 3)
    assert found.tokens == (b"12345678",)


@pytest.mark.parametrize("secrets", [(), (SECRET,)], ids=["without a secret", "with a secret"])
def test_ten_thousand_forged_and_damaged_entries_are_misses(secrets: tuple[bytes, ...]) -> None:
    draw = Random(1)
    seals = Seals(secrets)
    good = sealed({"price": 1, "bars": list(range(50))}, seals)
    for round_ in range(10_000):
        raw = bytearray(good)
        match round_ % 4:
            case 0:
                raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            case 1:
                del raw[draw.randrange(len(raw)) :]
            case 2:
                raw = bytearray(draw.randbytes(draw.randrange(200)))
            case _:
                at = draw.randrange(len(raw))
                raw[at:at] = draw.randbytes(draw.randrange(1, 9))
        if raw != good:
            assert opened(bytes(raw), seals) is None


def test_an_entry_of_another_key_is_none() -> None:
    assert opened(sealed(1), key="ledger:{quote.00000000:MSFT}") is None


def test_an_entry_of_a_later_version_is_none() -> None:
    raw = sealed(1)
    assert opened(bytes([raw[0] + 1]) + raw[1:]) is None


def test_without_the_secret_nobody_makes_an_entry() -> None:
    assert opened(sealed(1), Seals([SECRET])) is None
    assert opened(sealed(1, Seals([OTHER])), Seals([SECRET])) is None
    assert opened(sealed(1, Seals([SECRET])), SEALS) is None


def test_a_secret_is_renewed_while_old_entries_are_read() -> None:
    old, both = Seals([SECRET]), Seals([OTHER, SECRET])
    assert opened(sealed(1, old), both) is not None
    assert opened(sealed(1, both), old) is None
    assert opened(sealed(1, both), Seals([OTHER])) is not None


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Seals([b"short"])


def test_what_unpacks_to_more_than_a_value_may_be_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scaler.maintenance.caching.values.MOST_BYTES", 1000)
    seals = Seals(compress_above=10)
    assert opened(sealed(b"\0" * 900, seals), seals) is not None
    assert opened(sealed(b"\0" * 2000, seals), seals) is None


def test_large_values_are_stored_small() -> None:
    assert len(sealed("bar" * 10_000)) < 1_000
    assert len(sealed(Random(1).randbytes(10_000))) < 10_200  # it does not get smaller


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of four milliards
        b"\xc1",  # nothing that msgpack has
        b"\x91" * 100_000,  # lists in lists
        b"\xc6\x7f\xff\xff\xff",  # two gigabytes of bytes
        b"\xd9\x02\xff\xff",  # text that is none
        b"",
    ],
    ids=["huge array", "unknown", "deep", "huge bytes", "bad text", "empty"],
)
def test_a_sealed_entry_with_hostile_data_is_none(data: bytes) -> None:
    """Without a secret whoever can write to Redis can seal."""
    assert opened(SEALS.sealed(KEY, entry(), data)) is None
    packed = Seals(compress_above=0).sealed(KEY, entry(), data)
    assert opened(packed) is None


def test_an_unknown_kind_is_none() -> None:
    raw = bytearray(SEALS.sealed(KEY, entry(), PLAIN.encode(1)))
    raw[1] = 77
    head, body = bytes(raw[:4]), bytes(raw[20:])
    forged = head + SEALS._seal(0, KEY, head, body) + body
    assert opened(forged) is None


def test_data_that_says_it_is_packed_and_is_not_is_none() -> None:
    raw = bytearray(SEALS.sealed(KEY, entry(), b"not zlib"))
    raw[1] |= 0x80
    head, body = bytes(raw[:4]), bytes(raw[20:])
    assert opened(head + SEALS._seal(0, KEY, head, body) + body) is None
    assert zlib.ZLIB_VERSION
    assert HEAD.size == 41


def test_values_come_back_as_their_declared_type() -> None:
    quote = Quote("AAPL", Decimal("187.10"), datetime(2026, 1, 1, tzinfo=UTC), (1, 2))
    codec = Codec(Quote)
    assert codec.decode(codec.faithful(quote)) == quote


@pytest.mark.parametrize(
    "value",
    [Decimal(1), (1, 2), {1, 2}, {"a": Decimal(1)}, object()],
    ids=["decimal", "tuple", "set", "inside", "object"],
)
def test_what_would_come_back_as_something_else_is_not_kept(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        PLAIN.faithful(value)


def test_a_value_of_another_type_than_declared_is_not_kept() -> None:
    with pytest.raises((TypeError, ValueError)):
        Codec(Quote).faithful({"symbol": "AAPL"})
