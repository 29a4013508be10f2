"""What a process keeps itself: bounded by bytes, right by tags, the hit ones longest."""

import gc
import tracemalloc
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance.caching.local import OVERHEAD, Held, Local


def held(value: Any = 0, *, size: int = 100, tags: tuple[str, ...] = (), until: float = 9) -> Held:
    return Held(
        value=value,
        error=None,
        since=0,
        fresh_until=until,
        until=until,
        refresh_at=until,
        took_s=0,
        seal=b"",
        tags=tags,
        size=size,
    )


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000), st.booleans()), max_size=200))
def test_it_never_holds_more_than_it_may(puts: list[tuple[int, int, bool]]) -> None:
    local = Local(40_000)
    for key, size, hit in puts:
        local.put(str(key), held(size=size, tags=(f"t{key % 3}",)))
        if hit and (found := local.held.get(str(key))):
            found.again = True
        assert local.bytes <= 40_000
        assert local.bytes == sum(one.size for one in local.held.values())
    for tag in ("t0", "t1", "t2"):
        local.drop_tag(tag)
    assert local.bytes == 0
    assert not local._tagged


def test_what_was_hit_stays_when_room_is_needed() -> None:
    local = Local(10 * (OVERHEAD + 500))
    for key in "abcdefghij":
        local.put(key, held())
    local.held["a"].again = True
    local.put("k", held())
    assert "a" in local.held
    assert "b" not in local.held
    assert local.evicted == 1


def test_a_giant_does_not_push_out_the_others() -> None:
    local = Local(40_000)
    local.put("a", held())
    local.put("giant", held(size=5_000))
    assert set(local.held) == {"a"}


def test_a_tag_drops_what_has_it_and_nothing_else() -> None:
    local = Local(1_000_000)
    local.put("a", held(tags=("x", "y")))
    local.put("b", held(tags=("y",)))
    local.drop_tag("x")
    assert set(local.held) == {"b"}


def test_what_is_past_its_time_is_forgotten() -> None:
    local = Local(1_000_000)
    local.put("a", held(until=5))
    local.put("b", held(until=7))
    local.forget(5)
    assert set(local.held) == {"b"}


def test_the_hottest_are_those_hit_most_since_they_were_told_of() -> None:
    local = Local(1_000_000)
    for key, hits in (("a", 5), ("b", 9), ("c", 0)):
        local.put(key, held())
        local.held[key].hits = hits
    local.held["b"].told = 8
    assert [key for key, _ in local.hottest(5)] == ["a", "b"]


def test_the_bytes_that_are_counted_are_about_those_that_are_used() -> None:
    bars = {"bars": [{"open": i * 1.5, "volume": i * 1000, "n": f"bar {i}"} for i in range(20)]}
    data = msgspec.msgpack.encode(bars)
    local = Local(100_000_000)
    gc.collect()
    tracemalloc.start()
    for key in range(1000):
        local.put(str(key), held(msgspec.msgpack.decode(data), size=len(data), tags=("t",)))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 < local.bytes / used < 2
