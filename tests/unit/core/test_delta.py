"""Deltas are small, and what is damaged is never taken for a history."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scaler.core import delta
from scaler.core.delta import Damaged, Rebuilt
from scaler.core.model import Asked, History, Point

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TICK = timedelta(seconds=5)
FULL = History(
    at=NOON,
    asked=tuple(Asked(NOON + n * TICK, n % 7) for n in range(720)),
    points={"cpu": tuple(Point(NOON + n * TICK, n / 7, n / 3) for n in range(720))},
)
NEXT = NOON + 720 * TICK
FIRST, SECOND = FULL.asked[:2]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(
            replace(FULL, points={"cpu": (*FULL.points["cpu"][1:], Point(NEXT, 1, 2))}),
            id="one point falls off and one is added",
        ),
        pytest.param(
            replace(FULL, points={"cpu": (*FULL.points["cpu"][:-1], Point(NEXT, 1, 2))}),
            id="the newest point is replaced",
        ),
        pytest.param(
            replace(FULL, asked=(*FULL.asked[:-1], Asked(NEXT, FULL.asked[-1].count))),
            id="the same count is asked for once more",
        ),
        pytest.param(
            replace(
                FULL,
                asked=(
                    Asked(SECOND.at, max(FIRST.count, SECOND.count)),
                    *FULL.asked[2:],
                    Asked(NEXT, 9),
                ),
            ),
            id="the oldest two are folded into one",
        ),
        pytest.param(replace(FULL, asked=FULL.asked[300:]), id="the window is shortened"),
        pytest.param(replace(FULL, at=NEXT), id="nothing but the moment"),
    ],
)
def test_a_tick_is_small(after: History) -> None:
    change = delta.between(FULL, after)
    assert len(delta.pack({"web": change})) < 150
    rebuilt = Rebuilt()
    rebuilt.apply(delta.between(delta.EMPTY, FULL))
    rebuilt.apply(delta.unpack(delta.pack({"web": change}))["web"])
    assert rebuilt.history() == after


def test_every_turned_bit_is_noticed() -> None:
    packed = delta.pack({"web": delta.between(delta.EMPTY, replace(FULL, points={}, asked=()))})
    for position in range(len(packed) * 8):
        broken = bytearray(packed)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(Damaged):
            delta.unpack(bytes(broken))


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param({"at": "noon"}, id="a moment that is none"),
        pytest.param({"at": 10**30}, id="a moment after the end of time"),
        pytest.param({"asked": [0, 0]}, id="a window without points"),
        pytest.param({"asked": [0, 0, [], [1]]}, id="half an entry"),
        pytest.param({"points": [1]}, id="points without a metric"),
        pytest.param({"points": {"cpu": [0, 0, [], [1, "x", 2]]}}, id="a value that is no number"),
        pytest.param({"weather": "fine"}, id="a field that nobody knows"),
        pytest.param({"hold": {"count": "many"}}, id="a count that is no number"),
    ],
)
def test_a_strange_delta_is_damage(strange: delta.Delta) -> None:
    rebuilt = Rebuilt()
    with pytest.raises(Damaged):  # noqa: PT012 - either step may notice
        rebuilt.apply(strange)
        rebuilt.history()
