"""`scaler calibrate`: from what was typed to a search, and from its end to what was asked for."""

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import click

from scaler import policyfile
from scaler.cli.calibrate_rig import policy_of, rig
from scaler.cli.group import FAILED
from scaler.clock import Clock, SystemClock
from scaler.core.policy import Policy
from scaler.core.units import format_rate, parse_percent, parse_rate, parse_span
from scaler.errors import ConfigError
from scaler.loadtest import growth, loops, plan, plots, policytext, usl
from scaler.loadtest.calibrate import ServiceLoad, calibrate
from scaler.loadtest.capacity import Found, Limits, Refused, Trial
from scaler.loadtest.delays import Delays
from scaler.loadtest.evidence import Evidence, Objective, objective_of
from scaler.loadtest.growth import Headroom
from scaler.loadtest.page import STYLE
from scaler.loadtest.plan import Plan
from scaler.located import InvalidFiles, parse

T = TypeVar("T")

BAR: Final = 40  # characters; three powers of ten of late requests
CPU_SECONDS: Final = 10  # of load at the capacity, while the CPU is measured
READY: Final = timedelta(seconds=30)  # until a new instance is ready, when nobody says
MOST_INSTANCES: Final = 1000
LEAST_SHARE: Final = 0.001  # the left end of bars and plots


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was typed."""

    what: str
    slo: str
    lowest: str
    highest: str
    span: str
    instances: tuple[int, ...]  # one count unless it is a policy
    points: tuple[str, ...]
    growth: str
    ready: str
    write: Path | None
    policy: str
    metric: str
    html: Path | None
    allow_host: bool
    form: str
    path: str = "/"
    policies: tuple[Path, ...] = ()  # where `what` is the name of a policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What loads have shown."""

    found: Found | Refused  # with the first count of instances
    points: tuple[tuple[int, float], ...] = ()  # instances and their capacity
    delays: Delays | None = None
    cpu: float | None = None  # share that an instance uses at its capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What there is to print."""

    asked: Asked
    objective: Objective
    headroom: Headroom
    found: Found | Refused
    law: usl.Law | usl.NotIdentified | None
    measured: Measured | None = None  # of a policy's own instances

    @property
    def goal(self) -> float | None:
        """Of one instance, requests per second."""
        if isinstance(self.found, Refused):
            return None
        return growth.goal(self.found, self.headroom) / self.asked.instances[0]

    @property
    def written(self) -> float | None:
        """What goes into the file: requests per second, or a share of the CPU."""
        if self.asked.metric != "cpu":
            return self.goal
        if self.measured is None or self.measured.cpu is None:
            return None
        return min(1.0, self.measured.cpu) / (1 + self.headroom.share)


def run(asked: Asked) -> int:
    """Do it, print it, and return the exit code.

    Raises:
        ConfigError: something that was typed, or the file to write, cannot be used.
        Refused: the target is not on this machine.
    """
    clock = SystemClock()
    objective = objective_of(asked.slo)
    given = _read(parse_span, asked.ready, "--ready") if asked.ready else None
    rate = _read(parse_percent, asked.growth, "--growth")
    limits = Limits(
        lowest=_read(parse_rate, asked.lowest, "--lowest"),
        highest=_read(parse_rate, asked.highest, "--highest"),
        seconds=_read(parse_span, asked.span, "--for").total_seconds(),
    )
    if not 0 < limits.lowest < limits.highest:
        raise ConfigError("--lowest must be above zero and below --highest")
    points = [_point(one) for one in asked.points]
    policy = policy_of(asked.what, asked.policies) if asked.policies else None
    if policy is None and (len(asked.instances) > 1 or (asked.metric == "cpu" and asked.write)):
        raise ConfigError("several --instances and --metric cpu are for the name of a policy")
    if asked.write and not (policy and not asked.write.exists()):
        _rewritten(asked, asked.write, 0.5, growth.MARK)  # told before the load if it cannot be
    measure = (
        _of_policy(asked, policy, objective, limits, clock)
        if policy
        else _of_url(asked, objective, limits, clock)
    )
    measured = loops.run(measure)
    points += measured.points
    if given is None:
        given = measured.delays.ready if measured.delays else READY
    headroom = Headroom(growth=rate, ready=given)
    result = Result(
        asked=asked, objective=objective, headroom=headroom, found=measured.found,
        law=usl.fit(points) if len(points) > 1 or asked.points else None,
        measured=measured,
    )  # fmt: skip
    click.echo(json.dumps(to_dict(result), indent=2) if asked.form == "json" else text(result))
    if asked.html:
        asked.html.write_text(page(result), "utf-8")
    if isinstance(measured.found, Refused):
        return FAILED
    if asked.write:
        _write(result, measured.found, asked.write, clock, policy)
    return 0


def counts_of(written: str) -> tuple[int, ...]:
    """From `1,2,4`.

    Raises:
        ConfigError: it is no list of counts.
    """
    parts = written.split(",")
    if not all(part.strip().isdigit() and 0 < int(part) <= MOST_INSTANCES for part in parts):
        raise ConfigError(f'--instances "{written}": write it like 4, or 1,2,4')
    return tuple(int(part) for part in parts)


async def _of_url(asked: Asked, objective: Objective, limits: Limits, clock: Clock) -> Measured:
    made = plan.load(Path(asked.what)) if "://" not in asked.what else _plan(asked.what)
    load = ServiceLoad(made, objective, clock, asked.allow_host)
    found = await calibrate(load, objective, limits, clock=clock, tell=_tell)
    if isinstance(found, Refused) or not asked.points:
        return Measured(found=found)
    return Measured(found=found, points=((asked.instances[0], found.rate),))


