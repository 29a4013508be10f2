"""What an engine says of its containers: the dear way, for where the kernel cannot be asked.

From API 1.44 on a single answer is immediate. Older engines put every question off until their
collector has gone round and slept for a second, however it is asked, so there a stream per
container is kept open and its newest answer counts. Costs 2 to 10 ms of CPU per container.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from scaler.clients import docker
from scaler.clients.cgroups import SHARED, Counts
from scaler.clock import Clock
from scaler.errors import ScalerError, Unavailable

IMMEDIATE: Final = (1, 44)  # moby 25.0, pull request 46448
STREAMS: Final = 64  # of one process; each is a thread and a connection
IDLE: Final = timedelta(seconds=60)  # a stream that nobody asks for ends
SILENT: Final = timedelta(seconds=15)  # a stream says something every one or two seconds
ENDING_S: Final = 3.0
RETRY: Final = timedelta(seconds=10)  # a container may be of another node of a Swarm for ever
STALE: Final = timedelta(seconds=10)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Told = tuple[datetime, timedelta, Counts]  # when by our clock, when by the engine's, what
_Answer = tuple[datetime, Any] | str


class Stats:
    """All that engines are asked for. Made as a part of `Context.shared`."""

    def __init__(self, engines: docker.Engines, clock: Clock) -> None:
        self._engines = engines
        self._clock = clock
        self._hosts: dict[str, Mapping[str, Any]] = {}
        self._asking: dict[tuple[str, str], asyncio.Future[_Answer]] = {}
        self._answers: dict[tuple[str, str], _Answer] = {}
        self._streams: dict[tuple[str, str], _Stream] = {}

    async def host(self, engine: str, name: str) -> float:
        """Cores (`cpu`) or bytes (`memory`) of the machine of an engine.

        Raises:
            ScalerError: it does not answer.
        """
        if engine not in self._hosts:
            ask = self._engines.at(engine).call
            self._hosts[engine] = await ask("asking for its size", lambda api: api.info())
        return float(self._hosts[engine]["NCPU" if name == "cpu" else "MemTotal"])

    async def read(self, engine: str, kind: str, lives: Iterable[str]) -> Mapping[str, Told | str]:
        """The numbers of one kind for each life, as `cgroups.Groups.read`, or why there are none.

        A life is the id of a container, "@" and what tells this start from others.
        """
        client = self._engines.at(engine)
        wanted = list(lives)
        try:
            await client.call("connecting", lambda _: None)
        except ScalerError as error:
            return dict.fromkeys(wanted, str(error))
        if client.version >= IMMEDIATE:
            answers = await asyncio.gather(*(self._single(client, life) for life in wanted))
        else:
            answers = [self._newest(client, life) for life in wanted]
        return {
            life: answer if isinstance(answer, str) else told(answer, kind)
            for life, answer in zip(wanted, answers, strict=True)
        }

    async def _single(self, client: docker.Engine, life: str) -> _Answer:
        """One answer serves all who ask within 250 ms."""
        key = client.url, life
        kept = self._answers.get(key)
        if kept is not None and not isinstance(kept, str) and self._clock.now() - kept[0] < SHARED:
            return kept
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.ensure_future(self._ask(client, key))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, client: docker.Engine, key: tuple[str, str]) -> _Answer:
        container = key[1].partition("@")[0]
        try:
            said = await client.call(
                f"asking for {container[:12]}",
                lambda api: api.stats(container, stream=False, one_shot=True),
            )
        except ScalerError as error:
            return str(error)
        answer = self._answers[key] = self._clock.now(), said
        return answer

    def _newest(self, client: docker.Engine, life: str) -> _Answer:
        key = client.url, life
        stream = self._streams.get(key)
        if stream is None or stream.failed(RETRY):
            self._streams = {k: s for k, s in self._streams.items() if not s.failed(RETRY)}
            if len(self._streams) >= STREAMS:
                return (
                    f"more than {STREAMS} containers of engines before 25.0 cannot be followed; "
                    "let scaler see the control groups and processes of the host"
                )
            stream = self._streams[key] = _Stream(client, life, self._clock)
            stream.start()
        return stream.answer()

    def drop(self, engine: str, lives: Iterable[str]) -> None:
        """Nobody asks for these any more."""
        url = self._engines.at(engine).url
        for life in lives:
            self._answers.pop((url, life), None)
            stream = self._streams.pop((url, life), None)
            if stream is not None:
                stream.end()

    async def aclose(self) -> None:
        """Wait for the streams to end, but not for long: they end with the process anyway."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.end()
        await asyncio.gather(*(asyncio.to_thread(s.over.wait, ENDING_S) for s in streams.values()))


