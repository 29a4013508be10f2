"""Numbered slots kept filled with processes: what the local provider is made of.

What is meant to run is written down before a process starts and which process it is after, so a
daemon that is killed at any moment finds all of it again: nothing is lost and nothing doubled.
"""

import asyncio
import errno
import os
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import structlog

from scaler.clients import durable, logfiles, ports, processes, slots
from scaler.clients.ports import Ports
from scaler.clients.slots import Book, Phase, Slot
from scaler.clock import Clock
from scaler.errors import Conflict, Forbidden, ScalerError, Unavailable, translate

log = structlog.get_logger(__name__)
T = TypeVar("T")

INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR")
ERRORS: Final[dict[type[Exception], type[ScalerError]]] = {
    PermissionError: Forbidden,
    OSError: Unavailable,
}
REMEDIES: Final = {
    errno.ENOENT: "correct it, or the interpreter that its first line names",
    errno.EACCES: "make it executable and its directories searchable for the user",
    errno.ENOEXEC: "its first line must name an interpreter, such as #!/bin/sh",
}
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_STOP_SLACK: Final = timedelta(seconds=5)  # after `grace`, for the kill and its bookkeeping


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What to run in the slots of one crew, and how."""

    name: str
    command: Sequence[str]  # `{port}` is filled in
    env: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    user: str = ""
    ports: Ports | None = None
    stop_signal: int
    grace: timedelta
    log_bytes: int
    log_keep: int
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """What all crews of one daemon share."""

    clock: Clock
    table: processes.ProcessTable
    folder: Path
    notify: Callable[[str], None]  # something has started or ended in the crew of this name
    crews: dict[str, "Crew"] = field(default_factory=dict)
    planning: asyncio.Lock = field(default_factory=asyncio.Lock)  # no port is given out twice

    def taken(self) -> set[int | None]:
        """Ports of all crews, whose ranges may overlap."""
        books = [crew.book for crew in self.crews.values()]
        return {slot.port for book in books for slot in book.slots.values()}


class Crew:
    """The slots of one policy, and the processes in them."""

    def __init__(self, orders: Orders, yard: Yard) -> None:
        self.orders = orders
        self.book = Book()
        self._yard = yard
        self._clock, self._table = yard.clock, yard.table
        self._path = yard.folder / f"{quote(orders.name, safe='')}.json"
        self._logs = yard.folder / "logs"
        self._owner = f"{yard.folder.parent}/{orders.name}"
        self._lock = asyncio.Lock()  # one writer of the book at a time
        self._adopted = False
        self._written = self.book
        self._rotating = False
        self._complained = False  # about a file that cannot be written
        self._held: dict[str, int] = {}  # pidfd by instance
        self._ends: dict[str, asyncio.Task[None]] = {}  # by instance
        self._tasks: set[asyncio.Task[object]] = set()

    def name_of(self, slot: Slot) -> str:
        return f"{self.orders.name}-{slot.index}"

    # --- asked for by the engine ---

    async def finish(self, work: Coroutine[object, object, T]) -> T:
        """Do all of it even if the caller is cancelled: half a start would be lost."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def scale(self, desired: int, remove: Sequence[str]) -> None:
        if self.orders.user:
            processes.account(self.orders.user)
        async with self._lock:
            staying = slots.staying(self.book)
            kill_at = self._clock.now() + self.orders.grace
            named = {slot.index for slot in staying if self.name_of(slot) in remove}
            victims = slots.victims(staying, len(staying) - desired, named)
            going: dict[int, Slot | None] = {
                slot.index: replace(slot, phase=Phase.STOPPING, kill_at=kill_at) for slot in victims
            }
            async with self._yard.planning:
                fresh = await asyncio.to_thread(self._planned, desired - len(staying))
                changes = going | {slot.index: slot for slot in fresh}
                if changes or desired != self.book.wanted:
                    await self._write(changes, wanted=desired)
            for index in going:
                self._begin_end(self.book.slots[index])
            await self._launch(fresh)

    async def restart(self, instance: str) -> None:
        if self.orders.user:
            processes.account(self.orders.user)
        async with self._lock:
            slot = next((s for s in self.book.slots.values() if self.name_of(s) == instance), None)
            if slot is None or slot.phase is Phase.STOPPING:
                why = "is being stopped" if slot else "is not there any more"
                raise Conflict(f"{instance} {why}; look again")
            if slot.phase is Phase.FAILED and slot.kill_at is None:
                await self._relaunch(slot)
            elif slot.phase in (Phase.RUNNING, Phase.FAILED):
                kill_at = self._clock.now() + self.orders.grace
                again = replace(slot, phase=Phase.RESTARTING, because="restarting", kill_at=kill_at)
                await self._write({slot.index: again})
                self._begin_end(again)

    async def rotate_logs(self) -> None:
        if self._rotating:
            return
        self._rotating = True
        try:
            await asyncio.to_thread(self._rotate_all, list(self.book.slots.values()))
        finally:
            self._rotating = False

    def _rotate_all(self, all_slots: Sequence[Slot]) -> None:
        orders = self.orders
        for slot in all_slots:
            path = self._log_path(slot)
            try:
                logfiles.rotate_if_large(path, max_bytes=orders.log_bytes, keep=orders.log_keep)
            except OSError as error:
                log.warning("log.rotate_failed", path=str(path), error=str(error))

    async def aclose(self, *, stop: bool) -> None:
        """Let go of the processes, or stop them; what is left to be stopped the next one does."""
        if stop and self._adopted:
            await self._stop_all()
        ends = list(self._ends.values())
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)
        for instance, pidfd in self._held.items():
            self._table.roots.pop(instance, None)
            processes.let_go(pidfd)
        self._held.clear()

    async def _stop_all(self) -> None:
        async with self._lock:
            kill_at = self._clock.now() + self.orders.grace
            going: dict[int, Slot | None] = {
                index: replace(slot, phase=Phase.STOPPING, kill_at=slot.kill_at or kill_at)
                for index, slot in self.book.slots.items()
            }
            self._note(going)
            for slot in list(self.book.slots.values()):
                self._begin_end(slot)
        if self._ends:
            patience = self.orders.grace + _STOP_SLACK
            await asyncio.wait(self._ends.values(), timeout=patience.total_seconds())

    # --- what an earlier daemon has left ---

    async def adopt(self) -> None:
        """Take over what an earlier daemon started. Only the first call does anything."""
        async with self._lock:
            if self._adopted:
                await self._flush()  # what could not be written when it happened
                return
            with translate(ERRORS, doing=f"cannot take over what {self._path} names"):
                kept = await asyncio.to_thread(self._read)
                found = (await self._table.look()).owned(self._owner)
                now = self._clock.now()
                book = slots.plan_adoption(kept, found, boot=processes.boot_id(), now=now)
                held = _hold_all(book)
            self.book = book
            self._adopted = True
            for slot in book.slots.values():
                self._resume(slot, held.get(slot.index))
            if book != (kept or Book()):
                self._note({})

    def _read(self) -> Book | None:
        try:
            return slots.read(self._path)
        except durable.Broken as error:
            aside = durable.set_aside(self._path)
            log.warning("state.set_aside", path=str(aside), error=str(error))
            return None

    def _resume(self, slot: Slot, pidfd: int | None) -> None:
        if slot.process and (slot.kill_at or slot.phase is not Phase.FAILED):
            self._table.roots[slot.instance] = slot.process
        if pidfd is not None:
            self._watch(slot, pidfd)
        elif slot.phase is Phase.RUNNING:
            self._fail(slot, "ended while no scaler was running, so its exit code is unknown")
            return
        if slot.kill_at:
            self._begin_end(slot)

    # --- starting ---

    def _planned(self, count: int) -> list[Slot]:
        """New slots; one for which there is no port has failed already."""
        fresh: list[Slot] = []
        taken, used = self._yard.taken(), set(self.book.slots)
        for _ in range(count):
            slot = self._fresh(slots.unused(used), taken)
            used.add(slot.index)
            taken.add(slot.port)
            fresh.append(slot)
        return fresh

    def _fresh(self, index: int, taken: set[int | None], before: int | None = None) -> Slot:
        """The next start of slot `index`, if possible with the port it had."""
        now, port, because = self._clock.now(), None, ""
        if self.orders.ports is not None:
            port, because = ports.choose(self.orders.ports, taken, before)
        return Slot(
            index=index,
            instance=uuid.uuid4().hex,
            phase=Phase.FAILED if because else Phase.STARTING,
            template=self.orders.template,
            created_at=now,
            port=port,
            because=because,
            failed_at=now if because else None,
        )

    async def _relaunch(self, slot: Slot) -> None:
        async with self._yard.planning:
            taken = self._yard.taken() - {slot.port}
            fresh = await asyncio.to_thread(self._fresh, slot.index, taken, slot.port)
            await self._write({slot.index: fresh})
        await self._launch([fresh])

    async def _launch(self, fresh: Sequence[Slot]) -> None:
        """Start what has been written down, and write down what became of it."""
        due = [slot for slot in fresh if slot.phase is Phase.STARTING]
        started = await asyncio.to_thread(lambda: [self._start(slot) for slot in due])
        self.book = slots.changed(self.book, {slot.index: slot for slot, _ in started})
        for slot, pidfd in started:
            if slot.process and pidfd is not None:
                self._table.roots[slot.instance] = slot.process
                self._watch(slot, pidfd)
        await self._flush()
        if fresh:
            self._yard.notify(self.orders.name)

    def _start(self, slot: Slot) -> tuple[Slot, int | None]:
        """Runs in a thread. A refusal is a value: the others start all the same."""
        orders = self.orders
        try:
            identity, pidfd = processes.spawn(
                processes.Launch(
                    command=[word.replace("{port}", str(slot.port)) for word in orders.command],
                    env=self._environment(slot),
                    directory=orders.directory,
                    user=orders.user,
                    log=self._log_path(slot),
                )
            )
        except (OSError, ValueError, ScalerError) as error:
            return self._failed(slot, f"could not start: {_refusal(error)}"), None
        now = self._clock.now()
        return replace(slot, phase=Phase.RUNNING, process=identity, started_at=now), pidfd

    def _environment(self, slot: Slot) -> dict[str, str]:
        """Nothing but this: the daemon has secrets and sockets that are its own."""
        env = {n: v for n, v in os.environ.items() if n in INHERITED or n.startswith("LC_")}
        if self.orders.user:
            who = processes.account(self.orders.user)
            env |= {"HOME": who.pw_dir, "USER": who.pw_name, "LOGNAME": who.pw_name}
            env["SHELL"] = who.pw_shell
        env |= self.orders.env
        if slot.port is not None:
            env["PORT"] = str(slot.port)
        return env | {
            processes.INSTANCE: slot.instance,
            processes.OWNER: self._owner,
            processes.SLOT: str(slot.index),
            processes.TEMPLATE: slot.template,
        }

    def _log_path(self, slot: Slot) -> Path:
        return self._logs / f"{quote(self.name_of(slot), safe='')}.log"

    # --- ending ---

    def _watch(self, slot: Slot, pidfd: int) -> None:
        self._held[slot.instance] = pidfd
        processes.watch(pidfd, lambda: self._ended(slot.index, slot.instance))

    def _ended(self, index: int, instance: str) -> None:
        """The first process of `instance` is no more."""
        pidfd = self._held.pop(instance)
        because = processes.reap(pidfd)
        os.close(pidfd)
        slot = self.book.slots.get(index)
        if slot and slot.instance == instance and slot.phase is Phase.RUNNING:
            self._fail(slot, because)
        self._yard.notify(self.orders.name)

    def _fail(self, slot: Slot, because: str) -> None:
        """It ended by itself; what it left behind is stopped before anything starts again."""
        failed = self._failed(slot, because, kill_at=self._clock.now() + self.orders.grace)
        self._note({slot.index: failed})
        self._begin_end(failed)

    def _begin_end(self, slot: Slot) -> None:
        if slot.instance not in self._ends:
            task = asyncio.ensure_future(self._end(slot))
            self._ends[slot.instance] = task
            task.add_done_callback(_raise_in_log)

    async def _end(self, slot: Slot) -> None:
        """Stop signal, grace, SIGKILL; then whatever the slot is meant to be by then."""
        now = self._clock.now()
        longest = now + self.orders.grace  # the wall clock may have been set back meanwhile
        async for complaint in processes.end_tree(
            self._table,
            slot.instance,
            number=self.orders.stop_signal,
            kill_at=min(slot.kill_at or now, longest),
            clock=self._clock,
        ):
            log.error("instance.will_not_end", instance=self.name_of(slot), detail=complaint)
        await self.finish(self._after_end(slot.index, slot.instance))

    async def _after_end(self, index: int, instance: str) -> None:
        async with self._lock:
            self._ends.pop(instance, None)
            self._table.roots.pop(instance, None)
            slot = self.book.slots.get(index)
            if slot is None or slot.instance != instance:
                return
            if slot.phase is Phase.STOPPING:
                self._note({index: None})
            elif slot.phase is Phase.RESTARTING:
                try:
                    await self._relaunch(slot)
                except ScalerError as error:
                    self._note({index: self._failed(slot, f"could not start: {error}")})
            else:
                self._note({index: replace(slot, kill_at=None)})
            self._yard.notify(self.orders.name)

    def _failed(self, slot: Slot, because: str, *, kill_at: datetime | None = None) -> Slot:
        return replace(
            slot,
            phase=Phase.FAILED,
            because=because,
            failed_at=self._clock.now(),
            kill_at=kill_at,
        )

    # --- remembering ---

    async def _write(
        self, changes: Mapping[int, Slot | None], *, wanted: int | None = None
    ) -> None:
        """To the file first, then to memory: what cannot be written down is not done.

        A full or read-only disk is the exception: services must not stay too small because of it.
        Instances are found by their markers as well, so what is lost with a crash meanwhile is at
        most the newest count, and that is asked for again.
        """
        before = self.book
        planned = slots.changed(before, changes, wanted)
        with translate(ERRORS, doing=f"cannot write {self._path}, so nothing was changed"):
            try:
                await asyncio.to_thread(slots.write, self._path, planned)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._complain(error)
                self.book = slots.changed(self.book, changes, wanted)
                return
        self._complained = False
        if self.book is before:
            self.book = self._written = planned
        else:  # something ended while we wrote
            self.book = slots.changed(self.book, changes, wanted)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            log.warning("state.kept_in_memory", path=str(self._path), error=error.strerror)
        self._complained = True

    def _note(self, changes: Mapping[int, Slot | None]) -> None:
        """What has happened already is true whether it can be written down or not."""
        self.book = slots.changed(self.book, changes)
        task = asyncio.ensure_future(self._save())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_raise_in_log)

    async def _save(self) -> None:
        async with self._lock:
            await self._flush()

    async def _flush(self) -> None:
        if self.book is self._written:  # many that end at once are written together
            return
        try:
            await self._write({})
        except ScalerError as error:
            log.warning("state.write_failed", target=self.orders.name, error=str(error))


def _hold_all(book: Book) -> dict[int, int]:
    """Pidfds by index of those that live; all or none, lest one be taken for dead."""
    held: dict[int, int] = {}
    try:
        for index, slot in book.slots.items():
            if slot.process and (pidfd := processes.hold(slot.process)) is not None:
                held[index] = pidfd
    except OSError:
        for pidfd in held.values():
            os.close(pidfd)
        raise
    return held


def _refusal(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    name = f": {error.filename}" if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0, "")
    return f"{error.strerror.lower()}{name}" + (f"; {remedy}" if remedy else "")


def _raise_in_log(task: asyncio.Task[None]) -> None:
    """Nobody awaits it, so a bug in it would go unheard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task.failed", exc_info=error)
