"""What is found in a cache and what follows: tables of facts, and what holds for all of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance.cache_facts import BigKey, Facts, Group, Point, Roll, Server, trend
from scaler.maintenance.cache_plan import (
    Found,
    SetTtl,
    Unlink,
    hit_ratio,
    is_confirmed,
    is_dead,
    must_stop,
    plan_cache,
    slow_since,
)
from scaler.maintenance.cache_rules import Act, Cache

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WELL = Server(at=NOON, max_bytes=10**9, policy="allkeys-lru", keys=1000, expires=1000)
LIVE, OLD = "quote.3fa9c2d1", "quote.00000000"
CALM = 10_000  # bytes: too few for one group to be too large


def rules(**act: Any) -> Cache:
    return Cache(name="a", url_env="R", prefixes=("ledger:", "shop:"), act=Act(**act))


def roll(minutes_ago: float = 0, **ages_s: float) -> Roll:
    at = NOON - timedelta(minutes=minutes_ago)
    seen = {name.replace("__", "."): at.timestamp() - age for name, age in ages_s.items()}
    return Roll(at=at, seen=seen)


def group(**of: Any) -> Group:
    return Group(**{"prefix": "ledger:", "name": "ledger:x", "keys": 100, "bytes": CALM, **of})


def facts(*groups: Group, **of: Any) -> Facts:
    seen = sum(group.keys for group in groups)
    return Facts(**{"server": WELL, "whole": True, "keys_seen": seen, "groups": groups, **of})


def found(known: Facts, of: Cache | None = None) -> list[tuple[Found, str, float]]:
    return [(f.kind, f.subject, f.number) for f in plan_cache(of or rules(), known).findings]


def test_a_healthy_cache_has_no_findings() -> None:
    assert plan_cache(rules(), facts(group())).findings == ()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param(
            facts(group(no_ttl=3)), (Found.NO_TTL, "ledger:", 3), id="keys that never expire"
        ),
        pytest.param(
            facts(group(no_ttl=3), whole=False),
            (Found.NO_TTL, "ledger:", 30),
            id="a sample stands for the rest",
        ),
        pytest.param(facts(group(idle=2)), (Found.IDLE, "ledger:", 2), id="idle keys"),
        pytest.param(
            facts(big=(BigKey(name="ledger:b", type="string", bytes=2_000_000),)),
            (Found.BIG_KEY, "ledger:b", 2_000_000),
            id="a big key",
        ),
        pytest.param(
            facts(server=replace(WELL, stale=0.2)),
            (Found.BACKLOG, "expired_stale_perc", 20.0),
            id="expired keys pile up",
        ),
        pytest.param(
            facts(server=replace(WELL, used_bytes=200_000_000, fragmentation=1.5)),
            (Found.FRAGMENTED, "mem_fragmentation_ratio", 1.5),
            id="fragmentation",
        ),
        pytest.param(
            facts(server=replace(WELL, max_bytes=0)),
            (Found.POLICY, "maxmemory", 0),
            id="no limit",
        ),
        pytest.param(
            facts(server=replace(WELL, policy="noeviction")),
            (Found.POLICY, "noeviction", 10**9),
            id="a cache that refuses writes",
        ),
        pytest.param(
            facts(server=replace(WELL, policy="volatile-lru", expires=900)),
            (Found.POLICY, "volatile-lru", 100),
            id="a policy that cannot evict what has no TTL",
        ),
        pytest.param(
            facts(server=replace(WELL, slow=9, slow_kept=2)),
            (Found.SLOW, "slowlog", 2),
            id="slow commands",
        ),
        pytest.param(
            facts(group(bytes=600_000), group(name="ledger:y", bytes=500_000)),
            (Found.LOPSIDED, "ledger:x", 54.5),
            id="one prefix has more than the others",
        ),
    ],
)
def test_is_found_and_nothing_else(known: Facts, expected: tuple[Found, str, float]) -> None:
    assert found(known) == [expected]


@pytest.mark.parametrize(
    "known",
    [
        pytest.param(facts(group(idle=2), idle_known=False), id="idle under LFU is unknown"),
        pytest.param(
            facts(server=replace(WELL, used_bytes=90_000_000, fragmentation=9.0)),
            id="a small server is always fragmented",
        ),
        pytest.param(
            facts(server=replace(WELL, policy="volatile-lru", expires=960)),
            id="a few keys without TTL under volatile-lru",
        ),
        pytest.param(facts(server=replace(WELL, slow=9)), id="a slow log that is denied"),
        pytest.param(facts(group(bytes=9_000_000)), id="a single group has everything"),
        pytest.param(facts(server=replace(WELL, stale=0.1)), id="what the server tolerates"),
        pytest.param(
            facts(group(version=OLD), rolls={}), id="no roll: no version is known to be dead"
        ),
        pytest.param(
            facts(group(version=OLD), rolls={"ledger:": (roll(),)}), id="an empty roll says nothing"
        ),
        pytest.param(
            facts(group(version=LIVE), rolls={"ledger:": (roll(quote__3fa9c2d1=5),)}),
            id="a living version",
        ),
        pytest.param(
            facts(group(version=OLD, keys=0), rolls={"ledger:": (roll(quote__3fa9c2d1=5),)}),
            id="a dead version without keys",
        ),
    ],
)
def test_is_no_finding(known: Facts) -> None:
    assert found(known) == []


def test_what_could_not_be_known_is_said() -> None:
    lfu = replace(WELL, policy="allkeys-lfu")
    plan = plan_cache(rules(idle=True), facts(group(idle=9), server=lfu, idle_known=False))
    assert plan.unknown == ("idle keys: allkeys-lfu counts how often a key is used, not when",)
    assert plan.actions == ()


@pytest.mark.parametrize(
    ("version", "rolls", "dead"),
    [
        pytest.param(OLD, (roll(quote__3fa9c2d1=5),), True, id="not on the roll"),
        pytest.param(OLD, (roll(quote__00000000=3601),), True, id="silent for longer"),
        pytest.param(OLD, (roll(quote__00000000=3600),), False, id="silent for just that long"),
        pytest.param(OLD, (roll(quote__00000000=-900),), False, id="a clock that runs ahead"),
        pytest.param(OLD, (), False, id="no roll"),
        pytest.param(OLD, (roll(1, quote__3fa9c2d1=5), roll()), False, id="the roll was lost"),
        pytest.param(
            OLD, (roll(1, quote__00000000=5), roll(quote__3fa9c2d1=5)), False, id="alive a look ago"
        ),
    ],
)
def test_is_dead(version: str, rolls: tuple[Roll, ...], *, dead: bool) -> None:
    assert is_dead(version, rolls, HOUR) is dead


def test_who_is_missing_is_looked_for_twice_before_anything_is_removed() -> None:
    once = (roll(quote__3fa9c2d1=5),)
    twice = (roll(0.5, quote__3fa9c2d1=5), roll(quote__3fa9c2d1=5))
    assert not is_confirmed(OLD, once)
    assert is_confirmed(OLD, twice)
    assert is_confirmed(OLD, (roll(quote__00000000=9999),))
    act = rules(dead_versions=True)
    only_found = plan_cache(act, facts(group(version=OLD), rolls={"ledger:": once}))
    assert [f.kind for f in only_found.findings] == [Found.DEAD_VERSION]
    assert only_found.actions == ()
    confirmed = plan_cache(act, facts(group(version=OLD), rolls={"ledger:": twice}))
    assert [(a.prefix, getattr(a, "version", None), a.keys) for a in confirmed.actions] == [
        ("ledger:", OLD, 100)
    ]


def test_what_is_not_turned_on_is_not_done() -> None:
    sick = group(no_ttl=5, idle=7)
    assert plan_cache(rules(), facts(sick)).actions == ()
    acts = plan_cache(rules(idle=True, missing_ttl=timedelta(days=1)), facts(sick)).actions
    assert [(type(a), a.prefix, a.keys) for a in acts] == [
        (Unlink, "ledger:", 7),
        (SetTtl, "ledger:", 5),
    ]
    assert all(action.because for action in acts)


@given(
    st.lists(
        st.builds(
            Group,
            prefix=st.sampled_from(["ledger:", "shop:", "other:", ""]),
            name=st.text(max_size=5),
            version=st.sampled_from(["", LIVE, OLD]),
            keys=st.integers(0, 9),
            bytes=st.integers(0, 10**9),
            no_ttl=st.integers(0, 9),
            idle=st.integers(0, 9),
        ),
        max_size=6,
    ),
    st.integers(0, 100),
    st.booleans(),
)
def test_no_action_leaves_the_prefixes(groups: list[Group], seen: int, whole: bool) -> None:
    every = rules(dead_versions=True, idle=True, missing_ttl=timedelta(days=1))
    look = (roll(1, quote__3fa9c2d1=5), roll(quote__3fa9c2d1=5))
    rolls = dict.fromkeys(("ledger:", "shop:", "other:", ""), look)
    plan = plan_cache(every, facts(*groups, keys_seen=seen, whole=whole, rolls=rolls))
    assert {action.prefix for action in plan.actions} <= set(every.prefixes)
    assert not any(isinstance(a, Unlink) and a.version == LIVE for a in plan.actions)


def points(*used_mb: float, prefix_mb: tuple[float, ...] = ()) -> tuple[Point, ...]:
    """Memory, a quarter of an hour apart."""
    start = NOON - len(used_mb) * HOUR / 4
    return tuple(
        Point(
            at=start + i * HOUR / 4,
            used_bytes=round(mb * 1e6),
            prefixes={"ledger:": round(prefix_mb[i] * 1e6)} if prefix_mb else {},
        )
        for i, mb in enumerate(used_mb)
    )


def test_days_to_full_follow_from_a_line_through_the_points() -> None:
    server = replace(WELL, used_bytes=500_000_000)
    ((kind, subject, days),) = found(facts(server=server, points=points(*range(496, 501))))
    assert (kind, subject) == (Found.FULL, "maxmemory")
    assert days == pytest.approx(500 / 96, abs=0.01)  # 1 MB in a quarter of an hour


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(points(1, 2, 3, 4), id="too few points"),
        pytest.param(points(500, 499, 498, 497, 496), id="shrinking"),
        pytest.param(points(500, 100, 500, 100, 500, 100, 501), id="noise"),
        pytest.param(points(500, 500, 500, 500, 500), id="nothing changes"),
        pytest.param(points(500, 500.01, 500.02, 500.03, 500.04), id="not in the next month"),
    ],
)
def test_no_alarm(line: tuple[Point, ...]) -> None:
    assert found(facts(server=replace(WELL, used_bytes=500_000_000), points=line)) == []


def test_growth_of_a_prefix() -> None:
    line = points(*[1] * 5, prefix_mb=(10, 10.1, 10.2, 10.3, 10.4))
    assert found(facts(points=line)) == [(Found.GROWTH, "ledger:", 9_600_000)]


def test_a_trend_knows_how_sure_it_is() -> None:
    straight = trend([(NOON + i * HOUR, 5.0 * i) for i in range(6)])
    assert straight is not None
    assert straight.per_day == pytest.approx(120)
    assert straight.certain == pytest.approx(120)
    assert trend([(NOON, 1.0)] * 9) is None  # all at one moment


@pytest.mark.parametrize(
    ("before", "ratio"),
    [
        pytest.param(replace(WELL, hits=100, misses=100), 0.9, id="since the look before"),
        pytest.param(None, 190 / 300, id="since the start"),
        pytest.param(replace(WELL, hits=999, misses=1), 190 / 300, id="the server was restarted"),
        pytest.param(replace(WELL, hits=190, misses=110), None, id="nobody has asked"),
    ],
)
def test_hit_ratio(before: Server | None, ratio: float | None) -> None:
    assert hit_ratio(before, replace(WELL, hits=190, misses=110)) == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("before", "new"),
    [
        pytest.param((5, 5), 3, id="since the look before"),
        pytest.param(None, 2, id="what it holds at the first look"),
        pytest.param((9, 9), 2, id="it was cleared"),
    ],
)
def test_slow_commands_are_those_since_the_last_look(
    before: tuple[int, int] | None, new: int
) -> None:
    then = None if before is None else replace(WELL, slow=before[0], slow_kept=before[1])
    assert slow_since(then, replace(WELL, slow=8, slow_kept=2)) == new


@pytest.mark.parametrize(
    ("first", "now", "stops"),
    [
        pytest.param(0.0, 0.1, False, id="what the server tolerates"),
        pytest.param(0.0, 0.11, True, id="more than that"),
        pytest.param(0.3, 0.4, False, id="it was so before"),
        pytest.param(0.3, 0.41, True, id="it has grown"),
    ],
)
def test_a_lap_stops_before_it_starves_the_expiry(first: float, now: float, *, stops: bool) -> None:
    assert bool(must_stop(replace(WELL, stale=first), replace(WELL, stale=now))) is stops
    assert must_stop(WELL, replace(WELL, loading=True))
