"""What is wrong with a cache and what is to be done about it: pure, from facts and rules.

Nothing outside the declared prefixes is ever in an action, and an action is planned only where
the rules turn it on. What a sample shows is scaled to the whole; a full lap is exact.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from scaler.core.units import format_span
from scaler.maintenance.cache_facts import Facts, Group, Roll, Server, trend
from scaler.maintenance.cache_rules import Cache

CONFIRMED: Final = timedelta(seconds=30)  # three renewals: a roll that was lost is full again
FRAGMENTED: Final = 1.4  # memory taken from the system for each byte used, and
FRAGMENTED_FROM: Final = 100_000_000  # only above this: a small server is always fragmented
STALE: Final = 0.10  # what the server itself tolerates (active-expire-effort 1)
STALE_GROWN: Final = 0.10  # more than at the start of a lap: the lap starves the expiry
LOPSIDED: Final = 0.5  # of all bytes in one group, when there are
LOPSIDED_FROM: Final = 1_000_000  # bytes
FULL_SOON_DAYS: Final = 30.0
GROWING: Final = 0.10  # of its size per day
MOST_FINDINGS: Final = 200  # of one kind
SILENT_EVICTION: Final = 0.05  # of keys without TTL that a volatile-* policy can never evict


class Found(StrEnum):
    """What a finding is about."""

    NO_TTL = "no-ttl"
    DEAD_VERSION = "dead-version"
    IDLE = "idle"
    BIG_KEY = "big-key"
    GROWTH = "growth"
    FULL = "days-to-full"
    BACKLOG = "expired-backlog"
    FRAGMENTED = "fragmentation"
    POLICY = "policy"
    SLOW = "slow-commands"
    LOPSIDED = "one-prefix"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem, with its size and a remedy."""

    kind: Found
    subject: str  # a prefix, a version, a key or a setting
    number: float
    unit: str
    because: str
    remedy: str

    @property
    def text(self) -> str:
        return f"{self.kind} {self.subject}: {self.because}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlink:
    """Remove the keys of a dead version, or those of a prefix that are idle."""

    prefix: str
    version: str = ""  # FUNCTION.VERSION; empty: what is idle
    keys: int  # about how many
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTtl:
    """Give the keys of a prefix that have no TTL this one."""

    prefix: str
    ttl: timedelta
    keys: int
    because: str


