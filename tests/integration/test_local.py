"""Local processes for real: crashes of the daemon, stragglers, ports, logs, and what they use."""

import asyncio
import json
import os
import pwd
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from scaler.clients import processes, usage
from scaler.clock import SystemClock
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.errors import ConfigError, PermanentError, TransientError, Unavailable
from scaler.interfaces import Context
from scaler.providers import local as provider_module
from scaler.providers.local import LocalProvider, LocalTarget
from scaler.sources import local as source_module
from tests.integration.ports import free_port, free_ports

pytestmark = pytest.mark.live
PATIENCE_S = 30.0
SLEEP = ["sleep", "600"]
DAEMON = Path(__file__).with_name("daemon_for_local.py")


class Place:
    """A state directory, its daemons, and all processes that carry its mark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.shared: dict[type, Any] = {}
        self.opened: list[LocalProvider] = []
        self._table = processes.ProcessTable(self.clock)

    def context(self) -> Context:
        return Context(
            clock=self.clock, state_dir=self.folder, random=random.Random(1), shared=self.shared
        )

    def open(self) -> LocalProvider:
        provider = provider_module.PLUGIN.open(self.context())
        self.opened.append(provider)
        return provider

    @property
    def state(self) -> Path:
        return self.folder / "local" / "web.json"

    async def marked(self) -> list[processes.Process]:
        """All living processes of this place, by marker alone."""
        seen = (await self._table.look()).by_pid.values()
        mine = (p for p in seen if p.alive and p.marker)
        return [p for p in mine if p.marker and p.marker.owner.startswith(f"{self.folder}/")]

    async def clear(self) -> None:
        for provider in self.opened:
            await provider.aclose()
        while found := await self.marked():
            processes.send(found, signal.SIGKILL)
            await processes.wait_ended(found, timedelta(seconds=5))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    opened = Place(tmp_path)
    try:
        yield opened
    finally:
        await opened.clear()


def web(command: list[str] | None = None, **fields: Any) -> LocalTarget:
    target = LocalTarget.model_validate({"command": command or SLEEP, "grace": "5s", **fields})
    return target.model_copy(update={"policy": "web", "kind": "local"})


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def until(
    provider: LocalProvider, target: LocalTarget, holds: Callable[[Fleet], bool]
) -> Fleet:
    deadline = time.monotonic() + PATIENCE_S
    while not holds(fleet := await provider.observe(target)):
        assert time.monotonic() < deadline, fleet
        await asyncio.sleep(0.02)
    return fleet


async def started(
    provider: LocalProvider, target: LocalTarget, count: int = 1
) -> tuple[Instance, ...]:
    await provider.scale(target, count)
    fleet = await until(provider, target, lambda f: states(f) == [State.RUNNING] * count)
    return fleet.instances


async def eventually(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := holds()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return value


def states(fleet: Fleet) -> list[State]:
    return [i.state for i in fleet.instances]


def gone(fleet: Fleet) -> bool:
    return not fleet.instances


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def log_of(place: Place, index: int = 0) -> Path:
    return place.folder / "local" / "logs" / f"web-{index}.log"


# --- how they end ---


@pytest.mark.parametrize(
    ("command", "because"),
    [
        pytest.param(["sh", "-c", "exit 3"], "exit code 3", id="an exit code"),
        pytest.param(["sh", "-c", "kill -9 $$"], "killed by SIGKILL", id="a signal"),
        pytest.param(
            ["/no/such"],
            "could not start: no such file or directory: /no/such; "
            "correct it, or the interpreter that its first line names",
            id="no program",
        ),
        pytest.param(
            ["/etc/passwd"],
            "could not start: permission denied: /etc/passwd; "
            "make it executable and its directories searchable for the user",
            id="no right to execute it",
        ),
    ],
)
async def test_why_it_failed_is_said(place: Place, command: list[str], because: str) -> None:
    provider, target = place.open(), web(command)
    await provider.scale(target, 1)
    fleet = await until(provider, target, lambda f: states(f) == [State.FAILED])
    assert fleet.instances[0].because == because


async def test_a_missing_directory_is_a_reason(place: Place) -> None:
    provider, target = place.open(), web(directory=f"{place.folder}/nowhere")
    await provider.scale(target, 1)
    fleet = await provider.observe(target)
    assert f"no such file or directory: {place.folder}/nowhere" in fleet.instances[0].because


@pytest.mark.parametrize("adopted", [False, True], ids=["our child", "an adopted one"])
async def test_an_end_is_noticed_without_looking(place: Place, adopted: bool) -> None:
    provider, target = place.open(), web()
    (instance,) = await started(provider, target)
    if adopted:
        await provider.aclose()
        provider = place.open()
        await provider.observe(target)
    changes = provider.changes()
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    assert instance.pid
    os.kill(instance.pid, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "web"
    fleet = await provider.observe(target)
    assert states(fleet) == [State.FAILED]
    await changes.aclose()  # type: ignore[attr-defined]


async def test_what_withstands_the_signal_is_killed_after_its_grace(place: Place) -> None:
    provider, target = (
        place.open(),
        web(["sh", "-c", "trap '' TERM; echo up; sleep 600 & wait; sleep 600"], grace="300ms"),
    )
    await started(provider, target)
    await eventually(lambda: "up" in text(log_of(place)))
    before = time.monotonic()
    await provider.scale(target, 0)
    assert states(await provider.observe(target)) == [State.STOPPING]
    await until(provider, target, gone)
    assert time.monotonic() - before >= 0.3
    assert await place.marked() == []


async def test_a_suspended_one_hears_the_signal(place: Place) -> None:
    provider, target = place.open(), web(grace="1h")
    (instance,) = await started(provider, target)
    assert instance.pid
    os.kill(instance.pid, signal.SIGSTOP)
    await provider.scale(target, 0)
    await until(provider, target, gone)


ESCAPES = {
    "children in sessions of their own": "setsid sleep 600 & setsid sleep 600 & echo up; wait",
    "orphans whose parents are gone": "(setsid sh -c 'sleep 600 & sleep 600 &' &); "
    "echo up; sleep 600",
    "children deaf to the signal": "(trap '' TERM; setsid sleep 600 & sleep 600 & wait) & "
    "echo up; sleep 600",
}


@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("how", ["stopped", "ended by itself"])
async def test_nothing_is_left_behind(place: Place, code: str, how: str) -> None:
    provider, target = place.open(), web(["sh", "-c", code], grace="400ms")
    (instance,) = await started(provider, target)
    await eventually(lambda: "up" in text(log_of(place)))
    deadline = time.monotonic() + PATIENCE_S
    while len(await place.marked()) < 3:
        assert time.monotonic() < deadline
    if how == "stopped":
        await provider.scale(target, 0)
        await until(provider, target, gone)
    else:
        assert instance.pid
        os.kill(instance.pid, signal.SIGKILL)
        await until(provider, target, lambda f: states(f) == [State.FAILED])
        while await place.marked():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert await place.marked() == []


async def test_a_restart_waits_until_the_old_one_is_gone(place: Place) -> None:
    code = "import os,signal,time; signal.signal(15, lambda *a: None); print('up', flush=True)"
    provider, target = (
        place.open(),
        web(python(f"{code}\nwhile True: time.sleep(600)"), grace="300ms"),
    )
    (old,) = await started(provider, target)
    await eventually(lambda: "up" in text(log_of(place)))
    await provider.restart(target, old.id)
    await provider.restart(target, old.id)  # once more is no second restart
    fleet = await provider.observe(target)
    assert states(fleet) == [State.PENDING]
    assert fleet.complete
    fleet = await until(provider, target, lambda f: states(f) == [State.RUNNING])
    assert fleet.instances[0].pid != old.pid
    assert [p.pid for p in await place.marked()] == [fleet.instances[0].pid]


async def test_stopping_goes_on_after_a_crash_of_the_daemon(place: Place) -> None:
    provider, target = (
        place.open(),
        web(
            python(
                "import signal,time; signal.signal(15, lambda *a: None); print('up', flush=True)\n"
                "while True: time.sleep(600)"
            ),
            grace="700ms",
        ),
    )
    await started(provider, target)
    await eventually(lambda: "up" in text(log_of(place)))
    await provider.scale(target, 0)
    await provider.aclose()
    assert len(await place.marked()) == 1
    kill_at = json.loads(place.state.read_text())["slots"]["0"]["kill_at"]
    again = place.open()
    assert states(await again.observe(target)) == [State.STOPPING]
    assert json.loads(place.state.read_text())["slots"]["0"]["kill_at"] == kill_at
    await until(again, target, gone)
    assert await place.marked() == []


async def test_on_exit_stop_leaves_nothing_and_forgets_nothing(place: Place) -> None:
    provider, target = place.open(), web(on_exit="stop")
    await started(provider, target, 3)
    await provider.aclose()
    assert await place.marked() == []
    fleet = await place.open().observe(target)
    assert (fleet.wanted, fleet.instances, fleet.complete) == (3, (), False)


# --- crashes and damage ---


async def test_a_daemon_killed_at_any_moment_loses_and_doubles_nothing(place: Place) -> None:
    target = web(grace="1s")
    (place.folder / "target.json").write_text(target.model_dump_json())
    chance = random.Random(7)
    for seed in range(20):
        command = [sys.executable, str(DAEMON), str(place.folder), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
            try:
                assert daemon.stdout
                await asyncio.to_thread(daemon.stdout.readline)
                await asyncio.sleep(chance.random() * 0.25)
            finally:
                daemon.kill()
        provider = place.open()
        fleet = await adopted(provider, target)
        alive = {p.marker.instance: p for p in await place.marked() if p.marker}
        known = {i.incarnation for i in fleet.instances}
        assert set(alive) <= known, "something runs that nobody knows"
        kept = {i.pid for i in fleet.instances if i.state is State.RUNNING}
        await provider.scale(target, fleet.wanted)
        for instance in fleet.instances:
            if instance.state is State.FAILED:
                await provider.restart(target, instance.id)
        wanted = [State.RUNNING] * fleet.wanted
        fleet = await until(provider, target, lambda f, wanted=wanted: states(f) == wanted)  # type: ignore[misc]
        assert kept <= {i.pid for i in fleet.instances}, "something was started again for nothing"
        assert {p.pid for p in await place.marked()} == {i.pid for i in fleet.instances}
        await provider.aclose()


async def adopted(provider: LocalProvider, target: LocalTarget) -> Fleet:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await provider.observe(target)
        except Unavailable:  # a process that was being started has the lock for a moment
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="lost"),
        pytest.param(lambda path: path.write_text("{"), id="half written"),
        pytest.param(lambda path: path.write_text('{"version": 99}'), id="of another version"),
    ],
)
async def test_without_its_file_all_are_found_by_their_marker(
    place: Place, damage: Callable[[Path], object]
) -> None:
    provider, target = place.open(), web(port="20000-32000")
    before = await started(provider, target, 3)
    await provider.aclose()
    damage(place.state)
    fleet = await place.open().observe(target)
    assert fleet.wanted == 3

    def essence(instance: Instance) -> tuple[object, ...]:
        return instance.id, instance.pid, instance.port, instance.incarnation, instance.current

    assert [essence(i) for i in fleet.instances] == [essence(i) for i in before]


async def test_a_pid_that_is_another_process_now_is_left_alone(place: Place) -> None:
    provider, target = place.open(), web()
    (instance,) = await started(provider, target)
    await provider.aclose()
    assert instance.pid
    os.kill(instance.pid, signal.SIGKILL)
    os.waitpid(instance.pid, 0)
    with subprocess.Popen(SLEEP) as stranger:
        try:
            book = json.loads(place.state.read_text())
            book["slots"]["0"]["process"]["pid"] = stranger.pid
            book["slots"]["0"]["process"]["start_ticks"] -= 1  # both may have begun in one tick
            place.state.write_text(json.dumps(book))
            provider = place.open()
            fleet = await provider.observe(target)
            assert states(fleet) == [State.FAILED]
            assert "while no scaler was running" in fleet.instances[0].because
            await provider.scale(target, 0)
            await until(provider, target, gone)
            assert stranger.poll() is None
        finally:
            stranger.kill()


async def test_two_daemons_do_not_share_a_folder(place: Place) -> None:
    target = web()
    await started(place.open(), target)
    with pytest.raises(TransientError, match="another scaler looks after"):
        await place.open().scale(target, 3)
    assert len(await place.marked()) == 1


async def test_what_cannot_be_written_down_is_not_done(place: Place) -> None:
    provider, target = place.open(), web()
    before = await started(provider, target)
    obstacle = place.state.with_name(".web.json.new")
    obstacle.mkdir()
    for change in (
        provider.scale(target, 3),
        provider.scale(target, 0),
        provider.restart(target, InstanceId("web-0")),
    ):
        with pytest.raises(Unavailable, match=r"cannot write .*web\.json, so nothing was changed"):
            await change
    fleet = await provider.observe(target)
    assert (fleet.wanted, fleet.instances) == (1, before)
    obstacle.rmdir()
    assert len(await started(provider, target, 2)) == 2


async def test_a_state_directory_that_cannot_be_made_is_an_error_with_its_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    place = Place(tmp_path / "file")
    with pytest.raises(Unavailable, match=r"cannot keep files in .*file/local"):
        await place.open().observe(web())


async def test_a_cancelled_scale_is_finished_all_the_same(place: Place) -> None:
    provider, target = place.open(), web()
    await provider.observe(target)
    work = asyncio.ensure_future(provider.scale(target, 4))
    await asyncio.sleep(0.002)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await provider.scale(target, 4)
    fleet = await until(provider, target, lambda f: states(f) == [State.RUNNING] * 4)
    assert {p.pid for p in await place.marked()} == {i.pid for i in fleet.instances}


async def test_without_free_files_nothing_is_taken_for_dead(place: Place) -> None:
    provider, target = place.open(), web()
    before = await started(provider, target, 3)
    await provider.aclose()
    provider = place.open()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    await provider.observe(web().model_copy(update={"policy": "other"}))  # it has its lock now
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, limits[1]))  # enough to scan
    try:
        with pytest.raises(Unavailable, match="cannot take over"):
            await provider.observe(target)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    fleet = await provider.observe(target)
    assert [i.pid for i in fleet.instances] == [i.pid for i in before]
    assert states(fleet) == [State.RUNNING] * 3


# --- what they are given ---


async def test_the_environment_is_what_was_written_and_no_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY", "SECRET"):
        monkeypatch.setenv(name, "daemon's own")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    code = (
        "import json, os; files = os.listdir('/proc/self/fd');"
        "print(json.dumps([dict(os.environ), os.getcwd(), files]))"
    )
    (place.folder / "home").mkdir()
    provider, target = (
        place.open(),
        web(python(code), env={"A": "1"}, directory=str(place.folder / "home"), port="20000-32000"),
    )
    read, write = os.pipe()
    os.set_inheritable(read, True)  # as systemd hands over its sockets
    try:
        await provider.scale(target, 1)
        fleet = await until(provider, target, lambda f: states(f) == [State.FAILED])
    finally:
        os.close(read)
        os.close(write)
    env, folder, files = json.loads(text(log_of(place)))
    ours = {"SCALER_INSTANCE", "SCALER_OWNER", "SCALER_SLOT", "SCALER_TEMPLATE"}
    allowed = {"A", "PORT", "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ"}
    assert ours <= set(env) <= ours | allowed | {"TMPDIR", "LC_CTYPE"}
    assert (env["A"], env["PORT"]) == ("1", str(fleet.instances[0].port))
    assert env["SCALER_OWNER"] == f"{place.folder}/web"
    assert folder == str(place.folder / "home")
    assert len(files) == 4  # the standard three, and the listing's own


async def test_only_root_changes_the_user(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = place.open()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(PermanentError, match="only root may start processes"):
        await provider.scale(web(user="root"), 1)
    with pytest.raises(PermanentError, match='no user "nobody-here"'):
        await provider.scale(web(user="nobody-here"), 1)
    assert (await provider.observe(web())).instances == ()


async def test_it_runs_as_its_user(place: Place) -> None:
    """Root becomes somebody else; others may only name themselves."""
    who = pwd.getpwuid(os.geteuid() or 65534)
    provider, target = place.open(), web(["sh", "-c", "id -u; echo $HOME"], user=who.pw_name)
    await provider.scale(target, 1)
    await until(provider, target, lambda f: states(f) == [State.FAILED])
    assert text(log_of(place)).split() == [str(who.pw_uid), who.pw_dir]


SERVER = """
import os, signal, socket, time
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if os.environ.get("SHARED"):
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", int(os.environ["PORT"])))
server.listen()
print("up", flush=True)
time.sleep(600)
"""


async def test_each_has_a_port_until_there_are_no_more(place: Place) -> None:
    low = free_ports(2)
    provider, target = place.open(), web(python(SERVER), port=f"{low}-{low + 1}")
    await provider.scale(target, 3)
    fleet = await until(provider, target, lambda f: states(f).count(State.RUNNING) == 2)
    assert [i.port for i in fleet.instances] == [low, low + 1, None]
    assert f"no port of {low}-{low + 1} is free" in fleet.instances[2].because
    assert fleet.complete
    await eventually(lambda: "up" in text(log_of(place, 0)) and "up" in text(log_of(place, 1)))
    await provider.scale(target, 2, remove=(fleet.instances[0].id,))
    await until(provider, target, lambda f: len(f.instances) == 2)
    await provider.restart(target, fleet.instances[2].id)
    fleet = await until(provider, target, lambda f: states(f) == [State.RUNNING] * 2)
    assert {i.port for i in fleet.instances} == {low, low + 1}


async def test_all_share_one_port(place: Place) -> None:
    port = free_port()
    provider, target = place.open(), web(python(SERVER), port=port, env={"SHARED": "1"})
    instances = await started(provider, target, 3)
    assert {i.port for i in instances} == {port}
    await eventually(lambda: all("up" in text(log_of(place, index)) for index in range(3)))


async def test_logs_are_rotated_while_they_are_written(place: Place) -> None:
    code = "import sys,time\nwhile True: print('x' * 99, flush=True); time.sleep(0.002)"
    provider, target = place.open(), web(python(code), log={"max_size": "2KiB", "keep": 2})
    await started(provider, target)
    names = {"web-0.log", "web-0.log.1", "web-0.log.2"}
    await until(
        provider, target, lambda _: {p.name for p in log_of(place).parent.iterdir()} == names
    )
    lines = text(log_of(place).with_name("web-0.log.1")).splitlines()
    assert lines[-1] == "x" * 99
    size = log_of(place).stat().st_size
    await eventually(lambda: log_of(place).stat().st_size > size)  # it writes on, from the start
    assert log_of(place).read_bytes()[:1] == b"x"


# --- what they use ---

BURN = "x=0; while [ $x -lt 40000 ]; do x=$((x+1)); done"


def source(name: str, place: Place, of: str = "limit") -> source_module.LocalMetrics:
    metric = Metric.model_validate({"name": name, "of": of, "goal": {"value": 1}})
    return source_module.PLUGIN.open(metric, web(), place.context())


async def read(
    metrics: source_module.LocalMetrics, provider: LocalProvider, target: LocalTarget
) -> Reading:
    fleet = await provider.observe(target)
    minute = timedelta(minutes=1)
    return await metrics.read(fleet, fleet.at - minute, fleet.at + minute)


async def test_short_lived_children_count(place: Place) -> None:
    """Nearly all the work is done by processes that no look ever sees."""
    report = place.folder / "times"
    code = f"while :; do sh -c '{BURN}'; times > {report}.new; mv {report}.new {report}; done"
    provider, target = place.open(), web(["sh", "-c", code], cpu=2)
    cpu = source("cpu", place)
    await started(provider, target)
    await asyncio.sleep(0.3)  # a look from before it began may serve for a moment
    first = await read(cpu, provider, target)
    assert (first.samples, bool(first.missing)) == ((), True)
    total = 0.0
    for _ in range(4):
        await asyncio.sleep(0.5)
        reading = await read(cpu, provider, target)
        (sample,) = reading.samples
        assert 0 < sample.value < 1.5
        assert sample.base == 2
        assert sample.window >= timedelta(milliseconds=400)
        total += sample.value * sample.window.total_seconds()
    spent = sum(map(in_seconds, text(report).split()))
    assert 0.5 * spent < total < 1.2 * spent + 0.5


def in_seconds(written: str) -> float:
    minutes, _, seconds = written.rstrip("s").partition("m")
    return int(minutes) * 60 + float(seconds)


async def test_an_idle_one_uses_nothing_and_a_new_start_begins_anew(place: Place) -> None:
    provider, target = place.open(), web()
    cpu, memory = source("cpu", place), source("memory", place, of="host")
    (instance,) = await started(provider, target)
    await asyncio.sleep(0.3)
    await read(cpu, provider, target)
    await asyncio.sleep(0.3)
    reading = await read(cpu, provider, target)
    assert [s.value for s in reading.samples] == [0]
    (sample,) = (await read(memory, provider, target)).samples
    assert 100_000 < sample.value < 50_000_000
    assert sample.base == usage.memory_limit()
    await provider.restart(target, instance.id)
    await until(
        provider,
        target,
        lambda f: (
            states(f) == [State.RUNNING] and f.instances[0].incarnation != instance.incarnation
        ),
    )
    await asyncio.sleep(0.3)
    assert (await read(cpu, provider, target)).samples == ()
    await asyncio.sleep(0.3)
    assert len((await read(cpu, provider, target)).samples) == 1


async def test_no_instance_is_a_reason(place: Place) -> None:
    provider, target = place.open(), web()
    reading = await read(source("cpu", place), provider, target)
    assert (reading.samples, reading.missing) == ((), "no instance is running")


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("disk", "limit", 'no metric "disk"'),
        ("cpu", "request", "cpu: local processes have no request"),
    ],
    ids=["an unknown metric", "a share of a request"],
)
def test_a_metric_that_is_not_there(place: Place, name: str, of: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source(name, place, of)
