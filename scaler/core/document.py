"""The base of whatever a person may write in a policy: frozen, and no key is ignored."""

from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from scaler.core.units import Span, format_span


class Wrong(ValueError):
    """A mistake that shows in one field although it takes the whole map to see it."""

    def __init__(self, message: str, *field: str | int) -> None:
        """`field` is the way from the map to where the mistake is best mended."""
        super().__init__(message)
        self.field = field


def within(span: timedelta, low: timedelta, high: timedelta, *field: str) -> timedelta:
    """`span`, when it lies between both; they count."""
    if not low <= span <= high:
        message = f"is out of range; choose {format_span(low)} to {format_span(high)}"
        raise Wrong(f"{format_span(span)} {message}", *field)
    return span


class Model(BaseModel):
    """Frozen, and no key is ignored."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        populate_by_name=True,
        ser_json_inf_nan="strings",
    )


class Target(Model):
    """What is scaled. Each provider has its own."""

    short: ClassVar[str] = ""
    """The field that is meant when a bare word stands in place of the map, as in `docker: web`."""
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader: which provider this is for."""
    policy: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader: the name of the policy."""


class Source(Model):
    """Where a metric is read. Each source has its own."""

    kind: str = Field(default="platform", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader."""


class Balancer(Model):
    """What sends requests to the instances. Each balancer has its own fields beside these."""

    sickens: ClassVar[bool] = False
    """Whether who is to go looks sick to the platform by that, and for a while who stays."""

    kind: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader."""
    drain: Span = timedelta(seconds=30)
    """An instance that is to go gets no new requests; after this long it goes whatever is open."""

    @field_validator("drain")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(0), timedelta(hours=1))
