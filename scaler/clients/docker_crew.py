"""The containers of one policy on an engine, kept at the count that was asked for.

Plans are made here, from what is there and what the book says, and written into the book; the jobs
of `docker_work` carry them out.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, TypeVar

from scaler.clients import clone, docker_plan, docker_seen
from scaler.clients.clone import Template
from scaler.clients.docker_book import SPARES, Phase, Slot
from scaler.clients.docker_desk import Desk, Orders, Yard
from scaler.clients.docker_plan import Member
from scaler.clients.docker_seen import Host, Seen
from scaler.clients.docker_work import Work
from scaler.errors import Conflict, NotFound, PermanentError

T = TypeVar("T")

REMOVING: Final = timedelta(seconds=5)  # after somebody has removed one: `down` removes all
TOLD: Final = (  # what brings a tick forward
    "start",
    "die",
    "stop",
    "ended",
    "pause",
    "unpause",
    "destroy",
    "rename",
    "health_status",
    "resync",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look has found."""

    wanted: int
    members: Sequence[Member]
    host: Host
    complete: bool
    held: frozenset[str]  # incarnations that a person has stopped
    rollout: str
    template: Template | None
    notices: tuple[str, ...]


class Crew:
    """All containers of one policy on one engine."""

    def __init__(self, orders: Orders, yard: Yard) -> None:
        self.desk = Desk(orders, yard)
        self._yard = yard
        self._work = Work(self.desk)
        self._there: list[Seen] = []
        self._known: dict[str, Seen] = {}  # by id: there at the last look, nothing under way
        self._removed_at: timedelta | None = None  # by somebody else; monotonic
        self._tried = ""  # what the last template was made from, or was refused for
        self._tasks: set[asyncio.Task[object]] = set()
        self._looking: asyncio.Task[Sight] | None = None
        self.ids: frozenset[str] = frozenset()  # short ones, of what is there
        yard.desks[orders.policy] = self.desk
        yard.view.links.heard.append(self._heard)

    # --- asked for by the engine ---

    async def finish(self, work: Coroutine[object, object, T]) -> T:
        """Do all of it even if the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def look(self) -> Sight:
        """Who is there now, and what is under way.

        One look at a time: whoever asks meanwhile gets the same, so that an engine which hangs is
        not asked by more and more.

        Raises:
            NotFound: there is no such thing, and there never was.
            ScalerError: the engine does not answer.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="docker look")
            self._looking.add_done_callback(_heed)
        return await asyncio.shield(self._looking)

    async def _look(self) -> Sight:
        desk = self.desk
        async with desk.lock:
            await self._refresh()
            rollout, wanted = self._others_at_work(), desk.book.wanted or 0
            everyone = docker_plan.members(self._there, desk.book.slots)
            if wanted and not rollout and not self._there and not desk.book.slots:
                await desk.forget_wanted()
                raise self._nothing()
            self._work.resume()
            return Sight(
                wanted=wanted,
                members=everyone,
                host=await self._yard.view.host(),
                complete=bool(rollout) or self._is_complete(everyone, wanted),
                held=frozenset(desk.book.held),
                rollout=rollout,
                template=desk.template,
                notices=desk.news(),
            )

    async def scale(self, desired: int, remove: Sequence[str]) -> None:
        """Write down what is to be done for `desired`, and begin.

        Raises:
            PermanentError: no copies can be made.
            ScalerError: the engine does not answer, or the book cannot be written.
        """
        desk = self.desk
        async with desk.lock:
            await self._refresh()
            if self._others_at_work():  # a look after it finds what is missing
                await desk.write({}, wanted=desired)
                return
            everyone = docker_plan.members(self._there, desk.book.slots)
            present = [m for m in everyone if not m.leaving]
            changes: dict[str, Slot | None] = {}
            if len(present) < desired:
                changes = self._grown(everyone, desired - len(present))
            elif len(present) > desired:
                changes = self._shrunk(present, len(present) - desired, remove)
            changes |= self._warmed(changes)
            if changes or desired != desk.book.wanted:
                await desk.write(changes, wanted=desired)
            self._work.resume()

    async def restart(self, name: str) -> None:
        """Begin to start one again.

        Raises:
            NotFound: nobody has this name.
            Conflict: it is leaving.
        """
        desk = self.desk
        async with desk.lock:
            await self._refresh()
            everyone = {m.name: m for m in docker_plan.members(self._there, desk.book.slots)}
            member = everyone.get(name)
            if member is None:
                there = ", ".join(everyone) or "nothing"
                raise NotFound(f"{name} is not there any more; there is {there}")
            if member.leaving:
                raise Conflict(f"{name} is being stopped; look again")
            slot, seen = member.slot, member.seen
            if seen is None and slot is not None and slot.phase is Phase.FAILED:
                await desk.write({name: desk.fresh(name, slot.number, slot.ports)})
            elif slot is None and seen is not None:
                await desk.write({name: desk.slot(seen, Phase.RESTARTING)})
            self._work.resume()

    async def aclose(self) -> None:
        """Let go; what is under way the next one finds in the book."""
        self._yard.view.links.heard.remove(self._heard)
        if self._yard.desks.get(self.desk.orders.policy) is self.desk:
            del self._yard.desks[self.desk.orders.policy]
        await self._work.aclose()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- seeing; all of it holds the lock ---

    async def _refresh(self) -> None:
        """Look at the engine, and take note of what others have done there."""
        desk = self.desk
        await desk.open()
        self._there = await self._yard.view.look(self._chosen)
        desk.orders.check(self._there)
        self.ids = frozenset(one.id[:12] for one in self._there)
        ports = (port for one in self._there for _, port in one.published.values())
        desk.published = frozenset(ports)
        await self._take_note()
        if desk.book.wanted is None:
            count = len(docker_plan.members(self._there, desk.book.slots))
            if not count:
                raise self._nothing()
            await desk.write({}, wanted=count)

    def _nothing(self) -> NotFound:
        what = self.desk.orders.what
        if self.desk.template is None:
            return NotFound(f"there is no {what}; start it once, so that it can be copied")
        return NotFound(f"somebody took {what} down; it stays down until it is started again")

    def _chosen(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a container is one of ours, by its name and labels."""
        if docker_seen.INSTANCE in labels:
            return labels.get(docker_seen.POLICY) == self.desk.orders.policy
        if labels.get(docker_seen.ONE_OFF) == "True":
            return False
        return self.desk.orders.chosen(name, labels)

    async def _take_note(self) -> None:
        """Stops by hand, containers that have vanished, a new original."""
        desk = self.desk
        changes = self._obsolete() | self._vanished()
        there = {one.incarnation for one in self._there}
        stopped = {one.incarnation for one in self._there if one.by_hand}
        by_engine = {one.incarnation for one in self._there if one.with_engine}
        held = tuple(sorted((stopped | (there & {*desk.book.held})) - by_engine))
        if changes or held != tuple(desk.book.held):
            await desk.write(changes, held=held)
        if not self._rollout():
            self._known = {o.id: o for o in self._there if o.name not in desk.book.slots}
            await self._renew()

    def _obsolete(self) -> dict[str, Slot | None]:
        """Slots of containers that somebody has replaced or removed; spares that have ended."""
        seen = {one.name: one for one in self._there}
        changes: dict[str, Slot | None] = {}
        for name, slot in self.desk.book.slots.items():
            if not slot.container or self._work.has(name):
                continue
            one = seen.get(name)
            if one is None or one.id != slot.container:
                changes[name] = None
            elif slot.phase is Phase.SPARE and one.pid is None:
                changes[name] = replace(slot, phase=Phase.STOPPING)
        return changes

    def _vanished(self) -> dict[str, Slot | None]:
        """Containers that somebody has removed, and those that remove themselves at their end."""
        desk = self.desk
        there = {one.id for one in self._there}
        names = {one.name for one in self._there} | desk.book.slots.keys()
        missing = [o for o in self._known.values() if o.id not in there and o.name not in names]
        if not missing or self._rollout():
            return {}
        changes: dict[str, Slot | None] = {}
        removed = []
        for one in missing:
            gone = self._yard.view.gone.get(one.id)
            if one.auto_remove and gone and gone.exit_code is not None and not gone.by_hand:
                why = docker_seen.ended(gone.exit_code)
                changes[one.name] = desk.failed(desk.slot(one, Phase.FAILED), why)
            else:
                removed.append(one.name)
        left, wanted = len(self._there) + len(changes), desk.book.wanted or 0
        if removed:
            self._removed_at = self._yard.clock.monotonic()
        if removed and left and left < wanted:
            desk.say(self._reset(removed, left, wanted))
        return changes

    def _reset(self, removed: Sequence[str], left: int, wanted: int) -> str:
        orders = self.desk.orders
        if orders.compose:
            return f"compose set {orders.short} back to {left}; it goes back to {wanted}"
        return f"somebody removed {', '.join(sorted(removed))}; it goes back to {wanted}"

    async def _renew(self) -> None:
        """The template, when there is another original than before."""
        desk, one = self.desk, docker_plan.origin(self._there)
        if one is None or (docker_seen.INSTANCE in one.labels and desk.template is not None):
            return
        orders = desk.orders
        allowed = orders.shared_volumes, orders.ports is not None, orders.other_addresses
        mark = f"{one.id} {allowed}"
        if mark == self._tried or (mark == desk.book.origin and desk.template is not None):
            return
        inspected = await self._yard.hands.inspect(one.id)
        if inspected is None:
            return
        desk.refusal, self._tried = "", mark
        try:
            made = clone.template(
                inspected,
                shared_volumes=orders.shared_volumes,
                has_ports=orders.ports is not None,
                other_addresses=orders.other_addresses,
            )
        except PermanentError as error:
            desk.refusal, desk.template = str(error), None
            return
        await desk.adopt(made, mark)

    def _rollout(self) -> str:
        return docker_plan.rollout(self._there, self._yard.clock.now())

    def _others_at_work(self) -> str:
        """Why it is not the moment to make or remove containers; empty when it is."""
        now, since = self._yard.clock.monotonic(), self._removed_at
        removing = since is not None and now - since < REMOVING
        return self._rollout() or ("somebody is removing containers" if removing else "")

    def _is_complete(self, everyone: Sequence[Member], wanted: int) -> bool:
        """Whether nothing is to be done; what must stay although it is too much does not count."""
        present = [m for m in everyone if not m.leaving]
        surplus = len(present) - wanted
        if surplus > 0:
            able = docker_plan.victims(present, surplus, (), others=self.desk.orders.remove_any)
            if not able:
                self.desk.say(_not_ours(present))
            return not able
        return surplus == 0 and not self._warmed({})

    # --- planning ---

    def _grown(self, everyone: Sequence[Member], count: int) -> dict[str, Slot | None]:
        """Stops that have not begun are taken back; then spares join; then new ones are made."""
        changes: dict[str, Slot | None] = {}
        for member in everyone:
            slot, running = member.slot, member.seen is not None and member.seen.pid is not None
            waits = slot is not None and slot.phase is Phase.STOPPING
            if len(changes) < count and running and waits and member.name not in self._work.begun:
                changes[member.name] = None
        for slot in self.desk.book.slots.values():
            if len(changes) < count and slot.phase is Phase.SPARE:
                changes[slot.name] = replace(slot, phase=Phase.JOINING)
        missing = count - len(changes)
        return changes | self._planned(missing, Phase.STARTING, {}) if missing else changes

    def _planned(
        self, count: int, phase: Phase, changes: Mapping[str, Slot | None]
    ) -> dict[str, Slot | None]:
        """So many new ones, under names that nobody has.

        Raises:
            PermanentError: nothing says how to make them.
        """
        desk = self.desk
        if desk.template is None:
            what = desk.orders.what
            why = f"nothing is known to make copies of; start {what} once by hand"
            raise PermanentError(desk.refusal or why)
        slots = {**desk.book.slots, **changes}
        names = {one.name for one in self._there} | slots.keys()
        numbers = {one.number for one in self._there}
        numbers |= {slot.number for slot in slots.values() if slot is not None}
        fresh: dict[str, Slot | None] = {}
        for number in docker_plan.unused(numbers, 1):
            if len(fresh) == count:
                break
            name = clone.name_of(desk.template, number)
            if name not in names:
                fresh[name] = desk.fresh(name, number, {}, phase)
        return fresh

    def _shrunk(
        self, present: Sequence[Member], count: int, named: Sequence[str]
    ) -> dict[str, Slot | None]:
        desk = self.desk
        going = docker_plan.victims(
            present, count, named, others=desk.orders.remove_any, held=desk.book.held
        )
        if len(going) < count:
            desk.say(_not_ours(present))
        changes: dict[str, Slot | None] = {}
        for member in going:
            slot, seen = member.slot, member.seen
            if seen is not None and (slot is None or slot.container):
                changes[member.name] = desk.slot(seen, Phase.STOPPING)
            elif slot is not None and slot.phase is Phase.FAILED:
                changes[member.name] = None
            elif slot is not None:
                changes[member.name] = replace(slot, phase=Phase.STOPPING)
        return changes

    def _warmed(self, changes: Mapping[str, Slot | None]) -> dict[str, Slot | None]:
        """Spares that are missing, and the stop of those that are too many."""
        slots = {**self.desk.book.slots, **changes}.values()
        spares = [slot for slot in slots if slot is not None and slot.phase in SPARES]
        missing = self.desk.orders.spares - len(spares)
        if missing > 0:
            early = self._yard.clock.monotonic() < self.desk.spares_after
            if early or self.desk.template is None:
                return {}
            return self._planned(missing, Phase.WARMING, changes)
        idle = [slot for slot in spares if slot.phase is Phase.SPARE]
        return {s.name: replace(s, phase=Phase.STOPPING) for s in idle[: max(0, -missing)]}

    # --- hearing ---

    def _heard(self, action: str, name: str, labels: Mapping[str, str]) -> None:
        if action == "resync" or (action in TOLD and self._chosen(name, labels)):
            self._yard.notify(self.desk.orders.policy)


def _not_ours(present: Sequence[Member]) -> str:
    names = ", ".join(m.name for m in present if not m.ours)
    return f"{names}: not created by scaler, so it stays; write remove: any to let it go"


def _heed(look: asyncio.Task[Sight]) -> None:
    """Whoever waited may have gone; the next look meets the same trouble."""
    if not look.cancelled():
        look.exception()
