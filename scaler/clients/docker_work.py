"""What is under way with the containers of one policy: a job for each name in the book.

A job does what the slot says until the slot says nothing more. One that is cut short, by an engine
that does not answer or by the end of the daemon, is begun again at the next look; it first finds
out what has been done already. Refusals of the engine become the reason of a failed instance.
"""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from scaler.clients import clone, docker_plan
from scaler.clients.clone import Template
from scaler.clients.docker import answered
from scaler.clients.docker_book import Phase, Slot
from scaler.clients.docker_desk import PORT_AGAIN, Desk
from scaler.clients.docker_hands import is_port_taken
from scaler.clients.docker_seen import CREATED_BY, INSTANCE, POLICY, TEMPLATE, Seen
from scaler.errors import Conflict, ScalerError

log = structlog.get_logger(__name__)

IDLE: Final = (Phase.FAILED, Phase.SPARE)  # nothing is to be done with these
SPARE_AGAIN: Final = timedelta(minutes=1)  # after one that could not be started
STEPS_MOST: Final = 200  # of one job: ports and names that turn out to be taken


class Work:
    """The jobs of one policy."""

    def __init__(self, desk: Desk) -> None:
        self.begun: set[str] = set()  # names whose stop can not be taken back any more
        self._desk, self._hands, self._clock = desk, desk.yard.hands, desk.yard.clock
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by name

    def has(self, name: str) -> bool:
        """Whether somebody works on this name just now."""
        return name in self._jobs

    def resume(self) -> None:
        """A job for each name that needs one. Returns at once."""
        for name, slot in self._desk.book.slots.items():
            if slot.phase not in IDLE and name not in self._jobs:
                job = asyncio.create_task(self._job(name), name=f"docker {name}")
                job.add_done_callback(_raise_in_log)
                self._jobs[name] = job

    async def aclose(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _job(self, name: str) -> None:
        try:
            for _ in range(STEPS_MOST):
                slot = self._desk.book.slots.get(name)
                if slot is None or slot.phase in IDLE:
                    break
                await self._step(slot)
        except ScalerError as error:  # the next look begins it again
            self._desk.say(f"{name}: {error}")
        finally:
            self.begun.discard(name)
            self._jobs.pop(name, None)
            self._desk.yard.notify(self._desk.orders.policy)

    async def _step(self, slot: Slot) -> None:
        match slot.phase:
            case Phase.STARTING | Phase.WARMING:
                async with self._hands.starts:
                    if self._is_current(slot):
                        await self._start(slot)
            case Phase.JOINING:
                await self._join(slot)
            case Phase.RESTARTING:
                async with self._hands.stops:
                    if self._is_current(slot):
                        await self._restart(slot)
            case Phase.STOPPING:
                async with self._hands.stops:
                    if self._is_current(slot):
                        self.begun.add(slot.name)
                        await self._stop(slot)

    def _is_current(self, slot: Slot) -> bool:
        return self._desk.book.slots.get(slot.name) == slot

    async def _become(self, slot: Slot, after: Slot | None) -> bool:
        """Write down what became of a slot, unless something else was meant meanwhile."""
        async with self._desk.lock:
            if not self._is_current(slot):
                return False
            await self._desk.write({slot.name: after})
            return True

    # --- starting ---

    async def _start(self, slot: Slot) -> None:
        template = self._desk.template
        if template is None:
            why = self._desk.refusal or "its template is lost; start it once by hand"
            await self._become(slot, self._given_up(slot, why))
            return
        there = await self._hands.find(slot.name)
        if there is not None and there.labels.get(INSTANCE) != slot.instance:
            await self._renumber(slot, template)
            return
        if there is not None and there.pid is not None:  # a daemon was killed after the start
            await self._started(slot, there.id, paused=there.status == "paused")
            return
        if there is not None:
            await self._hands.remove(there.id, slot.name)
        if (chosen := await self._with_ports(slot, template)) is None:
            return
        await self._make(chosen, template)

    async def _make(self, slot: Slot, template: Template) -> None:
        desk = self._desk
        labels = {
            POLICY: desk.orders.policy,
            INSTANCE: slot.instance,
            TEMPLATE: template.hash,
            CREATED_BY: "scaler",
        }
        try:
            container = await self._hands.make(
                template, slot.name, labels=labels, number=slot.number, ports=slot.ports
            )
        except ScalerError as error:
            if not answered(error):
                raise
            await self._refused(slot, template, error)
            return
        await self._started(slot, container)

    async def _started(self, slot: Slot, container: str, *, paused: bool = False) -> None:
        after = None
        if slot.phase is Phase.WARMING:
            if not paused:
                await self._hands.pause(container, slot.name)
            after = replace(slot, phase=Phase.SPARE, container=container)
        await self._become(slot, after)

    async def _refused(self, slot: Slot, template: Template, error: ScalerError) -> None:
        if isinstance(error, Conflict) and "name" in str(error):
            await self._renumber(slot, template)
        elif is_port_taken(error) and slot.ports:
            now = self._clock.monotonic()
            self._desk.yard.refused.update(dict.fromkeys(slot.ports.values(), now + PORT_AGAIN))
            await self._become(slot, replace(slot, ports={}))
        else:
            log.warning("instance.start_failed", instance=slot.name, error=str(error))
            await self._become(slot, self._given_up(slot, str(error)))

    def _given_up(self, slot: Slot, because: str) -> Slot | None:
        """A failed instance; of a spare nothing stays, and the next is tried later."""
        if slot.phase is not Phase.WARMING:
            return self._desk.failed(slot, because)
        self._desk.say(f"a spare could not be started: {because}")
        self._desk.spares_after = self._clock.monotonic() + SPARE_AGAIN
        return None

    async def _renumber(self, slot: Slot, template: Template) -> None:
        """Somebody else has the name: the next one."""
        desk = self._desk
        async with desk.lock:
            if not self._is_current(slot):
                return
            used = {other.number for other in desk.book.slots.values()}
            for number in docker_plan.unused(used, slot.number + 1):
                name = clone.name_of(template, number)
                if name not in desk.book.slots:
                    break
            again = replace(slot, name=name, number=number)
            await desk.write({slot.name: None, name: again})
        self.resume()

    async def _with_ports(self, slot: Slot, template: Template) -> Slot | None:
        """The slot with its host ports, written down; None when there are none left."""
        desk = self._desk
        span = desk.orders.ports
        needed = template.ports or ((f"{desk.orders.port}/tcp",) if desk.orders.port else ())
        if span is None or set(slot.ports) == set(needed):
            return slot
        async with desk.lock:
            if not self._is_current(slot):
                return None
            taken = desk.yard.taken()
            free = [port for port in range(span.low, span.high + 1) if port not in taken]
            if len(free) >= len(needed):
                chosen = replace(slot, ports=dict(zip(needed, free, strict=False)))
                await desk.write({slot.name: chosen})
                return chosen
            why = f"no port of {span} is free; widen ports in the policy, or lower max"
            desk.say(why)
            await desk.write({slot.name: self._given_up(slot, why)})
            return None

    async def _join(self, slot: Slot) -> None:
        there = await self._hands.find(slot.container)
        if there is None or there.status not in ("paused", "running"):
            await self._hands.remove(slot.container, slot.name)
            await self._become(slot, self._anew(slot))
            return
        if there.status == "paused":
            await self._hands.go_on(there.id, slot.name)
        await self._become(slot, None)

    def _anew(self, slot: Slot) -> Slot:
        return self._desk.fresh(slot.name, slot.number, slot.ports)

    # --- stopping, and starting again ---

    async def _stop(self, slot: Slot) -> None:
        there = await self._find(slot)
        if there is not None:
            if there.pid is not None:
                await self._hands.end(there, self._desk.orders.grace)
            await self._hands.remove(there.id, slot.name)
        await self._become(slot, None)

    async def _find(self, slot: Slot) -> Seen | None:
        """The container that the slot speaks of, and no other of its name."""
        there = await self._hands.find(slot.container or slot.name)
        return there if there is not None and docker_plan.belongs(slot, there) else None

    async def _restart(self, slot: Slot) -> None:
        """Done when another incarnation runs, whoever started it."""
        there = await self._find(slot)
        if there is not None and there.incarnation == slot.instance and there.pid is not None:
            await self._hands.end(there, self._desk.orders.grace)
            if there.auto_remove:
                await self._hands.remove(there.id, slot.name)
                there = None
        elif there is not None and there.pid is not None:
            await self._become(slot, None)
            return
        if there is None:
            await self._become(slot, self._anew(slot))
            return
        try:
            async with self._hands.starts:
                await self._hands.start(there.id, slot.name)
        except ScalerError as error:
            if not answered(error):
                raise
            if is_port_taken(error) and INSTANCE in there.labels:
                await self._hands.remove(there.id, slot.name)
                await self._become(slot, self._anew(slot))
                return
            log.warning("instance.start_failed", instance=slot.name, error=str(error))
        await self._become(slot, None)


def _raise_in_log(job: asyncio.Task[None]) -> None:
    """Nobody awaits it, so a bug in it would go unheard."""
    if not job.cancelled() and (error := job.exception()) is not None:
        log.error("task.failed", exc_info=error)
