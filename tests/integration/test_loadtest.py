"""The load tester against servers that do it wrong, stand still, or go away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scaler.clock import SystemClock
from scaler.errors import ConfigError, Refused
from scaler.loadtest.failures import Failure
from scaler.loadtest.plan import of_fields
from scaler.loadtest.progress import Progress
from scaler.loadtest.report import Report
from scaler.loadtest.tester import LoadTester
from scaler.loadtest.workers import Crew
from tests.integration.faultyserver import FaultyServer, deaf_port, faulty_server
from tests.integration.pods import certified
from tests.integration.ports import free_port
from tests.integration.running import eventually

pytestmark = pytest.mark.live
SHORT = {"connect": "200ms", "first_byte": "300ms", "whole": "400ms", "end": "5s"}


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with faulty_server() as running:
        yield running


def made(port: int, path: str = "/ok", **more: Any) -> LoadTester:
    request = {"path": path, **more.pop("request", {})}
    allow = more.pop("allow_host", False)
    tell = more.pop("tell", None)
    fields = {
        "target": f"http://127.0.0.1:{port}",
        "load": {"rate": "50/s", "for": "200ms"},
        "scenario": [request],
        **more,
    }
    return LoadTester(of_fields(fields), clock=SystemClock(), allow_host=allow, tell=tell)


async def report_of(port: int, path: str = "/ok", **more: Any) -> Report:
    report = await made(port, path, **more).run()
    record = report.record
    assert record.due == record.answered + record.errors, "every request is accounted for"
    return report


@pytest.mark.parametrize(
    ("path", "connections"),
    [
        pytest.param("/ok", 1, id="a length"),
        pytest.param("/chunked", 1, id="chunks"),
        pytest.param("/continue", 1, id="100 first"),
        pytest.param("/no-content", 1, id="204"),
        pytest.param("/close", 10, id="until the server closes"),
        pytest.param("/length-close", 10, id="a length, and a close"),
        pytest.param("/garbage-after", 10, id="what nobody asked for"),
    ],
)
async def test_every_way_to_end_an_answer(
    server: FaultyServer, path: str, connections: int
) -> None:
    report = await report_of(server.port, path)
    assert (report.record.due, report.record.errors) == (10, 0)
    assert server.requests == 10
    if connections > 1:
        assert server.connections == connections
    else:
        assert server.connections < 10


async def test_head_has_no_body(server: FaultyServer) -> None:
    report = await report_of(server.port, request={"method": "HEAD"})
    assert report.record.answered == 10


@pytest.mark.parametrize(
    ("path", "failure", "more"),
    [
        pytest.param("/reset", Failure.RESET, {}, id="a reset"),
        pytest.param("/eof", Failure.RESET, {}, id="a close without a word"),
        pytest.param("/nothing", Failure.FIRST_BYTE_TIMEOUT, {"timeouts": SHORT}, id="silence"),
        pytest.param("/half", Failure.BODY_TIMEOUT, {"timeouts": SHORT}, id="half an answer"),
        pytest.param("/incomplete", Failure.INCOMPLETE, {}, id="a close in the middle"),
        pytest.param("/garbage", Failure.MALFORMED, {}, id="another protocol"),
        pytest.param("/error", Failure.WRONG_STATUS, {}, id="a wrong status"),
        pytest.param(
            "/ok", Failure.FAILED_CHECK, {"request": {"checks": {"contains": "bye"}}}, id="a check"
        ),
        pytest.param(
            "/ok", Failure.WRONG_STATUS, {"request": {"checks": {"status": [201]}}}, id="not 201"
        ),
        pytest.param(
            "/half",
            Failure.CUT_OFF,
            {"timeouts": {"end": "50ms"}},
            id="no answer when the test ends",
        ),
        pytest.param(
            "/ok", Failure.MALFORMED, {"bounds": {"response": 4}}, id="longer than is allowed"
        ),
    ],
)
async def test_errors_are_told_apart(
    server: FaultyServer, path: str, failure: Failure, more: dict[str, Any]
) -> None:
    report = await report_of(server.port, path, **more)
    assert dict(report.record.failures) == {failure.value: 10}


async def test_nobody_listens() -> None:
    report = await report_of(free_port())
    assert dict(report.record.failures) == {Failure.REFUSED.value: 10}


async def test_no_connection_is_made_in_time() -> None:
    async with deaf_port() as port:
        report = await report_of(port, timeouts=SHORT)
    assert dict(report.record.failures) == {Failure.CONNECT_TIMEOUT.value: 10}


async def test_no_such_host() -> None:
    report = await report_of(80, target="http://no-such-host.invalid", allow_host=True)
    assert dict(report.record.failures) == {Failure.DNS.value: 10}


async def test_tls_to_a_server_without_it_fails(server: FaultyServer) -> None:
    report = await report_of(server.port, target=f"https://127.0.0.1:{server.port}", timeouts=SHORT)
    assert set(report.record.failures) <= {
        Failure.TLS.value, Failure.RESET.value, Failure.CONNECT_TIMEOUT.value
    }  # fmt: skip
    assert report.record.errors == 10


@pytest.mark.parametrize(
    ("trust", "failures"),
    [
        pytest.param({"ca": "ca.crt"}, {}, id="trusted"),
        pytest.param({"verify": False}, {}, id="not looked at"),
        pytest.param({}, {Failure.TLS.value: 10}, id="unknown"),
    ],
)
async def test_certificates(
    trust: dict[str, Any], failures: dict[str, int], tmp_path: Path
) -> None:
    if "ca" in trust:
        trust = {"ca": str(tmp_path / trust["ca"])}
    async with faulty_server(certified(tmp_path)) as server:
        url = f"https://127.0.0.1:{server.port}"
        report = await report_of(server.port, target=url, tls=trust)
    assert dict(report.record.failures) == failures
    assert server.connections < 10 or failures


async def test_what_cannot_be_sent_is_counted_and_makes_the_run_doubtful(
    server: FaultyServer,
) -> None:
    server.frozen.clear()
    bounds = {"in_flight": 4, "connections": 2}
    report = await report_of(server.port, bounds=bounds, timeouts=SHORT)
    assert report.record.failures[Failure.NOT_SENT.value] >= 6
    assert report.figures()["not_sent"] >= 0.6
    assert any("never sent" in doubt for doubt in report.doubts())


async def test_time_that_the_server_stands_still_is_in_the_figures(server: FaultyServer) -> None:
    """Of 2 s at 200/s the server answers nobody for 1 s: every other request waits, 500 ms on
    average, so the true p75 is 500 ms. A tester that waits for answers sees a few slow ones.
    """
    loop = asyncio.get_running_loop()
    running = made(
        server.port, load={"rate": "200/s", "for": "2s"}, bounds={"connections": 20}
    ).run()
    task = asyncio.create_task(running)
    await eventually(lambda: server.requests >= 80, "the test is under way")
    server.frozen.clear()
    loop.call_later(1.0, server.frozen.set)
    report = await task
    assert (report.record.due, report.record.errors) == (400, 0)
    assert 0.3 <= report.figures()["p75"] <= 0.8
    assert report.figures()["service_p75"] <= 0.3, "20 connections saw the stall, no more"


async def test_warming_up_is_not_counted(server: FaultyServer) -> None:
    load = {"rate": "100/s", "for": "400ms", "warm_up": "200ms"}
    report = await report_of(server.port, load=load)
    assert (report.record.warm, report.record.due) == (20, 20)
    assert server.requests == 40


async def test_users_wait_for_answers_and_think(server: FaultyServer) -> None:
    load = {"users": 3, "think": "50ms", "for": "400ms"}
    report = await report_of(server.port, load=load)
    assert 3 <= report.record.due <= 3 * (400 / 50 + 1)
    assert server.connections <= 3
    assert report.kind == "closed"


async def test_users_stop_at_the_most_requests(server: FaultyServer) -> None:
    load = {"users": 2, "think": "1ms", "for": "60s"}
    report = await report_of(server.port, load=load, bounds={"requests": 20})
    assert report.record.due == 20


async def test_workers_share_the_load_and_their_records_merge(server: FaultyServer) -> None:
    told: list[Progress] = []
    report = await report_of(
        server.port, load={"rate": "100/s", "for": "1500ms"}, workers=2, tell=told.append
    )
    assert (report.record.due, report.record.answered) == (150, 150)
    assert server.requests == 150
    assert len(report.cpu) == 2
    assert not report.lost
    assert told


async def test_a_worker_that_dies_is_missed(server: FaultyServer) -> None:
    load = {"rate": "100/s", "for": "2s"}
    plan = of_fields({"target": f"http://127.0.0.1:{server.port}", "load": load, "workers": 2})
    crew = Crew(plan, allow_host=False, tell=None)
    running = asyncio.create_task(crew.run())
    await eventually(lambda: server.requests >= 10, "the test is under way")
    crew._processes[1].kill()
    found = await running
    assert [record.due for record in found.records] == [100]
    assert found.lost == ("worker 2 of 2 ended early and its requests are missing",)


async def test_a_mistake_that_a_worker_finds_is_told(server: FaultyServer) -> None:
    with pytest.raises(ConfigError, match=r"\$\{who\} is no variable"):
        await report_of(server.port, "/${who}", workers=2)


async def test_it_ends_early_when_it_is_told_to(server: FaultyServer) -> None:
    running = made(server.port, load={"rate": "50/s", "for": "1h"})
    task = asyncio.create_task(running.run())
    await eventually(lambda: server.requests >= 5, "the test is under way")
    running.stop()
    report = await task
    assert report.record.due < 50 * 3600


@pytest.mark.parametrize(
    "target", ["http://192.0.2.1", "http://no-such-host.invalid", "http://0.0.0.0:80"]
)
@pytest.mark.parametrize("workers", [1, 2])
async def test_load_goes_to_no_other_machine(target: str, workers: int) -> None:
    with pytest.raises(Refused, match="--allow-host"):
        await made(80, target=target, workers=workers).run()


async def test_a_load_beyond_the_most_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"raise bounds\.requests"):
        made(80, bounds={"requests": 9})


async def test_endpoints_that_do_not_listen_are_passed_over(server: FaultyServer) -> None:
    plan = of_fields(
        {
            "target": "http://127.0.0.1",
            "load": {"rate": "50/s", "for": "200ms"},
            "keep_alive": False,
        }
    )
    urls = [f"http://127.0.0.1:{port}" for port in (free_port(), server.port)]
    run = LoadTester(plan, clock=SystemClock(), endpoints=lambda: urls).run()
    report = await run
    assert (report.record.answered, report.record.retried) == (10, 5)
    assert server.connections == 10


async def test_variables_take_their_turn(server: FaultyServer) -> None:
    seen: list[str] = []
    serve = server.serve

    async def listening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        original = reader.readuntil

        async def readuntil(end: bytes = b"\n") -> bytes:
            head = await original(end)
            seen.append(head.split(b" ")[1].decode())
            return head

        reader.readuntil = readuntil  # type: ignore[method-assign, assignment]
        await serve(reader, writer)

    own = await asyncio.start_server(listening, "127.0.0.1", 0)
    port = own.sockets[0].getsockname()[1]
    await report_of(port, "/a/${n}", variables={"n": ["x y", "ü"]})
    own.close()
    assert sorted(set(seen)) == ["/a/%C3%BC", "/a/x%20y"]