Action = Unlink | SetTtl


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was found and what follows from it."""

    findings: tuple[Finding, ...] = ()
    actions: tuple[Action, ...] = ()
    hit_ratio: float | None = None  # since the look before; None when nothing was asked for
    unknown: tuple[str, ...] = ()


def plan_cache(rules: Cache, facts: Facts) -> Plan:
    """The findings about a cache, and the actions that its rules allow."""
    findings: list[Finding] = []
    for look in LOOKS:
        findings += list(look(rules, facts))[:MOST_FINDINGS]
    actions: list[Action] = [*_removals(rules, facts), *_ttls(rules, facts)]
    unknown = list(facts.unknown)
    if not facts.idle_known:
        policy = facts.server.policy or "an LFU policy"
        unknown.append(f"idle keys: {policy} counts how often a key is used, not when")
    return Plan(
        findings=tuple(findings),
        actions=tuple(actions),
        hit_ratio=hit_ratio(facts.before, facts.server),
        unknown=tuple(unknown),
    )


def hit_ratio(before: Server | None, now: Server) -> float | None:
    """Hits of all reads since `before`, or since the server started."""
    begin = before if before and before.hits <= now.hits and before.misses <= now.misses else None
    hits = now.hits - (begin.hits if begin else 0)
    reads = hits + now.misses - (begin.misses if begin else 0)
    return hits / reads if reads else None


def must_stop(first: Server, now: Server) -> str:
    """Why a lap is to end early; empty when it may go on.

    A long SCAN can hold up the expiry of keys in the background, so that they pile up because they
    are being looked at. Source: issue 15411 of Redis.
    """
    if now.loading:
        return "the server is loading its data"
    if now.stale > max(STALE, first.stale + STALE_GROWN):
        return f"expired keys pile up: {now.stale:.0%} of keys with a TTL, {first.stale:.0%} before"
    return ""


def is_dead(version: str, rolls: tuple[Roll, ...], dead_after: timedelta) -> bool:
    """Whether no process has had `version` for `dead_after`, in every look at the roll.

    A roll that is missing or empty says nothing, so then nothing is dead.
    """
    return bool(rolls) and all(_is_gone(version, roll, dead_after) for roll in rolls)


def _is_gone(version: str, roll: Roll, dead_after: timedelta) -> bool:
    if not roll.seen:
        return False
    seen = roll.seen.get(version)
    return seen is None or roll.at.timestamp() - seen > dead_after.total_seconds()


def is_confirmed(version: str, rolls: tuple[Roll, ...]) -> bool:
    """Whether a dead version may be acted on.

    One that has stopped giving signs is known to be old. One that is not on the roll may only be
    missing because the roll was evicted and is being filled again, so that takes a second look.
    """
    return version in rolls[-1].seen or rolls[-1].at - rolls[0].at >= CONFIRMED


def _scale(facts: Facts) -> float:
    """How many keys each key that was seen stands for."""
    if facts.whole or not facts.keys_seen:
        return 1.0
    return max(1.0, facts.server.keys / facts.keys_seen)


def _of_prefix(facts: Facts, prefix: str) -> Group:
    total = Group(prefix=prefix, name=prefix)
    for group in facts.groups:
        if group.prefix == prefix:
            total += group
    return total


def _about(number: int, facts: Facts) -> int:
    return round(number * _scale(facts))


def _seen(number: int, of: int, facts: Facts) -> str:
    share = f"{number} of {of} keys ({number / max(1, of):.1%})"
    return share if facts.whole else f"{share} in a sample"


def _such_as(facts: Facts, kind: str, prefix: str) -> str:
    names = facts.examples.get((kind, prefix), ())
    return f", such as {', '.join(names)}" if names else ""


def _no_ttl(rules: Cache, facts: Facts) -> Iterable[Finding]:
    for prefix in rules.prefixes:
        total = _of_prefix(facts, prefix)
        if total.no_ttl:
            yield Finding(
                kind=Found.NO_TTL,
                subject=prefix,
                number=_about(total.no_ttl, facts),
                unit="keys",
                because=f"{_seen(total.no_ttl, total.keys, facts)} never expire"
                + _such_as(facts, "no_ttl", prefix),
                remedy="write them with a TTL, or set act: {missing_ttl: 1d}",
            )


def _dead(rules: Cache, facts: Facts) -> list[Group]:
    return [
        group
        for group in facts.groups
        if group.version
        and group.keys
        and group.prefix in rules.prefixes
        and is_dead(group.version, facts.rolls.get(group.prefix, ()), rules.find.dead_after)
    ]


def _dead_versions(rules: Cache, facts: Facts) -> Iterable[Finding]:
    for group in _dead(rules, facts):
        yield Finding(
            kind=Found.DEAD_VERSION,
            subject=group.name,
            number=_about(group.keys, facts),
            unit="keys",
            because=_why_dead(group, rules, facts),
            remedy="they are never read again; set act: {dead_versions: on}",
        )


def _why_dead(group: Group, rules: Cache, facts: Facts) -> str:
    size = f"{_about(group.bytes, facts) / 1e6:.1f} MB"
    after = format_span(rules.find.dead_after)
    return f"no process has had {group.version} for {after}; its keys take about {size}"


def _idle(rules: Cache, facts: Facts) -> Iterable[Finding]:
    for prefix in rules.prefixes:
        total = _of_prefix(facts, prefix)
        if facts.idle_known and total.idle:
            seen = _seen(total.idle, total.keys, facts)
            yield Finding(
                kind=Found.IDLE,
                subject=prefix,
                number=_about(total.idle, facts),
                unit="keys",
                because=f"{seen} not used for {format_span(rules.find.idle)}"
                + _such_as(facts, "idle", prefix),
                remedy="shorten their TTL, or set act: {idle: on}",
            )


def _big(_: Cache, facts: Facts) -> Iterable[Finding]:
    for key in sorted(facts.big, key=lambda key: -key.bytes):
        yield Finding(
            kind=Found.BIG_KEY,
            subject=key.name,
            number=key.bytes,
            unit="bytes",
            because=f"a {key.type} of {key.bytes / 1e6:.1f} MB",
            remedy="split it: reading or removing it keeps others waiting",
        )


def _growth(_: Cache, facts: Facts) -> Iterable[Finding]:
    names = {name for point in facts.points for name in point.prefixes}
    for name in sorted(names):
        line = [(p.at, float(p.prefixes[name])) for p in facts.points if name in p.prefixes]
        found = trend(line)
        if found and line[-1][1] > 0 and found.certain > GROWING * line[-1][1]:
            yield Finding(
                kind=Found.GROWTH,
                subject=name,
                number=round(found.per_day),
                unit="bytes per day",
                because=f"grows by {found.per_day / 1e6:.1f} MB a day, it has "
                f"{line[-1][1] / 1e6:.1f} MB",
                remedy="shorten its TTL, or give the server more memory",
            )


def _full(_: Cache, facts: Facts) -> Iterable[Finding]:
    server = facts.server
    found = trend([(point.at, float(point.used_bytes)) for point in facts.points])
    if not server.max_bytes or found is None or found.certain <= 0:
        return
    days = max(0, server.max_bytes - server.used_bytes) / found.per_day
    if days <= FULL_SOON_DAYS:
        yield Finding(
            kind=Found.FULL,
            subject="maxmemory",
            number=round(days, 2),
            unit="days",
            because=f"{server.used_bytes / 1e6:.1f} of {server.max_bytes / 1e6:.1f} MB are used, "
            f"and {found.per_day / 1e6:.1f} MB are added each day: full in {days:.1f} days",
            remedy="raise maxmemory, or shorten TTLs",
        )


def _backlog(_: Cache, facts: Facts) -> Iterable[Finding]:
    if facts.server.stale > STALE:
        yield Finding(
            kind=Found.BACKLOG,
            subject="expired_stale_perc",
            number=round(facts.server.stale * 100, 1),
            unit="%",
            because=f"{facts.server.stale:.0%} of the keys with a TTL have expired and still "
            "take memory",
            remedy="raise active-expire-effort, and spread TTLs that end together",
        )


def _fragmented(_: Cache, facts: Facts) -> Iterable[Finding]:
    server = facts.server
    if server.used_bytes > FRAGMENTED_FROM and server.fragmentation > FRAGMENTED:
        yield Finding(
            kind=Found.FRAGMENTED,
            subject="mem_fragmentation_ratio",
            number=server.fragmentation,
            unit="ratio",
            because=f"it takes {server.fragmentation:.2f} bytes from the system for each it uses",
            remedy="turn activedefrag on, or restart a replica and fail over",
        )


def _policy(subject: str, number: float, unit: str, because: str, remedy: str) -> Finding:
    return Finding(
        kind=Found.POLICY,
        subject=subject,
        number=number,
        unit=unit,
        because=because,
        remedy=remedy,
    )


def _policies(_: Cache, facts: Facts) -> Iterable[Finding]:
    server = facts.server
    if not server.max_bytes:
        because = "it may take all memory of the machine and is then ended by the system"
        remedy = "set maxmemory to what the machine can spare, and a policy that evicts"
        yield _policy("maxmemory", 0, "bytes", because, remedy)
        return
    if server.policy == "noeviction":
        because = "at maxmemory nothing is evicted and writes fail"
        remedy = "set maxmemory-policy to allkeys-lru for a cache"
        yield _policy("noeviction", server.max_bytes, "bytes", because, remedy)
    lasting = max(0, server.keys - server.expires)
    if server.policy.startswith("volatile-") and lasting > SILENT_EVICTION * server.keys:
        because = f"{lasting} of {server.keys} keys have no TTL, and those are never evicted"
        remedy = "give them a TTL, or set maxmemory-policy to allkeys-lru"
        yield _policy(server.policy, lasting, "keys", because, remedy)


def _slow(_: Cache, facts: Facts) -> Iterable[Finding]:
    new = slow_since(facts.before, facts.server)
    if new:
        yield Finding(
            kind=Found.SLOW,
            subject="slowlog",
            number=new,
            unit="commands",
            because=f"{new} commands kept all others waiting since the last look",
            remedy="see SLOWLOG GET; look for KEYS, big ranges and big keys",
        )


def slow_since(before: Server | None, now: Server) -> int:
    """Entries that the slow log has got since; all it holds when there was no look before."""
    if now.slow is None or now.slow_kept is None:
        return 0
    if before is None or before.slow is None or before.slow > now.slow:
        return now.slow_kept
    return now.slow - before.slow


def _lopsided(_: Cache, facts: Facts) -> Iterable[Finding]:
    total = sum(group.bytes for group in facts.groups)
    if len(facts.groups) < 2 or total < LOPSIDED_FROM:
        return
    largest = max(facts.groups, key=lambda group: group.bytes)
    if largest.bytes > LOPSIDED * total:
        share = largest.bytes / total
        yield Finding(
            kind=Found.LOPSIDED,
            subject=largest.name,
            number=round(share * 100, 1),
            unit="%",
            because=f"{share:.0%} of the bytes of the cache are in {largest.keys} of its keys",
            remedy="see whether all of it is worth keeping; it pushes out the rest",
        )


def _removals(rules: Cache, facts: Facts) -> Iterable[Unlink]:
    dead = _dead(rules, facts) if rules.act.dead_versions else []
    for group in dead:
        if is_confirmed(group.version, facts.rolls[group.prefix]):
            yield Unlink(
                prefix=group.prefix,
                version=group.version,
                keys=_about(group.keys, facts),
                because=_why_dead(group, rules, facts),
            )
    for prefix in rules.prefixes if rules.act.idle and facts.idle_known else ():
        if idle := _of_prefix(facts, prefix).idle:
            because = f"not used for {format_span(rules.find.idle)}"
            yield Unlink(prefix=prefix, keys=_about(idle, facts), because=because)


def _ttls(rules: Cache, facts: Facts) -> Iterable[SetTtl]:
    ttl = rules.act.missing_ttl
    for prefix in rules.prefixes if ttl is not None else ():
        if ttl is not None and (lasting := _of_prefix(facts, prefix).no_ttl):
            because = f"they have none, and the rules say {format_span(ttl)}"
            yield SetTtl(prefix=prefix, ttl=ttl, keys=_about(lasting, facts), because=because)


LOOKS: Final[tuple[Callable[[Cache, Facts], Iterable[Finding]], ...]] = (
    _no_ttl,
    _dead_versions,
    _idle,
    _big,
    _growth,
    _full,
    _backlog,
    _fragmented,
    _policies,
    _slow,
    _lopsided,
)
