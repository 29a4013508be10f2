"""Leadership: of several daemons on the same targets one acts, and the others are ready to.

Whoever holds the lease acts, and only for as long as it certainly holds it: an effect that takes up
to five seconds is begun only when the lease lasts that long. A renewal that fails, for whatever
reason, is none, so a daemon that is cut off stops before another one may begin.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Final

from scaler.clock import Clock
from scaler.core.units import format_span
from scaler.engine.watched import in_time
from scaler.errors import ScalerError
from scaler.interfaces import Grant, Lease

RENEWED: Final = 3  # times in a term, so that one may fail
RETRIED: Final = 10  # times in a term, when it did
PATIENCE: Final = timedelta(minutes=5)  # of a candidate, before it asks all the same
LONGEST_PAUSE: Final = timedelta(seconds=1)  # of a candidate that cannot see who holds the lease


class Leadership:
    """One candidate for one lease."""

    def __init__(
        self,
        lease: Lease,
        *,
        holder: str,
        ttl: timedelta,
        clock: Clock,
        random: Random,
        gained: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        """`gained` and `lost` hear of each change; `lost` also why."""
        self.holder = holder
        self.longest = ttl / RENEWED
        """How long one effect may take: what is surely left of a term, one failed renewal in."""
        self.trouble = ""  # why the lease could not be asked for, the last time
        self._lease = lease
        self._ttl = ttl
        self._clock = clock
        self._random = random
        self._gained = gained
        self._lost = lost
        self._grant: Grant | None = None
        self._since: datetime | None = None
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def may_act(self, span: timedelta = timedelta()) -> bool:
        """Whether nobody else may act for `span` from now."""
        return self._grant is not None and self._clock.monotonic() + span < self._grant.until

    @property
    def leads(self) -> bool:
        return self._grant is not None

    @property
    def leader(self) -> str:
        """Who leads as far as is known here; empty when nobody is known to."""
        return self.holder if self.leads else self._lease.holder

    def words(self) -> str:
        """How things stand, for `status`."""
        if self._since is not None:
            return f"leader since {self._since:%Y-%m-%d %H:%M:%S} UTC"
        known = f"follower of {self.leader}" if self.leader else "follower; nobody leads yet"
        return f"{known}; {self.trouble}" if self.trouble else known

    def start(self) -> asyncio.Task[None]:
        """Stand for election until `aclose`. The task ends by itself only by a defect."""
        self._task = asyncio.create_task(self._run(), name="leadership")
        return self._task

    async def asked(self) -> None:
        """Return when the lease was asked for once, whatever the answer."""
        await self._asked.wait()

    async def _run(self) -> None:
        while True:
            if self._grant is None:
                await self._stand()
            else:
                await self._keep(self._grant)

    async def _stand(self) -> None:
        """Ask for the lease; when it is not to be had, wait until it may be."""
        try:
            asked = self._lease.acquire(self.holder, self._ttl)
            grant = await in_time(asked, self.longest, "asking for the lease")
            self.trouble = ""
            if grant is None:
                self._asked.set()
                freed = self._lease.freed(PATIENCE)
                await in_time(freed, PATIENCE + self.longest, "watching the lease")
            elif self._clock.monotonic() < grant.until:
                self._begin(grant)
        except ScalerError as error:
            self.trouble = str(error)
            self._asked.set()
            await self._clock.sleep(self._jittered(LONGEST_PAUSE))

    def _begin(self, grant: Grant) -> None:
        self._grant, self._since = grant, self._clock.now()
        self._gained()
        self._asked.set()

    async def _keep(self, grant: Grant) -> None:
        """Renew once, a third of the term later, and try on until the term is over."""
        renewed_at = self._clock.monotonic()
        await self._clock.sleep(self._jittered(self._ttl / RENEWED))
        while (left := grant.until - self._clock.monotonic()) > timedelta():
            try:
                asked = self._lease.renew(grant, self._ttl)
                fresh = await in_time(asked, min(left, self.longest), "renewing the lease")
            except ScalerError as error:
                self.trouble = str(error)
                left = grant.until - self._clock.monotonic()
                await self._clock.sleep(min(left, self._jittered(self._ttl / RETRIED)))
            else:
                self.trouble = ""
                if fresh is None:
                    self._end(f"{self._lease.holder or 'somebody else'} has taken it")
                else:
                    self._grant = fresh
                return
        span = timedelta(seconds=round((self._clock.monotonic() - renewed_at).total_seconds()))
        self._end(f"not renewed for {format_span(span)}: {self.trouble or 'this process stood'}")

    def _end(self, why: str) -> None:
        self._grant = self._since = None
        self._lost(why)

    def _jittered(self, span: timedelta) -> timedelta:
        """Up to a fifth less, so that candidates do not ask together."""
        return span * (1 - self._random.random() / 5)

    async def aclose(self) -> None:
        """Act no more, and give the lease back so that a successor begins at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        grant, self._grant, self._since = self._grant, None, None
        try:
            if grant is not None:
                await in_time(self._lease.release(grant), self.longest, "releasing the lease")
        except ScalerError as error:
            self.trouble = str(error)
        await self._lease.aclose()
