"""`scaler demo`: the real daemon on a real little service, under load, a kill and a hang.

Everything that happens is told in one line with its reason, from the same journal entries that
`scaler history` shows. It writes to one folder, and stops what it started however it ends.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from scaler import daemon, settings
from scaler.clients.http import HttpClient
from scaler.clock import SystemClock
from scaler.core.journal import Entry, Kind
from scaler.core.model import Instance, State
from scaler.demo.report import closing_table
from scaler.errors import ConfigError, Unavailable
from scaler.loadtest import schedule
from scaler.loadtest.plan import Plan, of_fields
from scaler.loadtest.report import Report
from scaler.loadtest.schedule import Schedule
from scaler.loadtest.tester import LoadTester
from scaler.stores.sqlite import SqliteStore

LOW, HIGH = 4.0, 60.0  # requests per second
PORTS: Final = 20
POLICY: Final = """\
# The policy of the demo. Each field: scaler schema --docs
version: 1
policies:
  shop:
    every: 1s
    target:
      local:
        command: [{python}, -m, scaler.demo.service, --port, "{{port}}", --work-ms, "10",
                  --start-s, "0.5"]
        port: {ports}
        cpu: 0.25                  # a quarter of a core is 100 % of one instance
        grace: 2s
        on_exit: stop
    metrics:
      - cpu: 70%
        window: 5s
    limits:
      min: 1
      max: 5
      settle_down: 8s              # short, to be seen; 5m when not given
      shrink: {{at_most: 1, per: 3s}}
    health:
      readiness: {{http: {{path: /readyz}}, every: 500ms, timeout: 1s, fail_after: 2}}
      liveness: {{http: {{path: /healthz}}, every: 1s, timeout: 1s, fail_after: 2}}
      restart: {{backoff: 6s..1m }}  # counted from the last start; 1s..5m when not given
