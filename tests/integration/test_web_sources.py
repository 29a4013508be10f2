"""Numbers from web servers: a real Prometheus, and servers that nobody should trust."""

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from scaler import plugins, policyfile
from scaler.clients.web import Web
from scaler.clock import SystemClock
from scaler.core.document import Target
from scaler.core.model import Fleet, Instance, InstanceId, Reading, State
from scaler.core.policy import Metric
from scaler.interfaces import Context
from tests.fakes.webserver import WebServer
from tests.integration.ports import free_port
from tests.integration.running import without

pytestmark = pytest.mark.live
PATIENCE_S = 30.0
HOSTILE = {
    "hang": "did not answer within 0.5 s",
    "drip": "did not answer within 0.5 s",
    "flood": "answers with more than 1048576 bytes",
    "cut": "payload is not completed",
    "redirect": "redirects are not followed",
    "noise": "Bad status line",
    "500": "answered 500: it is broken",
}


class Sources:
    """Metrics of a fleet of two, by sources as they stand in a policy."""

    def __init__(self, folder: Path) -> None:
        self.clock = SystemClock()
        self.context = Context(clock=self.clock, state_dir=folder, random=Random(1))
        self.fleet = Fleet(target="web", at=self.clock.now(), wanted=2, instances=two(8001, 8002))

    async def read(self, kind: str, **fields: Any) -> Reading:
        plugin = plugins.source(kind)
        rules = plugin.source.model_validate({**fields, "kind": kind})
        metric = Metric(name="load", source=rules, goal={"value": 1})
        now = self.clock.now()
        found = await plugin.open(metric, Target(), self.context).read(self.fleet, now, now)
        assert (not found.samples) == bool(found.missing)
        return found

    async def value(self, kind: str, **fields: Any) -> float:
        (sample,) = (await self.read(kind, **fields)).samples
        assert sample.instance is None
        return sample.value

    async def missing(self, kind: str, **fields: Any) -> str:
        reading = await self.read(kind, **fields)
        assert reading.missing, reading
        return reading.missing

    async def each(self, kind: str, **fields: Any) -> dict[str, float]:
        found = await self.read(kind, **fields)
        return {str(sample.instance): sample.value for sample in found.samples}


def two(first: int, second: int) -> tuple[Instance, ...]:
    return tuple(
        Instance(id=InstanceId(f"web-{n}"), state=State.RUNNING, host="127.0.0.1", port=port)
        for n, port in enumerate((first, second), 1)
    )


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    made = Sources(tmp_path)
    yield made
    if Web in made.context.shared:
        await made.context.shared[Web].aclose()


@pytest.fixture
async def server() -> AsyncIterator[WebServer]:
    made = WebServer()
    await made.start()
    yield made
    await made.stop()


# --- a real Prometheus ---


