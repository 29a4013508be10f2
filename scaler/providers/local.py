"""Processes of this machine as instances: the platform that needs nothing else.

Each policy has numbered slots. What is meant to run is written down before a process starts and
which process it is after, so a daemon that is killed at any moment finds all of it again: nothing
is lost and nothing doubled. What ends by itself stays down until the engine says `restart`.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import IO, Annotated, Final, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from scaler.clients import processes, usage
from scaler.clients.crew import ERRORS, Crew, Orders, Yard
from scaler.clients.notices import Notices
from scaler.clients.ports import Ports
from scaler.clients.slots import Phase, Slot, staying
from scaler.core.document import Model, Target, Wrong
from scaler.core.model import Fleet, Instance, InstanceId, State
from scaler.core.units import Quantity, Span
from scaler.errors import Unavailable, Unsupported, translate
from scaler.interfaces import Ability, Context

STATES: Final = {
    Phase.STARTING: State.PENDING,
    Phase.RUNNING: State.RUNNING,
    Phase.STOPPING: State.STOPPING,
    Phase.RESTARTING: State.PENDING,
    Phase.FAILED: State.FAILED,
}


def _ports(written: object) -> Ports:
    if isinstance(written, Ports):
        return written
    found = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", str(written).strip())
    if isinstance(written, bool) or not found:
        raise ValueError(f'"{written}" is not a port; write 9000, or 9000-9020 for a range')
    low, high = int(found[1]), int(found[2] or found[1])
    if not 1 <= low <= high <= 65535:
        raise ValueError(f'"{written}" is no range of ports; both lie in 1..65535, the lower first')
    return Ports(low, high, shared=found[2] is None)


def _words(written: object) -> object:
    if isinstance(written, str):
        words = ", ".join(json.dumps(word) for word in written.split())
        raise ValueError(f"it is one string; write it as a list: [{words}]")
    return written


PortOrRange = Annotated[
    Ports,
    PlainValidator(_ports),
    PlainSerializer(lambda ports: ports.low if ports.shared else str(ports)),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": r"^\d+(\s*-\s*\d+)?$", "examples": ["9000-9020"]},
            ]
        }
    ),
]


class LogRules(Model):
    """How much output is kept of each instance."""

    max_size: Quantity = 10 * 1024**2
    """A larger file is moved aside and begun anew."""
    keep: Annotated[int, Field(ge=0, le=100)] = 3
    """So many older files stay."""

    @field_validator("max_size")
    @classmethod
    def _sensible(cls, size: float) -> float:
        if size < 1024:
            raise ValueError(f"{size:g} bytes hold no log; write at least 1KiB")
        return size


class LocalTarget(Target):
    """Processes of this machine, all started by one command."""

    command: Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)]
    """The program and its arguments, as a list. `{port}` in them is filled in."""
    env: dict[str, str] = Field(default_factory=dict)
    """Added to PATH, HOME, USER, LANG, LC_*, TZ and TMPDIR, all that is inherited; PORT is set."""
    directory: str = ""
    """Where it runs; the directory of the daemon when it is not given."""
    user: str = ""
    """As whom it runs; needs a daemon that runs as root."""
    port: PortOrRange | None = None
    """`9000-9020`: each instance has a port of its own; `9000`: all share it (SO_REUSEPORT)."""
    stop_signal: str = "TERM"
    """How it is asked to stop."""
    grace: Span = timedelta(seconds=10)
    """After this long it is killed, with everything it has started."""
    on_exit: Literal["keep", "stop"] = "keep"
    """What happens to the processes when the daemon stops. `keep`: the next one adopts them."""
    log: LogRules = LogRules()
    """Size and number of the files with its output."""
    cpu: Annotated[float, Field(gt=0, le=4096)] = 1.0
    """Cores that are 100 % of one instance."""
    memory: Quantity | None = None
    """Memory that is 100 % of one instance, such as `512MiB`; all there is when not given."""

    @field_validator("memory")
    @classmethod
    def _some(cls, size: float | None) -> float | None:
        if size is not None and size < 1:
            raise ValueError(f"{size:g} bytes are no memory; write for example 512MiB")
        return size

    @field_validator("stop_signal")
    @classmethod
    def _known(cls, name: str) -> str:
        short = name.upper().removeprefix("SIG")
        if f"SIG{short}" not in signal.Signals.__members__ or short in ("STOP", "CONT"):
            raise ValueError(f'"{name}" is no signal that stops; write TERM, INT, QUIT or HUP')
        return short

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.command[0]:
            raise Wrong("its first word is empty; write the program there", "command")
        if self.port is None and any("{port}" in word for word in self.command):
            raise Wrong("it has {port} and no port is given; add port: 9000-9020", "command")
        if not timedelta(0) <= self.grace <= timedelta(hours=1):
            raise Wrong("it lies between 0s and 1h; write for example 10s", "grace")
        for name in self.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name.startswith("SCALER_"):
                raise Wrong(f'"{name}" cannot be set; choose another name', "env", name)
        if "\0" in "".join((*self.command, *self.env.values(), self.directory)):
            raise ValueError("a word with a zero byte cannot be given to a program; remove it")
        return self

    @cached_property
    def template(self) -> str:
        """Changes when instances would be started differently."""
        ports = str(self.port) if self.port and self.port.shared else ""
        parts = self.command, sorted(self.env.items()), self.directory, self.user, ports
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Plugin:
    target = LocalTarget
    abilities = frozenset(Ability)

    def open(self, context: Context) -> "LocalProvider":
        if not hasattr(os, "pidfd_open"):
            raise Unsupported("local processes need Linux 5.4 or newer; use target: {docker: ...}")
        processes.allow_files()
        return LocalProvider(context)


PLUGIN: Final = _Plugin()


class LocalProvider:
    """All local targets of one daemon."""

    abilities = _Plugin.abilities

    def __init__(self, context: Context) -> None:
        folder = context.state_dir.resolve() / "local"
        table = context.shared.setdefault(
            processes.ProcessTable, processes.ProcessTable(context.clock)
        )
        self._notices = Notices()
        self._yard = Yard(
            clock=context.clock, table=table, folder=folder, notify=self._notices.notify
        )
        self._on_exit: dict[str, str] = {}
        self._memory_limit = usage.memory_limit()
        self._lock_file: IO[str] | None = None

    async def observe(self, target: LocalTarget) -> Fleet:
        crew = await self._crew(target)
        await crew.rotate_logs()
        book = crew.book
        return Fleet(
            target=target.policy,
            at=self._yard.clock.now(),
            wanted=book.wanted,
            instances=tuple(
                self._instance(target, crew.name_of(book.slots[index]), book.slots[index])
                for index in sorted(book.slots)
            ),
            complete=len(staying(book)) == book.wanted,
        )

    async def scale(
        self, target: LocalTarget, desired: int, *, remove: Sequence[InstanceId] = ()
    ) -> None:
        crew = await self._crew(target)
        await crew.finish(crew.scale(desired, remove))

    async def restart(self, target: LocalTarget, instance: InstanceId) -> None:
        crew = await self._crew(target)
        await crew.finish(crew.restart(instance))

    def changes(self) -> AsyncIterator[str]:
        """Names of policies one of whose processes has started or ended."""
        return self._notices.changes()

    async def aclose(self) -> None:
        """Leave what runs to the next daemon, except where `on_exit` is `stop`."""
        crews = self._yard.crews
        await asyncio.gather(
            *(crew.aclose(stop=self._on_exit[name] == "stop") for name, crew in crews.items())
        )
        crews.clear()
        if self._lock_file:
            self._lock_file.close()
            self._lock_file = None

    async def _crew(self, target: LocalTarget) -> Crew:
        self._claim()
        crew = self._yard.crews.get(target.policy)
        if crew is None:
            crew = Crew(_orders(target), self._yard)
            self._yard.crews[target.policy] = crew
        crew.orders = _orders(target)
        self._on_exit[target.policy] = target.on_exit
        await crew.finish(crew.adopt())
        return crew

    def _claim(self) -> None:
        """Two daemons with one folder would double everything.

        A process that is about to start holds this lock too, until its marker can be read: who
        has the lock finds all that was ever started.
        """
        if self._lock_file:
            return
        folder = self._yard.folder
        with translate(ERRORS, doing=f"cannot keep files in {folder}"):
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            file = (folder / ".lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise Unavailable(
                f"another scaler looks after {folder}; stop it, or give this one its own "
                "state directory",
                retry_after=timedelta(seconds=1),
            ) from error
        self._lock_file = file

    def _instance(self, target: LocalTarget, name: str, slot: Slot) -> Instance:
        process = slot.process if slot.phase in (Phase.RUNNING, Phase.STOPPING) else None
        return Instance(
            id=InstanceId(name),
            state=STATES[slot.phase],
            incarnation=slot.instance,
            created_at=slot.created_at,
            started_at=slot.started_at,
            because=slot.because,
            failed_at=slot.failed_at,
            current=slot.template in ("", target.template),
            bases={"cpu": target.cpu, "memory": target.memory or self._memory_limit},
            pid=process.pid if process else None,
            host="127.0.0.1",
            port=slot.port,
        )


def _orders(target: LocalTarget) -> Orders:
    return Orders(
        name=target.policy,
        command=target.command,
        env=target.env,
        directory=target.directory,
        user=target.user,
        ports=target.port,
        stop_signal=signal.Signals[f"SIG{target.stop_signal}"],
        grace=target.grace,
        log_bytes=int(target.log.max_size),
        log_keep=target.log.keep,
        template=target.template,
    )
