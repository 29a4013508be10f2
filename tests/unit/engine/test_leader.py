"""Leadership: never two, soon another one, and words for people."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from scaler.engine.leader import Leadership
from tests.fakes import virtual_time
from tests.fakes.lease import MemoryLease, Network, Record
from tests.fakes.virtual_time import SkewedClock, passed

TTL = timedelta(seconds=6)
LOOK_S = 0.1


class Candidate:
    """One daemon: a clock, a way to the server, and its leadership, which may die and come back."""

    def __init__(self, name: str, record: Record, random: Random, clock: SkewedClock) -> None:
        self.name = name
        self.clock = clock
        self.network = Network(random)
        self.said: list[str] = []
        self.lives = 0
        self.busy_until_s = 0.0  # of true time: an effect that was begun has ended by then
        self._record = record
        self._random = random
        self.begin()

    def begin(self) -> None:
        self.lives += 1
        self.leadership = Leadership(
            MemoryLease(self._record, self.network, self.clock),
            holder=f"{self.name}-{self.lives}",
            ttl=TTL,
            clock=self.clock,
            random=self._random,
            gained=lambda: self.said.append("gained"),
            lost=self.said.append,
        )
        self.task = self.leadership.start()

    def acts(self, span: timedelta = timedelta()) -> bool:
        return not self.task.cancelled() and self.leadership.may_act(span)

    async def die(self) -> None:
        """At once, with nothing given back."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def restart(self) -> None:
        await self.die()
        self.begin()

    async def leave(self) -> None:
        """What was begun has ended, as after a drain; it is back a second later."""
        self.task.cancel()
        await asyncio.sleep(max(0.0, self.busy_until_s - passed()))
        await self.leadership.aclose()
        await asyncio.sleep(1)
        self.begin()


def candidates(count: int, record: Record | None = None) -> list[Candidate]:
    shared = record or Record()
    return [Candidate(f"c{n}", shared, Random(n), SkewedClock()) for n in range(count)]


async def leader_of(them: list[Candidate], patience_s: float) -> Candidate:
    end = passed() + patience_s
    while passed() < end:
        for each in them:
            if each.acts():
                return each
        await asyncio.sleep(0.02)
    raise AssertionError(
        f"nobody leads after {patience_s} s: {[c.leadership.words() for c in them]}"
    )


@dataclass(frozen=True)
class Event:
    """What happens to one candidate, so long after the event before."""

    after_s: float
    who: int
    what: str
    much: float


EVENTS = st.lists(
    st.builds(
        Event,
        after_s=st.floats(0, 8),
        who=st.integers(0, 2),
        what=st.sampled_from(["cut", "heal", "lossy", "slow", "restart", "leave"]),
        much=st.floats(0, 1),
    ),
    max_size=12,
)
RATES = st.lists(st.floats(0.96, 1.04), min_size=3, max_size=3)


@given(events=EVENTS, rates=RATES, seed=st.integers(0, 1000))
def test_there_are_never_two(events: list[Event], rates: list[float], seed: int) -> None:
    virtual_time.run(_never_two(events, rates, seed))


async def _never_two(events: list[Event], rates: list[float], seed: int) -> None:
    record, random = Record(), Random(seed)
    them = [
        Candidate(f"c{n}", record, random, SkewedClock(timedelta(hours=1000 * n), rate))
        for n, rate in enumerate(rates)
    ]
    watching = asyncio.create_task(_watch(them))
    for event in events:
        await asyncio.sleep(event.after_s)
        await _happen(them[event.who], event)
    for each in them:
        each.network.cut, each.network.loss, each.network.delay_s = False, 0.0, 0.0
    await leader_of(them, 3 * TTL.total_seconds())
    watching.cancel()
    await asyncio.gather(watching, *(c.die() for c in them), return_exceptions=True)
    if watching.done() and not watching.cancelled():
        watching.result()


async def _happen(to: Candidate, event: Event) -> None:
    match event.what:
        case "cut":
            to.network.cut = True
        case "heal":
            to.network.cut, to.network.loss, to.network.delay_s = False, 0.0, 0.0
        case "lossy":
            to.network.loss = event.much
        case "slow":
            to.network.delay_s = event.much * 4
        case "restart":
            await to.restart()
        case _:
            await to.leave()