async def _of_policy(
    asked: Asked, policy: Policy, objective: Objective, limits: Limits, clock: Clock
) -> Measured:
    """Start what is needed, measure each count, and stop everything again."""
    found, points, cpu = None, [], None
    async with rig(policy, clock) as made:
        await made.reach(1)
        delays = await made.delays()
        click.echo(f"ready in {delays.ready}, gone in {delays.drained}", err=True)
        load = ServiceLoad(
            _plan(f"http://127.0.0.1{asked.path}"), objective, clock, endpoints=made.endpoints
        )
        for count in asked.instances:
            await made.reach(count)
            one = await calibrate(load, objective, limits, clock=clock, tell=_tell)
            found = found or one
            if isinstance(one, Refused):
                click.echo(f"{count} instances: {one.because}", err=True)
                break
            points.append((count, one.rate))
            if cpu is None:
                await made.cpu()
                await load(one.rate, CPU_SECONDS)
                cpu = await made.cpu()
    assert found is not None  # noqa: S101 - there is at least one count
    return Measured(found=found, points=tuple(points), delays=delays, cpu=cpu)


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


def _rewritten(
    asked: Asked, file: Path, value: float, said: str, rules: growth.Rules | None = None
) -> str:
    try:
        written = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}; `scaler init` makes one") from None
    name = asked.policy or asked.what
    changed = growth.updated(file, written, name, asked.metric, value, said, rules)
    document = parse(file, changed)
    policyfile.policies_of(document, {})
    if document.problems:
        raise InvalidFiles(tuple(document.problems))
    return changed


def _write(result: Result, found: Found, file: Path, clock: Clock, policy: Policy | None) -> None:
    asked, value = result.asked, result.written
    if value is None:
        raise ConfigError("the CPU of the instances could not be read; nothing is written")
    said = growth.remark(found, result.objective, result.headroom, asked.what, clock.now())
    if asked.instances[0] > 1:
        said += f", by {asked.instances[0]} instances"
    rules = growth.rules(result.headroom)
    if policy is not None and not file.exists():
        content = _new(asked, policy, value, said, rules)
    else:
        content = _rewritten(asked, file, value, said, rules)
    new = file.with_name(f".{file.name}.new")
    new.write_text(content, "utf-8")
    new.replace(file)
    click.echo(f"wrote the goal of {asked.metric} into {file}", err=True)


def _new(asked: Asked, policy: Policy, value: float, said: str, rules: growth.Rules) -> str:
    """A file of its own; only the platform's `cpu` needs no source to be named."""
    if asked.metric != "cpu":
        raise ConfigError("a new file needs --metric cpu; any other has a source to be written")
    limits = {"max": str(policy.limits.max), **rules.limits()}
    lines = [f"cpu: {value:.0%}", *(f"{key}: {span}" for key, span in rules.metric().items())]
    return policytext.created(asked.policy or asked.what, policy.target, limits, lines, said)


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
    if result.measured and (delays := result.measured.delays):
        said |= {
            "ready_s": delays.ready.total_seconds(),
            "drained_s": delays.drained.total_seconds(),
            "cpu": result.measured.cpu,
            "capacities": [list(point) for point in result.measured.points],
        }
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
    several = f" by {result.asked.instances[0]} instances" if result.asked.instances[0] > 1 else ""
    capacity = f"{format_rate(round(found.rate, 1))}{several} within {result.objective}"
    goal = format_rate(round(result.goal or 0, 1))
    lines += ["", f"capacity  {capacity}, between {low} and {high}; {found.because}"]
    lines.append(f"goal      {goal} per instance: {result.headroom.share:.0%} headroom")
    lines += _measured(result)
    if isinstance(law, usl.NotIdentified):
        lines.append(f"growth    not known: {law.because}")
    elif law is not None:
        unsure = f"; UNSURE: {law.unsure}" if law.unsure else ""
        lines.append(
            f"growth    contention {law.contention:.3f}, coherency {law.coherency:.5f}{unsure}"
        )
    return "\n".join(lines)


def _measured(result: Result) -> list[str]:
    measured = result.measured
    if measured is None:
        return []
    lines = []
    if measured.delays:
        ready, drained = (
            f"{span.total_seconds():.1f} s"
            for span in (measured.delays.ready, measured.delays.drained)
        )
        lines.append(f"delays    ready in {ready}, gone in {drained}")
    if measured.cpu is not None:
        lines.append(f"cpu       {measured.cpu:.0%} of an instance at its capacity")
    if len(measured.points) > 1:
        said = ", ".join(f"{n} carry {format_rate(round(c, 1))}" for n, c in measured.points)
        lines.append(f"curve     {said}")
    return lines


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
    figure += _curve(result)
    title = html.escape(f"Capacity of {result.asked.what}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
        f"<pre>{html.escape(text(result))}</pre>{figure}</body></html>\n"
    )


def _curve(result: Result) -> str:
    """Capacity by instances, and the law through it."""
    points = result.measured.points if result.measured else ()
    if len(points) < 2:
        return ""
    law, most = result.law, max(n for n, _ in points)
    lines = [("measured", [(float(n), c) for n, c in points])]
    if isinstance(law, usl.Law):
        lines.append(("law", [(float(n), law.capacity(n)) for n in range(1, most + 1)]))
    highest = max(c for _, line in lines for _, c in line)
    return plots.plot(
        "Capacity by instances", plots.linear(most), plots.linear(highest, "/s"), lines
    )
