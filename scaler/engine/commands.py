"""What people ask of a target: to leave it alone, to set a count, to restart an instance.

Each is an entry of the journal with the name of the person, and survives a restart of the daemon.
"""

from dataclasses import replace

from scaler.clock import Clock
from scaler.core import health, schedule
from scaler.core.journal import Kind
from scaler.core.model import Asked, Hold, InstanceId, Pause, Restart
from scaler.engine.manager import ScalingManager
from scaler.engine.watched import Watched
from scaler.errors import NotFound, Refused, Unavailable


class Commands:
    """What may be asked of the targets of one manager."""

    def __init__(self, manager: ScalingManager, clock: Clock) -> None:
        self._manager = manager
        self._clock = clock

    def pause(self, name: str, pause: Pause) -> None:
        """Close one or both directions, for a time or until `resume`.

        Raises:
            Refused: another daemon leads; so with all commands.
        """
        it = self._led(name)
        it.history = replace(it.history, pause=pause)
        until = f" until {pause.until:%Y-%m-%d %H:%M:%S} UTC" if pause.until else ""
        what = {(True, True): "", (True, False): " for scale-in", (False, True): " for scale-out"}
        words = what[pause.scale_in, pause.scale_out]
        self._told(it, f"{name}: paused{words}{until}", pause.by, pause.reason)

    def resume(self, name: str, by: str) -> None:
        """Take back a pause and a count set by hand."""
        it = self._led(name)
        it.history = replace(it.history, pause=None, hold=None)
        self._told(it, f"{name}: resumed", by, "")

    def scale(self, name: str, hold: Hold, *, lasting: bool) -> None:
        """Set the count by hand, within the bounds.

        Lasting, it stands until `hold.until`. Otherwise it is where the rules go on from: it counts
        as asked for, so `settle_down` keeps it for its span.

        Raises:
            Refused: the bounds or a pause forbid it.
        """
        it = self._led(name)
        now = self._clock.now()
        limits = schedule.bounds(it.policy.limits, it.policy.schedule, now)
        if not limits.min <= hold.count <= limits.max:
            raise Refused(
                f"{hold.count} is outside the limits of {name}, {limits.min} to {limits.max}; "
                "choose one of these or change limits in its policy"
            )
        if it.history.pause is not None:
            raise Refused(f"{name} is paused; resume it first: scaler resume {name}")
        asked = it.history.asked if lasting else (*it.history.asked, Asked(now, hold.count))
        until = hold.until if lasting else now + it.policy.every
        it.history = replace(it.history, hold=replace(hold, until=until), asked=asked)
        self._told(it, f"{name}: set to {hold.count} by hand", hold.by, hold.reason)

    async def restart(self, name: str, instance: str, by: str) -> None:
        """Start one instance again. It counts in its back-off and in the budget of the target.

        Raises:
            NotFound: there is no such instance.
            Refused: others are down already.
            Unavailable: the platform does not do it now.
        """
        it = self._led(name)
        fleet = it.fleet
        ids = {i.id for i in fleet.instances} if fleet else set()
        chosen = InstanceId(instance)
        if fleet is None or chosen not in ids:
            raise NotFound(f'{name} has no instance "{instance}"; it has {", ".join(sorted(ids))}')
        now = self._clock.now()
        if why := health.refusal(it.policy.health.restart, fleet, it.history, chosen, now):
            raise Refused(f"{instance} is not restarted: {why}")
        because = [Restart(instance=chosen, because="by hand")]
        remembered = health.restarted(it.history.restarts, because, now)
        it.history = replace(it.history, restarts=remembered)
        if not await self._manager.restart(it, chosen, by):
            raise Unavailable(it.trouble)

    def _led(self, name: str) -> Watched:
        """The target, if it is this daemon that acts on it."""
        if leader := self._manager.leader:
            raise Refused(f"this daemon follows {leader}, which acts and remembers; ask that one")
        return self._manager.named(name)

    def _told(self, it: Watched, what: str, by: str, reason: str) -> None:
        why = f": {reason}" if reason else ""
        self._manager.say(it, Kind.COMMANDED, f"{what} by {by}{why}", by=by)
        self._manager.wake(it.name)
