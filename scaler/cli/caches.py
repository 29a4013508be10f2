"""`scaler cache`: looks at caches, prints what is found, and does what was agreed to."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

import click

from scaler.cli.output import show, styled, table
from scaler.clients.redis_scan import CacheServer
from scaler.clock import SystemClock
from scaler.core.units import format_span
from scaler.errors import Refused, ScalerError
from scaler.maintenance.cache_audit import CacheAudit, Outcome, Progress
from scaler.maintenance.cache_facts import Facts, Server
from scaler.maintenance.cache_plan import Action, Plan, SetTtl, plan_cache
from scaler.maintenance.cache_reports import Statistics, add_up
from scaler.maintenance.cache_rules import Cache

T = TypeVar("T")
WRITES: Final = ("unlink", "pexpire", "del", "set", "expire", "flushdb", "flushall")


@asynccontextmanager
async def _opened(cache: Cache) -> AsyncIterator[CacheServer]:
    server = CacheServer(cache.address())
    try:
        yield server
    finally:
        await server.aclose()


def _of_each(caches: Iterable[Cache], ask: Callable[[Cache], Awaitable[T]]) -> list[T]:
    async def one_by_one() -> list[T]:
        return [await ask(cache) for cache in caches]

    return asyncio.run(one_by_one())


def status(caches: Sequence[Cache], form: str) -> None:
    """Print the server's own numbers, and the statistics of all processes per function."""

    async def ask(cache: Cache) -> tuple[Cache, Server, Plan, Statistics]:
        async with _opened(cache) as server:
            seen = await CacheAudit(cache, server, SystemClock()).observe()
            said = [text for prefix in cache.prefixes for text in await server.stats(prefix)]
            return cache, seen, plan_cache(cache, Facts(server=seen)), add_up(said)

    answers = _of_each(caches, ask)
    plain = [_status_plain(*answer) for answer in answers]
    show(form, plain, lambda: "\n\n".join(_status_text(*answer) for answer in answers))


def _status_plain(cache: Cache, seen: Server, plan: Plan, said: Statistics) -> dict[str, Any]:
    return {
        "name": cache.name,
        "server": {**asdict(seen), "at": seen.at.isoformat()},
        "hit_ratio": plan.hit_ratio,
        "findings": [_finding(f) for f in plan.findings],
        "processes": said.processes,
        "unreadable": said.unreadable,
        "functions": {
            name: {**asdict(numbers), "hit_ratio": numbers.hit_ratio}
            for name, numbers in said.functions.items()
        },
    }


def _status_text(cache: Cache, seen: Server, plan: Plan, said: Statistics) -> str:
    limit = _size(seen.max_bytes) if seen.max_bytes else "no limit"
    head = (
        f"{cache.name}: Redis {seen.version}, {_size(seen.used_bytes)} of {limit}, {seen.policy}, "
        f"{seen.keys} keys, {max(0, seen.keys - seen.expires)} without a TTL, "
        f"hit ratio {_percent(plan.hit_ratio)} since it was started"
    )
    lines = [
        head,
        *(f"  {styled('!', 'degraded')} {finding.text}" for finding in plan.findings),
    ]
    if said.unreadable:
        lines.append(f"  statistics of {said.unreadable} processes could not be read")
    if not said.functions:
        return "\n".join([*lines, "  no process has written statistics in the last minute"])
    headings = ("FUNCTION", "HITS", "LOCAL", "STALE", "MISSES", "ERRORS", "RATIO", "P95", "SAVED")
    rows = [
        (
            name,
            str(f.hits_local + f.hits_shared),
            str(f.hits_local),
            str(f.stale),
            str(f.misses),
            str(f.errors),
            _percent(f.hit_ratio),
            f"{f.p95_s * 1000:.0f}ms",
            f"{f.saved_s:.0f}s",
        )
        for name, f in sorted(said.functions.items())
    ]
    return "\n".join([*lines, f"  {said.processes} processes", table(headings, rows)])


def plan(caches: Sequence[Cache], form: str, *, sample: bool) -> bool:
    """Print what is wrong and what a run would do; whether something is wrong."""

    async def ask(cache: Cache) -> Outcome:
        async with _opened(cache) as server:
            audit = _audit(cache, server)
            return await (audit.sample() if sample else audit.run())

    outcomes = _of_each(caches, ask)
    show(form, [_outcome(o) for o in outcomes], lambda: "\n\n".join(map(_text, outcomes)))
    return any(outcome.plan.findings for outcome in outcomes)


def run(caches: Sequence[Cache], form: str, *, yes: bool) -> None:
    """Print what is found, ask, and do what the rules allow.

    Raises:
        Refused: nobody is there to be asked.
    """

    async def ask(cache: Cache) -> Outcome:
        async with _opened(cache) as server:
            audit = _audit(cache, server)
            outcome = await audit.confirmed(await audit.run())
            click.echo(_text(outcome), err=form != "table")
            if outcome.stopped or not outcome.plan.actions:
                return outcome
            _agree(outcome, yes=yes)
            return await audit.carry_out(outcome)

    outcomes = _of_each(caches, ask)
    show(form, [_outcome(o) for o in outcomes], lambda: "\n".join(map(_done_text, outcomes)))