class _Stream:
    """A thread that listens to one life of one container."""

    def __init__(self, client: docker.Engine, life: str, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._container = life.partition("@")[0]
        self._ending = threading.Event()
        self._asked = self._begun = clock.monotonic()
        self._newest: tuple[datetime, Any] | None = None
        self._thread = threading.Thread(target=self._run, name="docker-stats", daemon=True)
        self.over = threading.Event()
        self.trouble = ""

    def start(self) -> None:
        self._thread.start()

    def failed(self, since: timedelta) -> bool:
        """Whether it is over, and began so long ago that another may be tried."""
        return self.over.is_set() and self._clock.monotonic() - self._begun > since

    def end(self) -> None:
        """It ends with the next word of the engine, in one or two seconds."""
        self._ending.set()

    def answer(self) -> _Answer:
        self._asked = self._clock.monotonic()
        newest = self._newest
        if self.over.is_set():
            return self.trouble or "it says no more"
        if newest is None:
            return "it was asked just now; its first answer takes two seconds"
        if self._clock.now() - newest[0] > STALE:
            return "it has said nothing for a while"
        return newest

    def _run(self) -> None:
        try:
            with docker.errors(f"listening to {self._container[:12]}"):
                self._listen()
        except ScalerError as error:
            self.trouble = str(error)
        finally:
            self.over.set()

    def _listen(self) -> None:
        from http.client import HTTPException  # noqa: PLC0415 - a host without Docker never does

        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        api = self._client.dial(SILENT)
        try:
            said: Iterator[Any] = api.stats(self._container, stream=True, decode=True)
            for one in said:
                if self._ending.is_set() or self._clock.monotonic() - self._asked > IDLE:
                    return
                self._newest = self._clock.now(), one
        except (HTTPError, HTTPException) as error:  # the SDK lets them through in a stream
            raise Unavailable(f"listening to {self._container[:12]}: {error}") from error
        finally:
            api.close()


def told(answer: tuple[datetime, Any], kind: str) -> Told | str:
    """The numbers of one kind in an answer, or why they are not there.

    Engines fill an answer about a container that does not run with zeros and the year 1.
    """
    at, said = answer
    if not isinstance(said, dict):
        return "it answered with something else than an object"
    read = str(said.get("read", ""))
    if read < "1970" or (not said.get("memory_stats") and not said.get("pids_stats")):
        return "it does not run"
    try:
        counts = COUNTS[kind](said) if kind in COUNTS else None
        moment = datetime.fromisoformat(read) - EPOCH
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return f"its answer is not understood: {type(error).__name__} {error}"
    if counts is None:
        return f"it does not say {kind.replace('_', ' ')}"
    return at, moment, counts


def _cpu(said: dict[str, Any]) -> Counts:
    return (float(said["cpu_stats"]["cpu_usage"]["total_usage"]) * 1e-9,)


def _throttle(said: dict[str, Any]) -> Counts | None:
    known = said["cpu_stats"].get("throttling_data")
    return known and (float(known["periods"]), float(known["throttled_periods"]))


def _memory(said: dict[str, Any]) -> Counts | None:
    """As `docker stats` shows it."""
    known = said["memory_stats"]
    if "usage" not in known:
        return None
    used, inside = float(known["usage"]), known.get("stats", {})
    idle = float(inside.get("total_inactive_file", inside.get("inactive_file", 0)))
    return (used - idle if idle <= used else used,)


def _pids(said: dict[str, Any]) -> Counts | None:
    known = said["pids_stats"].get("current")
    return None if known is None else (float(known),)


def _io(said: dict[str, Any]) -> Counts | None:
    known = said["blkio_stats"].get("io_service_bytes_recursive")
    if known is None:
        return None
    sums = {"read": 0.0, "write": 0.0}
    for each in known:
        way = str(each["op"]).lower()
        sums[way] = sums.get(way, 0.0) + float(each["value"])
    return sums["read"], sums["write"]


def _net(said: dict[str, Any]) -> Counts | None:
    known = said.get("networks")
    if not known:
        return None
    return (
        float(sum(each["rx_bytes"] for each in known.values())),
        float(sum(each["tx_bytes"] for each in known.values())),
    )


COUNTS: Final = {
    "cpu": _cpu,
    "throttle": _throttle,
    "memory": _memory,
    "pids": _pids,
    "io": _io,
    "net": _net,
}