"""


def main(folder: Path, seconds: int) -> int:
    """Run it; 0, or 130 after Ctrl-C."""
    try:
        (folder / "policies").mkdir(parents=True, exist_ok=True)
        (folder / "state").mkdir(exist_ok=True)
        for old in (folder / "state").glob("scaler.db*"):
            old.unlink()
        first = _free_ports()
        ports = f"{first}-{first + PORTS - 1}"
        policy = POLICY.format(python=json.dumps(sys.executable), ports=ports)
        (folder / "policies" / "shop.yaml").write_text(policy)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}; choose another place with --folder"
        ) from error
    return asyncio.run(Show(folder, seconds).run())


def _free_ports() -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(18000, 30000, PORTS):
        try:
            for port in range(first, first + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise ConfigError("no free ports between 18000 and 30000; end what uses them")


def requests() -> Plan:
    """What is sent; where and when, the show says.

    A new connection for each, as the many visitors of a small shop have. One that was due ten
    seconds ago is a failure.
    """
    return of_fields(
        {
            "target": "http://127.0.0.1",
            "load": {"rate": f"{HIGH:g}/s"},
            "scenario": [{"path": "/work"}],
            "timeouts": {"first_byte": "10s", "whole": "10s", "end": "10s"},
            "bounds": {"in_flight": 500, "connections": 500},
            "keep_alive": False,
        }
    )


class Show:
    """One run of the demo."""

    def __init__(self, folder: Path, seconds: int) -> None:
        self._folder = folder
        self._seconds = float(seconds)
        self._clock = SystemClock()
        self._begin = self._clock.monotonic()
        self._counts: list[tuple[float, int]] = []
        self._restarts: list[str] = []
        self._waited: set[str] = set()
        self._http = HttpClient()
        path = os.path.relpath(folder / "scaler.sock")
        self._socket = Path(min(path, str(folder / "scaler.sock"), key=len))
        self._daemon = daemon.Daemon(
            settings.Settings(
                policies=(folder / "policies",),
                state_dir=folder / "state",
                socket=self._socket,
            ),
            clock=self._clock,
            store=SqliteStore(folder / "state" / "scaler.db"),
            tell=self._tell,
        )

    def _at(self) -> float:
        return (self._clock.monotonic() - self._begin).total_seconds()

    def _say(self, text: str, colour: str | None = None) -> None:
        click.secho(f"{self._at():5.1f} s  {text}", fg=colour)

    def _tell(self, entry: Entry) -> None:
        """An entry in one line, if something happened."""
        made = entry.decision
        if made is None:
            if not entry.ok or entry.kind is Kind.NOTICED:
                self._say(entry.summary, "yellow")
            return
        if made.desired != made.current:
            self._counts.append((self._at(), made.desired))
        if made.desired != made.current or made.restarts:
            self._say(entry.summary, "green" if made.desired >= made.current else "cyan")
        self._restarts += [f"{self._at():.0f} s {r.instance}: {r.because}" for r in made.restarts]
        for why in made.waiting:
            instance = why.partition(":")[0]
            if instance not in self._waited:
                self._say(f"shop waits with {why}", "yellow")
            self._waited.add(instance)
        self._waited -= {restart.instance for restart in made.restarts}

    async def run(self) -> int:
        interrupted = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupted.set)
        click.echo(
            f"A small web service under a wave of {LOW:.0f} to {HIGH:.0f} requests per second for "
            f"{self._seconds:.0f} s.\nEverything is written to {self._folder}/; Ctrl-C ends it at "
            f"once. In a second terminal:\n  {_command()} --socket {self._socket} status --watch\n"
            f"  {_command()} --socket {self._socket} explain shop\n"
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._http.aclose)
            stack.push_async_callback(self._daemon.stop)
            await self._daemon.start()
            await daemon.serve(self._daemon, stack)
            self._daemon.begin()
            show = asyncio.create_task(self._play())
            stopped = asyncio.create_task(interrupted.wait())
            await asyncio.wait({show, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in (show, stopped):
                task.cancel()
            await asyncio.gather(show, stopped, return_exceptions=True)
            if not interrupted.is_set():
                await self._close(stack, show.result())
        if interrupted.is_set():
            click.echo("\ninterrupted; what the demo started is stopped", err=True)
        return 130 if interrupted.is_set() else 0

    async def _play(self) -> Report:
        """The load, and the two accidents."""
        await self._until_ready()
        left = self._seconds - self._at()
        quiet = left * 0.72
        pieces = schedule.wave(LOW, HIGH, quiet, quiet)
        load = Schedule(pieces + schedule.constant(LOW, left - quiet), seed=7)
        tester = LoadTester(requests(), clock=self._clock, endpoints=self._endpoints, schedule=load)
        async with asyncio.TaskGroup() as group:
            test = group.create_task(tester.run())
            group.create_task(self._accidents(left))
        return test.result()

    async def _until_ready(self) -> None:
        while not self._ready() and self._at() < 20:
            await self._clock.sleep(timedelta(milliseconds=100))

    def _ready(self) -> list[Instance]:
        fleet = self._daemon.manager.watched["shop"].fleet
        instances = fleet.instances if fleet else ()
        return [i for i in instances if i.state is State.RUNNING and i.ready and i.port]

    def _endpoints(self) -> list[str]:
        return [f"http://127.0.0.1:{instance.port}/work" for instance in self._ready()]

    async def _accidents(self, span: float) -> None:
        await self._clock.sleep(timedelta(seconds=0.33 * span))
        if len(self._ready()) > 1:
            victim = self._ready()[-1]
            self._kill(victim.id)
            await self._clock.sleep(timedelta(seconds=3))
            self._kill(victim.id)  # soon after its restart: now it waits for its back-off
        await self._clock.sleep(timedelta(seconds=0.12 * span))
        if len(self._ready()) > 1:
            victim = self._ready()[0]
            self._say(f"accident: {victim.id} hangs and answers nobody any more", "red")
            await self._hang(victim)

    def _kill(self, name: str) -> None:
        for victim in self._ready():
            if victim.id == name and victim.pid:
                self._say(f"accident: kill -9 of {victim.id}, process {victim.pid}", "red")
                os.kill(victim.pid, signal.SIGKILL)

    async def _hang(self, victim: Instance) -> None:
        try:
            async with asyncio.timeout(0.5):
                await self._http.get(f"http://127.0.0.1:{victim.port}/hang")
        except (TimeoutError, Unavailable):
            return  # it does not answer: that is what was asked for

    async def _close(self, stack: AsyncExitStack, report: Report) -> None:
        unicode = (sys.stdout.encoding or "").lower().startswith("utf")
        table = closing_table(report, self._counts, self._seconds, self._restarts, unicode)
        await stack.aclose()
        click.echo(
            f"\n{table}\n\nThe journal and the logs of the instances are in {self._folder}/state.\n"
            f"Next: read {self._folder}/policies/shop.yaml, then begin with your own service:\n"
            f"  {_command()} init && {_command()} plan && {_command()} run"
        )


def _command() -> str:
    """How this program was called, so that the lines can be copied."""
    called = sys.argv[0]
    return called if called.endswith("scaler") else f"{sys.executable} -m scaler"
