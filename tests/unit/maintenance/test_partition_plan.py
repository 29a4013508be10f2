"""What is to be done with a partition set: tables of what is there, and what follows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaler.maintenance import partition_plan, partition_ranges, partition_words
from scaler.maintenance.partition_facts import (
    Astray,
    Detached,
    Facts,
    Mark,
    Partition,
    mark_in,
    unmarked,
)
from scaler.maintenance.partition_plan import Create, Drain, Drop, Level
from scaler.maintenance.partition_ranges import HIGHEST, LOWEST, Bounds, Key, KeyKind
from scaler.maintenance.partition_rules import PartitionSet

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
KEY = Key(KeyKind.TIMESTAMPTZ, ZoneInfo("UTC"))
DEFAULT = Partition(schema="public", name="t_default", bound="DEFAULT")


def rules(**more: Any) -> PartitionSet:
    return PartitionSet.model_validate({"table": "t", "by": "at", "every": "month", **more})


def part(name: str, begin: str | None, end: str | None, **more: Any) -> Partition:
    edges = [datetime.fromisoformat(f"{e}T00:00+00:00") if e else None for e in (begin, end)]
    lower = KEY.at(edges[0]) if edges[0] else LOWEST
    upper = KEY.at(edges[1]) if edges[1] else HIGHEST
    return Partition(schema="public", name=name, bound="", bounds=Bounds(lower, upper), **more)


def months(first: int, last: int, **more: Any) -> tuple[Partition, ...]:
    """Partitions of 2026, from one month to another."""
    return tuple(
        part(f"t_2026_{m:02}", f"2026-{m:02}-01", f"2026-{m + 1:02}-01", **more)
        for m in range(first, last + 1)
    )


def facts(*partitions: Partition, **more: Any) -> Facts:
    known = {"type": "timestamp with time zone", "owner": "owner", "user": "me", **more}
    return Facts(table="public.t", partitions=partitions, **known)


def gone(name: str = "t_2025_01", days: int | None = 10, **more: Any) -> Detached:
    detached = None if days is None else NOW - timedelta(days=days)
    mark = Mark(of="public.t", detached=detached, **more.pop("mark", {}))
    return Detached(schema="public", name=name, mark=mark, **more)


READY = months(5, 8)
KEPT: dict[str, Any] = {"keep": "3 months"}
GRACE: dict[str, Any] = {"expire": {"drop_after": "7 days"}}
ARCHIVE: dict[str, Any] = {"expire": {"drop_after": "7 days", "archive": ["x"]}}


@pytest.mark.parametrize(
    ("given_rules", "there", "steps"),
    [
        pytest.param({}, facts(*READY), [], id="what is as it should be is left alone"),
        pytest.param(
            {},
            facts(),
            ["create t_2026_05", "create t_2026_06", "create t_2026_07", "create t_2026_08"],
            id="a new set begins now",
        ),
        pytest.param({"ahead": 1}, facts(*months(4, 5)), ["create t_2026_06"], id="one ahead"),
        pytest.param(
            {}, facts(*months(1, 2), *READY), ["create t_2026_03", "create t_2026_04"], id="a gap"
        ),
        pytest.param(
            {"most": 6}, facts(*months(1, 2), *READY), [], id="no gap is filled beyond the most"
        ),
        pytest.param(
            {},
            facts(part("legacy", None, "2026-05-10"), *months(6, 8)),
            ["create t_2026_05"],
            id="the rest of a month that is half covered",
        ),
        pytest.param(
            {},
            facts(part("rest", "2026-05-01", None)),
            [],
            id="an open end covers what comes",
        ),
        pytest.param(
            {},
            facts(*READY[:3], READY[3], names=frozenset({"t_2026_09"})),
            [],
            id="a name that is taken matters only when it is needed",
        ),
        pytest.param(
            {},
            facts(*READY[:3], names=frozenset({"t_2026_08"})),
            ["create t_2026_08_2"],
            id="a name that is taken is gone round",
        ),
        pytest.param(
            {},
            facts(*months(5, 6), *months(7, 7, rows=5), READY[3]),
            ["create t_2026_09", "create t_2026_10"],
            id="rows ahead of the clock call for more",
        ),
        pytest.param(
            KEPT,
            facts(*months(1, 8)),
            ["detach t_2026_01 concurrently"],
            id="what ended more than three months ago goes",
        ),
        pytest.param(
            KEPT,
            facts(*months(1, 8), DEFAULT),
            ["detach t_2026_01 under a short lock"],
            id="beside a DEFAULT partition only a lock detaches",
        ),
        pytest.param(
            KEPT,
            facts(*months(1, 8), concurrently=False),
            ["detach t_2026_01 under a short lock"],
            id="and on PostgreSQL 13",
        ),
        pytest.param(
            {**KEPT, "expire": {"how": "report"}}, facts(*months(1, 8)), [], id="or is reported"
        ),
        pytest.param(
            KEPT,
            facts(*months(1, 1, owned=False), *months(2, 8)),
            [],
            id="what is not ours never goes",
        ),
        pytest.param(
            KEPT,
            facts(part("old", None, "2025-01-01"), *months(2, 8)),
            [],
            id="what begins nowhere never goes",
        ),
        pytest.param(
            KEPT,
            facts(
                replace(
                    part("old", None, "2025-01-01"),
                    comment='scaler {"of": "public.t", "ours": true}',
                ),
                *months(2, 8),
            ),
            ["detach old concurrently"],
            id="unless its mark says that it is ours",
        ),
        pytest.param(
            KEPT,
            facts(*months(1, 1, pending=True), *months(2, 8)),
            ["finish detaching t_2026_01"],
            id="a half-done detach is finished",
        ),
        pytest.param(
            {"default": "guard"},
            facts(*READY),
            ["create t_default as its DEFAULT partition"],
            id="a guard",
        ),
        pytest.param(GRACE, facts(*READY, detached=(gone(),)), ["drop t_2025_01"], id="a drop"),
        pytest.param(
            GRACE,
            facts(*READY, detached=(gone(days=7),)),
            ["drop t_2025_01"],
            id="the grace is over to the second",
        ),
        pytest.param(GRACE, facts(*READY, detached=(gone(days=6),)), [], id="not in its grace"),
        pytest.param({}, facts(*READY, detached=(gone(),)), [], id="never, unless it is written"),
        pytest.param(
            GRACE, facts(*READY, detached=(gone(views=("v",)),)), [], id="never below a view"
        ),
        pytest.param(
            GRACE,
            facts(*READY, detached=(gone(days=None),)),
            ["note that t_2025_01 is detached"],
            id="the grace begins when it is seen detached",
        ),
        pytest.param(
            ARCHIVE,
            facts(*READY, detached=(gone(),)),
            ["archive t_2025_01"],
            id="it is archived first",
        ),
        pytest.param(
            ARCHIVE,
            facts(*READY, detached=(gone(mark={"archived": NOW}),)),
            ["drop t_2025_01"],
            id="and then dropped",
        ),
        pytest.param(
            {},
            facts(*READY, detached=(gone(days=2, mark={"drained": NOW}),)),
            ["drop t_2025_01"],
            id="a drained DEFAULT is dropped after a day",
        ),
        pytest.param({}, facts(*READY, owned=False), [], id="nothing without the rights"),
        pytest.param({}, facts(*READY[:2], may_create=False), [], id="nor without CREATE"),
    ],
)
def test_steps(given_rules: dict[str, Any], there: Facts, steps: list[str]) -> None:
    made = partition_plan.plan(rules(**given_rules), there, NOW)
    assert [partition_words.described(step) for step in made.steps] == steps
    assert all(step.because for step in made.steps)


def test_rows_in_default_come_with_their_partition() -> None:
    june = partition_ranges.containing(rules().every, KEY.zone, datetime(2026, 6, 5, tzinfo=UTC))
    there = facts(READY[0], DEFAULT, astray=(Astray(range=june, rows=7),))
    made = partition_plan.plan(rules(), there, NOW)
    assert [partition_words.described(s) for s in made.steps] == [
        "create t_2026_07", "create t_2026_08", "move 7 rows out of t_default",
    ]  # fmt: skip
    drain = made.steps[-1]
    assert isinstance(drain, Drain)
    assert [(t.name, t.bounds) for t in drain.targets] == [("t_2026_06", KEY.bounds(june))]


@pytest.mark.parametrize(
    ("there", "level", "words"),
    [
        (facts(*READY[:1], may_create=False), Level.ALARM, "only 0 partitions are ready"),
        (facts(*READY[:2]), Level.WARNING, "only 1 partitions are ready after the one of now"),
        (facts(*READY, referrers=("a",)), Level.NOTE, "a refer to it"),
        (facts(*READY, publications=("p",)), Level.WARNING, "publish_via_partition_root"),
        (facts(*READY, part("odd", "2030-01-01", None)), Level.NOTE, "left alone: odd (its bounds"),
        (facts(*READY, owned=False), Level.ALARM, "GRANT owner TO me"),
        (facts(*READY, may_create=False), Level.ALARM, "GRANT CREATE ON SCHEMA public TO owner"),
        (facts(*READY, type="text"), Level.ALARM, "public.t.at is text; a key may be one of"),
        (facts(*READY, type="bigint"), Level.ALARM, "write key: epoch s or key: epoch ms"),
        (facts(missing="is gone"), Level.ALARM, "public.t: is gone"),
        (facts(*READY, strays=3), Level.WARNING, "3 rows in its DEFAULT partition belong to no"),
        (facts(*READY, detached=(gone(owned=False),)), Level.WARNING, "no longer ours"),
    ],
)
def test_findings(there: Facts, level: Level, words: str) -> None:
    found = partition_plan.plan(rules(), there, NOW).findings
    assert [f.level for f in found if words in f.text] == [level], found


def test_too_many_partitions_are_said() -> None:
    made = partition_plan.plan(rules(most=3), facts(*READY), NOW)
    assert "4 partitions are more than 3" in made.findings[0].text


@pytest.mark.parametrize(
    ("more", "hold", "waits"),
    [
        ({}, "web is being scaled", "web is being scaled"),
        ({"locks": {"window": "01:00-05:00"}}, "", "heavy work is done 01:00-05:00 UTC"),
        ({"locks": {"window": "11:00-13:00"}}, "", ""),
    ],
)
def test_heavy_steps_wait_and_partitions_do_not(more: Any, hold: str, waits: str) -> None:
    made = partition_plan.plan(rules(**KEPT, **more), facts(*months(1, 7)), NOW, hold=hold)
    heavy = [why for _, why in made.later]
    assert heavy == ([waits] if waits else [])
    assert isinstance(made.steps[0], Create)


def test_the_wrong_kind_of_key_is_said() -> None:
    made = partition_plan.plan(rules(key="uuidv7"), facts(*READY), NOW)
    assert "is timestamp with time zone, not uuidv7; write key: timestamptz" in str(made.findings)


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), max_size=5),
    st.sampled_from(["day", "week", "month", "10 days"]),
    st.integers(1, 5),
)
def test_afterwards_now_and_what_comes_is_covered_and_a_second_plan_is_empty(
    there: list[tuple[int, int]], every: str, ahead: int
) -> None:
    partitions: list[Partition] = []
    edge = NOW - timedelta(days=60)
    for number, (skip, length) in enumerate(there):
        begin = edge + timedelta(days=skip)
        edge = begin + timedelta(days=length, hours=5)
        bounds = Bounds(KEY.at(begin), KEY.at(edge))
        partitions.append(Partition(schema="public", name=f"p{number}", bound="", bounds=bounds))
    chosen = rules(every=every, ahead=ahead, most=10_000)
    made = partition_plan.plan(chosen, facts(*partitions), NOW)
    for step in made.steps:
        assert isinstance(step, Create)
        assert not any(p.bounds and p.bounds.overlaps(step.bounds) for p in partitions)
        partitions.append(Partition(schema="public", name=step.name, bound="", bounds=step.bounds))
    again = partition_plan.plan(chosen, facts(*partitions), NOW)
    assert again.steps == ()
    assert again.horizon >= ahead


def test_a_mark_is_read_again_and_leaves_what_a_person_wrote() -> None:
    mark = Mark(of="public.t", bound="DEFAULT", retired=NOW, detached=NOW, ours=True)
    comment = mark.written("my words\nin two lines")
    assert mark_in(comment) == mark
    assert unmarked(mark.but(archived=NOW).written(comment)) == "my words\nin two lines"


@pytest.mark.parametrize(
    "comment", [None, "", "words", "scaler {", 'scaler {"of": 1, "retired": 2}']
)
def test_what_is_no_mark(comment: str | None) -> None:
    assert mark_in(comment) is None


@pytest.mark.parametrize(("second", "retired"), [(0, 1), (-1, 0)])
def test_a_partition_goes_at_the_very_moment(second: int, retired: int) -> None:
    may = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(seconds=second)
    steps = partition_plan.plan(rules(**KEPT), facts(*months(1, 8)), may).steps
    assert len(steps) == retired


def test_drop_is_heavy() -> None:
    made = partition_plan.plan(rules(**GRACE), facts(*READY, detached=(gone(),)), NOW)
    assert isinstance(made.steps[0], Drop)
    assert made.steps[0].heavy
