"""What is known of a cache when its hygiene is planned: values only, whoever has asked for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

FEWEST_POINTS: Final = 5  # a line through fewer says nothing about the next day
SHORTEST: Final = timedelta(minutes=10)  # the points of a trend cover at least this
DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What the server says of itself in INFO and SLOWLOG."""

    at: datetime
    version: str = ""
    run_id: str = ""  # another one after each start
    used_bytes: int = 0
    max_bytes: int = 0  # 0: it may take all there is
    policy: str = ""  # maxmemory_policy
    keys: int = 0  # of the database that is looked into
    expires: int = 0  # those of them with a TTL
    hits: int = 0  # since the server started, as all counters
    misses: int = 0
    evicted: int = 0
    stale: float = 0.0  # ratio of expired keys that are still there, as the server estimates it
    fragmentation: float = 1.0
    loading: bool = False
    slow: int | None = None  # the number of the newest entry of the slow log, and
    slow_kept: int | None = None  # how many it holds; None when we may not look


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Keys that begin alike: one version of a function, or one word after a prefix."""

    prefix: str
    name: str
    version: str = ""  # FUNCTION.VERSION, when the keys carry one
    keys: int = 0
    bytes: int = 0
    no_ttl: int = 0
    idle: int = 0

    def __add__(self, other: "Group") -> "Group":
        return Group(
            prefix=self.prefix,
            name=self.name,
            version=self.version,
            keys=self.keys + other.keys,
            bytes=self.bytes + other.bytes,
            no_ttl=self.no_ttl + other.no_ttl,
            idle=self.idle + other.idle,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BigKey:
    """One key that takes more than it should."""

    name: str
    type: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """The versions that running processes have said to have, at one moment."""

    at: datetime
    seen: Mapping[str, float] = field(default_factory=dict)  # unix seconds of the last sign of life


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Memory at one moment."""

    at: datetime
    used_bytes: int
    prefixes: Mapping[str, int] = field(default_factory=dict)  # bytes of each, when they are known


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a plan is made from, beside the rules."""

    server: Server
    before: Server | None = None  # as it was an interval ago
    keys_seen: int = 0
    whole: bool = False  # every key was looked at; else what was seen stands for the rest
    groups: tuple[Group, ...] = ()
    big: tuple[BigKey, ...] = ()
    examples: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """Names of keys by `no_ttl` or `idle`, and prefix."""
    idle_known: bool = True  # False under an LFU policy, which keeps frequencies in that place
    rolls: Mapping[str, tuple[Roll, ...]] = field(default_factory=dict)  # by prefix, oldest first
    points: tuple[Point, ...] = ()
    unknown: tuple[str, ...] = ()  # what could not be asked, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A line through points."""

    per_day: float
    error: float  # of `per_day`, one standard deviation

    @property
    def certain(self) -> float:
        """The change per day that is there with 97.5 % certainty; 0 when none is."""
        if self.per_day > 0:
            return max(0.0, self.per_day - 1.96 * self.error)
        return min(0.0, self.per_day + 1.96 * self.error)


def trend(points: Sequence[tuple[datetime, float]]) -> Trend | None:
    """The least-squares line through `points`; None when they are too few or too close.

    Source: the standard error of a slope, s / sqrt(sum of (x - mean)^2) with n - 2 degrees.
    """
    if len(points) < FEWEST_POINTS or points[-1][0] - points[0][0] < SHORTEST:
        return None
    xs = [(at - points[0][0]).total_seconds() / DAY_S for at, _ in points]
    ys = [value for _, value in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in zip(xs, ys, strict=True))
    return Trend(per_day=slope, error=(rest / (len(xs) - 2) / spread) ** 0.5)