async def _watch(them: list[Candidate]) -> None:
    """Who began something may go on with it until its end; nobody else acts meanwhile."""
    while True:
        for each in them:
            if each.acts():
                others = [o.name for o in them if o is not each and o.busy_until_s > passed()]
                assert not others, f"{each.name} acts while {others} do"
                if each.acts(each.leadership.longest):
                    each.busy_until_s = passed() + each.leadership.longest.total_seconds()
        assert sum(each.acts() for each in them) <= 1
        await asyncio.sleep(LOOK_S)


def test_a_successor_begins_when_the_term_of_the_dead_is_over() -> None:
    async def scene() -> float:
        them = candidates(3)
        leader = await leader_of(them, 1)
        await asyncio.sleep(20)
        died_at = passed()
        await leader.die()
        them.remove(leader)
        await leader_of(them, 2 * TTL.total_seconds())
        return passed() - died_at

    assert TTL.total_seconds() / 2 < virtual_time.run(scene()) <= TTL.total_seconds() + 1


def test_a_successor_begins_at_once_after_a_release() -> None:
    async def scene() -> float:
        them = candidates(3)
        leader = await leader_of(them, 1)
        await asyncio.sleep(20)
        left_at = passed()
        them.remove(leader)
        await leader.leadership.aclose()
        assert not leader.acts()
        await leader_of(them, 2 * TTL.total_seconds())
        return passed() - left_at

    assert virtual_time.run(scene()) <= 1


def test_who_is_cut_off_stops_before_another_begins_and_says_why() -> None:
    async def scene() -> None:
        first, second = candidates(2)
        assert await leader_of([first, second], 1) is first
        first.network.cut = True
        cut_at = passed()
        while first.acts():
            assert not second.acts()
            await asyncio.sleep(0.02)
        assert passed() - cut_at < TTL.total_seconds()
        assert await leader_of([second], TTL.total_seconds()) is second
        assert first.said[0] == "gained"
        assert first.said[1].startswith("not renewed for 5s: renewing the lease: no answer within")
        assert "no answer within" in first.leadership.words()
        first.network.cut = False
        await asyncio.sleep(5)
        assert first.leadership.words() == "follower of c1-1"
        assert second.leadership.words() == "leader since 2026-01-01 00:00:06 UTC"

    virtual_time.run(scene())


def test_one_failed_renewal_takes_nothing_away() -> None:
    async def scene() -> None:
        (only,) = candidates(1)
        await leader_of([only], 1)
        for _ in range(10):
            only.network.loss = 1.0
            await asyncio.sleep(TTL.total_seconds() / 3)
            only.network.loss = 0.0
            assert only.acts()
            await asyncio.sleep(TTL.total_seconds() / 3)
            assert only.acts(only.leadership.longest)
        assert only.said == ["gained"]

    virtual_time.run(scene())


def test_nothing_is_begun_that_may_outlast_the_term() -> None:
    async def scene() -> None:
        (only,) = candidates(1)
        await leader_of([only], 1)
        only.network.cut = True
        await asyncio.sleep(TTL.total_seconds() * 0.7)
        assert only.acts()
        assert not only.acts(only.leadership.longest)

    virtual_time.run(scene())


def test_who_finds_the_lease_in_other_hands_acts_no_more() -> None:
    async def scene() -> None:
        record = Record()
        (only,) = candidates(1, record)
        await leader_of([only], 1)
        record.write("a person", record.fence + 1)
        await asyncio.sleep(TTL.total_seconds() / 2)
        assert only.said == ["gained", "a person has taken it"]
        assert not only.acts()

    virtual_time.run(scene())


def test_a_lease_that_cannot_be_given_back_holds_up_no_end() -> None:
    async def scene() -> None:
        (only,) = candidates(1)
        await leader_of([only], 1)
        only.network.cut = True
        await only.leadership.aclose()
        assert not only.acts()
        assert only.leadership.trouble.startswith("releasing the lease: no answer")

    virtual_time.run(scene())
