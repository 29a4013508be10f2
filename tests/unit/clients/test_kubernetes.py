"""Requests and mirrors against a server that answers what it is told to, wrong answers included."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from aiohttp import web

from scaler.clients import kube_gate, kube_mirror, kubernetes
from scaler.clients.kube_login import Login
from scaler.clients.kube_mirror import Mirror
from scaler.clients.kubernetes import Api, Gone, Invalid
from scaler.clock import SystemClock
from scaler.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
)

PATH = "/api/v1/namespaces/shop/pods"
MINUTE = timedelta(minutes=1)
Said = Callable[[web.Request], Any]


def pod(name: str, version: int, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, **fields}


def listed(version: int, *items: Mapping[str, Any], more: str = "") -> web.Response:
    about = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    return web.json_response({"kind": "PodList", "metadata": about, "items": list(items)})


def status(code: int, message: str = "no", **headers: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
    return web.json_response(body, status=code, headers=headers)


class Server:
    """Lists and watches are answered from two queues; an empty one waits for ever."""

    def __init__(self) -> None:
        self.lists: deque[web.Response] = deque()
        self.streams: deque[list[Any] | web.Response] = deque()  # events, bytes, None to wait
        self.over = False
        self.asked: list[web.Request] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if "watch" not in request.query:
            await self._some(self.lists)
            return self.lists.popleft() if self.lists else status(503)
        await self._some(self.streams)
        stream = self.streams.popleft() if self.streams else status(503)
        if isinstance(stream, web.Response):
            return stream
        response = web.StreamResponse()
        await response.prepare(request)
        for event in stream:
            if event is None:
                await self._some(())
                break
            line = event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n"
            await response.write(line)
        return response

    async def _some(self, queue: Collection[object]) -> None:
        while not queue and not self.over:
            await asyncio.sleep(0.005)

    @property
    def watches(self) -> list[Mapping[str, str]]:
        return [request.query for request in self.asked if "watch" in request.query]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    made.over = True
    await runner.cleanup()


@pytest.fixture
async def api(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    async def headers() -> Mapping[str, str]:
        return {"Authorization": "Bearer secret"}

    monkeypatch.setattr(kube_gate, "FIRST_PAUSE", timedelta(milliseconds=10))
    monkeypatch.setattr(kube_gate, "LONGEST_PAUSE", timedelta(milliseconds=40))
    monkeypatch.setattr(kube_mirror, "SHORTEST_WATCH", timedelta())
    login = Login(url=server.url, namespace="shop", tls=None, headers=headers, about="a test")
    made = Api(login, SystemClock(), Random(1))
    yield made
    await made.aclose()


Changes = list[tuple[str | None, str | None]]


@pytest.fixture
async def mirror(api: Api) -> AsyncIterator[Callable[[], tuple[Mirror[str], Changes]]]:
    made: list[Mirror[str]] = []

    def make() -> tuple[Mirror[str], Changes]:
        changes: Changes = []

        def changed(old: str | None, new: str | None) -> None:
            changes.append((old, new))

        def trim(item: Mapping[str, Any]) -> str:
            return f"{item['metadata']['name']} {item.get('phase', '')}".strip()

        made.append(Mirror(api, PATH, trim=trim, changed=changed))
        return made[-1], changes

    yield make
    for one in made:
        await one.aclose()


Make = Callable[[], tuple[Mirror[str], Changes]]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, PermanentError),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (302, Unavailable),
    ],
)
async def test_a_refusal_is_one_of_our_errors_in_the_servers_words(
    server: Server, api: Api, code: int, error: type[ScalerError]
) -> None:
    server.lists.append(status(code, "the server says why"))
    with pytest.raises(error, match="the server says why") as caught:
        await api.get(PATH)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)


async def test_how_long_to_wait_is_taken_from_the_answer(server: Server, api: Api) -> None:
    server.lists.append(status(429, **{"Retry-After": "7"}))
    with pytest.raises(Unavailable) as caught:
        await api.get(PATH)
    assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"7", b'"text"', b"\xff"])
async def test_what_is_no_api_server_is_no_answer(server: Server, api: Api, body: bytes) -> None:
    server.lists.append(web.Response(body=body))
    with pytest.raises(Unavailable, match="no Kubernetes API server"):
        await api.get(PATH)


async def test_no_answer_in_time(server: Server, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "DEADLINE", timedelta(milliseconds=50))
    with pytest.raises(Unavailable, match="no answer in time"):
        await api.get(PATH)


async def test_an_answer_without_an_end_is_cut(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "MOST_BYTES", 1000)
    server.lists.append(web.Response(body=b"x" * 2000))
    with pytest.raises(PermanentError, match="more than 1000 bytes"):
        await api.get(PATH)


async def test_a_list_comes_page_by_page_and_the_watch_goes_on_from_it(
    server: Server, mirror: Make
) -> None:
    server.lists += [listed(7, pod("a", 1), more="next"), listed(7, pod("b", 2))]
    server.streams.append([{"type": "ADDED", "object": pod("c", 8)}, None])
    one, changes = mirror()
    await one.ready()
    await until(lambda: "c" in one.items)
    assert dict(one.items) == {"a": "a", "b": "b", "c": "c"}
    assert changes == [(None, "a"), (None, "b"), (None, "c")]
    assert server.watches[0]["resourceVersion"] == "7"
    assert server.asked[1].query["continue"] == "next"


async def test_a_stream_that_ends_goes_on_where_it_was(server: Server, mirror: Make) -> None:
    server.lists.append(listed(7, pod("a", 1)))
    bookmark = {"type": "BOOKMARK", "object": pod("", 20)}
    server.streams += [
        [{"type": "MODIFIED", "object": pod("a", 9, phase="Running")}, bookmark],
        [{"type": "DELETED", "object": pod("a", 21)}, None],
    ]
    one, changes = mirror()
    await until(lambda: len(changes) == 3)
    assert changes == [(None, "a"), ("a", "a Running"), ("a Running", None)]
    assert [w["resourceVersion"] for w in server.watches] == ["7", "20"]
    assert "" not in one.items


@pytest.mark.parametrize("inside", [True, False], ids=["as an event", "as an answer"])
async def test_a_version_too_old_means_a_new_list_whose_differences_are_told(
    server: Server, mirror: Make, inside: bool
) -> None:
    server.lists += [
        listed(7, pod("a", 1), pod("b", 2)),
        listed(30, pod("b", 2, phase="Running"), pod("c", 3)),
    ]
    expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    event: list[Any] = [{"type": "ERROR", "object": expired}]
    server.streams += [event if inside else web.json_response(expired, status=410), [None]]
    one, changes = mirror()
    await until(lambda: "c" in one.items)
    assert changes[2:] == [("a", None), ("b", "b Running"), (None, "c")]
    await until(lambda: len(server.watches) == 2)
    assert server.watches[1]["resourceVersion"] == "30"


@pytest.mark.parametrize(
    "stream",
    [
        [b'{"type": "ADDED", "obj'],  # cut in the middle of an event
        [b"<html>\n"],
        [{"type": "ERROR", "object": {"code": 500, "message": "etcd is gone"}}],
        [{"type": "ERROR"}],
    ],
    ids=["cut", "garbage", "an error", "an empty error"],
)
async def test_a_damaged_stream_loses_nothing(
    server: Server, mirror: Make, stream: list[Any]
) -> None:
    server.lists.append(listed(7, pod("a", 1)))
    server.streams += [stream, [{"type": "ADDED", "object": pod("b", 9)}, None]]
    one, _ = mirror()
    await until(lambda: "b" in one.items)
    assert dict(one.items) == {"a": "a", "b": "b"}
    one.insist()


async def test_strange_objects_end_nothing(server: Server, mirror: Make) -> None:
    server.lists.append(listed(7, pod("a", 1)))
    server.streams += [
        [{"type": "BOOKMARK"}, {"type": "STRANGE", "object": []}, {}, None],
    ]
    one, _ = mirror()
    await until(lambda: server.watches)
    await one.ready()
    one.insist()


async def test_out_of_touch_is_said_and_being_back_is_seen_before_any_event(
    server: Server, mirror: Make
) -> None:
    server.lists.append(listed(7, pod("a", 1)))
    server.streams.append([{"type": "ERROR", "object": {"code": 500, "message": "gone"}}])
    one, _ = mirror()
    await one.ready()

    def out_of_touch() -> bool:
        try:
            one.insist()
        except Unavailable:
            return True
        return False

    await until(out_of_touch)
    server.streams.append([None])
    await until(lambda: not out_of_touch())


async def test_who_may_not_list_hears_why_and_the_server_is_left_alone(
    server: Server, mirror: Make
) -> None:
    server.lists.append(status(403, 'pods is forbidden: User "robot" cannot list resource "pods"'))
    one, _ = mirror()
    with pytest.raises(Forbidden, match="scaler rbac"):
        await one.ready()
    with pytest.raises(Forbidden):
        one.insist()
    await asyncio.sleep(0.1)
    assert len(server.asked) == 1


async def test_a_defect_of_ours_is_no_quiet_server(server: Server, mirror: Make) -> None:
    server.lists.append(listed(7, {"no": "metadata"}))
    one, _ = mirror()
    with pytest.raises(PermanentError, match="a defect of scaler"):
        await one.ready()