class Prometheus:
    """One server on a port of its own, which reads a file as if it were an exporter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, exporter: int) -> None:
        (self.folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
            "scrape_configs:\n"
            f"- {{job_name: web, static_configs: [{{targets: ['127.0.0.1:{exporter}']}}]}}\n"
        )
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.folder}/prometheus.yml",
                    f"--storage.tsdb.path={self.folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    if not shutil.which("prometheus"):
        without("needs prometheus; .ci/run installs it")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    made = Prometheus(folder)
    yield made
    made.stop()


PAGE = b"""
depth{pod="web-1",address="127.0.0.1:8001"} 3
depth{pod="web-2",address="127.0.0.1:8002"} 5
depth{pod="other",address="127.0.0.1:9"} 100
odd{pod="web-1"} NaN
odd{pod="web-2"} 2
"""


async def test_prometheus_answers_for_the_target_and_for_each_instance(
    sources: Sources, server: WebServer, prometheus: Prometheus
) -> None:
    server.answers["/metrics"] = PAGE
    prometheus.start(server.port)

    def ask(query: str, **fields: str) -> dict[str, Any]:
        return {"url": prometheus.url + "/", "query": query, "timeout": "10s", **fields}

    end = time.monotonic() + PATIENCE_S
    while (await sources.read("prometheus", **ask("sum(depth)"))).missing:
        assert time.monotonic() < end, (prometheus.folder / "log").read_text()[-2000:]
        await asyncio.sleep(0.1)

    assert await sources.value("prometheus", **ask("sum(depth)")) == 108
    assert await sources.value("prometheus", **ask("depth", reduce="max")) == 100
    assert await sources.value("prometheus", **ask("scalar(depth{pod='web-1'}) + 1")) == 4
    for label in ("pod", "address"):
        found = await sources.each("prometheus", **ask("depth", instance_label=label))
        assert found == {"web-1": 3, "web-2": 5}
    assert await sources.each("prometheus", **ask("odd", instance_label="pod")) == {"web-2": 2}
    reading = await sources.read("prometheus", **ask("sum(depth)"))
    age = datetime.now(UTC) - reading.samples[0].at
    assert timedelta(seconds=-1) < age < timedelta(seconds=10)
    assert reading.samples[0].base == 1.0

    for query, because in {
        "nothing_like_it": "no series",
        "depth": "3 series came, such as {",
        "sum(odd)": "the value is not a number",
        "sum(depth) / 0": "the value is infinite",
        "depth[1m]": "the answer is a matrix",
        "'text'": "the answer is a string",
        "sum(depth": "the query failed: bad_data",
    }.items():
        assert because in await sources.missing("prometheus", **ask(query)), query
    assert "no series has an instance of the target in zone" in await sources.missing(
        "prometheus", **ask("depth", instance_label="zone")
    )


# --- servers that nobody should trust ---


@pytest.mark.parametrize("doing", HOSTILE)
@pytest.mark.parametrize("kind", ["prometheus", "http"])
async def test_a_bad_server_is_a_reason(
    sources: Sources, server: WebServer, kind: str, doing: str
) -> None:
    path = "api/v1/query" if kind == "prometheus" else ""
    fields = {"query": "up"} if kind == "prometheus" else {"json": "$.depth"}
    if kind == "prometheus":  # whatever is asked for, the answer is that of the last word
        server.doing = doing
    url = f"{server.url}/{'' if path else doing}"
    begun = time.monotonic()
    assert HOSTILE[doing] in await sources.missing(kind, url=url, timeout="500ms", **fields)
    assert time.monotonic() - begun < PATIENCE_S


async def test_nobody_listens(sources: Sources) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert "Cannot connect" in await sources.missing("http", url=url, json="$")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"status": "success"}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [1]}}',
        b'{"status": "success", "data": {"resultType": "vector", "result": [{"value": 1}]}}',
        b'{"status": "success", "data": {"resultType": "scalar", "result": [1e300, "1"]}}',
        b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "one"]}}',
        b'{"status": "success", "data": {"resultType": "scalar", "result": [1, null]}}',
        b"[" * 100_000,
    ],
)
async def test_an_answer_that_is_not_one_of_prometheus(
    sources: Sources, server: WebServer, answer: bytes
) -> None:
    server.answers["/api/v1/query"] = answer
    missing = await sources.missing("prometheus", url=server.url, query="up")
    assert "the answer (200) is not one of Prometheus" in missing
    assert len(missing) < 400


async def test_warnings_and_histograms_are_said(sources: Sources, server: WebServer) -> None:
    series = [{"metric": {}, "histogram": [1, {}]}]
    data = {"resultType": "vector", "result": series}
    said = {"status": "success", "warnings": ["one store is down"], "data": data}
    server.answers["/api/v1/query"] = json.dumps(said).encode()
    missing = await sources.missing("prometheus", url=server.url, query="up")
    assert "native histogram" in missing
    assert "it warns: one store is down" in missing
    assert "partial_response=false" in server.heads[0]


async def test_two_series_for_one_instance_are_no_number(
    sources: Sources, server: WebServer
) -> None:
    series = [{"metric": {"pod": "web-1", "n": str(n)}, "value": [1, str(n)]} for n in (1, 2)]
    said = {"status": "success", "data": {"resultType": "vector", "result": series}}
    server.answers["/api/v1/query"] = json.dumps(said).encode()
    ask = {"url": server.url, "query": "up", "instance_label": "pod"}
    assert "sum by (pod)" in await sources.missing("prometheus", **ask)
    assert await sources.each("prometheus", **ask, reduce="sum") == {"web-1": 3}
    assert await sources.each("prometheus", **ask, reduce="avg") == {"web-1": 1.5}


# --- numbers of services themselves ---


async def test_a_number_in_json(sources: Sources, server: WebServer) -> None:
    said = {
        "queue": {"depth": 7, "share": "0.5"},
        "at": "2026-01-01T00:00:00Z",
        "ms": 1767225600000,
    }
    server.answers["/stats"] = json.dumps(said).encode()
    url = f"{server.url}/stats"
    assert await sources.value("http", url=url, json="$.queue.depth") == 7
    assert await sources.value("http", url=url, json="$.queue.share") == 0.5
    for moment in ("$.at", "$.ms"):
        reading = await sources.read("http", url=url, json="$.queue.depth", timestamp=moment)
        assert reading.samples[0].at == datetime(2026, 1, 1, tzinfo=UTC)
    assert "$ has no .que; there are queue, at, ms" in await sources.missing(
        "http", url=url, json="$.que.depth"
    )
    assert "is not a number" in await sources.missing("http", url=url, json="$.queue")
    assert "not understood" in await sources.missing("http", url=url, json="$.at")
    assert "has no .when" in await sources.missing(
        "http", url=url, json="$.queue.depth", timestamp="$.when"
    )


async def test_a_number_on_a_page_of_metrics(sources: Sources, server: WebServer) -> None:
    server.answers["/metrics"] = PAGE + b"# filler\n" * 10_000
    url = f"{server.url}/metrics"
    assert await sources.value("http", url=url, metric='depth{pod="web-1"}') == 3
    assert await sources.value("http", url=url, metric="depth", reduce="sum") == 108
    assert "3 lines fit" in await sources.missing("http", url=url, metric="depth")
    assert "has no queue" in await sources.missing("http", url=url, metric="queue")
    assert "not a number" in await sources.missing("http", url=url, metric='odd{pod="web-1"}')


async def test_every_instance_is_asked_and_who_is_silent_is_no_zero(
    sources: Sources, server: WebServer
) -> None:
    server.answers["/stats"] = b'{"depth": 4}'
    sources.fleet = Fleet(
        target="web", at=sources.clock.now(), wanted=2, instances=two(server.port, free_port())
    )
    ask = {"url": "http://{host}:{port}/stats", "json": "$.depth"}
    assert await sources.each("http", **ask) == {"web-1": 4}
    many = two(server.port, server.port) * 30
    sources.fleet = Fleet(target="web", at=sources.clock.now(), wanted=60, instances=many)
    assert len((await sources.read("http", **ask, timeout="20s")).samples) == 60
    assert server.most_at_once <= 16
    hanging = {**ask, "url": "http://{host}:{port}/hang", "timeout": "300ms"}
    assert "(and 59 others)" in await sources.missing("http", **hanging)
    portless = (Instance(id=InstanceId("web-1"), state=State.RUNNING),)
    sources.fleet = Fleet(target="web", at=sources.clock.now(), wanted=1, instances=portless)
    assert "web-1 has no port" in await sources.missing("http", **ask)


async def test_secrets_are_sent_and_read_anew(
    sources: Sources, server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/"] = b"1"
    secret = tmp_path / "token"
    secret.write_text("first\n")
    ask = {"url": f"{server.url}/", "json": "$"}
    await sources.value("http", **ask, token_file=str(secret))
    secret.write_text("second\n")
    await sources.value("http", **ask, token_file=str(secret))
    monkeypatch.setenv("QUEUE_PASSWORD", "open sesame")
    await sources.value("http", **ask, user="ali", password_env="QUEUE_PASSWORD")
    sent = [next(w for w in h.splitlines() if w.startswith("Authorization")) for h in server.heads]
    assert sent == [
        "Authorization: Bearer first",
        "Authorization: Bearer second",
        "Authorization: Basic YWxpOm9wZW4gc2VzYW1l",
    ]
    secret.write_text("a\nb")
    assert "no secret on a single line" in await sources.missing(
        "http", **ask, token_file=str(secret)
    )
    assert "cannot be read" in await sources.missing("http", **ask, token_file="/none")


async def test_certificates_are_checked(sources: Sources, tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", pem,
         "-out", tmp_path / "cert", "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_text(pem.read_text() + (tmp_path / "cert").read_text())
    server = WebServer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    await server.start(context)
    try:
        server.answers["/"] = b"1"
        ask = {"url": f"https://127.0.0.1:{server.port}/", "json": "$"}
        assert "certificate" in (await sources.missing("http", **ask)).lower()
        assert await sources.value("http", **ask, ca_file=str(pem)) == 1
        (tmp_path / "not").write_text("a certificate")
        assert "cannot be read" in await sources.missing("http", **ask, ca_file=f"{tmp_path}/not")
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("source", "because"),
    [
        ("http: {url: 'ftp://x', json: $.a}", "is not an address"),
        ("http: {url: 'http://me:secret@x', json: $.a}", "it holds credentials"),
        ("http: {url: 'http://x'}", "exactly one of json and metric"),
        ("http: {url: 'http://x', json: a.b}", "is not a path; write it like"),
        ("http: {url: 'http://x', metric: 'a{'}", "names no metric; write it like"),
        ("http: {url: 'http://x', metric: a, timestamp: $.a}", "a part of a JSON answer"),
        ("http: {url: 'http://x', json: $.a, user: me}", "belong together"),
        ("http: {url: 'http://x', json: $.a, token_env: A, token_file: b}", "several secrets"),
        ("http: {url: 'http://x', json: $.a, timeout: 5m}", "out of range"),
        ("http: {url: 'http://x', jsn: $.a}", 'did you mean "json"'),
        ("prometheus: {url: 'http://x'}", '"query" is missing'),
        ("prometheus: {url: 'http://x', query: ' '}", "it is empty"),
        ("prometheus: {url: 'http://x', query: up, reduce: total}", "write one of sum"),
    ],
)
def test_mistakes_in_a_policy_are_said(tmp_path: Path, source: str, because: str) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(
        "policies:\n  web:\n    target: {local: {command: [sleep, '1']}}\n"
        f"    metrics:\n    - name: depth\n      goal: {{value: 5}}\n      source: {{{source}}}\n"
    )
    (problem,) = policyfile.load([file]).problems
    assert because in problem.text()
