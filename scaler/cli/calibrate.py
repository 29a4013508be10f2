"""`scaler calibrate`: from what was typed to a search, and from its end to what was asked for."""

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import click

from scaler.cli.group import FAILED
from scaler.clock import Clock, SystemClock
from scaler.core.units import format_rate, parse_percent, parse_rate, parse_span
from scaler.errors import ConfigError
from scaler.loadtest import growth, loops, plan, plots, usl
from scaler.loadtest.calibrate import ServiceLoad, calibrate
from scaler.loadtest.capacity import Found, Limits, Refused, Trial
from scaler.loadtest.evidence import Evidence, Objective, objective_of
from scaler.loadtest.growth import Headroom
from scaler.loadtest.page import STYLE
from scaler.loadtest.plan import Plan

T = TypeVar("T")

BAR: Final = 40  # characters; three powers of ten of late requests
LEAST_SHARE: Final = 0.001  # the left end of bars and plots


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed."""

    what: str
    slo: str
    lowest: str
    highest: str
    span: str
    instances: int
    points: tuple[str, ...]
    growth: str
    ready: str
    write: Path | None
    policy: str
    metric: str
    html: Path | None
    allow_host: bool
    form: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What there is to print."""

    asked: Asked
    objective: Objective
    headroom: Headroom
    found: Found | Refused
    law: usl.Law | usl.NotIdentified | None

    @property
    def goal(self) -> float | None:
        """Of one instance, requests per second."""
        if isinstance(self.found, Refused):
            return None
        return growth.goal(self.found, self.headroom) / self.asked.instances


def run(asked: Asked) -> int:
    """Do it, print it, and return the exit code.

    Raises:
        ConfigError: something that was typed, or the file to write, cannot be used.
        Refused: the target is not on this machine.
    """
    clock = SystemClock()
    objective = objective_of(asked.slo)
    headroom = Headroom(
        growth=_read(parse_percent, asked.growth, "--growth"),
        ready=_read(parse_span, asked.ready, "--ready"),
    )
    limits = Limits(
        lowest=_read(parse_rate, asked.lowest, "--lowest"),
        highest=_read(parse_rate, asked.highest, "--highest"),
        seconds=_read(parse_span, asked.span, "--for").total_seconds(),
    )
    if not 0 < limits.lowest < limits.highest:
        raise ConfigError("--lowest must be above zero and below --highest")
    points = [_point(one) for one in asked.points]
    if asked.write:
        _rewritten(
            asked, asked.write, 1.0, growth.MARK
        )  # a file that cannot be used is told before the load
    made = plan.load(Path(asked.what)) if "://" not in asked.what else _plan(asked.what)
    load = ServiceLoad(made, objective, clock, asked.allow_host)
    found = loops.run(calibrate(load, objective, limits, clock=clock, tell=_tell))
    if isinstance(found, Found) and points:
        points.append((asked.instances, found.rate))
    result = Result(
        asked=asked, objective=objective, headroom=headroom, found=found,
        law=usl.fit(points) if points else None,
    )  # fmt: skip
    click.echo(json.dumps(to_dict(result), indent=2) if asked.form == "json" else text(result))
    if asked.html:
        asked.html.write_text(page(result), "utf-8")
    if isinstance(found, Refused):
        return FAILED
    if asked.write:
        _write(result, found, asked.write, clock)
    return 0


def _plan(url: str) -> Plan:
    parts = urlsplit(url)
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    return plan.of_fields(
        {
            "target": f"{parts.scheme}://{parts.netloc}",
            "load": {"rate": "1/s"},
            "scenario": [{"path": path}],
        }
    )


def _read(parse: Callable[[object], T], written: str, option: str) -> T:
    try:
        return parse(written)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def _point(written: str) -> tuple[int, float]:
    count, _, rate = written.partition("=")
    try:
        return int(count), float(rate.removesuffix("/s"))
    except ValueError:
        raise ConfigError(f'--point "{written}": write it like 2=350') from None


def _tell(trial: Trial, known: Evidence | None) -> None:
    said = f"{format_rate(round(trial.rate, 1)):>12}  {trial.seconds:3d} s  {trial.why}"
    click.echo(f"{said}: {known}" if known else said, err=True)


