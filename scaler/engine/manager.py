"""ScalingManager: observe → decide → act → record, for every target, again and again.

A tick looks at what is, never at what it did, so it may be late, early or doubled. The order of
effects is written here and nowhere else: the intention is durable before the platform is asked, and
what the platform answers is written down. Errors that may pass change nothing; the next tick is the
retry. Each target ticks in its own task, so a slow one delays nobody else.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

from scaler import mistakes
from scaler.clock import Clock
from scaler.core import elsewhere, explain
from scaler.core.decide import decide
from scaler.core.journal import Entry, Facts, Kind, clamped, policy_to_facts
from scaler.core.model import Change, Decision, Fleet, History, InstanceId, altered
from scaler.core.policy import Policy
from scaler.engine.changes import Changes
from scaler.engine.health import HealthMonitor
from scaler.engine.jobs import Job, guarded
from scaler.engine.leader import Leadership
from scaler.engine.recorder import Recorder
from scaler.engine.remembered import unchanged, with_leaders, without_phantom
from scaler.engine.routes import LOOK, Leave, routed, unblamed
from scaler.engine.watched import Condition, Watched, in_time, look, read, watch, with_lapsed
from scaler.errors import ManagedElsewhere, NotFound, ScalerError, TransientError
from scaler.interfaces import Adapters, Announcing

HEARTBEAT: Final = timedelta(minutes=5)  # an unchanged decision is written down this often
PARKED_RETRY: Final = timedelta(minutes=1)
DEGRADED_AFTER: Final = 3  # unanswered looks in a row


class ScalingManager:
    """Keeps every target at the count that its policy and its load ask for."""

    def __init__(
        self,
        *,
        adapters: Adapters,
        recorder: Recorder,
        clock: Clock,
        tell: Callable[[Entry], None] = lambda _: None,
        act: bool = True,
        deadline: timedelta = timedelta(seconds=10),
        leadership: Leadership | None = None,
    ) -> None:
        """`tell` hears of every entry at once; `act=False` only observes, whatever policies say.

        `deadline` is for each call to a platform or a source. With a `leadership` nothing is done
        that may outlast it; without one nobody else acts here.
        """
        self._adapters = adapters
        self._recorder = recorder
        self._clock = clock
        self._tell = tell
        self._act = act
        self._deadline = deadline
        self._leadership = leadership
        self._longest = min(deadline, leadership.longest) if leadership else deadline  # to act
        self._watched: dict[str, Watched] = {}
        self._histories: dict[str, History] = {}
        self._draining = False
        self._changes = Changes(clock, self.wake)
        self.health = HealthMonitor(adapters, clock, self.wake, self._probe_broken)
        self.beat_at = clock.monotonic()  # of the last tick; the watchdog looks at it
        self.bugs = 0

    async def load(self, histories: Mapping[str, History]) -> None:
        """Take over what is remembered from before the process was started."""
        now = self._clock.now()
        self._histories = {name: clamped(history, now) for name, history in histories.items()}

    async def apply(self, policies: Mapping[str, Policy]) -> None:
        """Watch exactly these from the next tick on; what did not change keeps everything.

        A changed policy keeps its history, and what runs keeps running either way.
        """
        old = self._watched
        fresh = {}
        for name, policy in policies.items():
            known = old.get(name)
            if known is not None and known.policy == policy:
                fresh[name] = known
                continue
            history = known.history if known else self._histories.get(name, History())
            fresh[name] = watch(policy, history, known)
        self._watched = fresh
        self.health.apply(policies)
        for name, gone in old.items():
            if fresh.get(name) is not gone:
                self._histories[name] = gone.history
                await self._let_go(gone)

    async def _let_go(self, it: Watched) -> None:
        for task in (it.alarm, it.running):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        await it.close()

    def jobs(self) -> list[Job]:
        """One job for each interval that some policy asks for."""
        spans = sorted({it.policy.every for it in self._watched.values()})
        return [
            Job(
                name=f"tick every {span.total_seconds():g}s",
                every=span,
                run=lambda span=span: self.tick(  # type: ignore[misc]
                    name for name, it in self._watched.items() if it.policy.every == span
                ),
            )
            for span in spans
        ]

    def tick(self, names: Iterable[str] | None = None) -> list[asyncio.Task[None]]:
        """Start a look at each target, all of them by default, and return without waiting.

        One whose last look is still under way, or that waits for its retry, is left out.
        """
        self.beat_at = now = self._clock.monotonic()
        chosen = self._watched if names is None else names
        return [
            self._start(it)
            for name in tuple(chosen)
            if (it := self._watched[name]).running is None and it.not_before <= now
        ]

    def wake(self, name: str) -> None:
        """Something happened to this target: look now and not at the next tick."""
        it = self._watched.get(name)
        if it is None or self._draining:
            return
        if it.running is None:
            self._start(it)
        else:
            it.again = True

    def _start(self, it: Watched) -> asyncio.Task[None]:
        it.again = False
        it.running = asyncio.create_task(self._look_after(it), name=f"tick {it.name}")
        return it.running

    async def _look_after(self, it: Watched) -> None:
        try:
            await guarded(self._tick(it), lambda error: self._broken(it, error))
        finally:
            it.running = None
        if it.again:
            self.wake(it.name)

    async def _tick(self, it: Watched) -> None:
        """One round of the loop for one target."""
        try:
            facts = await self._observed(it)
        except ScalerError as error:
            self._troubled(it, error)
            return
        decision, history = decide(
            it.policy, facts.fleet, facts.readings, facts.history, self._clock.now()
        )
        acts = self._may_act(it.policy)
        if not acts:
            history = unchanged(history, facts.history)
            await it.stop_routing()
        it.decision, it.facts, it.history = decision, facts, history
        self._record(it, *self._worth_telling(it, decision, facts))
        why = elsewhere.reason(it.policy, facts.fleet, history, decision.at) if acts else ""
        if why:
            self._managed_elsewhere(it, why)
        if not acts or await self._act_on(it, decision, facts, why):
            self._recovered(it, why)
        self._set_alarm(it, decision)

    async def _observed(self, it: Watched) -> Facts:
        fleet = await look(it, self._adapters, self._deadline)
        self._changes.follow(it.provider)
        if it.fresh:
            it.history = without_phantom(it.history, fleet)
            it.fresh = False
        if it.followed is not None:
            it.history = with_leaders(it.history, fleet, it.followed, self._clock.now())
        it.followed = None if self.leads else fleet.wanted
        fleet = self.health.enriched(it.policy, fleet)
        fleet = unblamed(it, fleet, self._clock.monotonic())
        fleet = _last_choice(with_lapsed(fleet, it.was_fit), it.leaving)
        self._notice(it, fleet)
        patience = min(self._deadline, max(it.policy.every, timedelta(seconds=1)))
        readings = await read(it, fleet, self._clock, patience)
        return Facts(policy={}, fleet=fleet, readings=readings, history=it.history)

    def _notice(self, it: Watched, fleet: Fleet) -> None:
        """What the platform has to say beside the fleet, when it is new."""
        for notice in fleet.notices:
            if notice not in it.noticed:
                self.say(it, Kind.NOTICED, f"{it.name}: {notice}", ok=False)
        it.noticed = fleet.notices

    def _may_act(self, policy: Policy) -> bool:
        return self._act and policy.mode != "observe" and self.leads

    @property
    def leads(self) -> bool:
        """Whether no other daemon acts on these targets, for as long as an act takes."""
        return self._leadership is None or self._leadership.may_act(self._longest)

    @property
    def leader(self) -> str:
        """Whom this daemon follows; empty when it leads."""
        if self._leadership is None or self.leads:
            return ""
        return "nobody" if self._leadership.leads else self._leadership.leader or "nobody"

    def take_over(self) -> None:
        """This daemon leads from now on: look at everything at once, and say what is decided."""
        for it in self._watched.values():
            it.told = ()
            self.wake(it.name)

    async def _act_on(self, it: Watched, decision: Decision, facts: Facts, why: str) -> bool:
        """Carry the decision out. What fails is written down, and the change did not happen."""
        counts = it.policy.mode != "heal" and not why
        scales = counts and (
            decision.desired != facts.fleet.wanted
            or bool(decision.remove)
            or not facts.fleet.complete
        )
        if scales or decision.restarts:
            await self._recorder.flush(self._deadline)  # intention first
        leave = await self._routed(it, decision, facts.fleet)
        went_well = leave.known
        for restart in decision.restarts:
            went_well &= await self.restart(it, restart.instance)
        if scales and not (leave.busy and decision.desired == decision.current):
            went_well &= await self._scale(it, decision, leave)
        return went_well

    async def _routed(self, it: Watched, decision: Decision, fleet: Fleet) -> Leave:
        if not self.leads:
            return Leave(busy=decision.remove, known=False)
        try:
            leave = await routed(it, fleet, decision, self._adapters, self._clock, self._longest)
        except ScalerError as error:
            self._troubled(it, error)
            return Leave(busy=decision.remove, known=False)
        for words in leave.said:
            self.say(it, Kind.ACTED, f"{it.name}: {words}")
        return leave

    async def _scale(self, it: Watched, decision: Decision, leave: Leave) -> bool:
        """Ask for the count, and keep those that still answer requests for a later look."""
        assert it.provider is not None  # noqa: S101 - it has just observed
        count = decision.desired + len(leave.busy)
        made = it.history.changes
        if decision.desired != decision.current:
            made = made[:-1]
        if not leave.busy or leave.free or count > decision.current:
            asked = partial(it.provider.scale, it.policy.target, count, remove=leave.free)
            if not await self._ask(it, f"scale to {count}", asked):
                it.history = replace(it.history, changes=made)
                self._record(it)
                return False
            it.leaving = {i: since for i, since in it.leaving.items() if i not in leave.free}
            if count != decision.current:
                made = (*made, Change(decision.at, decision.current, count))
                it.changed += 1
        if made != it.history.changes:
            it.history = replace(it.history, changes=made)
            self._record(it)
        return True

    async def restart(self, it: Watched, instance: InstanceId, by: str = "") -> bool:
        """Ask the platform to start one instance again; whether it took the order.

        One that cannot be is no reason to leave the others alone: its back-off is wait enough.
        """
        assert it.provider is not None  # noqa: S101 - it has observed
        asked = partial(it.provider.restart, it.policy.target, instance)
        not_before = it.not_before
        taken = await self._ask(it, f"restart {instance}", asked, by)
        it.not_before = not_before
        it.restarted += taken
        return taken

    async def _ask(
        self, it: Watched, doing: str, call: Callable[[], Awaitable[None]], by: str = ""
    ) -> bool:
        """Have the platform do something, unless somebody else may act before it is done."""
        if not self.leads:
            return False
        try:
            await in_time(call(), self._longest, doing)
        except ScalerError as error:
            self._troubled(it, error, f"{doing}: ")
            return False
        self.say(it, Kind.ACTED, f"{it.name}: asked the platform to {doing}", by=by)
        return True

    def _worth_telling(self, it: Watched, decision: Decision, facts: Facts) -> list[Entry]:
        """An entry when the decision acts, when another rule holds the count, and now and then."""
        acts = (
            bool(decision.desired != decision.current or decision.remove or decision.restarts)
            and not self.leader
        )
        holding = frozenset(step.rule for step in decision.steps) - {"metrics", "tolerance"}
        said: tuple[object, ...] = (decision.desired, holding, bool(decision.waiting))
        said = (self.leader,) if self.leader else said
        quiet = said == it.told and it.told_at and decision.at - it.told_at < HEARTBEAT
        draining = it.leaving and set(decision.remove) <= it.leaving.keys()
        if quiet and (draining or not acts):
            return []
        it.told, it.told_at = said, decision.at
        would = "" if self._may_act(it.policy) else "observing only: "
        would = f"following {self.leader}: " if self.leader else would
        summary = would + explain.summary(decision)
        return [
            Entry(
                at=decision.at,
                kind=Kind.DECIDED,
                target=it.name,
                summary=summary,
                decision=decision,
                facts=replace(facts, policy=policy_to_facts(it.policy)),
            )
        ]

    def _troubled(self, it: Watched, error: ScalerError, doing: str = "") -> None:
        """The platform did not do as asked. Nothing changes; say so once and try again."""
        it.failures += 1
        now = self._clock.monotonic()
        if isinstance(error, TransientError):
            lasting = it.failures >= DEGRADED_AFTER
            condition = Condition.DEGRADED if lasting else Condition.DEFERRED
            kind = Kind.DEFERRED
            it.not_before = now + (error.retry_after or timedelta())
        else:
            condition, kind = Condition.PARKED, Kind.PARKED
            if isinstance(error, ManagedElsewhere):
                condition = Condition.ELSEWHERE
            it.not_before = now + PARKED_RETRY
        trouble = f"{doing}{error}"
        if (condition, trouble) != (it.condition, it.trouble):
            self.say(it, kind, f"{it.name}: {trouble}", ok=False)
        it.condition, it.trouble = condition, trouble

    def _broken(self, it: Watched, error: Exception) -> None:
        self.bugs += 1
        it.failures += 1
        trace = "".join(traceback.format_exception(error))
        summary = f"{it.name}: a defect of scaler: {type(error).__name__}: {error}"
        if summary != it.trouble:
            self.say(it, Kind.NOTICED, summary, ok=False, traceback=trace)
        it.condition, it.trouble = Condition.BROKEN, summary

    def _probe_broken(self, error: Exception) -> None:
        self.bugs += 1
        trace = "".join(traceback.format_exception(error))
        summary = f"a defect of scaler in a probe: {type(error).__name__}: {error}"
        self._tell(
            Entry(
                at=self._clock.now(),
                kind=Kind.NOTICED,
                summary=summary,
                ok=False,
                data={"traceback": trace},
            )
        )

    def _managed_elsewhere(self, it: Watched, why: str) -> None:
        """Say so when it begins, and each time somebody has undone one more change of ours."""
        before = len(it.history.overruled)
        if it.condition is not Condition.ELSEWHERE or before != it.undone:
            self.say(it, Kind.PARKED, f"{it.name}: managed elsewhere: {why}", ok=False)
        it.condition, it.trouble, it.undone = Condition.ELSEWHERE, why, before

    def _recovered(self, it: Watched, why: str) -> None:
        if it.failures:
            self.say(it, Kind.NOTICED, f"{it.name}: works again after {it.failures} failed tries")
        it.failures = 0
        if not why:
            it.condition, it.trouble = Condition.OK, ""

    def say(
        self,
        it: Watched,
        kind: Kind,
        summary: str,
        *,
        ok: bool = True,
        by: str = "",
        **data: object,
    ) -> None:
        """Write down that something happened to a target, and tell of it."""
        now = self._clock.now()
        entry = Entry(at=now, kind=kind, target=it.name, summary=summary, ok=ok, by=by, data=data)
        self._record(it, entry)

    def _record(self, it: Watched, *entries: Entry) -> None:
        self._recorder.record(it.name, it.history, *entries)
        for entry in entries:
            self._tell(entry)
            if isinstance(it.provider, Announcing) and self._may_act(it.policy):
                it.provider.announce(it.policy.target, entry)

    def _set_alarm(self, it: Watched, decision: Decision) -> None:
        """Look again when a restart falls due, if that is before the next tick."""
        if it.alarm is not None:
            it.alarm.cancel()
            it.alarm = None
        moments = [decision.again_at] if decision.again_at else []
        if it.leaving:
            moments.append(decision.at + LOOK)
        if moments and min(moments) - decision.at < it.policy.every:
            span = min(moments) - self._clock.now()
            it.alarm = asyncio.create_task(self._wake_after(it.name, span))

    async def _wake_after(self, name: str, span: timedelta) -> None:
        await self._clock.sleep(max(span, timedelta()))
        self._watched[name].alarm = None
        self.wake(name)

    def named(self, name: str) -> Watched:
        """The target of this policy.

        Raises:
            NotFound: no policy has this name.
        """
        if name not in self._watched:
            hint = mistakes.meant(name, self._watched)
            raise NotFound(f'no policy is named "{name}"' + (f"; {hint}" if hint else ""))
        return self._watched[name]

    @property
    def watched(self) -> Mapping[str, Watched]:
        """All targets, for those who only read."""
        return self._watched

    async def plan(self, policies: Mapping[str, Policy]) -> list[Decision]:
        """What the first tick of `policies` would decide now. Changes nothing, remembers nothing.

        Raises:
            ScalerError: a platform does not answer.
        """
        return [await self._planned(policy) for policy in policies.values()]

    async def _planned(self, policy: Policy) -> Decision:
        known = self._watched.get(policy.name)
        if known and known.facts and known.policy.metrics == policy.metrics:
            facts = known.facts
        else:
            facts = await self._first_facts(policy)
        now = self._clock.now()
        history = known.history if known else facts.history
        decision, _ = decide(policy, facts.fleet, facts.readings, history, now)
        return decision

    async def _first_facts(self, policy: Policy) -> Facts:
        """Two looks a second apart: a source that measures a difference needs both."""
        it = watch(policy, self._histories.get(policy.name, History()))
        try:
            fleet = await look(it, self._adapters, self._deadline)
            await read(it, fleet, self._clock, self._deadline)
            await self._clock.sleep(timedelta(seconds=1))
            return await self._observed(it)
        finally:
            await it.close()

    def under_way(self) -> list[asyncio.Task[Any]]:
        """Looks and probes that have not ended."""
        looks = [it.running for it in self._watched.values() if it.running is not None]
        return [*looks, *self.health.under_way]

    async def drain(self, deadline: timedelta) -> None:
        """Let what is under way end, but no longer than `deadline`, and let go of everything."""
        self._draining = True
        alarms = [it.alarm for it in self._watched.values() if it.alarm is not None]
        for task in alarms:
            task.cancel()
        await self._changes.aclose()
        await self.health.aclose()
        if running := self.under_way():
            _, late = await asyncio.wait(running, timeout=deadline.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await asyncio.gather(*alarms, return_exceptions=True)
        for it in self._watched.values():
            await it.close()


def _last_choice(fleet: Fleet, leaving: Container[InstanceId]) -> Fleet:
    """Who was chosen to go and gets no new requests any more is chosen again."""
    return altered(fleet, leaving, cordoned=True)
