"""What can go wrong in a simulated world, and when."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Trouble(StrEnum):
    """One kind of fault."""

    PLATFORM_DOWN = "platform down"  # nothing is answered, nothing can be changed
    METRICS_MISSING = "metrics missing"  # the source says that it has none
    METRICS_STALE = "metrics stale"  # the source repeats what it last knew
    CRASH = "crash"  # every instance that runs when it begins ends
    PROBES_FAIL = "probes fail"  # every probe of every instance fails
    BALANCER_DOWN = "balancer down"  # nothing is routed and nobody says who is busy
    DEPENDENCY_DOWN = "dependency down"  # the probe of a dependency fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One trouble with one service or dependency, from `begin` up to `end`."""

    trouble: Trouble
    name: str
    begin: datetime
    end: datetime

    def strikes(self, trouble: Trouble, name: str, now: datetime) -> bool:
        return trouble is self.trouble and name == self.name and self.begin <= now < self.end