def _rewritten(asked: Asked, file: Path, value: float, said: str) -> str:
    try:
        written = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; `scaler init` makes one") from None
    return growth.updated(file, written, asked.policy, asked.metric, value, said)


def _write(result: Result, found: Found, file: Path, clock: Clock) -> None:
    asked = result.asked
    said = growth.remark(found, result.objective, result.headroom, asked.what, clock.now())
    if asked.instances > 1:
        said += f", by {asked.instances} instances"
    content = _rewritten(asked, file, result.goal or 0, said)
    new = file.with_name(f".{file.name}.new")
    new.write_text(content, "utf-8")
    new.replace(file)
    click.echo(f"wrote the goal of {asked.metric} into {file}", err=True)


def to_dict(result: Result) -> dict[str, Any]:
    found, law = result.found, result.law
    said: dict[str, Any] = {
        "target": result.asked.what,
        "objective": str(result.objective),
        "found": isinstance(found, Found),
        "because": found.because,
        "seconds": found.seconds,
        "points": [
            {"rate": p.rate, "due": p.due, "late": p.late, "share": p.share} for p in found.points
        ],
    }
    if isinstance(found, Found):
        said |= {"rate": found.rate, "low": found.low, "high": found.high, "goal": result.goal}
    if isinstance(law, usl.Law):
        said["growth"] = {
            "one": law.one, "contention": law.contention, "coherency": law.coherency,
            "unsure": law.unsure,
        }  # fmt: skip
    elif law is not None:
        said["growth"] = {"unsure": law.because}
    return said


def text(result: Result) -> str:
    """The curve, the capacity and what follows from it."""
    found, law = result.found, result.law
    lines = [f"{'rate':>12}  {'late':>8}  one bar to | is all that {result.objective} allows"]
    lines += [_bar(point, result.objective) for point in found.points]
    if isinstance(found, Refused):
        return "\n".join([*lines, "", f"NO CAPACITY: {found.because}"])
    low, high = format_rate(round(found.low, 1)), format_rate(round(found.high, 1))
    several = f" by {result.asked.instances} instances" if result.asked.instances > 1 else ""
    capacity = f"{format_rate(round(found.rate, 1))}{several} within {result.objective}"
    goal = format_rate(round(result.goal or 0, 1))
    lines += ["", f"capacity  {capacity}, between {low} and {high}; {found.because}"]
    lines.append(f"goal      {goal} per instance: {result.headroom.share:.0%} headroom")
    if isinstance(law, usl.NotIdentified):
        lines.append(f"growth    not known: {law.because}")
    elif law is not None:
        unsure = f"; UNSURE: {law.unsure}" if law.unsure else ""
        lines.append(
            f"growth    contention {law.contention:.3f}, coherency {law.coherency:.5f}{unsure}"
        )
    return "\n".join(lines)


def _bar(point: Evidence, objective: Objective) -> str:
    def width(share: float) -> int:
        decades = math.log10(max(share, LEAST_SHARE) / LEAST_SHARE)
        return round(BAR * min(1.0, decades / -math.log10(LEAST_SHARE)))

    bar = list("#" * width(point.share) + " " * (BAR - width(point.share)))
    bar[min(BAR - 1, width(objective.share))] = "|"
    rate = format_rate(round(point.rate, 1))
    return f"{rate:>12}  {point.share:>8.2%}  {''.join(bar).rstrip()}"


def page(result: Result) -> str:
    """One file with a plot that needs nothing else."""
    points: Sequence[Evidence] = result.found.points
    curve = [(p.rate, max(p.share, LEAST_SHARE)) for p in points]
    most = max((rate for rate, _ in curve), default=1.0)
    allowed = [(0.0, result.objective.share), (most, result.objective.share)]
    figure = plots.plot(
        "Share of late requests by rate", plots.linear(most, "/s"),
        plots.logarithmic(LEAST_SHARE, 1.0), [("late", curve), ("allowed", allowed)],
    )  # fmt: skip
    title = html.escape(f"Capacity of {result.asked.what}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<pre>{html.escape(text(result))}</pre>{figure}</body></html>\n"
    )
