"""What the engine needs from the outside. Implementations do not inherit; mypy compares shapes.

The docstrings are the contract, and `tests/contract/` runs it against every implementation.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, Final, Protocol, Self, TypeVar, runtime_checkable

from scaler.clock import Clock
from scaler.core.document import Balancer as BalancerRules
from scaler.core.document import Source, Target
from scaler.core.healthpolicy import Probe
from scaler.core.journal import Entry, Kind
from scaler.core.model import Fleet, Health, History, Instance, InstanceId, Reading
from scaler.core.policy import Metric

MARGIN: Final = 0.1  # of a term: the holder's clock may be a tenth slower than another's

T_contra = TypeVar("T_contra", bound=Target, contravariant=True)


class Ability(StrEnum):
    """What a provider can do beyond counting; compared with the policy when it is loaded."""

    RESTART_ONE = "restart one instance"
    CHOOSE_VICTIMS = "choose which instances go"
    SCALE_TO_ZERO = "scale to zero"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a provider or source is made with."""

    clock: Clock
    state_dir: Path  # theirs to keep files in; survives a restart
    random: Random
    shared: dict[type, Any] = field(default_factory=dict)  # one client of each kind per process


@runtime_checkable
class Closing(Protocol):
    """A client in `Context.shared` that holds something open until the process ends."""

    async def aclose(self) -> None: ...