def _agree(outcome: Outcome, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked; add --yes to do what is said above")
    if not click.confirm(f"Do this to {outcome.cache}?", err=True):
        raise Refused("nothing was changed")


def _audit(cache: Cache, server: CacheServer) -> CacheAudit:
    def progress(now: Progress) -> None:
        if sys.stderr.isatty():
            text = f"{now.phase}: {now.seen} of about {now.total} keys, {now.changed} changed"
            click.echo(f"\r{text:<70}", err=True, nl=False)

    return CacheAudit(cache, server, SystemClock(), progress=progress)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.cache,
        "at": outcome.at.isoformat(),
        "keys_seen": outcome.keys_seen,
        "seconds": round(outcome.seconds, 3),
        "keys_per_s": round(outcome.keys_per_s),
        "server_busy_s": round(outcome.busy_s, 3),
        "whole": outcome.whole,
        "stopped": outcome.stopped,
        "hit_ratio": outcome.plan.hit_ratio,
        "unknown": list(outcome.plan.unknown),
        "findings": [_finding(finding) for finding in outcome.plan.findings],
        "actions": [_action(action) for action in outcome.plan.actions],
        "done": [
            {
                **_action(done.action),
                "keys": done.keys,
                "bytes": done.bytes,
                "names": list(done.names),
                "ended": done.ended,
            }
            for done in outcome.done
        ],
    }


def _finding(finding: Any) -> dict[str, Any]:
    return {**asdict(finding), "kind": str(finding.kind)}


def _action(action: Action) -> dict[str, Any]:
    return {"action": _words(action), "keys": action.keys, "because": action.because}


def _words(action: Action) -> str:
    if isinstance(action, SetTtl):
        return f"set a TTL of {format_span(action.ttl)} for keys of {action.prefix}"
    what = f"of {action.version}" if action.version else "that are idle"
    return f"remove keys of {action.prefix} {what}"


def _text(outcome: Outcome) -> str:
    seen = "every key" if outcome.whole else f"{outcome.keys_seen} keys"
    plan = outcome.plan
    lines = [f"{outcome.cache}: looked at {seen} in {outcome.seconds:.1f} s"]
    if outcome.whole:
        lines[0] += f" ({outcome.keys_seen})"
    if outcome.stopped:
        lines.append(f"  stopped early: {outcome.stopped}")
    lines += [f"  {styled('!', 'degraded')} {finding.text}" for finding in plan.findings]
    lines += [f"  ? {text}" for text in plan.unknown]
    lines += [f"  > {_words(a)}: about {a.keys}, {a.because}" for a in plan.actions]
    if not plan.findings:
        lines.append("  nothing is wrong with it")
    elif not plan.actions:
        lines.append("  nothing would be done: `act` turns nothing on that helps here")
    return "\n".join(lines)


def _done_text(outcome: Outcome) -> str:
    lines = [
        f"  {_words(d.action)}: {d.keys} done, {_size(d.bytes)} freed"
        + (f"; {d.ended}" if d.ended else "")
        for d in outcome.done
    ]
    if outcome.done and outcome.stopped:
        lines.append(f"  stopped early: {outcome.stopped}")
    return "\n".join([f"{outcome.cache}: {'done' if outcome.done else 'nothing done'}", *lines])


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to be so."""

    name: str
    ok: bool
    detail: str


def verify(caches: Sequence[Cache], form: str) -> bool:
    """Print what was checked; whether all of it is as it has to be."""
    answers = _of_each(caches, _verified)
    plain = [
        {"name": cache.name, "checks": [asdict(check) for check in checks]}
        for cache, checks in zip(caches, answers, strict=True)
    ]
    rows = [
        (cache.name, check.name, styled("ok", "ok") if check.ok else "FAILED", check.detail)
        for cache, checks in zip(caches, answers, strict=True)
        for check in checks
    ]
    show(form, plain, lambda: table(("CACHE", "CHECK", "RESULT", ""), rows))
    return all(check.ok for checks in answers for check in checks)


async def _verified(cache: Cache) -> list[Check]:
    checks: list[Check] = []
    try:
        async with _opened(cache) as server:
            await server.ping()
            checks.append(Check(name="connection", ok=True, detail="it answers"))
            before = await server.calls()
            outcome = await CacheAudit(cache, server, SystemClock()).sample()
            checks += _looked(cache, outcome)
            checks.append(_wrote_nothing(before, await server.calls(), server))
            if cache.act.anything:
                for prefix in cache.prefixes:
                    await server.may_change(prefix)
                checks.append(Check(name="rights to act", ok=True, detail="UNLINK and PEXPIRE"))
    except ScalerError as error:
        name = "rights" if checks else "connection"
        checks.append(Check(name=name, ok=False, detail=str(error)))
    return checks


def _looked(cache: Cache, outcome: Outcome) -> Iterable[Check]:
    detail = "; ".join(outcome.plan.unknown) or "everything can be asked"
    yield Check(name="rights to look", ok=True, detail=detail)
    inside = outcome.keys_inside
    detail = f"{inside} of {outcome.keys_seen} keys begin with {', '.join(cache.prefixes)}"
    remedy = "" if inside or not outcome.keys_seen else "; check prefixes and the number after /"
    yield Check(name="prefixes", ok=not remedy, detail=detail + remedy)


def _wrote_nothing(before: Any, after: Any, server: CacheServer) -> Check:
    name = "a dry run writes nothing"
    if server.cannot_write:
        return Check(name=name, ok=True, detail="the server guarantees it: EVAL_RO")
    more = [word for word in WRITES if after.get(word, 0) > before.get(word, 0)]
    if more:
        detail = f"{', '.join(more)} were called meanwhile, by others as far as can be known"
        return Check(name=name, ok=True, detail=detail)
    return Check(name=name, ok=True, detail="no writing command was counted meanwhile")


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"
