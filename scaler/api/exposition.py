"""How every target stands, as Prometheus reads it (text format 0.0.4)."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from scaler.engine import status
from scaler.engine.manager import ScalingManager
from scaler.engine.watched import Condition

CONTENT: Final = "text/plain; version=0.0.4; charset=utf-8"
COUNTS: Final = {
    "wanted": "Instances that the platform was last asked for.",
    "desired": "Instances that the last decision asks for.",
    "ready": "Instances that are ready.",
    "min": "Fewest instances that the policy allows now.",
    "max": "Most instances that the policy allows now.",
}


def text(manager: ScalingManager, now: datetime, monotonic: timedelta, version: str) -> str:
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
    lines += _family("leader", "1 where this daemon acts.", [({}, float(manager.leads))])
    age = (monotonic - manager.beat_at).total_seconds()
    lines += _family("last_tick_age_seconds", "Since the last tick began.", [({}, age)])
    words = "Defects of scaler since it started."
    lines += _family("defects_total", words, [({}, float(manager.bugs))], kind="counter")
    return "\n".join(lines) + "\n"


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
        yield (
            f"scaler_{name}{{{inside}}} {float(value):g}"
            if inside
            else (f"scaler_{name} {float(value):g}")
        )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
