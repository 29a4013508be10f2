"""What a load test is: where it goes, how much, which requests, and what must hold.

Written as YAML or put together by the command line; a mistake is shown with file, line, column,
field and remedy. Everything is bounded: a plan that says nothing ends after half a minute.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator

from scaler import mistakes
from scaler.core.document import Model, Wrong, within
from scaler.core.units import Rate, Span
from scaler.errors import ConfigError
from scaler.loadtest import schedule, thresholds
from scaler.loadtest.schedule import Piece, Schedule
from scaler.located import Document, InvalidFiles, read

LONGEST: Final = timedelta(hours=24)
FASTEST: Final = 1_000_000.0  # per second; a slip of the pen beyond it
MOST_REQUESTS: Final = 1_000_000_000
TOKEN: Final = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105 - of RFC 9110, section 5.6.2

Thresholds = Annotated[
    tuple[thresholds.Threshold, ...],
    PlainValidator(thresholds.parse),
    PlainSerializer(lambda several: [str(one) for one in several]),
]


class Stage(Model):
    """From the rate before it to this one."""

    to: Rate
    """The rate at the end of the stage."""
    span: Span = Field(alias="for")
    """How long it takes to get there; `0s` jumps."""


class Waves(Model):
    """Smooth rises and falls, beginning low."""

    low: Rate
    high: Rate
    period: Span

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        within(self.period, timedelta(milliseconds=100), LONGEST, "period")
        if self.low > self.high:
            raise Wrong("low is above high; write the lower rate as low", "low")
        return self


class Replay(Model):
    """The rates of a recorded trace."""

    file: Path
    """CSV with `timestamp,value`: requests from that moment to the next row."""
    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """How many recorded seconds pass in one; the rates stay as they are."""
    scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """What the rates are multiplied with."""


class Load(Model):
    """How much: exactly one of rate, stages, waves, replay and users."""

    rate: Rate | None = None
    """Arrivals that do not wait for answers, at a constant rate."""
    stages: tuple[Stage, ...] = ()
    """From rate to rate; the first begins at `rate`, or at zero without one."""
    waves: Waves | None = None
    replay: Replay | None = None
    users: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Users that wait for each answer, think, and ask again (a closed model)."""
    think: Span = timedelta()
    """How long a user thinks after an answer."""
    span: Span | None = Field(default=None, alias="for")
    """How long the load goes on; 30s when nothing else says it."""
    arrivals: Literal["even", "poisson"] = "even"
    """Evenly spaced, or as many independent people come."""
    seed: int = 1
    """Of Poisson arrivals and of variables; the same seed gives the same test."""
    warm_up: Span = timedelta()
    """At the begin of the load, not counted in the figures."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [k for k in ("stages", "waves", "replay", "users") if getattr(self, k)]
        if self.rate is not None and given != ["stages"]:
            given.insert(0, "rate")
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "nothing says how much"
            raise Wrong(f"{found}; give one of rate, stages, waves, replay, users", *given[1:2])
        if self.think and not self.users:
            raise Wrong("only users think; write users: too, or leave think out", "think")
        if self.span is not None:
            within(self.span, timedelta(milliseconds=100), LONGEST, "for")
            if self.stages or self.replay:
                raise Wrong("stages and traces have their own length; leave for out", "for")
        return self

    @property
    def length(self) -> timedelta:
        """How long users go on."""
        return self.span or timedelta(seconds=30)

    def seconds(self) -> float:
        """How long the load lasts. Raises as `schedule`."""
        arrivals = self.schedule()
        return arrivals.seconds if arrivals else self.length.total_seconds()

    def schedule(self, folder: Path = Path()) -> Schedule | None:
        """The arrivals, or None for users. A trace is looked for from `folder`.

        Raises:
            ConfigError: the trace cannot be read, or the load is beyond every limit.
        """
        if self.users:
            return None
        made = Schedule(self._pieces(folder), self.seed if self.arrivals == "poisson" else None)
        if made.highest() > FASTEST:
            raise ConfigError(f"{made.highest():g}/s is beyond {FASTEST:g}/s; write a lower rate")
        if not 0 < made.seconds <= LONGEST.total_seconds():
            raise ConfigError(f"the load lasts {made.seconds:g} s; give it more than 0s, up to 24h")
        if made.requests < 1:
            raise ConfigError("not one request is due in all this time; raise the rate or for")
        return made

    def _pieces(self, folder: Path) -> tuple[Piece, ...]:
        seconds = self.length.total_seconds()
        if self.stages:
            to = [(float(stage.to), stage.span.total_seconds()) for stage in self.stages]
            return schedule.stages(self.rate or 0.0, to)
        if self.waves:
            low, high, period = self.waves.low, self.waves.high, self.waves.period
            return schedule.wave(float(low), float(high), period.total_seconds(), seconds)
        if self.replay:
            file = folder / self.replay.file
            try:
                text = file.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file} cannot be read: {error}; check its name") from error
            rows = schedule.read_trace(text, str(file))
            return schedule.replay(rows, speed=self.replay.speed, scale=self.replay.scale)
        return schedule.constant(float(self.rate or 0), seconds)


class Checks(Model):
    """What an answer must be, else it is an error."""

    status: tuple[Annotated[int, Field(ge=100, le=599)], ...] = ()
    """Statuses that are right; every one below 400 when none is named."""
    contains: str = ""
    """Text that must stand in the body."""


class Auth(Model):
    """Who asks. `_env` names an environment variable that holds the secret."""

    bearer: str = ""
    bearer_env: str = ""
    basic: str = ""
    """`user:password`."""
    basic_env: str = ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise Wrong("give one of bearer, bearer_env, basic, basic_env", *given[1:2])
        if ":" not in (self.basic or ":"):
            raise Wrong("basic needs a colon; write user:password", "basic")
        return self


Headers = dict[
    Annotated[str, Field(pattern=TOKEN)], Annotated[str, Field(pattern=r"^[^\r\n\x00]*$")]
]


class Request(Model):
    """One kind of request. `${name}` in path, header values and body stands for a variable."""

    name: str = ""
    """For the report; method and path when not given."""
    weight: Annotated[int, Field(ge=1, le=10_000)] = 1
    """How often it is sent compared with the others."""
    method: Annotated[str, Field(pattern=TOKEN)] = "GET"
    path: Annotated[str, Field(pattern=r"^/[^\s\x00]*$")] = "/"
    headers: Headers = Field(default_factory=dict)
    body: str = ""
    checks: Checks = Checks()

    @property
    def title(self) -> str:
        return self.name or f"{self.method} {self.path}"


class Timeouts(Model):
    """When to give a request up."""

    connect: Span = timedelta(seconds=5)
    first_byte: Span = timedelta(seconds=30)
    """From the moment it was sent."""
    whole: Span = timedelta(seconds=60)
    """From the moment it was due, so waiting for a connection counts."""
    end: Span = timedelta(seconds=30)
    """How long answers are waited for when the load is over; then the rest is cut off."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        for name in type(self).model_fields:
            within(getattr(self, name), timedelta(milliseconds=1), timedelta(hours=1), name)
        return self


