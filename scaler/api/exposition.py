"""How every target stands, as Prometheus reads it (text format 0.0.4)."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from scaler.engine import status
from scaler.engine.manager import ScalingManager
from scaler.engine.watched import Condition

if TYPE_CHECKING:
    from scaler.maintenance.cache_job import CacheJob

CONTENT: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTS: Final = {
    "wanted": "Instances that the platform was last asked for.",
    "desired": "Instances that the last decision asks for.",
    "ready": "Instances that are ready.",
    "min": "Fewest instances that the policy allows now.",
    "max": "Most instances that the policy allows now.",
}
ANSWERS: Final = ("hits_local", "hits_shared", "stale", "misses", "joined", "errors")
CACHE: Final = {  # a field of what processes say, its series, and what that is
    "hit_ratio": ("cache_hit_ratio", "Answers from the cache of all answers."),
    "saved_s": ("cache_saved_seconds", "Of the backend, that hits have spared."),
    "p95_s": ("cache_recompute_p95_seconds", "Of the backend, in the slowest process."),
}


def text(
    manager: ScalingManager,
    now: datetime,
    monotonic: timedelta,
    version: str,
    caches: Sequence["CacheJob"] = (),
) -> str:
    """All series. What is not known has none, which is not zero."""
    targets = [status.of(it, now) for it in manager.watched.values()]
    lines = [*_family("info", "Version of scaler.", [({"version": version}, 1.0)])]
    for field, words in COUNTS.items():
        found = [({"policy": t["name"]}, t[field]) for t in targets]
        lines += _family(field, words, found)
    lines += _family(
        "condition",
        "1 for the condition that the target is in.",
        [
            ({"policy": t["name"], "condition": each.value}, float(t["condition"] == each.value))
            for t in targets
            for each in Condition
        ],
    )
    for field in ("value", "goal"):
        found = [
            ({"policy": t["name"], "metric": metric["name"]}, metric[field])
            for t in targets
            for metric in t["metrics"]
        ]
        lines += _family(f"metric_{field}", f"The {field} of a metric.", found)
    done = [({"policy": name}, it) for name, it in manager.watched.items()]
    words = "Counts that the platform took from this daemon since it started."
    lines += _family("changes_total", words, [(p, it.changed) for p, it in done], kind="counter")
    words = "Restarts that the platform took from this daemon since it started."
    lines += _family("restarts_total", words, [(p, it.restarted) for p, it in done], kind="counter")
    lines += _family("leader", "1 where this daemon acts.", [({}, float(manager.leads))])
    age = (monotonic - manager.beat_at).total_seconds()
    lines += _family("last_tick_age_seconds", "Since the last tick began.", [({}, age)])
    words = "Defects of scaler since it started."
    lines += _family("defects_total", words, [({}, float(manager.bugs))], kind="counter")
    lines += _of_caches(caches)
    return "\n".join(lines) + "\n"


def _of_caches(caches: Sequence["CacheJob"]) -> Iterator[str]:
    """What the processes that use a cache say, added up, and what was found in it."""
    functions = [
        ({"cache": it.cache, "function": name}, stats)
        for it in caches
        for name, stats in it.statistics.functions.items()
    ]
    yield from _family(
        "cache_answers",
        "Answers of a cached function by where they came from, of the processes that live.",
        [({**at, "from": f}, getattr(stats, f)) for at, stats in functions for f in ANSWERS],
    )
    for field, (name, words) in CACHE.items():
        yield from _family(name, words, [(at, getattr(stats, field)) for at, stats in functions])
    found = [
        ({"cache": it.cache, "kind": kind}, count)
        for it in caches
        for kind, count in it.findings.items()
    ]
    yield from _family("cache_findings", "What is wrong in a cache.", found)


def _family(
    name: str, words: str, series: Iterable[tuple[Any, Any]], kind: str = "gauge"
) -> Iterator[str]:
    known = [(labels, value) for labels, value in series if value is not None]
    if not known:
        return
    yield f"# HELP scaler_{name} {words}"
    yield f"# TYPE scaler_{name} {kind}"
    for labels, value in known:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        labelled = f"{{{inside}}}" if inside else ""
        yield f"scaler_{name}{labelled} {float(value)!r}"  # with every digit: memory is in bytes


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
