"""Settings of the process: where things are and how it logs. Nothing about scaling stands here.

A value comes from the command line, else from the environment (`SCALER_STATE_DIR`,
`SCALER_LOG__LEVEL`), else from `scaler.yaml`, else it is the default below.
"""

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from scaler import located, mistakes
from scaler.core.units import Span
from scaler.errors import ConfigError

FILES: Final = (Path("config/scaler.yaml"), Path("scaler.yaml"), Path("/etc/scaler/scaler.yaml"))
PREFIX: Final = "SCALER_"
ADDRESS: Final = r"^$|^[^\s:]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"  # host and port, or nothing


def _default_policies() -> Path:
    here = Path("config/policies")
    return here if here.is_dir() else Path("/etc/scaler/policies")


def _state_dir() -> Path:
    """Systemd's choice, the system's place for root, the user's place for others."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/scaler")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "scaler"


def _socket() -> Path:
    system = Path("/run/scaler/scaler.sock")
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.partition(":")[0]) / "scaler.sock"
    if os.geteuid() == 0:
        return system
    given = os.environ.get("XDG_RUNTIME_DIR")
    own = Path(given) / "scaler" / "scaler.sock" if given else _state_dir() / "scaler.sock"
    return system if system.exists() and not own.exists() else own


class Log(BaseModel):
    """What is logged, and in which form."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is written."""
    format: Literal["auto", "json", "console"] = "auto"
    """`auto` is `console` on a terminal and `json` elsewhere."""


class Labels(BaseModel):
    """Policies in labels of containers and services, in place of files."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    docker: bool = False
    """Containers with `scaler.enable=true` are managed as their other labels say."""
    swarm: bool = False
    """The same for services of Docker Swarm."""
    autoheal: bool = False
    """Running containers with `autoheal=true` are restarted when they are unhealthy."""
    most: int = Field(default=10, ge=1, le=1000)
    """No label raises `limits.max` above this."""
    every: Span = timedelta(seconds=10)
    """Time between two looks for labels."""


class Notify(BaseModel):
    """Who is told of restarts, and of what needs a person."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    url: SecretStr = SecretStr("")
    """An address that takes a POST of JSON, such as a chat's incoming webhook; off when empty."""
    key: str = Field(default="text", min_length=1)
    """Where the text stands in the JSON: `text` for Slack and Mattermost, `content` for Discord."""


class Lease(BaseModel):
    """Which of several daemons on the same targets acts; the others follow, ready to take over."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    store: Literal["none", "kubernetes", "redis"] = "none"
    """Where the lease is kept. `none`: no other daemon acts on these targets."""
    name: str = Field(default="scaler", pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
    """Daemons that share a name share the lease."""
    ttl: Annotated[Span, Field(ge=timedelta(seconds=3), le=timedelta(minutes=5))] = timedelta(
        seconds=15
    )
    """How long a daemon that died is waited for. One call to a platform may take a third of it."""
    holder: str = Field(
        default_factory=lambda: os.environ.get("POD_NAME") or socket.gethostname(), max_length=200
    )
    """What others call this daemon, for people; the pod's name, else the machine's."""
    namespace: str = ""
    """Of the Lease object; empty is the daemon's own."""
    context: str = ""
    """Of the kubeconfig; empty is the cluster that the daemon runs in, else the current one."""
    redis_url: SecretStr = SecretStr("")
    """As in `redis://:password@host:6379/0`, `rediss://...` or `unix:///run/redis.sock`."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.store == "redis" and not self.redis_url.get_secret_value():
            raise ValueError("redis_url is missing; write redis_url: redis://HOST:6379/0")
        return self

    @property
    def on_kubernetes(self) -> str:
        """The name of the Lease object; empty when there is none."""
        return self.name if self.store == "kubernetes" else ""


class Sidecar(BaseModel):
    """What the pods of an application use, as those who scale it ask each other for it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    listen: str = Field(default="", pattern=ADDRESS)
    """`0.0.0.0:9109` answers the other pods there, each at the same port; off when empty."""
    token_file: str = ""
    """File with a secret that all pods share; read each time, so that it may be renewed."""

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.listen and not self.token_file:
            raise ValueError("listen is for those with the secret; write token_file: as well")
        return self

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