class Bounds(Model):
    """How far the tester itself may go."""

    requests: Annotated[int, Field(ge=1, le=MOST_REQUESTS)] = 10_000_000
    """A plan with more than this is refused; users stop there."""
    in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    """Requests sent or waiting for a connection; one that is due beyond it is not sent."""
    connections: Annotated[int, Field(ge=1, le=50_000)] = 256
    response: Annotated[int, Field(ge=1, le=2**30)] = 2**26
    """Bytes of an answer, after which it counts as malformed."""


class Tls(Model):
    verify: bool = True
    ca: Path | None = None
    """Certificates to trust in place of those of the system."""


class Plan(Model):
    """A load test."""

    version: Literal[1] = 1
    target: str
    """`http://host:port` or `https://...`; a path is put before the paths of the requests."""
    load: Load
    scenario: Annotated[tuple[Request, ...], Field(min_length=1, max_length=1000)] = (Request(),)
    headers: Headers = Field(default_factory=dict)
    """Sent with every request."""
    auth: Auth | None = None
    variables: dict[str, tuple[str | int, ...] | str] = Field(default_factory=dict)
    """A list that is gone through in turn, or numbers at random such as `1..1000`."""
    timeouts: Timeouts = Timeouts()
    bounds: Bounds = Bounds()
    tls: Tls = Tls()
    keep_alive: bool = True
    """Send several requests over one connection."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the load; one core carries roughly 20,000 requests a second."""
    thresholds: Thresholds = ()
    """What must hold, such as `p99<250ms, errors<0.1%`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        url = urlsplit(self.target)
        try:
            known = url.scheme in {"http", "https"} and url.hostname and url.port != 0
        except ValueError:
            known = False
        if not known:
            raise Wrong(f'"{self.target}" is no target; write http://127.0.0.1:8080', "target")
        if url.username or url.query or url.fragment:
            raise Wrong("a target has no user, query or fragment; use auth and path", "target")
        users = self.load.users
        if users and users < self.workers:
            raise Wrong(f"{self.workers} workers cannot share {users} users", "workers")
        for name, values in self.variables.items():
            if isinstance(values, str):
                numbers(values, name)
            elif not values:
                raise Wrong(f"{name} has no values; write at least one", "variables", name)
        return self


def numbers(written: str, name: str) -> tuple[int, int]:
    """The least and the greatest of `1..1000`."""
    low, dots, high = written.partition("..")
    if not (dots and low.strip().isdigit() and high.strip().isdigit() and int(low) <= int(high)):
        message = f'"{written}" is no range; write 1..1000, or a list of values'
        raise Wrong(message, "variables", name)
    return int(low), int(high)


def load(file: Path) -> Plan:
    """The plan in `file`; a trace it names is looked for beside it.

    Raises:
        InvalidFiles: with every mistake and its place.
    """
    document = read(file)
    if not document.problems and not isinstance(document.plain, dict):
        document.add((), "must be a map that begins with target: and load:")
    plan = None
    if not document.problems:
        try:
            plan = Plan.model_validate(document.plain)
        except ValidationError as error:
            _explain(document, error)
    if plan is None or document.problems:
        raise InvalidFiles(tuple(document.problems))
    if plan.load.replay and not plan.load.replay.file.is_absolute():
        moved = plan.load.replay.model_copy(update={"file": file.parent / plan.load.replay.file})
        return plan.model_copy(update={"load": plan.load.model_copy(update={"replay": moved})})
    return plan


def _explain(document: Document, error: ValidationError) -> None:
    for detail in error.errors(include_url=False):
        where = detail["loc"]
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its entries are wrong, and have been named
        if detail["type"] == "extra_forbidden":
            known = _known(where[:-1])
            message = mistakes.unknown(str(where[-1]), known)
            document.add(where, message, document.place(where, of_key=True))
        elif detail["type"] == "missing":
            place = document.place(where[:-1], of_key=True)
            document.add(where[:-1], mistakes.missing(str(where[-1])), place)
        else:
            cause = detail.get("ctx", {}).get("error")
            inside = cause.field if isinstance(cause, Wrong) else ()
            document.add((*where, *inside), mistakes.message(detail))


def _known(where: tuple[str | int, ...]) -> list[str]:
    """What may stand in the map at `where`."""
    models: Mapping[tuple[str, ...], type[Model]] = {
        (): Plan,
        ("load",): Load,
        ("load", "stages"): Stage,
        ("load", "waves"): Waves,
        ("load", "replay"): Replay,
        ("scenario",): Request,
        ("scenario", "checks"): Checks,
        ("auth",): Auth,
        ("timeouts",): Timeouts,
        ("bounds",): Bounds,
        ("tls",): Tls,
    }
    model = models.get(tuple(part for part in where if isinstance(part, str)))
    fields: Mapping[str, Any] = model.model_fields if model else {}
    return [field.alias or name for name, field in fields.items()]


def of_fields(fields: Mapping[str, Any]) -> Plan:
    """A plan from what the command line was given.

    Raises:
        ConfigError: with every mistake, by field.
    """
    try:
        return Plan.model_validate(fields)
    except ValidationError as error:
        said = []
        for detail in error.errors(include_url=False):
            where = ".".join(map(str, detail["loc"]))
            said.append(
                f"{where}: {mistakes.message(detail)}" if where else mistakes.message(detail)
            )
        raise ConfigError("; ".join(said)) from None