class Provider(Protocol[T_contra]):
    """A connection to one platform that runs instances of targets."""

    abilities: frozenset[Ability]

    async def observe(self, target: T_contra) -> Fleet:
        """Report every instance, including those starting and stopping, and those that ended.

        Raises:
            NotFound: the platform has no such target.
            Unavailable: no answer in time; nothing is known, which is not zero.
        """
        ...

    async def scale(
        self, target: T_contra, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        """Ask for `desired` instances. Safe to repeat; returns before they are ready.

        `remove` names the instances to lose; a platform that chooses by itself ignores it.
        """
        ...

    async def restart(self, target: T_contra, instance: InstanceId) -> None:
        """Start one instance again, dead or alive. Returns before it is ready."""
        ...

    async def aclose(self) -> None:
        """Let go of everything held here; what runs keeps running."""
        ...


@runtime_checkable
class Watching(Protocol):
    """A provider that notices changes by itself, so that a tick can be brought forward."""

    def changes(self) -> AsyncIterator[str]:
        """Names of policies whose fleet has changed, as it happens; never ends by itself."""
        ...


@runtime_checkable
class Executing(Protocol):
    """A provider that can run a command inside an instance."""

    async def execute(self, instance: Instance, command: Sequence[str]) -> tuple[int, str]:
        """Exit code and output of a command. It is ended when nobody waits for it any more.

        Raises:
            ScalerError: it could not be run, which says nothing about the instance.
        """
        ...


@runtime_checkable
class Announcing(Protocol):
    """A platform on which what happened to a target can be written down beside it."""

    def announce(self, target: Any, entry: Entry) -> None:
        """Pass the entry on if people who look at the platform should see it. Never waits."""
        ...


@dataclass(frozen=True, slots=True)
class Platforms:
    """The providers of this process, as a part of `Context.shared`: for adapters that need one."""

    open: Callable[[str], object]  # by the kind of a target; raises ScalerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Something on a platform that carries labels, and how a policy would name it."""

    name: str  # for people, and for its policy if nothing else is given
    target: Mapping[str, Any]  # as it stands under `target` in a policy file, platform included
    labels: Mapping[str, str]


@runtime_checkable
class Labelling(Protocol):
    """A platform whose services carry labels, which may stand in place of policy files."""

    async def labelled(self, label: str) -> Sequence[Labelled]:
        """All that carries this label with the value `true`, services before single instances.

        Raises:
            Unavailable: nobody answers; what was known is still true.
        """
        ...


class MetricSource(Protocol):
    """One configured question."""

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:
        """Samples after `since`, oldest first, or why there are none; `now` is the present.

        A source without a past measures now: its samples are a little younger than `now`. Bad
        data are a reason in `missing`; only bugs raise.
        """
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one probe saw."""

    health: Health
    because: str = ""
    latency: timedelta = timedelta()


class HealthProbe(Protocol):
    """One configured question to an instance."""

    async def check(self, instance: Instance) -> Verdict:
        """Ask once. A probe that cannot be carried out is `UNKNOWN`, which counts as nothing."""
        ...


class Balancer(Protocol):
    """One configured way for requests to the instances of one target."""

    async def route(
        self, fleet: Fleet, leaving: Collection[InstanceId]
    ) -> Mapping[InstanceId, int]:
        """Make it so: requests go to the instances that are ready, and no new ones to `leaving`.

        Safe to repeat; what was set by an earlier daemon or undone by somebody is set again. The
        answer is how many requests are still open, of those in `leaving` that have any.

        Raises:
            Unavailable: it does not answer, so nobody knows what is open.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the connection; requests go on as they were routed last."""
        ...


class Store(Protocol):
    """Keeps histories and the journal."""

    async def load(self) -> dict[str, History]:
        """Every target's history. Moments from the future are clamped by the caller."""
        ...

    async def save(self, histories: Mapping[str, History], entries: Sequence[Entry]) -> None:
        """Write all of it in one transaction.

        Raises:
            Unavailable: disk full, read-only or locked; nothing of this call was written, nothing
                of earlier ones is lost, and it may be tried again.
        """
        ...

    async def read(
        self,
        *,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        kinds: Sequence[Kind] = (),
        limit: int = 100,
    ) -> Sequence[Entry]:
        """The newest `limit` entries that match, oldest first. Both moments count."""
        ...

    async def forget(self, *, before: datetime) -> int:
        """Drop entries older than `before`; how many there were."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Leave to act, until a moment on the monotonic clock of whoever holds it."""

    holder: str
    fence: int  # grows with every new holder
    until: timedelta  # nobody else is granted the lease before; counted from before it was asked

    @classmethod
    def asked(cls, holder: str, fence: int, asked_at: timedelta, ttl: timedelta) -> Self:
        """For a term of `ttl` that was asked for at `asked_at`, and ends a little early here."""
        return cls(holder=holder, fence=fence, until=asked_at + ttl * (1 - MARGIN))


class Lease(Protocol):
    """One record that many ask for and one holds, so that only one of them acts.

    Clocks are never compared. Who waits for the end of a term measures it alone, from when it saw
    the record change last, so a term ends for its holder first. A holder's name is used by no
    other process and by no later life of the same one.
    """

    holder: str
    """Who held it when that was asked last; empty when nobody did."""

    async def acquire(self, holder: str, ttl: timedelta) -> Grant | None:
        """Take it if it is free, or held by `holder` already; None when somebody else holds it.

        Raises:
            ScalerError: nobody knows whether it was taken; asking again is safe.
        """
        ...

    async def renew(self, grant: Grant, ttl: timedelta) -> Grant | None:
        """A later end for the same term; None when it is over and another may hold the lease.

        Raises:
            ScalerError: not renewed as far as anybody knows; `grant` ends when it says.
        """
        ...

    async def release(self, grant: Grant) -> None:
        """Give it back, so that others need not wait. Whoever calls this acts no more.

        Raises:
            ScalerError: perhaps it was not given back; it ends by itself.
        """
        ...

    async def freed(self, patience: timedelta) -> None:
        """Return when it was given back or its term may be over, or when `patience` is over.

        Raises:
            ScalerError: this cannot be watched now; ask again in a while.
        """
        ...

    async def aclose(self) -> None: ...


class Adapters(Protocol):
    """Where the engine gets its adapters: the installed ones, or those of a simulated world."""

    def provider(self, kind: str) -> Provider[Any]:
        """The connection to one platform, opened when it is first asked for.

        Raises:
            ScalerError: it cannot be opened; the targets that need it are parked.
        """
        ...

    def source(self, metric: Metric, target: Target) -> MetricSource:
        """A new question for one metric of one policy; closed by whoever asked for it."""
        ...

    def probe(self, probe: Probe, kind: str) -> HealthProbe:
        """A way to ask; a command runs inside the instance if platform `kind` can do that."""
        ...

    def balancer(self, rules: BalancerRules, target: Target) -> Balancer:
        """A new connection to what sends requests to a target; closed by whoever asked for it."""
        ...

    async def aclose(self) -> None:
        """Close what was opened here, providers included."""
        ...


class ProviderPlugin(Protocol):
    """What an entry point of group `scaler.providers` names. Importing it must be cheap."""

    @property
    def target(self) -> type[Target]: ...
    @property
    def abilities(self) -> frozenset[Ability]: ...
    def open(self, context: Context) -> Provider[Any]:
        """Called once per process, when the first policy needs it."""
        ...


class BalancerPlugin(Protocol):
    """What an entry point of group `scaler.balancers` names."""

    @property
    def balancer(self) -> type[BalancerRules]: ...
    def open(self, rules: Any, target: Target, context: Context) -> Balancer:
        """Called once per policy that names it."""
        ...


class SourcePlugin(Protocol):
    """What an entry point of group `scaler.sources` names.

    A source of the same name as a provider answers the `platform` metrics of its targets.
    """

    @property
    def source(self) -> type[Source]: ...
    def open(self, metric: Metric, target: Target, context: Context) -> MetricSource:
        """Called once per metric of a policy."""
        ...
