"""Who calls the backend: one task for all callers of an event loop, one lease for all processes.

The lease is short, renewed while the backend works, and fenced: who has lost it stores nothing.
Those who wait for it hear of the answer. Without Redis each process has its own flights and keeps
what they bring for a second.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from scaler.errors import Unavailable
from scaler.maintenance.caching.calls import BackendFailed, Call, Outcome
from scaler.maintenance.caching.local import Held
from scaler.maintenance.caching.names import LEASE
from scaler.maintenance.caching.scripts import GIVE, LOOK_OR_LEASE, RENEWED, STORE
from scaler.maintenance.caching.shared import Shared
from scaler.maintenance.caching.values import SEAL_AT, Kind

LEASE_MS: Final = 2000
RENEW: Final = timedelta(milliseconds=500)
LONGEST_COOL_MS: Final = 5000  # that a lease keeps others from a backend that has just failed
POLL_S: Final = 0.05  # for the answer of another process, in case that it is not heard of
ROUNDS: Final = 1000  # of asking for the lease; then the backend is called without


class Flights:
    """Those of one event loop, by key."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._flights: dict[str, asyncio.Task[Outcome | None]] = {}
        self._orphans: dict[str, bytes] = {}  # leases that we may have without knowing

    async def join(self, call: Call) -> Outcome:
        """The answer of the flight that is under way, or of a new one."""
        while True:
            flight = self._flights.get(call.key)
            if flight is None:
                flight = self._fly(call, b"", background=False)
            else:
                call.rule.counts.joined += 1
            outcome = await asyncio.shield(flight)
            if outcome is not None:
                return outcome

    def refresh(self, call: Call, seal: bytes) -> None:
        """Replace the answer with this seal in the background, unless that is under way."""
        if call.key not in self._flights:
            self._fly(call, seal, background=True)

    def _fly(self, call: Call, seal: bytes, *, background: bool) -> "asyncio.Task[Outcome | None]":
        work = self._answered(call, seal, background=background)
        flight = asyncio.create_task(work, name=f"cache {call.key}")
        self._flights[call.key] = flight
        flight.add_done_callback(lambda _: self._flights.pop(call.key, None))
        return flight

    async def _answered(self, call: Call, seal: bytes, *, background: bool) -> Outcome | None:
        """One answer for all callers; None for a refresh that is somebody else's or has to wait."""
        token = self._shared.terms.random.randbytes(16)
        lease = call.key + LEASE
        for _ in range(ROUNDS):
            try:
                if self._shared.link.up:
                    self._orphans[lease] = token
                said, raw = await self._shared.link.run(
                    LOOK_OR_LEASE, (call.key, lease), token, LEASE_MS, seal
                )
                self._orphans.pop(lease, None)
                if said == 2:
                    return await self._computed(call, token, background=background)
                if said == 3 and background:
                    return None
                if said == 3:
                    await self._woken(call.key)
                    continue
                tokens = tuple(await self._shared.link.get_many(call.tags))
            except Unavailable:
                break
            entry = self._shared.terms.seals.opened(call.key, raw, call.rule.codec.decode)
            if entry is not None and entry.kind is Kind.PASS:
                return None if background else await self._alone(call, keep=False)
            found = self._shared.valid(call, raw, tokens)
            if found is not None:
                return Outcome(found[0].value, found[0].error)
            seal = raw[SEAL_AT]
        return None if background else await self._alone(call, keep=True)

    async def _woken(self, key: str) -> None:
        """Wait until something about a key changes, or a moment."""
        woken = self._shared.wakes[key] = asyncio.get_running_loop().create_future()
        await asyncio.wait({woken}, timeout=POLL_S)
        self._shared.wakes.pop(key, None)

    async def _computed(self, call: Call, token: bytes, *, background: bool) -> Outcome:
        """Call the backend under the lease and store what it says."""
        counts = call.rule.counts
        tokens = await self._shared.tokens_of(call.tags)
        renewing = asyncio.create_task(self._renewed(call.key + LEASE, token))
        try:
            outcome, took_s = await self._called(call.again if background else call.run)
        finally:
            renewing.cancel()
        if outcome.error is None:
            counts.took(took_s)
        if background:
            counts.refreshed += 1
        else:
            counts.misses += 1
        try:
            await self._stored(call, token, tokens, outcome, took_s, background=background)
        except Unavailable:
            self._orphans[call.key + LEASE] = token
            self._keep_in_outage(call, outcome, took_s)
        return outcome

    async def _called(self, run: Callable[[], Awaitable[Any]]) -> tuple[Outcome, float]:
        """What the backend answers or raises, and the seconds that it took."""
        began = self._shared.time()
        work = asyncio.ensure_future(run())
        await asyncio.wait({work})
        took_s = self._shared.time() - began
        if work.cancelled():
            return Outcome(error=BackendFailed("the call of the backend was cancelled")), took_s
        error = work.exception()
        return Outcome(None if error else work.result(), error), took_s

    async def _stored(
        self,
        call: Call,
        token: bytes,
        tokens: tuple[bytes, ...],
        outcome: Outcome,
        took_s: float,
        *,
        background: bool,
    ) -> None:
        """Raises Unavailable."""
        lease = call.key + LEASE
        if outcome.error is not None and background:  # what is there is better
            cool_ms = min(round(call.rule.error_s(outcome.error) * 1000), LONGEST_COOL_MS)
            await self._shared.link.run(GIVE, (lease,), token, cool_ms)
            return
        made = self._shared.made(call, outcome, tokens, took_s)
        if made is None:
            await self._shared.link.run(GIVE, (lease,), token, 0)
            return
        raw, keep_ms = made
        await self._shared.link.run(STORE, (call.key, lease), token, raw, keep_ms)

    async def _renewed(self, lease: str, token: bytes) -> None:
        while True:
            await self._shared.terms.clock.sleep(RENEW)
            try:
                await self._shared.link.run(RENEWED, (lease,), token, LEASE_MS)
            except Unavailable:
                continue

    async def _alone(self, call: Call, *, keep: bool) -> Outcome:
        """An answer for the callers of this flight only."""
        outcome, took_s = await self._called(call.run)
        call.rule.counts.misses += 1
        if outcome.error is None:
            call.rule.counts.took(took_s)
        if keep:
            self._keep_in_outage(call, outcome, took_s)
        return outcome

    def _keep_in_outage(self, call: Call, outcome: Outcome, took_s: float) -> None:
        """For a moment, so that an outage calls the backend once a second for a key, not always."""
        rule, error = call.rule, outcome.error
        if error is not None and not isinstance(error, Exception):
            return
        if error is not None:
            good_s = rule.error_s(error)
        elif outcome.value is None:
            good_s = rule.missing_s
        elif rule.kept(outcome.value):
            good_s = rule.ttl_s(outcome.value, self._shared.terms.clock.now())
        else:
            return
        now = self._shared.time()
        until = now + min(good_s, self._shared.terms.outage_s)
        held = Held(
            value=outcome.value,
            error=error,
            since=now,
            fresh_until=until,
            until=until,
            refresh_at=math.inf,
            took_s=took_s,
            seal=b"",
            tags=call.tags,
            size=0,
        )
        self._shared.local.put(call.key, held)

    async def give_back(self) -> None:
        """Give back leases that were asked for when no answer came: nobody works under them."""
        orphans, self._orphans = self._orphans, {}
        for lease, token in orphans.items():
            try:
                await self._shared.link.run(GIVE, (lease,), token, 0)
            except Unavailable:
                return

    async def aclose(self) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
