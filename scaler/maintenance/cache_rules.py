"""What `config/caches.yaml` may say: which caches there are, and how each is kept healthy.

The string under a field is its description. `cache_file.load_caches` reads the file.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Final, Self

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from scaler.core.document import Model, Wrong, within
from scaler.core.units import (
    Per,
    Percent,
    PerSpan,
    Quantity,
    Ratio,
    Span,
    format_span,
    parse_span,
)
from scaler.maintenance import address

MOST_PREFIXES: Final = 16  # each is compared with every key
ADDRESS: Final = re.compile(r"(redis|rediss|unix)://\S+")


def _switch(written: object) -> bool:
    """`on` or `off`; `true` and `false` mean the same."""
    if isinstance(written, bool):
        return written
    if written in ("on", "off"):
        return written == "on"
    raise ValueError(f'"{str(written)[:40]}" is neither on nor off; write one of them')


def _span_or_off(written: object) -> timedelta | None:
    if written is None or written is False or written == "off":
        return None
    if written is True or written == "on":
        raise ValueError("on does not say how long keys may live; write a span such as 1d, or off")
    return within(parse_span(written), timedelta(seconds=1), timedelta(days=3660))


def _written(span: timedelta | None) -> str:
    return "off" if span is None else format_span(span)


Switch = Annotated[
    bool,
    PlainValidator(_switch),
    PlainSerializer(lambda on: "on" if on else "off"),
    WithJsonSchema({"enum": ["on", "off", True, False]}),
]
SpanOrOff = Annotated[
    timedelta | None,
    PlainValidator(_span_or_off),
    PlainSerializer(_written),
    WithJsonSchema({"type": "string", "examples": ["off", "1d"]}),
]


class Find(Model):
    """What counts as a problem."""

    idle: Span = timedelta(days=7)
    """A key that nobody has used for this long is idle."""
    big: Quantity = 1_000_000.0
    """A key that takes this many bytes of memory or more is big."""
    dead_after: Span = timedelta(hours=1)
    """A version that no process has had for this long is dead, and so are its keys."""

    @field_validator("idle", "dead_after")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(minutes=1), timedelta(days=3660))

    @field_validator("big")
    @classmethod
    def _is_a_size(cls, size: float) -> float:
        if not 1000 <= size <= 1e12:
            raise ValueError(f"{size:g} bytes is out of range; write 1kB to 1TB")
        return size


class Budget(Model):
    """How much may be asked of the server, and how much one run may remove."""

    server: Percent = Ratio(0.05)
    """The share of one core of the server that looking may take."""
    step: Span = timedelta(milliseconds=1)
    """How long one call may keep others waiting; fewer keys are looked at when it takes longer."""
    unlink: PerSpan = Per(500, timedelta(seconds=1))
    """How fast keys may be removed or given a TTL."""
    keys: Annotated[int, Field(ge=1, le=1_000_000_000)] = 100_000
    """The most keys that one run changes."""
    bytes: Quantity = 1e9
    """The most bytes that one run removes."""

    @field_validator("server")
    @classmethod
    def _is_a_share(cls, share: float) -> float:
        if not 0 < share <= 1:
            raise ValueError(f"{share * 100:g}% is no share of a core; write 1% to 100%")
        return share

    @field_validator("step")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(microseconds=500), timedelta(milliseconds=100))

    @field_validator("unlink")
    @classmethod
    def _goes_on(cls, per: Per) -> Per:
        within(per.span, timedelta(milliseconds=100), timedelta(hours=1))
        if per.count < 1:
            raise ValueError("0 keys is no rate; turn what acts off instead")
        return per

    @field_validator("bytes")
    @classmethod
    def _is_a_size(cls, size: float) -> float:
        if size < 1000:
            raise ValueError(f"{size:g} bytes is too few; write 1kB or more")
        return size


class Act(Model):
    """What may be changed without a person; everything is off unless it is named here."""

    dead_versions: Switch = False
    """`on` removes the keys of dead versions."""
    idle: Switch = False
    """`on` removes idle keys."""
    missing_ttl: SpanOrOff = None
    """A span such as `1d` is set as the TTL of keys that have none."""

    @property
    def anything(self) -> bool:
        return self.dead_versions or self.idle or self.missing_ttl is not None


class Cache(Model):
    """One Redis, and the part of it that is a cache."""

    name: str = Field(default="", exclude=True, json_schema_extra={"hidden": True})
    """Filled in by the loader."""
    url: SecretStr = SecretStr("")
    """As in `redis://user:password@host:6379/0`, `rediss://...` or `unix:///run/redis.sock`."""
    url_env: str = Field(default="", pattern=address.VARIABLE)
    """The environment variable that holds the address, in place of `url`."""
    prefixes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MOST_PREFIXES)]
    """Only keys beginning with one of these are looked into or changed; `NAMESPACE:` of a cache."""
    every: Span = timedelta(minutes=1)
    """Time between two looks: the server's own numbers, and a sample of the keys."""
    full_lap: Span = timedelta(days=1)
    """Time between two looks at every key; what is to be removed is removed then."""
    sample: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """How many keys a sample holds."""
    find: Find = Find()
    """What counts as a problem."""
    budget: Budget = Budget()
    """How much may be asked of the server, and how much one run may remove."""
    act: Act = Act()
    """What may be changed without a person."""

    @field_validator("url", mode="before")
    @classmethod
    def _is_text(cls, written: Any) -> Any:
        return address.as_text(written, "redis://localhost:6379/0")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        if (plain := url.get_secret_value()) and not ADDRESS.fullmatch(plain):
            raise ValueError(  # what was written is not shown: it may hold a password
                "is no address of Redis; write redis://, rediss:// or unix:// and where it is"
            )
        return url

    @field_validator("prefixes")
    @classmethod
    def _are_plain(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for number, prefix in enumerate(prefixes):
            if not prefix:
                raise Wrong('"" means every key; write what they begin with, as ledger:', number)
            if found := re.search(r"[*?\[\]\\]", prefix):
                text = f'"{prefix}" holds {found[0]}; write a plain beginning such as ledger:'
                raise Wrong(text, number)
            for other in prefixes[:number]:
                if prefix.startswith(other) or other.startswith(prefix):
                    raise Wrong(f'"{prefix}" and "{other}" overlap; keep the shorter', number)
        return prefixes

    @field_validator("every", "full_lap")
    @classmethod
    def _bounded(cls, span: timedelta) -> timedelta:
        return within(span, timedelta(seconds=1), timedelta(days=366))

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        address.in_one_place("url", self.url, self.url_env)
        if self.full_lap < self.every:
            spans = f"{format_span(self.full_lap)} is shorter than every"
            raise Wrong(f"{spans} ({format_span(self.every)}); write a longer span", "full_lap")
        return self

    def address(self) -> str:
        """Where it is, with the password.

        Raises:
            ConfigError: the environment variable does not say.
        """
        if not self.url_env:
            return self.url.get_secret_value()
        who, example = f"cache {self.name}", "redis://HOST:6379/0"
        return address.looked_up(who, self.url_env, example, ADDRESS.fullmatch, "Redis")
