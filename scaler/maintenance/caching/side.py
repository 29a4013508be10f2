"""A cache as one event loop has it: the way of a call, and what goes on beside the calls."""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from scaler.clients.cache_link import Client
from scaler.errors import Unavailable
from scaler.maintenance.caching.calls import Call, Terms
from scaler.maintenance.caching.counts import plain
from scaler.maintenance.caching.flights import Flights
from scaler.maintenance.caching.local import Held
from scaler.maintenance.caching.scripts import ALIVE, HEAT, REPORT
from scaler.maintenance.caching.shared import Shared
from scaler.maintenance.caching.values import Kind

REPORT_EVERY: Final = timedelta(seconds=10)  # between two reports
REPORT_S: Final = 60  # a process that says nothing for so long has ended
VERSIONS_S: Final = 30 * 86_400
HOT: Final = 5000  # keys that are known as hot
TOLD: Final = 1000  # of one process at a time
AT_ONCE: Final = 250  # in one script, which keeps others waiting
COOLING_S: Final = 10  # their heat halves
WARMING: Final = 100  # keys of one look


class Side:
    """Made in the event loop that uses it."""

    def __init__(self, terms: Terms, client: Client) -> None:
        self.terms = terms
        self.shared = Shared(terms, client)
        self.local = self.shared.local
        self.time = self.shared.time
        self._flights = Flights(self.shared)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun: asyncio.Task[None] | None = None
        self.shared.link.back = lambda: self._background(self._came_back())

    async def fetch(self, call: Call) -> Any:
        """The answer to a call that has none locally that is fresh."""
        if self._begun is None or not self._begun.done():
            await self.begin()
        held = self.local.held.get(call.key)
        if held is not None and self.time() < held.until:
            return self._served_stale(call, held)
        if self.shared.link.up:
            try:
                found = await self.shared.look(call)
            except Unavailable:
                found = None
            if found is not None:
                return self._served(call, *found)
        outcome = await self._flights.join(call)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def find(self, calls: Sequence[Call]) -> list[Held | None]:
        """What there is for each of these calls; nothing is called, and no error is told of."""
        await self.begin()
        local = [self.local.held.get(call.key) for call in calls]
        now = self.time()
        found = [held if held is not None and now < held.fresh_until else None for held in local]
        rest = [at for at, held in enumerate(found) if held is None]
        looks = [self.shared.look(calls[at]) for at in rest]
        for at, answer in zip(
            rest, await asyncio.gather(*looks, return_exceptions=True), strict=True
        ):
            if isinstance(answer, tuple):
                found[at] = answer[0]
            elif isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                raise answer
        for call, held in zip(calls, found, strict=True):
            call.rule.counts.misses += held is None
            call.rule.counts.hits_shared += held is not None
        return [held if held is not None and held.error is None else None for held in found]

    def _served_stale(self, call: Call, held: Held) -> Any:
        self._flights.refresh(call, held.seal)
        call.rule.counts.stale += 1
        return held.taken()

    def _served(self, call: Call, held: Held, kind: Kind) -> Any:
        """What the shared cache had; it is not kept here when it changed while it was read."""
        counts = call.rule.counts
        now = self.time()
        if now >= held.fresh_until:
            counts.stale += 1
            self._flights.refresh(call, held.seal)
        elif kind is Kind.ERROR:
            counts.errors += 1
        else:
            counts.hits_shared += 1
            if now >= held.refresh_at:
                self.due(call, held, now)
        return held.taken()

    def due(self, call: Call, held: Held, now: float) -> None:
        """Refresh early: hot keys at a fixed moment, others by chance the likelier the later.

        The chance is that of Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache
        Stampede Prevention" (VLDB 2015), with beta = 1. Where a key is hit more often than its
        backend can answer that would be nearly always, so there it is one refresh in good time.
        """
        if now < held.refresh_at:
            return
        age = max(now - held.since, 0.001)
        hot = held.hits / age * held.took_s > 1
        luck = -held.took_s * math.log(1 - self.terms.random.random())
        if hot or now + luck >= held.fresh_until:
            held.refresh_at = math.inf
            self._flights.refresh(call, held.seal)

    # --- from the first call to the last ---

    async def begin(self) -> None:
        """Learn the server's time and begin to listen; once."""
        if self._begun is None:
            self._begun = asyncio.create_task(self._began())
        await asyncio.shield(self._begun)

    async def _began(self) -> None:
        await self.shared.set_clock()
        self._background(self.shared.ears.run())
        self._background(self._kept())

    async def _came_back(self) -> None:
        await self.shared.set_clock()
        await self._flights.give_back()
        try:
            await self.shared.make_good()
        except Unavailable:
            return  # it has gone again; when it comes back it is tried again

    async def _kept(self) -> None:
        while True:
            await self.terms.clock.sleep(REPORT_EVERY)
            self.local.forget(self.time())
            await self.shared.set_clock()
            try:
                await self.report()
            except Unavailable:
                continue

    async def report(self) -> None:
        """Tell all who ask what was done here, which versions live and which keys are hot.

        Raises Unavailable.
        """
        terms, rules = self.terms, self.terms.rules.values()
        space = terms.namespace
        told = {
            "process": terms.process,
            "functions": plain((rule.name, rule.counts) for rule in rules),
            "local_bytes": self.local.bytes,
            "evicted": self.local.evicted,
        }
        text = msgspec.json.encode(told)
        now_s = round(self.shared.now_ms / 1000)
        places = (f"{space}:{{stats}}", f"{space}:{{stats}}:seen")
        await self.shared.link.run(
            REPORT, places, terms.process, text, now_s, now_s - REPORT_S, 2 * REPORT_S
        )
        ids = [rule.id for rule in rules]
        if ids:
            await self.shared.link.run(ALIVE, (f"{space}:versions",), now_s, VERSIONS_S, *ids)
        heat: list[str | int] = []
        for key, held in self.local.hottest(TOLD):
            heat += [held.hits - held.told, "\n".join((key, *held.tags))]
            held.told = held.hits
        for begin in range(0, len(heat), 2 * AT_ONCE):
            some = heat[begin : begin + 2 * AT_ONCE]
            await self.shared.link.run(HEAT, (f"{space}:hot",), now_s, HOT, COOLING_S, *some)

    async def warm_up(self, most: int) -> int:
        """Take over the hottest keys of all processes; how many there were. Raises Unavailable."""
        await self.begin()
        await self.shared.ears.ready()
        hot = await self.shared.link.ask("ZREVRANGE", f"{self.terms.namespace}:hot", 0, most)
        calls = [call for member in hot if (call := self._remembered(member)) is not None]
        for begin in range(0, len(calls), WARMING):
            await asyncio.gather(
                *[self.shared.look(call) for call in calls[begin : begin + WARMING]]
            )
        return len(self.local.held)

    def _remembered(self, member: bytes) -> Call | None:
        """A call of a function that this process has too; only for a look."""
        key, *tags = member.decode(errors="replace").split("\n")
        rule = self.terms.rules.get(key.partition("{")[2].partition(":")[0])
        return None if rule is None else Call(key, rule, tuple(tags), _nothing, _nothing)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        tasks = [*self._tasks, *([self._begun] if self._begun else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._flights.aclose()
        await self.shared.link.aclose()


async def _nothing() -> None: ...
