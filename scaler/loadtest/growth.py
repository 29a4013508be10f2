"""From a capacity to the goal of a policy, and the change to its file.

A load that grows by `growth` (a ratio per minute) does so while new instances are on their way;
the goal leaves that room: T = C / (1 + g), g = growth x lead time.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from scaler.core.units import format_percent, format_rate, format_span
from scaler.errors import ConfigError
from scaler.loadtest import policytext
from scaler.loadtest.capacity import Found
from scaler.loadtest.evidence import Objective
from scaler.located import InvalidFiles, parse

LEAST_HEADROOM: Final = 0.05  # for what the interval around a capacity leaves open
SETTLE_DOWN: Final = timedelta(minutes=2)  # at least
MARK: Final = "# calibrated:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """Room for growth until new instances help."""

    growth: float  # ratio of the load per minute
    ready: timedelta  # from asking for an instance until it is ready
    window: timedelta = timedelta(seconds=15)  # over which the metric is averaged
    every: timedelta = timedelta(seconds=5)  # between two decisions

    @property
    def lead(self) -> timedelta:
        """Until new instances help: a mean over a window is half of it late."""
        return self.ready + self.window / 2 + self.every

    @property
    def share(self) -> float:
        return max(LEAST_HEADROOM, self.growth * self.lead.total_seconds() / 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a policy needs beside its goal to act in time; from docs/calibration.md, the waves."""

    window: timedelta = timedelta(seconds=15)  # of the metric; a longer one is later
    settle_down: timedelta = SETTLE_DOWN
    tolerance_up: float = 0.0  # else it grows only when the room for growth is half used

    def limits(self) -> dict[str, str]:
        return {
            "tolerance_up": format_percent(self.tolerance_up),
            "settle_down": format_span(self.settle_down),
        }

    def metric(self) -> dict[str, str]:
        return {"window": format_span(self.window)}


def rules(headroom: Headroom) -> Rules:
    """Down only after twice the lead time, so that an instance that goes was not needed soon."""
    twice = timedelta(seconds=round(2 * headroom.lead.total_seconds()))
    return Rules(window=headroom.window, settle_down=max(SETTLE_DOWN, twice))


def goal(found: Found, headroom: Headroom) -> float:
    """Requests per second and instance that a policy should aim at."""
    return found.rate / (1 + headroom.share)


def remark(
    found: Found, objective: Objective, headroom: Headroom, target: str, at: datetime
) -> str:
    """How the goal was measured, as one line for the file."""
    return (
        f"{MARK} {at:%Y-%m-%d}, {target}: {format_rate(round(found.rate, 1))} within {objective} "
        f"({format_rate(round(found.low, 1))} to {format_rate(round(found.high, 1))}, "
        f"{found.seconds:.0f} s of load); {format_percent(round(headroom.share, 3))} headroom for "
        f"{format_percent(round(headroom.growth, 3))} growth a minute over a lead time of "
        f"{format_span(timedelta(seconds=round(headroom.lead.total_seconds())))}"
    )


def updated(
    file: Path,
    text: str,
    policy: str,
    metric: str,
    value: float,
    said: str,
    rules: Rules | None = None,
) -> str:
    """The file with another goal of the metric and with `rules`, all else as it was written.

    The goal is `{per_instance: ...}` or, a share, `{utilization: ...}` or `cpu: ...`. `said`
    becomes the comment above the metric; one that an earlier calibration has left goes.

    Raises:
        ConfigError: there is no such policy or metric, or it has no such goal.
    """
    document = parse(file, text)
    if document.problems:
        raise InvalidFiles(tuple(document.problems))
    path, old = _goal(document.plain, policy, metric, file)
    lines = text.splitlines(keepends=True)
    place = document.place(path)
    line, column = lines[place.line - 1], place.column - 1
    written = str(old)
    if not line[column:].startswith(written):
        raise ConfigError(f"{file}:{place.line}: write the goal as a plain number, not {line!r}")
    new = f"{value:.4g}" if path[-1] == "per_instance" else f"{value:.0%}"
    lines[place.line - 1] = f"{line[:column]}{new}{line[column + len(written) :]}"
    where = path[:4]
    top = document.place(where).line - 1
    indent = lines[top][: len(lines[top]) - len(lines[top].lstrip())]
    if top and lines[top - 1].lstrip().startswith(MARK):
        del lines[top - 1]
        top -= 1
    lines.insert(top, f"{indent}{said}\n")
    changed = "".join(lines)
    if rules is None:
        return changed
    changed = policytext.put(file, changed, where, rules.metric())
    if document.plain["policies"][policy].get("limits"):
        return policytext.put(file, changed, ("policies", policy, "limits"), rules.limits())
    flow = ", ".join(f"{key}: {limit}" for key, limit in rules.limits().items())
    return policytext.put(file, changed, ("policies", policy), {"limits": f"{{{flow}}}"})


def _goal(plain: Any, policy: str, metric: str, file: Path) -> tuple[tuple[str | int, ...], Any]:
    policies = plain.get("policies") if isinstance(plain, dict) else None
    if not isinstance(policies, dict) or policy not in policies:
        known = ", ".join(map(str, policies)) if isinstance(policies, dict) else "none"
        raise ConfigError(f"{file} has no policy {policy}; known are: {known}")
    metrics = (policies[policy] or {}).get("metrics") or []
    for number, one in enumerate(metrics):
        where = ("policies", policy, "metrics", number)
        if not isinstance(one, dict):
            continue
        if metric == "cpu" and "cpu" in one:
            return (*where, "cpu"), one["cpu"]
        aim = one.get("goal")
        if one.get("name") == metric and isinstance(aim, dict):
            for kind in ("per_instance", "utilization"):
                if kind in aim:
                    return (*where, "goal", kind), aim[kind]
    raise ConfigError(
        f"{file}: policy {policy} has no metric {metric} with goal: {{per_instance: ...}}; write "
        "one with any number, and its source, and calibrate again"
    )