class Settings(BaseSettings):
    """Everything but policies."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        use_attribute_docstrings=True,
        validate_default=True,
    )

    policies: tuple[Path, ...] = Field(default_factory=lambda: (_default_policies(),))
    """Files and folders of policies; relative ones are looked for beside this file."""
    state_dir: Path = Field(default_factory=_state_dir)
    """Where the journal and what providers must remember are kept."""
    socket: Path = Field(default_factory=_socket)
    """Where the daemon listens for `scaler status` and the other commands."""
    http: str = Field(default="", pattern=ADDRESS)
    """`127.0.0.1:9108` also answers /livez, /readyz and /metrics there; off when empty."""
    act: bool = True
    """`false` decides and records for every policy, and changes nothing."""
    store: Literal["sqlite", "memory"] = "sqlite"
    """Where histories and the journal are kept; `memory` forgets them at the end."""
    retention: Span = timedelta(days=30)
    """Journal entries older than this are dropped."""
    deadline: Span = timedelta(seconds=10)
    """How long a platform or a source may take to answer."""
    drain: Span = timedelta(seconds=20)
    """How long what is under way may take to end at SIGTERM."""
    labels: Labels = Labels()
    """Policies in labels of containers and services; off unless a platform is named."""
    notify: Notify = Notify()
    """Who is told of restarts, and of what needs a person."""
    lease: Lease = Lease()
    """Which of several daemons on the same targets acts; without one, this daemon does."""
    sidecar: Sidecar = Sidecar()
    """What the pods of an application tell each other; off unless an address is given."""
    partitions: Path | None = None
    """File of the databases whose partitions are kept, as `partitions.yaml`; off when empty."""
    caches: Path | None = None
    """File of the caches that are kept healthy, such as `caches.yaml`; off when empty."""
    log: Log = Log()
    """What is logged, and in which form."""
    origin: str = Field(default="defaults, no file", exclude=True)
    """Filled in by the loader: the file that was read."""


def load(file: Path | None = None, **overrides: object) -> Settings:
    """The settings in force; `overrides` come from the command line.

    Raises:
        ConfigError: a value or the file is invalid; all mistakes are in the message.
    """
    chosen = file or next((path for path in FILES if path.exists()), None)
    document = located.Document(Path(), [])
    inside: Mapping[str, Any] = {}
    if chosen is not None:
        document = located.read(chosen)
        if not document.problems and not isinstance(document.plain, dict):
            document.add((), "must be a map of settings")
        if document.problems:
            raise located.InvalidFiles(tuple(document.problems))
        inside = {**_beside(chosen, document.plain), "origin": str(chosen)}

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            written = InitSettingsSource(settings_cls, init_kwargs=dict(inside))
            return init_settings, env_settings, written

    try:
        return FromFile(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        others = [text for d in error.errors() if (text := _explained(d, document))]
        if document.problems:
            raise located.InvalidFiles(tuple(document.problems)) from None
        raise ConfigError("; ".join(others)) from None
    except ValueError as error:
        raise ConfigError(f"settings: {error}") from None


def _beside(file: Path, plain: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with relative policies, caches and partitions meant from where the file is."""
    settings = dict(plain)
    written = settings.get("policies")
    if isinstance(written, list) and all(isinstance(path, str) for path in written):
        settings["policies"] = [str(file.parent / path) for path in written]
    for name in ("caches", "partitions"):
        if isinstance(path := settings.get(name), str) and path:
            settings[name] = str(file.parent / path)
    return settings


def _explained(detail: ErrorDetails, document: located.Document) -> str:
    """A mistake to the document when it stands there; else where it comes from, in words."""
    where = tuple(detail["loc"])
    if detail["type"] == "extra_forbidden":
        models: dict[Any, type[BaseModel]] = {
            "log": Log,
            "labels": Labels,
            "notify": Notify,
            "lease": Lease,
            "sidecar": Sidecar,
        }
        model = models.get(where[0], Settings) if where[1:] else Settings
        message = mistakes.unknown(str(where[-1]), set(model.model_fields) - {"origin"})
    else:
        message = mistakes.message(detail)
    variable = PREFIX + "__".join(str(part) for part in where).upper()
    if variable in os.environ:
        return f"environment variable {variable}: {message}"
    if where[:1] and where[:1] in document.values:
        document.add(where, message, document.place(where, of_key="unknown" in message))
        return ""
    return f"{located.dotted(where)}: {message}"
