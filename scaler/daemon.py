"""The composition root: builds everything once, runs until told to end, and takes it all down.

Tasks that the daemon cannot do without (the API, the watcher of policy files, the job starter) end
the process when they end, so that the service manager starts it anew.
"""

import asyncio
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any, Final

from scaler import logs, policyfile
from scaler.clients.notify import Notifier
from scaler.clients.webhook import Webhook
from scaler.clock import SystemClock
from scaler.core import explain
from scaler.core.journal import Entry, Kind, decision_to_dict
from scaler.core.model import Decision, History
from scaler.core.policy import Policy
from scaler.engine import status
from scaler.engine.commands import Commands
from scaler.engine.health import BEAT
from scaler.engine.jobs import Job, guarded
from scaler.engine.leader import Leadership
from scaler.engine.manager import ScalingManager
from scaler.engine.recorder import Recorder
from scaler.engine.scheduler import Scheduler
from scaler.engine.watched import Condition
from scaler.errors import Refused, Unavailable
from scaler.installed import Installed, Upkeep, open_lease, open_peers, open_store, open_upkeep
from scaler.interfaces import Context, Lease, Store
from scaler.located import Problem
from scaler.maintenance.duty import Duty
from scaler.policybook import PolicyBook
from scaler.settings import Settings

LOOK_EVERY: Final = timedelta(milliseconds=500)  # at the pod around a sidecar
STATUS_EVERY: Final = timedelta(seconds=2)
FORGET_EVERY: Final = timedelta(hours=1)
BATCH: Final = timedelta(seconds=2)  # the longest that one change of upkeep takes
LATE: Final = timedelta(seconds=30)  # no tick for so long, beyond three periods: not alive


