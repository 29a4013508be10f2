"""Which instances to lose when shrinking."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from scaler.core import window
from scaler.core.model import Fleet, Health, Instance, InstanceId, Reading, State

_EPOCH = datetime.min.replace(tzinfo=UTC)


def choose(fleet: Fleet, count: int, readings: Mapping[str, Reading]) -> tuple[InstanceId, ...]:
    """The `count` instances that are missed least.

    Where the platform has an order of its own, it is that order. Else failed before unready before
    those of an older template before cordoned ones; then the least loaded, then the newest.
    Protected and held ones are never among them, so there may be fewer.
    """
    load = _loads(readings)

    def missed(instance: Instance) -> tuple[object, ...]:
        born = instance.created_at or instance.started_at or _EPOCH
        return (
            -(instance.rank or 0),
            instance.state is not State.FAILED,
            instance.state is State.RUNNING
            and instance.ready is not False
            and instance.health is not Health.UNHEALTHY,
            instance.current,
            not instance.cordoned,
            load.get(instance.id, 0.0),
            -(born - _EPOCH).total_seconds(),
            instance.id,
        )

    able = [
        i
        for i in fleet.instances
        if i.state not in (State.STOPPING, State.HELD) and not i.protected
    ]
    return tuple(instance.id for instance in sorted(able, key=missed)[: max(0, count)])


def _loads(readings: Mapping[str, Reading]) -> Mapping[InstanceId, float]:
    """What each instance carries by the first metric that says it of each.

    What is no load has no place in an order: NaN would make it depend on who stands where.
    """
    for reading in readings.values():
        each = {
            s.instance: s.value
            for s in reading.samples
            if s.instance is not None and window.is_load(s.value)
        }
        if each:
            return each
    return {}


def present(instances: Sequence[Instance]) -> int:
    """How many there are, those on their way out left out."""
    return sum(instance.state is not State.STOPPING for instance in instances)
