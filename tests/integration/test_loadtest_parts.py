"""A load test that several processes share through a real Redis."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from scaler.clients.redis import Redis
from scaler.clock import SystemClock
from scaler.errors import ConfigError, Unavailable
from scaler.loadtest import meeting, parts
from scaler.loadtest.engine import Share
from scaler.loadtest.meeting import Meeting
from scaler.loadtest.part import Part
from scaler.loadtest.parts import Parts
from scaler.loadtest.plan import Plan, load
from scaler.loadtest.progress import Progress
from scaler.loadtest.report import Report
from scaler.loadtest.tester import LoadTester
from tests.integration.faultyserver import FaultyServer, faulty_server
from tests.integration.redises import RedisServer, serving_redis
from tests.integration.running import SCALER, eventually

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with serving_redis() as server:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


@pytest.fixture
async def place(redis: RedisServer) -> AsyncIterator[Meeting]:
    redis.ask("flushall")
    client = Redis(redis.url)
    yield Meeting(client, "loadtest")
    await client.aclose()


class Processes:
    """Parts as processes of their own, on one plan."""

    def __init__(self, redis: RedisServer, file: Path) -> None:
        self._redis = redis
        self.file = file
        self.started: list[Process] = []

    def write(self, port: int, written: str) -> Plan:
        self.file.write_text(f"target: http://127.0.0.1:{port}\n{written}\n")
        return load(self.file)

    async def start(self, *several: str) -> None:
        for one in several:
            words = [SCALER, "loadtest", str(self.file), "--through", self._redis.url]
            process = await asyncio.create_subprocess_exec(
                *words, "--part", one, stdout=PIPE, stderr=PIPE
            )
            self.started.append(process)

    async def ended(self) -> list[tuple[int | None, str]]:
        """Exit code and last words of each."""
        found = []
        for process in self.started:
            printed, said = await process.communicate()
            found.append((process.returncode, (said or printed).decode().strip()))
        return found

    async def aclose(self) -> None:
        for process in self.started:
            if process.returncode is None:
                process.kill()
                await process.communicate()


@pytest.fixture
async def processes(redis: RedisServer, tmp_path: Path) -> AsyncIterator[Processes]:
    made = Processes(redis, tmp_path / "plan.yaml")
    yield made
    await made.aclose()


async def gathered(plan: Plan, place: Meeting, count: int, tell: Any = None) -> Report:
    crew = Parts(plan, place, count, clock=SystemClock(), tell=tell)
    return await LoadTester(plan, clock=SystemClock(), crew=crew).run()


async def there(place: Meeting, number: int) -> None:
    """Until a part holds its place."""
    while not await place.there(number):
        await asyncio.sleep(0.05)


async def test_three_parts_find_what_one_process_finds(
    redis: RedisServer, server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    """The stall of `test_time_that_the_server_stands_still_is_in_the_figures`, from three."""
    told: list[Progress] = []
    plan = processes.write(server.port, "load: {rate: 200/s, for: 2s}\nbounds: {connections: 20}")
    await processes.start("1/3", "2/3", "3/3")
    gathering = asyncio.create_task(gathered(plan, place, 3, told.append))
    await eventually(lambda: server.requests >= 80, "the test is under way")
    server.frozen.clear()
    asyncio.get_running_loop().call_later(1.0, server.frozen.set)
    report = await gathering
    assert (report.record.due, report.record.answered, server.requests) == (400, 400, 400)
    assert 0.3 <= report.figures()["p75"] <= 0.8
    assert len(report.cpu) == 3
    assert not report.lost
    assert told[-1].due <= 400
    words = sorted(await processes.ended())
    assert words == [
        (0, "133 due, 133 answered well, 0 errors"),
        (0, "133 due, 133 answered well, 0 errors"),
        (0, "134 due, 134 answered well, 0 errors"),
    ]
    assert redis.ask("keys", "*").strip() == ""


async def test_a_part_that_is_killed_is_missed_and_nothing_passes(
    server: FaultyServer,
    place: Meeting,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "QUIET", 3)
    plan = processes.write(
        server.port, "load: {rate: 90/s, for: 3s}\nthresholds: p99<1h, errors<100%"
    )
    await processes.start("0/3", "1/3", "2/3")
    gathering = asyncio.create_task(gathered(plan, place, 3))
    await eventually(lambda: server.requests >= 30, "the test is under way")
    processes.started[1].kill()
    report = await gathering
    assert report.lost == ("part 1 of 3 fell silent and its requests are missing",)
    assert report.record.due == 180
    assert all(one.holds for one in report.judged())
    assert not report.passed


async def test_a_part_that_is_told_to_end_says_so(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 3s}")
    await processes.start("0/2", "1/2")
    gathering = asyncio.create_task(gathered(plan, place, 2))
    await eventually(lambda: server.requests >= 20, "the test is under way")
    processes.started[0].send_signal(signal.SIGTERM)
    report = await gathering
    assert report.lost == ("part 0 of 2 was ended early",)
    assert 75 < report.record.due < 150
    assert [code for code, _ in await processes.ended()] == [0, 0]


async def test_redis_may_stand_still_while_the_load_goes_on(
    redis: RedisServer, server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 4s}")
    await processes.start("0/2", "1/2")
    gathering = asyncio.create_task(gathered(plan, place, 2))
    await eventually(lambda: server.requests >= 20, "the test is under way")
    redis.pause()
    try:
        await eventually(lambda: server.requests == 200, "all requests were sent")
    finally:
        redis.resume()
    report = await gathering
    assert (report.record.due, report.record.answered, report.lost) == (200, 200, ())


async def test_a_late_part_is_waited_for(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    await processes.start("0/2")
    gathering = asyncio.create_task(gathered(plan, place, 2))
    await there(place, 0)
    assert server.requests == 0, "nobody begins alone"
    await processes.start("1/2")
    report = await gathering
    assert (report.record.due, report.lost) == (50, ())


async def test_a_part_that_does_not_come_is_named(
    server: FaultyServer,
    place: Meeting,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "WAIT_S", 1.0)
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    with pytest.raises(Unavailable, match=r"of 2 parts these have not come within 1 s: 0, 1"):
        await gathered(plan, place, 2)
    assert server.requests == 0


async def test_a_part_that_comes_when_it_has_begun_sends_nothing(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    await place.begin({"run": "r", "at": 0.0, "tokens": ["somebody else"]})
    late = Part(plan, place, Share(0, 1), clock=SystemClock(), allow_host=False)
    with pytest.raises(Unavailable, match="has begun without part 0 of 1"):
        await late.run()
    assert server.requests == 0


async def test_parts_stop_when_nobody_gathers_their_figures(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1h}")
    await processes.start("0/2", "1/2")
    gathering = asyncio.create_task(gathered(plan, place, 2))
    await eventually(lambda: server.requests >= 20, "the test is under way")
    gathering.cancel()
    await asyncio.gather(gathering, return_exceptions=True)
    assert [code for code, _ in await processes.ended()] == [0, 0]
    assert server.requests < 50 * 3600


async def test_it_ends_early_when_it_is_told_to(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1h}")
    await processes.start("0/1")
    crew = Parts(plan, place, 1, clock=SystemClock())
    tester = LoadTester(plan, clock=SystemClock(), crew=crew)
    running = asyncio.create_task(tester.run())
    await eventually(lambda: server.requests >= 20, "the test is under way")
    tester.stop()
    report = await running
    assert (report.lost, report.record.due > 0) == ((), True)


async def test_a_part_with_another_plan_is_refused(
    server: FaultyServer, place: Meeting, processes: Processes
) -> None:
    processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    await processes.start("0/1")
    await there(place, 0)
    other = processes.write(server.port, "load: {rate: 51/s, for: 1s}")
    with pytest.raises(ConfigError, match="part 0 of 1 was given another plan"):
        await gathered(other, place, 1)


async def test_two_runs_of_one_name_are_told_apart(
    place: Meeting, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = processes.write(1, "load: {rate: 50/s, for: 1s}")
    monkeypatch.setattr(parts, "HOLD_S", 0)
    assert await place.open("another run")
    with pytest.raises(ConfigError, match="named loadtest is going on"):
        await gathered(plan, place, 1)


async def test_two_processes_cannot_be_one_part(
    server: FaultyServer,
    place: Meeting,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scaler.loadtest.part.HOLD_S", 0)
    plan = processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    await place.take(0, "somebody else")
    second = Part(plan, place, Share(0, 1), clock=SystemClock(), allow_host=False)
    with pytest.raises(ConfigError, match="part 0 of 1 is another process already"):
        await second.run()


async def test_a_long_record_comes_back_whole(
    place: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "PIECE", 7)
    record = {"text": "what is longer than a piece", "numbers": list(range(100))}
    pieces = await place.leave("token", record)
    assert pieces > 10
    assert await place.left("token", pieces) == record


async def test_from_the_command_line_a_missed_threshold_is_exit_code_8(
    redis: RedisServer, server: FaultyServer, processes: Processes, place: Meeting
) -> None:
    processes.write(server.port, "load: {rate: 50/s, for: 1s}")
    await processes.start("0/1")
    process = await asyncio.create_subprocess_exec(
        SCALER, "loadtest", str(processes.file), "--through", redis.url, "--parts", "1",
        "--threshold", "rate>1000/s", "--json", stdout=PIPE, stderr=PIPE,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    printed, said = await process.communicate()
    assert process.returncode == 8, said
    assert json.loads(printed)["record"]["due"] == 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(["--parts", "2", "--part", "1/2"], "one of the two", id="both"),
        pytest.param(["--parts", "2"], "add --through", id="no place"),
        pytest.param(["--through", "redis://h", "--part", "4/3"], "is no part", id="no part"),
        pytest.param(["--run", "A B"], "is no name", id="no name"),
        pytest.param(["--manifest", "swarm"], "needs --parts", id="how many"),
        pytest.param(
            ["--through", "redis://h", "--parts", "2", "--workers", "2"],
            "one process",
            id="workers",
        ),
    ],
)
async def test_what_does_not_belong_together_is_refused(words: list[str], said: str) -> None:
    process = await asyncio.create_subprocess_exec(
        SCALER, "loadtest", "http://127.0.0.1:1/", *words, stdout=PIPE, stderr=PIPE
    )
    _, printed = await process.communicate()
    assert (process.returncode, said in printed.decode()) == (3, True), printed
