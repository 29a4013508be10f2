"""What a policy may say about health: probes, and how the dead and the sick are started again."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from scaler.core.document import Model, Wrong, within
from scaler.core.units import Percent, Ratio, Span, SpanRange, Spans


class HttpProbe(Model):
    """A request that must be answered with an expected status."""

    path: str = "/"
    """Path on the instance."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port; the instance's own when it is not given."""
    host: str = ""
    """Host; the instance's own when it is not given."""
    expect: Annotated[str, Field(pattern=r"^\d{3}(-\d{3})?$")] = "200-399"
    """Status, or range of statuses, that counts as healthy."""

    @field_validator("path")
    @classmethod
    def _from_the_root(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError(f'"{path}" does not begin with a slash; write /{path}')
        return path


class TcpProbe(Model):
    """A connection that must be accepted."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port; the instance's own when it is not given."""
    host: str = ""
    """Host; the instance's own when it is not given."""


class Probe(Model):
    """One question to an instance, asked again and again. Exactly one kind."""

    http: HttpProbe | None = None
    """Ask by HTTP."""
    tcp: TcpProbe | None = None
    """Ask by connecting."""
    command: tuple[str, ...] | None = None
    """Ask by running a command; exit code 0 is healthy. `{port}` and `{pid}` are filled in."""
    every: Span = timedelta(seconds=10)
    """Time between two questions."""
    timeout: Span = timedelta(seconds=2)
    """A later answer is a failure."""
    fail_after: Annotated[int, Field(ge=1, le=1000)] = 3
    """So many failures in a row are unhealthy."""
    pass_after: Annotated[int, Field(ge=1, le=1000)] = 1
    """So many successes in a row are healthy."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [n for n in ("http", "tcp", "command") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{len(given)} kinds are given; write exactly one of http, tcp, command"
            )
        if self.command is not None and not self.command:
            raise Wrong("it is empty; write its name and arguments as a list", "command")
        within(self.every, timedelta(milliseconds=100), timedelta(hours=1), "every")
        within(self.timeout, timedelta(milliseconds=10), timedelta(minutes=5), "timeout")
        return self


class RestartRules(Model):
    """How a dead or sick instance is started again. There is no giving up."""

    backoff: SpanRange = Spans(timedelta(seconds=1), timedelta(minutes=5))
    """Wait before the second start, doubled each time up to the longer span."""
    reset_after: Span = timedelta(minutes=10)
    """Only so much *healthy* time makes the back-off begin anew."""
    at_once: Percent = Ratio(0.25)
    """At most this share (at least one) is down for restarts of the sick at one time."""
    brake: Percent = Ratio(0.5)
    """When this share is sick together, the cause lies elsewhere: only one canary restarts."""


class Health(Model):
    """How instances are judged. Without probes only those that ended are started again."""

    startup: Probe | None = None
    """Holds back the other two until it has succeeded once."""
    readiness: Probe | None = None
    """Says whether the instance counts as capacity. Never restarts anything."""
    liveness: Probe | None = None
    """When it fails the instance is restarted."""
    restart: RestartRules = RestartRules()
    """Back-off, budget and brake."""
    depends_on: dict[str, Probe] = Field(default_factory=dict)
    """Outside services by name. While one is down nothing but one canary is restarted."""
