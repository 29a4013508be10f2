"""Services of Docker Swarm: Swarm runs the tasks, and we change how many it is to run.

Swarm starts again what ended and ends what its health check calls sick, so a slot whose next task
waits is on its way and not failed. It also chooses by itself which tasks go. A task is `running`
only once its health check has succeeded.
Source: swarmkit's `manager/orchestrator` and `agent/exec`, and what 20.10 answers.
"""

import asyncio
import re
import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Self

from pydantic import model_validator

from scaler.clients import docker_exec, swarm
from scaler.clients.docker import Engine, Engines, answered, is_local
from scaler.clients.swarm_book import Book, Note
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.errors import NotFound, PermanentError, Unavailable, Unsupported
from scaler.interfaces import Ability, Context, Labelled

NODES_EVERY: Final = timedelta(minutes=5)  # how large nodes are hardly changes
_UPDATING: Final = ("updating", "rollback_started")
_ENDED: Final = ("complete", "shutdown", "failed", "rejected", "remove", "orphaned")

Json = Mapping[str, Any]


class SwarmTarget(Target):
    """A replicated service of Docker Swarm. Exactly one of `service` and `label`."""

    short = "service"

    service: str = ""
    """Its name, `STACK_SERVICE` for one of a stack."""
    label: str = ""
    """Or a label that only this service carries: `scaler.id` or `scaler.id=web`."""
    engine: str = ""
    """A manager, such as `tcp://10.0.0.5:2376`; as for `docker` when it is not given."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if bool(self.service) == bool(self.label):
            given = "both are" if self.service else "none is"
            raise ValueError(f"{given} given; write exactly one of service, label")
        return self


class _Plugin:
    target = SwarmTarget
    abilities = frozenset({Ability.RESTART_ONE, Ability.SCALE_TO_ZERO})

    def open(self, context: Context) -> "SwarmProvider":
        return SwarmProvider(context)


PLUGIN: Final = _Plugin()


class SwarmProvider:
    """All services that policies name, of whatever engines."""

    abilities = _Plugin.abilities

    def __init__(self, context: Context) -> None:
        self._clock = context.clock
        self._engines: Engines = context.shared.setdefault(Engines, Engines())
        self._book = Book(context.state_dir / "swarm")
        self._calm: dict[str, frozenset[str]] = {}  # by policy: tasks, while nothing moves
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._seen: dict[str, tuple[str, frozenset[str]]] = {}  # by policy: engine, incarnations
        self._here: dict[str, str] = {}  # by engine: its node
        self._nodes: dict[str, tuple[timedelta, dict[str, Json]]] = {}

    async def observe(self, target: SwarmTarget) -> Fleet:
        engine = self._engines.at(target.engine)
        service = await self._service(target)
        wanted = swarm.replicas(service)
        tasks = await self._tasks(engine, service["ID"], target.policy, wanted)
        instances = fleet_of(service, tasks, await self._place(engine, service))
        self._seen[target.policy] = target.engine, frozenset(i.incarnation for i in instances)
        return Fleet(
            target=target.policy,
            at=self._clock.now(),
            wanted=wanted,
            instances=instances,
            rollout=_rollout(service.get("UpdateStatus") or {}),
            notices=self._notices(target, service, wanted),
        )

    async def scale(
        self, target: SwarmTarget, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        """Swarm chooses by itself who goes; `remove` says nothing to it."""
        del remove
        engine = self._engines.at(target.engine)
        service = await self._service(target)
        self._calm.pop(target.policy, None)
        async with self._writing[target.policy]:
            note = Note(service=service["ID"], asked=desired, before=swarm.replicas(service))
            await asyncio.to_thread(self._book.write, target.policy, note)
            await swarm.set_replicas(engine, self._clock, service["ID"], desired)
            note = Note(service=service["ID"], asked=desired)
            await asyncio.to_thread(self._book.write, target.policy, note)

    async def restart(self, target: SwarmTarget, instance: InstanceId) -> None:
        """Swarm puts a new task in the place of one whose container is killed."""
        engine = self._engines.at(target.engine)
        service = await self._service(target)
        name = service["Spec"]["Name"]
        tasks = await swarm.tasks(engine, service["ID"], live=False)
        slots = {_id(name, slot): of_slot for slot, of_slot in by_slot(tasks).items()}
        if instance not in slots:
            raise NotFound(f"service {name} has no {instance}; it has: {', '.join(slots) or '-'}")
        live = _live(slots[instance])
        if live is None:
            raise Unsupported(
                f"{instance} has ended, and Swarm will not start it again by the restart policy of "
                f"{name}; run `docker service update --restart-condition any {name}`"
            )
        self._calm.pop(target.policy, None)
        container = live["Status"].get("ContainerStatus", {}).get("ContainerID")
        if not container or live["Status"]["State"] != "running":
            return  # it is being started
        try:
            await swarm.kill(engine, container)
        except NotFound as error:
            raise Unsupported(
                f"{instance} runs on another node, which this manager cannot reach into; give "
                f"{name} a health check, by which Swarm replaces the sick on every node"
            ) from error

    async def execute(self, instance: Instance, command: Sequence[str]) -> tuple[int, str]:
        container, _, task = instance.incarnation.partition("@")
        if not task:
            raise Unavailable(f"{instance.id} has no container yet")
        seen = self._seen.values()
        url = next((url for url, lives in seen if instance.incarnation in lives), "")
        try:
            return await docker_exec.execute(self._engines.at(url), container, command)
        except NotFound as error:
            if not answered(error):
                raise
            raise Unsupported(
                f"{instance.id} runs on another node, where this manager can run no command; "
                "use a probe by http or tcp"
            ) from error

    async def labelled(self, label: str) -> Sequence[Labelled]:
        services = await swarm.find(self._engines.at(), "", f"{label}=true")
        return [
            Labelled(
                name=service["Spec"]["Name"],
                target={"swarm": {"service": service["Spec"]["Name"]}},
                labels=service["Spec"].get("Labels") or {},
            )
            for service in sorted(services, key=lambda service: str(service["Spec"]["Name"]))
        ]

    async def aclose(self) -> None:
        """Connections are shared with others; Swarm runs on."""

    async def _service(self, target: SwarmTarget) -> Json:
        engine = self._engines.at(target.engine)
        found = await swarm.find(engine, target.service, target.label)
        names = ", ".join(sorted(service["Spec"]["Name"] for service in found))
        if len(found) > 1:
            raise PermanentError(
                f'label "{target.label}" is on {len(found)} services ({names}); a policy scales '
                "one, so choose a label that only one carries"
            )
        if not found:
            raise NotFound(f'no service has the label "{target.label}"; give it to one')
        return found[0]

    async def _tasks(
        self, engine: Engine, service: str, policy: str, wanted: int
    ) -> list[swarm.Json]:
        """All tasks; only those that run while they are the same as at the last look.

        Swarm keeps five ended ones of each slot, which say nothing new then.
        """
        if (calm := self._calm.get(policy)) is not None and len(calm) == wanted:
            tasks = await swarm.tasks(engine, service, live=True)
            if calm == frozenset(task["ID"] for task in tasks if _runs(task)) and len(tasks) == len(
                calm
            ):
                return tasks
        tasks = await swarm.tasks(engine, service, live=False)
        moving = [task for task in tasks if not (_runs(task) or _ended(task))]
        self._calm.pop(policy, None)
        if not moving:
            self._calm[policy] = frozenset(task["ID"] for task in tasks if _runs(task))
        return tasks

    async def _place(self, engine: Engine, service: Json) -> "Place":
        """What is known of nodes. A socket proxy may keep it away; tasks are seen without it."""
        if is_local(engine.url) and engine.url not in self._here:
            self._here[engine.url] = await swarm.perhaps(swarm.this_node(engine), "")
        limits = service["Spec"]["TaskTemplate"].get("Resources", {}).get("Limits") or {}
        now = self._clock.monotonic()
        read_at, nodes = self._nodes.get(engine.url, (None, {}))
        if read_at is None or now - read_at >= NODES_EVERY:
            found = await swarm.perhaps(swarm.nodes(engine), [])
            nodes = {node["ID"]: node for node in found}
            self._nodes[engine.url] = now, nodes
        return Place(self._here.get(engine.url, ""), nodes, limits)

    def _notices(self, target: SwarmTarget, service: Json, wanted: int) -> tuple[str, ...]:
        note = self._book.read(target.policy)
        if note is None or note.service != service["ID"] or wanted in (note.asked, note.before):
            return ()
        name = service["Spec"]["Name"]
        return (f"somebody set {name} to {wanted}; {note.asked} were asked for before",)


class Place:
    """Where tasks run: this node, all nodes, and how much each task may use."""

    def __init__(self, here: str, nodes: Mapping[str, Json], limits: Json) -> None:
        self.here = here
        self._nodes = nodes
        self._limits = limits

    def bases(self, node: str) -> dict[str, float]:
        """Limits of the service, else what the node has."""
        known = self._nodes.get(node, {}).get("Description", {}).get("Resources", {})
        cpu = self._limits.get("NanoCPUs") or known.get("NanoCPUs")
        memory = self._limits.get("MemoryBytes") or known.get("MemoryBytes")
        found = {"cpu": cpu / 1e9 if cpu else 0.0, "memory": float(memory or 0)}
        return {name: base for name, base in found.items() if base}

    def address(self, task: Json) -> tuple[str, int | None]:
        """Where its first port is published on its node; ports of the mesh are of no one task."""
        ports = (task["Status"].get("PortStatus") or {}).get("Ports") or []
        host = [port for port in ports if port.get("PublishMode") == "host"]
        if not host:
            return "", None
        node = self._nodes.get(task.get("NodeID", ""), {})
        away = str(node.get("Status", {}).get("Addr", ""))
        local = task.get("NodeID") == self.here
        return ("127.0.0.1" if local else away), host[0].get("PublishedPort")


def fleet_of(service: Json, tasks: Iterable[Json], place: Place) -> tuple[Instance, ...]:
    """One instance for each slot, in the order of slots.

    Swarm needs a moment to choose who goes. Until then the highest slots count as going, which is
    whom it chooses among equals, so that there are never more than it is meant to run.
    """
    name, wanted = service["Spec"]["Name"], swarm.replicas(service)
    live, going, dead = [], [], []
    for slot, of_slot in sorted(by_slot(tasks).items()):
        before = [task for task in of_slot if _ended(task)]
        if (task := _live(of_slot)) is not None:
            live.append(_instance(_id(name, slot), task, place, before))
        elif len(before) < len(of_slot):
            task = next(task for task in reversed(of_slot) if not _ended(task))
            going.append(_instance(_id(name, slot), task, place, (), State.STOPPING))
        elif _reason(of_slot[-1]):
            dead.append(_instance(_id(name, slot), of_slot[-1], place, (), State.FAILED))
    # ... of slots that are not wanted any more, failed ones are only memories.
    dead = dead[: max(0, wanted - len(live))]
    going += [replace(instance, state=State.STOPPING) for instance in live[wanted:]]
    order = {_id(name, slot): slot for slot in by_slot(tasks)}
    return tuple(sorted((*live[:wanted], *going, *dead), key=lambda i: order[i.id]))


def _rollout(update: Json) -> str:
    state = update.get("State")
    return str(update.get("Message") or state) if state in _UPDATING else ""


def by_slot(tasks: Iterable[Json]) -> dict[int, list[Json]]:
    """Oldest first."""
    slots: defaultdict[int, list[Json]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: str(task["CreatedAt"])):
        slots[int(task.get("Slot", 0))].append(task)
    return slots


def _live(tasks: Sequence[Json]) -> Json | None:
    """The task that stands for a slot: the newest that runs, else the newest that is to run."""
    meant = [t for t in tasks if t["DesiredState"] in swarm.LIVE and not _ended(t)]
    running = [task for task in meant if _runs(task)]
    chosen = running or meant
    return chosen[-1] if chosen else None


def _runs(task: Json) -> bool:
    return bool(task["DesiredState"] == "running" and task["Status"]["State"] == "running")


def _ended(task: Json) -> bool:
    return task["Status"]["State"] in _ENDED


def _id(service: str, slot: int) -> InstanceId:
    return InstanceId(f"{service}.{slot}")


def _instance(
    name: InstanceId,
    task: Json,
    place: Place,
    before: Sequence[Json],
    state: State | None = None,
) -> Instance:
    status, container = task["Status"], task["Status"].get("ContainerStatus") or {}
    changed = _moment(status["Timestamp"])
    running = status["State"] == "running"
    checked = bool(task["Spec"].get("ContainerSpec", {}).get("Healthcheck", {}).get("Test"))
    local = bool(place.here) and task.get("NodeID") == place.here
    host, port = place.address(task)
    if state is None:
        state = State.RUNNING if running else State.PENDING
    because = _reason(task)
    if state is State.PENDING and not because and before and (last := _reason(before[-1])):
        because = f"starts again: {last}"
    return Instance(
        id=name,
        state=state,
        incarnation=f"{container['ContainerID'][:12]}@{task['ID']}"
        if container.get("ContainerID")
        else task["ID"],
        created_at=_moment(task["CreatedAt"]),
        started_at=changed if running and not checked else None,
        ready=True if running and checked else None,
        ready_changed_at=changed if running and checked else None,
        because=because,
        failed_at=changed if state is State.FAILED else None,
        bases=place.bases(task.get("NodeID", "")),
        pid=(container.get("PID") or None) if running and local else None,
        host=host,
        port=port,
    )


def _reason(task: Json) -> str:
    """Why it ended, or what it waits for; empty when it was told to end or all is well."""
    status = task["Status"]
    said = str(status.get("Err") or "").removeprefix("task: ")
    code = (status.get("ContainerStatus") or {}).get("ExitCode") or 0
    if status["State"] == "complete":
        return "ended by itself with exit code 0"
    if status["State"] == "failed" and code > 128 and code - 128 in set(signal.Signals):
        return f"killed by {signal.Signals(code - 128).name}" + (f": {said}" if said else "")
    return re.sub(r"\s+", " ", said)


def _moment(written: str) -> datetime:
    return datetime.fromisoformat(written)