class Daemon:
    """One process: everything that runs in it, and what people ask of it."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: SystemClock,
        store: Store,
        tell: Callable[[Entry], None] = logs.tell,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._tell = tell
        self._random = Random()
        self.recorder = Recorder(store=store, clock=clock, tell=tell)
        context = Context(clock=clock, state_dir=settings.state_dir, random=self._random)
        self.peers = open_peers(settings, context)
        self.adapters = Installed(context)
        lease = open_lease(settings, context)
        self.leadership = None if lease is None else self._candidate(lease)
        self.manager = ScalingManager(
            adapters=self.adapters,
            recorder=self.recorder,
            clock=clock,
            tell=tell,
            act=settings.act,
            deadline=settings.deadline,
            leadership=self.leadership,
        )
        self._notifier = Notifier(clock)
        self._scheduler = Scheduler(clock, self._stepped)
        self._book = PolicyBook(settings.policies, settings.labels, self.adapters.provider)
        self._problems: tuple[Problem, ...] = ()  # as they were said last
        self._notes: tuple[str, ...] = ()
        self.upkeep = Upkeep()
        self._started_at = clock.now()
        self._started = self._ready = False
        self._reloading = asyncio.Lock()
        self._leading: asyncio.Task[None] | None = None
        self._running: set[asyncio.Future[object]] = set()
        self._end = asyncio.Event()

    def _candidate(self, lease: Lease) -> Leadership:
        wanted = self.settings.lease
        return Leadership(
            lease,
            holder=f"{wanted.holder}-{self._random.getrandbits(32):08x}",  # another in each life
            ttl=wanted.ttl,
            clock=self.clock,
            random=self._random,
            gained=self._leads_now,
            lost=self._leads_no_longer,
        )

    def _leads_now(self) -> None:
        self.note(Kind.NOTICED, "leads now: what is decided here is done")
        self.manager.take_over()

    def _leads_no_longer(self, why: str) -> None:
        self.note(Kind.NOTICED, f"no longer leads, decisions are not carried out: {why}", ok=False)

    async def start(self) -> None:
        """Read the policies and what is remembered; nothing is touched yet.

        Raises:
            ConfigError: a policy file, or that of caches or partitions, is invalid.
        """
        (await self._book.read()).insist()
        self.upkeep = open_upkeep(self.settings, self.clock, self._duty())
        await self.manager.load(await self._remembered())
        await self.manager.apply(self._book.policies)
        mode = "" if self.settings.act else ", observing only"
        names = ", ".join(sorted(self._book.policies)) or "no policies yet"
        self._started = True
        self.note(Kind.STARTED, f"scaler {version('scaler')} started{mode}: {names}")
        self._say_what_is_wrong()

    def _duty(self) -> Duty:
        """What jobs beside the targets are given."""
        return Duty(
            note=self._noticed,
            act=self.settings.act,
            leads=self._leads,
            wrap=lambda step: guarded(step, self._broken),
            hold=lambda names: status.unsettled(self.manager.watched, names),
        )

    def _leads(self) -> bool:
        """Whether a cache or a database may be changed now."""
        return self.leadership is None or self.leadership.may_act(BATCH)

    def _noticed(self, summary: str, *, ok: bool, data: Mapping[str, Any]) -> None:
        self.note(Kind.NOTICED, summary, ok=ok, data=data)

    def _broken(self, error: Exception) -> None:
        self.manager.bugs += 1
        words = f"a defect of scaler in a job of its upkeep: {type(error).__name__}: {error}"
        self.note(Kind.NOTICED, words, ok=False)

    async def _remembered(self) -> dict[str, History]:
        """The histories; without a store that answers, scaling begins from what is there."""
        try:
            histories = await self.recorder.store.load()
        except Unavailable as error:
            self.note(Kind.NOTICED, f"{error}; windows and cooldowns begin anew", ok=False)
            return {}
        if noticed := getattr(self.recorder.store, "noticed", ""):
            self.note(Kind.NOTICED, noticed, ok=False)
        return histories

    async def once(self) -> None:
        """A single look at every target, and what follows from it if this daemon leads."""
        if self.leadership is not None:
            self._leading = self.leadership.start()
            await self.leadership.asked()
        for wait in (timedelta(seconds=1), timedelta()):  # a source may need two looks
            looks = self.manager.tick()
            await asyncio.gather(*looks)
            await self.clock.sleep(wait)

    async def run(self) -> None:
        """Everything, until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        self.begin()
        watcher = asyncio.create_task(self._follow_files(), name="policy files")
        ended = asyncio.create_task(self._end.wait(), name="end")
        needed = {watcher, ended} | ({self._leading} if self._leading else set())
        done, _ = await asyncio.wait(needed, return_when=asyncio.FIRST_COMPLETED)
        watcher.cancel()
        ended.cancel()
        await asyncio.gather(watcher, ended, return_exceptions=True)
        if not self._end.is_set():
            for task in done:
                task.result()

    def begin(self) -> None:
        """Everything periodic runs from here on."""
        self._scheduler.apply(self._jobs())
        self._scheduler.start()
        if self.leadership is not None:
            self._leading = self.leadership.start()
        self._ready = True
        self._notifier.ready(status.overview(self.manager.watched))

    def _jobs(self) -> list[Job]:
        """Everything that is to be done again and again."""
        jobs = [
            *self.manager.jobs(),
            Job(name="status line", every=STATUS_EVERY, run=self._say_status),
            Job(name="forget", every=FORGET_EVERY, run=self._forget_soon),
            *(Job(name=it.name, every=it.every, run=it.start_soon) for it in self.upkeep.jobs),
        ]
        if self.manager.health.busy:
            jobs.append(Job(name="probes", every=BEAT, run=self.manager.health.step))
        if self.peers is not None:
            jobs.append(Job(name="this pod", every=LOOK_EVERY, run=self.peers.samples.look_soon))
        if self._book.looks_at_labels:
            span = self.settings.labels.every
            jobs.append(Job(name="labels", every=span, run=self._look_at_labels_soon))
        if every := self._notifier.watchdog_every:
            jobs.append(Job(name="watchdog", every=every, run=self._watchdog))
        return jobs

    def _say_status(self) -> None:
        self._notifier.status(status.overview(self.manager.watched))

    def _watchdog(self) -> None:
        """The watchdog is fed only while the control loop ticks."""
        if not self.late():
            self._notifier.watchdog()

    def late(self) -> str:
        """Why the control loop is not alive; empty when it is."""
        watched = self.manager.watched.values()
        longest = max((it.policy.every for it in watched), default=None)
        if longest is None:
            return ""
        since = self.clock.monotonic() - self.manager.beat_at
        return f"no tick for {since.total_seconds():.0f} s" if since > 3 * longest + LATE else ""

    def _forget_soon(self) -> None:
        self._background(self._forget())

    async def _forget(self) -> None:
        try:
            await self.recorder.store.forget(before=self.clock.now() - self.settings.retention)
        except Unavailable:
            return  # the recorder says so; the next hour tries again

    def _background(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _stepped(self, step: timedelta) -> None:
        summary = f"the wall clock was moved by {step.total_seconds():+.0f} s; time here goes on"
        self.note(Kind.NOTICED, summary)

    def note(
        self,
        kind: Kind,
        summary: str,
        *,
        ok: bool = True,
        by: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """An entry about the daemon itself."""
        entry = Entry(
            at=self.clock.now(), kind=kind, summary=summary, ok=ok, by=by, data=data or {}
        )
        self.recorder.note(entry)
        self._tell(entry)

    def _reload_soon(self) -> None:
        self._background(self.reload())

    async def _follow_files(self) -> None:
        async for _ in policyfile.watch(self.settings.policies, self.clock):
            await self.reload()

    async def reload(self) -> dict[str, Any]:
        """Read the policies again; a file that fails keeps those it had."""
        async with self._reloading:
            self._notifier.reloading()
            await self._book.read()
            summary = await self._apply()
            self._notifier.ready(status.overview(self.manager.watched))
            return {"summary": summary, "problems": [p.to_dict() for p in self._book.problems]}

    def _look_at_labels_soon(self) -> None:
        if not self._reloading.locked():
            self._background(self._look_at_labels())

    async def _look_at_labels(self) -> None:
        async with self._reloading:
            await self._book.look()
            await self._apply()

    async def _apply(self) -> str:
        """Put the policies of the book in force; what that changes, in words."""
        before = {name: it.policy for name, it in self.manager.watched.items()}
        await self.manager.apply(self._book.policies)
        self._scheduler.apply(self._jobs())
        summary = _difference(before, self._book.policies, self._book.problems)
        wrong = self._say_what_is_wrong()
        if summary != UNCHANGED or wrong:
            self.note(Kind.RELOADED, summary, ok=not self._book.problems)
        return summary

    def _say_what_is_wrong(self) -> bool:
        """Say each new note about labels; whether the mistakes are others than last time."""
        for note in self._book.notes:
            if note not in self._notes:
                self.note(Kind.NOTICED, note, ok=False)
        others = self._book.problems != self._problems
        self._notes, self._problems = self._book.notes, self._book.problems
        return others

    async def plan(self, files: Sequence[Path]) -> list[dict[str, Any]]:
        """What would be decided now, with the policies in `files` in place of our own."""
        if files:
            policies = policyfile.load(files).insist()
        else:
            policies = {name: it.policy for name, it in self.manager.watched.items()}
        return [_planned(decision) for decision in await self.manager.plan(policies)]

    def about(self) -> dict[str, Any]:
        """The daemon itself, for `status`."""
        troubles = [problem.text().partition("\n")[0] for problem in self._book.problems]
        troubles += self._book.notes
        if self.recorder.degraded:
            troubles.append(self.recorder.degraded)
        troubles += [f"{it.name}: {it.trouble}" for it in self.upkeep.jobs if it.trouble]
        if self.manager.bugs:
            troubles.append(f"{self.manager.bugs} defects of scaler; see the log")
        return {
            "version": version("scaler"),
            "pid": os.getpid(),
            "started_at": self._started_at.isoformat(),
            "act": self.settings.act,
            "leadership": self.leadership.words() if self.leadership else "",
            "troubles": troubles,
        }

    def unready(self) -> str:
        return "" if self._ready and not self._end.is_set() else "starting or ending"

    async def stop(self) -> None:
        """Take everything down in the order that loses nothing."""
        self._ready = False
        self._notifier.stopping()
        await self._scheduler.stop()
        await asyncio.gather(*(it.aclose() for it in self.upkeep.jobs))
        await self.manager.drain(self.settings.drain)
        if self.leadership is not None:
            await self.leadership.aclose()  # nothing is under way any more
        if self._started:
            self.note(Kind.STOPPED, "scaler stopped; what runs keeps running")
        await self.recorder.aclose(timedelta(seconds=5))
        await self.adapters.aclose()
        self._notifier.close()


UNCHANGED: Final = "policies read again: nothing changed"


def _difference(
    before: Mapping[str, Policy], after: Mapping[str, Policy], problems: Sequence[Problem]
) -> str:
    parts = [
        f"{word} {', '.join(sorted(names))}"
        for word, names in (
            ("added", after.keys() - before.keys()),
            ("changed", {n for n in after.keys() & before.keys() if after[n] != before[n]}),
            ("no longer managed (its instances keep running)", before.keys() - after.keys()),
        )
        if names
    ]
    if problems:
        files = sorted({str(problem.file) for problem in problems})
        first = problems[0].text().partition("\n")[0]
        parts.append(f"{', '.join(files)} invalid, its last good policies stay: {first}")
    return f"policies read again: {'; '.join(parts)}" if parts else UNCHANGED


def _planned(decision: Decision) -> dict[str, Any]:
    return {**decision_to_dict(decision), "lines": list(explain.lines(decision))}


def main(settings: Settings, *, once: bool = False) -> int:
    """Run the daemon; its exit code.

    Raises:
        ConfigError: a policy file or the store cannot be used as it is.
        Refused: another daemon runs already.
    """
    writer = logs.configure(settings.log.level, settings.log.format)
    try:
        with _alone(settings.state_dir):
            return asyncio.run(_live(settings, once=once))
    finally:
        writer.close()


async def _live(settings: Settings, *, once: bool) -> int:
    clock = SystemClock()
    tell: Callable[[Entry], None] = logs.tell
    webhook = None
    if url := settings.notify.url.get_secret_value():
        webhook = Webhook(url, settings.notify.key, clock, logs.warn)
        tell = _both(logs.tell, webhook.tell)
    daemon = Daemon(settings, clock=clock, store=open_store(settings), tell=tell)
    async with AsyncExitStack() as stack:
        if webhook is not None:
            stack.push_async_callback(webhook.aclose)
        stack.push_async_callback(daemon.stop)
        await daemon.start()
        if once:
            await daemon.once()
            conditions = {it.condition for it in daemon.manager.watched.values()}
            return int(not conditions <= {Condition.OK})
        await serve(daemon, stack)
        await daemon.run()
    return 0


def _both(
    first: Callable[[Entry], None], second: Callable[[Entry], None]
) -> Callable[[Entry], None]:
    def tell(entry: Entry) -> None:
        first(entry)
        second(entry)

    return tell


async def serve(daemon: Daemon, stack: AsyncExitStack) -> None:
    """Open the socket, and the ports that are set; all close with the stack.

    Raises:
        Refused: another daemon answers there.
        ConfigError: it cannot be opened.
    """
    from scaler.api import listening  # noqa: PLC0415 - `run --once` does without
    from scaler.api.server import Api  # noqa: PLC0415

    settings = daemon.settings
    api = Api(
        manager=daemon.manager,
        commands=Commands(daemon.manager, daemon.clock),
        recorder=daemon.recorder,
        clock=daemon.clock,
        about=daemon.about,
        reload=daemon.reload,
        plan=daemon.plan,
        alive=daemon.late,
        ready=daemon.unready,
        caches=lambda: daemon.upkeep.caches,
    )
    ports = [(settings.http, api.probes())] if settings.http else []
    if daemon.peers is not None:
        from scaler.api import readings  # noqa: PLC0415 - only in a sidecar

        ports.append((settings.sidecar.listen, readings.application(daemon.peers)))
    await listening.listen(settings.socket, api.application(), ports, stack)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the state folder: two daemons on one would undo each other's work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "scaler.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError:
        raise Refused(
            f"another scaler runs with {folder}; ask it with `scaler status`, stop it, or set "
            "another state_dir"
        ) from None


async def plan_once(settings: Settings, files: Sequence[Path]) -> list[dict[str, Any]]:
    """What a daemon started now would decide first. Nothing is changed and nothing recorded."""
    policies = policyfile.load(files or settings.policies).insist()
    clock = SystemClock()
    with _alone(settings.state_dir):
        store = open_store(settings)
        daemon = Daemon(settings, clock=clock, store=store, tell=lambda _: None)
        try:
            await daemon.manager.load(await store.load())
            return [_planned(decision) for decision in await daemon.manager.plan(policies)]
        finally:
            await store.aclose()  # the platforms are left as they are: closing may stop instances
