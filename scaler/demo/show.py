"""`scaler demo`: the whole loop on this machine, with the real daemon on a real little service.

The ledger with a PostgreSQL and a Valkey of its own; what one instance carries is measured, then a
day of visitors comes in a minute, and what can go wrong does. It writes to one folder, and stops
what it started however it ends.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from scaler.clock import SystemClock
from scaler.core.model import Instance, Pause
from scaler.demo import stage, traffic
from scaler.demo.accidents import Accidents
from scaler.demo.door import Door, free_ports, haproxy
from scaler.demo.measuring import LIMITS, SHORT, Measured, measure
from scaler.demo.page import page
from scaler.demo.report import Story, closing_table
from scaler.demo.scene import NAME, PACE, PORTS, Scene
from scaler.demo.telling import Teller
from scaler.engine.commands import Commands
from scaler.errors import ScalerError, Unavailable, Unsupported
from scaler.loadtest.plan import Plan
from scaler.loadtest.report import Report
from scaler.loadtest.tester import LoadTester

if TYPE_CHECKING:
    from scaler.daemon import Daemon
    from scaler.demo.books import Books
    from scaler.demo.ledger.embedded import Embedded

ROWS: Final = 200_000  # lines of history
PATIENCE: Final = timedelta(seconds=20)  # for the first instance, and for the last ones to go
REST: Final = timedelta(seconds=4)  # longer than the window of the metric
LOOK: Final = timedelta(milliseconds=100)
INTERRUPTED: Final = 130


def main(folder: Path, seconds: int, *, short: bool = False) -> int:
    """Run it with so many seconds of load; 0, or 130 after Ctrl-C."""
    return asyncio.run(Show(folder, seconds, short=short).run())


class Show:
    """One run of the demo."""

    def __init__(self, folder: Path, seconds: int, *, short: bool) -> None:
        self._folder = folder
        self._seconds = float(seconds)
        self._limits = SHORT if short else LIMITS
        self._rows = ROWS // 10 if short else ROWS
        self._clock = SystemClock()
        self._begin = self._clock.monotonic()
        self._teller = Teller(self._at)
        self._daemon: Daemon
        self._door: Door
        self._scene: Scene
        self._books: Books | None = None

    def _at(self) -> float:
        return (self._clock.monotonic() - self._begin).total_seconds()

    async def run(self) -> int:
        interrupted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        show = asyncio.create_task(self._play())
        stopped = asyncio.create_task(interrupted.wait())
        await asyncio.wait({show, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in (show, stopped):
            task.cancel()
        await asyncio.gather(show, stopped, return_exceptions=True)
        if show.cancelled():
            click.echo("\ninterrupted; what the demo started is stopped", err=True)
            return INTERRUPTED
        self._close(show.result())
        return 0

    async def _play(self) -> Story:
        """All of it; when this ends, nothing that it started is left."""
        async with AsyncExitStack() as stack:
            await self._set_up(stack)
            await self._until(lambda: bool(self._ready()))
            measured = await self._measure()
            before = await self._books.transfers() if self._books else 0
            begin = self._at()
            accidents, report = await self._day(measured)
            cache = self._hits()
            await self._until(self._is_night)
            books = "kept in memory by each instance, so not compared"
            if self._books:
                told = report.record.kinds[report.record.titles.index(traffic.TRANSFER)]
                books = await self._books.check(told.response.count, before)
            return self._story(report, begin, accidents, measured, cache, books)

    # --- before ---

    async def _set_up(self, stack: AsyncExitStack) -> None:
        self._introduce()
        servers = await self._servers(stack)
        first = free_ports(PORTS)
        self._door = Door(self._clock, first, haproxy=haproxy())
        stack.push_async_callback(self._door.close)
        await self._door.open()
        self._scene = Scene(
            folder=self._folder,
            dsn=servers.dsn if servers else "",
            redis=servers.redis if servers else "",
        )
        self._scene.write(self._door, first + 1)
        self._teller.say(f"visitors come in by {self._door.words}, at {self._door.url}")
        self._daemon = await stage.running_daemon(
            self._scene, self._clock, self._teller.entry, stack
        )

    def _introduce(self) -> None:
        socket = stage.socket_in(self._folder)
        click.echo(
            "The ledger, a small financial-data service, through a day of visitors in "
            f"{self._seconds:.0f} s.\nEach instance answers {PACE} requests per second at most, "
            "as if its work were slow: so a small\nmachine can show several. Everything is written "
            f"to {self._folder}/; Ctrl-C ends it at once. In a\nsecond terminal:\n"
            f"  {_command()} --socket {socket} status --watch\n"
            f"  {_command()} --socket {socket} explain {NAME}\n"
        )

    async def _servers(self, stack: AsyncExitStack) -> "Embedded | None":
        """PostgreSQL and Valkey with the history in them, or None and a line that says why."""
        try:
            from scaler.demo.books import Books  # noqa: PLC0415 - only where PostgreSQL can be
            from scaler.demo.ledger.embedded import Embedded  # noqa: PLC0415
            from scaler.demo.ledger.store import Seed  # noqa: PLC0415

            servers = Embedded(clock=self._clock)
            stack.push_async_callback(servers.stop)
            await servers.start()
        except ModuleNotFoundError as error:
            self._teller.say(f"all is kept in memory: {error.name} is missing; "
                             "pip install 'scaler[demo]'", "yellow")  # fmt: skip
            return None
        except (Unsupported, Unavailable) as error:
            self._teller.say(f"all is kept in memory: {error}", "yellow")
            return None
        began = self._at()
        self._books = Books(servers.dsn)
        await self._books.seed(Seed(accounts=traffic.ACCOUNTS, rows=self._rows), self._clock.now())
        took = self._at() - began
        self._teller.say(
            f"PostgreSQL and Valkey run; {self._rows} lines of history written in {took:.1f} s"
            if servers.redis
            else f"PostgreSQL runs, and {servers.missing}"
        )
        return servers

    # --- during ---

    async def _measure(self) -> Measured:
        """What one instance carries; meanwhile it stays the only one."""
        commands = Commands(self._daemon.manager, self._clock)
        commands.pause(NAME, Pause(reason="calibration", by="demo"))
        self._teller.say(
            f"measuring what one instance carries, by {self._limits.seconds:.0f} s of load or less"
        )
        found = await measure(self._plan(), self._clock, self._scene.policy, self._limits)
        self._teller.say(f"calibration: {found.words}", "green")
        await self._clock.sleep(REST)  # what was measured with is no load of visitors
        await self._daemon.reload()
        commands.resume(NAME, "demo")
        return found

    def _plan(self) -> Plan:
        by_haproxy = self._door.admin is not None
        today = self._clock.now().date()
        return traffic.plan(self._door.url, today, keep_alive=by_haproxy)

    async def _day(self, measured: Measured) -> tuple[Accidents, Report]:
        """The load, and what goes wrong meanwhile."""
        load = traffic.day(measured.capacity, self._seconds)
        low, high = load.rate(0), load.highest()
        self._teller.say(f"a day begins: {low:.0f} requests per second, {high:.0f} at its peak")
        tester = LoadTester(self._plan(), clock=self._clock, schedule=load)
        accidents = Accidents(
            self._clock, self._teller, self._ready, self._seconds, self._scene.redis
        )
        async with asyncio.TaskGroup() as group:
            test = group.create_task(tester.run())
            group.create_task(self._partition())
            group.create_task(accidents.leave_keys())
            group.create_task(accidents.kill())
            group.create_task(accidents.freeze_redis())
            group.create_task(accidents.hang())
        return accidents, test.result()

    async def _partition(self) -> None:
        if self._books is None:
            return
        await self._clock.sleep(timedelta(seconds=0.08 * self._seconds))
        self._teller.marks.append((self._at(), "months"))
        try:
            await self._books.partition(self._teller.say)
        except ScalerError as error:
            self._teller.say(f"partitions: {error}", "yellow")

    def _ready(self) -> list[Instance]:
        return stage.ready(self._daemon)

    def _is_night(self) -> bool:
        """One instance is left, and it is well."""
        return len(stage.there(self._daemon)) == len(self._ready()) == 1

    async def _until(self, true: Callable[[], bool]) -> None:
        end = self._clock.monotonic() + PATIENCE
        while not true() and self._clock.monotonic() < end:
            await self._clock.sleep(LOOK)

    # --- after ---

    def _hits(self) -> str:
        """How often the cache had the answer, as the instances that are alive have said."""
        caches = self._daemon.upkeep.caches
        if not caches:
            return ""
        functions = caches[0].statistics.functions.values()
        hits = sum(one.hits_local + one.hits_shared + one.stale for one in functions)
        asked = hits + sum(one.misses + one.joined + one.errors for one in functions)
        return f"{hits / asked:.0%} of {asked} questions answered from it" if asked else ""

    def _story(
        self,
        report: Report,
        begin: float,
        accidents: Accidents,
        measured: Measured,
        cache: str,
        books: str,
    ) -> Story:
        told = self._teller
        outage = accidents.outage
        return Story(
            report=report,
            seconds=self._at() - begin,
            door=self._door.words,
            counts=[(at - begin, count) for at, count in told.counts],
            restarts=[(at - begin, text) for at, text in told.restarts],
            marks=[(at - begin, word) for at, word in told.marks],
            outage=(outage[0] - begin, outage[1] - begin) if outage else None,
            calibration=measured.words,
            cache=cache,
            hygiene=[text for text in told.upkeep if " keys " in text],
            partitions=self._books.words if self._books else "",
            books=books,
        )

    def _close(self, story: Story) -> None:
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        picture = self._folder / "report.html"
        picture.write_text(page(story), "utf-8")
        click.echo(
            f"\n{closing_table(story, unicode)}\n\nWith plots: {picture}. The journal and the logs "
            f"of the instances: {self._scene.state}.\nNext: read {self._scene.policy}, then begin "
            f"with your own service:\n  {_command()} init && {_command()} plan && {_command()} run"
        )


def _command() -> str:
    """How this program was called, so that the lines can be copied."""
    called = sys.argv[0]
    return called if called.endswith("scaler") else f"{sys.executable} -m scaler"
