"""Containers of a Docker engine as instances: copies of a container that somebody started.

The original says how; copies carry labels by which any later daemon finds them again. Who has a
restart policy is restarted by the engine when it ends and by us only when it is unhealthy, so that
each death has one owner. What a person stopped or paused is left alone.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated, Final, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

from scaler.clients import docker_exec, docker_seen, labelled
from scaler.clients.docker import Engines
from scaler.clients.docker_book import Phase
from scaler.clients.docker_crew import Crew, Sight
from scaler.clients.docker_desk import Orders, Yard
from scaler.clients.docker_hands import Hands
from scaler.clients.docker_plan import Member
from scaler.clients.docker_seen import CONFIG, INSTANCE, PROJECT, SERVICE, TEMPLATE, Host, Seen
from scaler.clients.docker_view import View
from scaler.clients.notices import Notices
from scaler.clients.ports import Ports
from scaler.core.document import Target, Wrong, within
from scaler.core.model import Fleet, Health, Instance, InstanceId, State
from scaler.core.units import Span
from scaler.errors import PermanentError
from scaler.interfaces import Ability, Context, Labelled


def _range(written: object) -> Ports:
    if isinstance(written, Ports):
        return written
    found = re.fullmatch(r"(\d{1,5})\s*-\s*(\d{1,5})", str(written).strip())
    if not found:
        raise ValueError(
            f'"{written}" is no range of ports; copies cannot share one: write 9000-9020'
        )
    low, high = int(found[1]), int(found[2])
    if not 1 <= low <= high <= 65535:
        raise ValueError(f'"{written}" is no range of ports; both lie in 1..65535, the lower first')
    return Ports(low, high)


PortRange = Annotated[
    Ports,
    PlainValidator(_range),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^\d+\s*-\s*\d+$", "examples": ["9000-9020"]}),
]


class DockerTarget(Target):
    """Containers of a Docker engine: one that was started by hand or by compose, and copies."""

    short = "service"
    service: str = ""
    """A service of compose. One of `service`, `container` and `label` says what is meant."""
    project: str = ""
    """The compose project of `service`; needed when several have a service of this name."""
    container: str = ""
    """A container by its name."""
    label: str = ""
    """Containers that carry a label: `key`, or `key=value`."""
    engine: str = ""
    """Where the engine is, `unix:///run/docker.sock`; DOCKER_HOST or the usual socket if empty."""
    ports: PortRange | None = None
    """Host ports of copies, `9000-9020`; on 127.0.0.1 unless the original names an address."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of the container that probes and balancers talk to; the lowest exposed if not given."""
    network: str = ""
    """The network in which they do; the published port is used when it is not given."""
    grace: Span | None = None
    """After its stop signal it is killed after this long; its own `stop_timeout` if not given."""
    shared_volumes: Literal["refuse", "ok"] = "refuse"
    """`ok`: copies may write to the same volumes and folders."""
    static_ip: Literal["refuse", "drop"] = "refuse"
    """`drop`: copies of a container with a fixed address get addresses of their own."""
    remove: Literal["own", "any"] = "own"
    """`any`: containers that scaler has not created may be removed too."""
    spares: Annotated[int, Field(ge=0, le=100)] = 0
    """Copies that are kept started and paused, so that they join at once. They cost memory."""

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        given = [name for name in ("service", "container", "label") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} is given; "
                "write exactly one of service, container, label"
            )
        if self.project and not self.service:
            raise Wrong("it goes with service only; remove it", "project")
        if self.grace is not None:
            within(self.grace, timedelta(0), timedelta(hours=1), "grace")
        return self

    @property
    def what(self) -> str:
        """What is meant, in words."""
        if self.service:
            inside = f" in project {self.project}" if self.project else ""
            return f'compose service "{self.service}"{inside}'
        if self.container:
            return f'container "{self.container}"'
        return f"container with label {self.label}"

    def means(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a container is what this target names."""
        if self.service:
            same = labels.get(PROJECT) == self.project or not self.project
            return same and labels.get(SERVICE) == self.service
        if self.container:
            return name == self.container
        key, given, value = self.label.partition("=")
        return key in labels and (not given or labels[key] == value)


class _Plugin:
    target = DockerTarget
    abilities = frozenset(Ability)

    def open(self, context: Context) -> "DockerProvider":
        return DockerProvider(context)


PLUGIN: Final = _Plugin()


class DockerProvider:
    """All Docker targets of one daemon."""

    abilities = _Plugin.abilities

    def __init__(self, context: Context) -> None:
        self._context = context
        self._engines = context.shared.setdefault(Engines, Engines())
        self._yards: dict[str, Yard] = {}  # by url as it is written
        self._crews: dict[str, tuple[DockerTarget, Crew]] = {}
        self._notices = Notices()

    async def observe(self, target: DockerTarget) -> Fleet:
        crew = await self._crew(target)
        sight = await crew.look()
        instances = tuple(self._instance(target, member, sight) for member in sight.members)
        return Fleet(
            target=target.policy,
            at=self._context.clock.now(),
            wanted=sight.wanted,
            instances=instances,
            complete=sight.complete,
            rollout=sight.rollout,
            notices=sight.notices,
        )

    async def scale(
        self, target: DockerTarget, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        crew = await self._crew(target)
        await crew.finish(crew.scale(desired, remove))

    async def restart(self, target: DockerTarget, instance: InstanceId) -> None:
        crew = await self._crew(target)
        await crew.finish(crew.restart(instance))

    async def execute(self, instance: Instance, command: Sequence[str]) -> tuple[int, str]:
        container, _, _ = instance.incarnation.partition("@")
        crews = self._crews.values()
        url = next((target.engine for target, crew in crews if container in crew.ids), "")
        return await docker_exec.execute(self._engines.at(url), container, command)

    async def labelled(self, label: str) -> Sequence[Labelled]:
        """All on the default engine that carries this label, services of compose first."""
        return await labelled.containers(self._engines.at(), label)

    def changes(self) -> AsyncIterator[str]:
        """Names of policies one of whose containers has started, ended or turned."""
        return self._notices.changes()

    async def aclose(self) -> None:
        for _, crew in self._crews.values():
            await crew.aclose()
        for yard in self._yards.values():
            await yard.view.aclose()
        self._crews.clear()
        self._yards.clear()

    async def _crew(self, target: DockerTarget) -> Crew:
        known = self._crews.get(target.policy)
        if known is not None and known[0] == target:
            return known[1]
        crew = Crew(_orders(target), self._yard(target.engine))
        self._crews[target.policy] = target, crew
        if known is not None:
            await known[1].aclose()
        return crew

    def _yard(self, url: str) -> Yard:
        if url not in self._yards:
            clock = self._context.clock
            view = View(self._engines.at(url), clock)
            self._yards[url] = Yard(
                view=view,
                hands=Hands(view, clock),
                clock=clock,
                folder=self._context.state_dir / "docker",
                notify=self._notices.notify,
            )
        return self._yards[url]

    def _instance(self, target: DockerTarget, member: Member, sight: Sight) -> Instance:
        seen, slot = member.seen, member.slot
        name = InstanceId(member.name)
        if seen is None or (slot is not None and slot.phase is Phase.STARTING):
            assert slot is not None  # noqa: S101 - a member has one or the other
            state = {Phase.FAILED: State.FAILED, Phase.STOPPING: State.STOPPING}
            return Instance(
                id=name,
                state=state.get(slot.phase, State.PENDING),
                incarnation=slot.instance,
                created_at=slot.since,
                because=slot.because,
                failed_at=slot.failed_at,
            )
        state_, health, because = _state(member, sight)
        host, port = _address(target, seen)
        return Instance(
            id=name,
            state=state_,
            incarnation=seen.incarnation,
            created_at=seen.created_at,
            started_at=seen.started_at if seen.pid else None,
            ready=_ready(seen) if state_ is State.RUNNING else None,
            ready_changed_at=seen.health_changed_at if state_ is State.RUNNING else None,
            health=health,
            because=because,
            failed_at=(seen.finished_at or seen.created_at) if state_ is State.FAILED else None,
            current=_current(seen, sight),
            protected=not member.ours and target.remove == "own",
            bases=_bases(seen, sight.host),
            pid=seen.pid,
            host=host,
            port=port,
        )


def _orders(target: DockerTarget) -> Orders:
    return Orders(
        policy=target.policy,
        what=target.what,
        short=target.service or target.container or target.label,
        compose=bool(target.service),
        chosen=target.means,
        check=partial(_one_project, target),
        ports=target.ports,
        port=target.port,
        grace=target.grace,
        shared_volumes=target.shared_volumes == "ok",
        other_addresses=target.static_ip == "drop",
        remove_any=target.remove == "any",
        spares=target.spares,
    )


def _one_project(target: DockerTarget, there: Sequence[Seen]) -> None:
    """The same name in two projects is not the same service."""
    found = sorted({one.labels.get(PROJECT, "") for one in there})
    if target.service and not target.project and len(found) > 1:
        raise PermanentError(
            f"{target.what} is there in projects {' and '.join(found)}; write project: {found[0]}"
        )


def _state(member: Member, sight: Sight) -> tuple[State, Health, str]:
    """What the engine says of a container, and why."""
    seen, slot = member.seen, member.slot
    assert seen is not None  # noqa: S101 - the caller has asked
    nothing = Health.UNKNOWN
    if member.leaving:
        return State.STOPPING, nothing, ""
    if slot is not None and slot.phase is Phase.RESTARTING:
        return State.PENDING, nothing, "restarting"
    if slot is not None and slot.phase is Phase.JOINING:
        return State.PENDING, nothing, "a spare that joins"
    if seen.status == "running":
        if seen.health == "unhealthy":
            return State.RUNNING, Health.UNHEALTHY, f"health check: {seen.health_said}"
        return State.RUNNING, Health.HEALTHY if seen.health == "healthy" else nothing, ""
    if seen.status == "paused":
        return State.HELD, nothing, "paused by somebody"
    if seen.status == "restarting":
        return State.PENDING, nothing, "the engine restarts it"
    if seen.status == "created":
        return _created(member, seen)
    return _ended(seen, sight)


def _created(member: Member, seen: Seen) -> tuple[State, Health, str]:
    if seen.error:
        why = docker_seen.ended(seen.exit_code, error=seen.error)
        return State.FAILED, Health.UNKNOWN, why
    state = State.FAILED if member.ours else State.HELD
    return state, Health.UNKNOWN, "created and never started"


def _ended(seen: Seen, sight: Sight) -> tuple[State, Health, str]:
    nothing = Health.UNKNOWN
    if seen.incarnation in sight.held:
        return State.HELD, nothing, "stopped by somebody"
    if seen.ending:
        return State.PENDING, nothing, "somebody sent it a signal; whether to stop it shows soon"
    if seen.with_engine:
        return State.FAILED, nothing, "ended with the engine"
    if seen.restart_policy and seen.tries_left and not seen.error:
        return State.HELD, nothing, f"stopped by somebody: restart policy {seen.restart_policy}"
    return State.FAILED, nothing, docker_seen.ended(seen.exit_code, oom=seen.oom, error=seen.error)


def _bases(seen: Seen, host: Host) -> dict[str, float]:
    """What 100 % is: the limit, which no engine keeps below what there is, else the machine."""
    memory = [size for size in (seen.memory, host.memory) if size]
    found = {"cpu": seen.cores or host.cores, "memory": min(memory, default=0)}
    return {name: base for name, base in found.items() if base}


def _ready(seen: Seen) -> bool | None:
    return seen.health == "healthy" if seen.health else None


def _current(seen: Seen, sight: Sight) -> bool:
    template = sight.template
    if template is None:
        return True
    if INSTANCE in seen.labels:
        return seen.labels.get(TEMPLATE) == template.hash
    return bool(seen.labels.get(CONFIG) == template.body["Labels"].get(CONFIG))


def _address(target: DockerTarget, seen: Seen) -> tuple[str, int | None]:
    """Where probes and balancers find it."""
    port = target.port or (seen.exposed[0] if seen.exposed else None)
    if target.network:
        return seen.addresses.get(target.network, ""), port
    if place := seen.published.get(f"{port}/tcp"):
        return place
    if seen.network_mode == "host":
        return "127.0.0.1", port
    return next(iter(seen.addresses.values()), ""), port
