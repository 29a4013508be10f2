"""What the pods of one application use, from the scaler that runs beside each of them.

Whoever acts asks all of them; nobody is told anything, so another one that takes over needs nothing
from the one before. An answer holds ages in place of moments: the clocks of nodes need not agree.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Annotated, Final, Literal

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scaler.clients import kube_self
from scaler.clients.http import HttpClient
from scaler.clients.pod_samples import PodSamples, Point
from scaler.clients.pod_usage import PodUsage
from scaler.clients.web import quoted, secret
from scaler.clock import Clock
from scaler.core.model import Instance, InstanceId
from scaler.errors import ScalerError
from scaler.settings import Sidecar

VERSION: Final = 1
DEADLINE: Final = timedelta(milliseconds=500)  # of one answer
SHARED: Final = timedelta(milliseconds=250)  # one question serves all metrics of one tick
FORGOTTEN: Final = timedelta(minutes=1)  # who is not asked for so long
AT_ONCE: Final = 256  # questions of one process
MOST_BYTES: Final = 16 * 1024  # of one answer
MOST_SAMPLES: Final = 60
MOST_MS: Final = 60_000.0
MILLISECOND: Final = timedelta(milliseconds=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """What the containers of one pod used, all but those that scale."""

    at: datetime  # on our clock
    window: timedelta
    cpu: float  # cores
    memory: float  # bytes
    containers: int


Told = tuple[Heard, ...] | str  # the last seconds of a pod, or why there are none


def together(heard: Sequence[Heard], after: datetime) -> Heard:
    """What is newer than `after` as one, so that who looks seldom sees more than one second.

    The newest alone when nothing is.
    """
    fresh = [one for one in heard if one.at > after] or heard[-1:]
    span = sum((one.window for one in fresh), timedelta())
    used = sum(one.cpu * one.window.total_seconds() for one in fresh)
    return replace(fresh[-1], window=span, cpu=used / span.total_seconds())


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class _Sample(_Strict):
    number: Annotated[int, Field(ge=0, lt=2**53)]
    age_ms: Annotated[float, Field(ge=0, le=MOST_MS)]
    window_ms: Annotated[float, Field(ge=1, le=MOST_MS)]
    cpu: Annotated[float, Field(ge=0, le=10_000)]
    memory: Annotated[float, Field(ge=0, le=2**50)]
    containers: Annotated[int, Field(ge=1, le=1000)]


class _Answer(_Strict):
    version: Literal[1]
    pod: Annotated[str, Field(max_length=253)]
    run: Annotated[str, Field(max_length=32)]  # of the process that counts the samples
    missing: Annotated[str, Field(max_length=500)] = ""
    samples: Annotated[list[_Sample], Field(max_length=MOST_SAMPLES)]


@dataclass(slots=True)
class _Peer:
    """One pod, as far as it was asked."""

    host: str
    asked_at: timedelta
    answer: "asyncio.Task[Told] | None" = None
    run: str = ""
    moments: dict[int, datetime] = field(default_factory=dict)  # of samples, by number
    silent: bool = False

    def serves(self, host: str, now: timedelta) -> bool:
        """Whether its answer is also one to a question of now."""
        return self.host == host and now - self.asked_at < SHARED


class Peers:
    """All pods that this process asks, and what it answers itself."""

    def __init__(
        self, rules: Sidecar, samples: PodSamples, *, pod: str, clock: Clock, random: Random
    ) -> None:
        self.rules = rules
        self.samples = samples
        self._pod = pod
        self._clock = clock
        self._run = f"{random.getrandbits(64):x}"
        self._client = HttpClient()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._peers: dict[InstanceId, _Peer] = {}

    def told(self) -> bytes:
        """The last seconds of this pod, as JSON for the others."""
        now = self._clock.monotonic()
        samples = [_written(point, now) for point in self.samples.points()]
        told = {
            "version": VERSION,
            "pod": self._pod,
            "run": self._run,
            "missing": self.samples.missing[:500],
            "samples": samples,
        }
        return orjson.dumps(told)

    async def ask(self, instances: Sequence[Instance]) -> Mapping[InstanceId, Told]:
        """The last seconds of each pod, oldest first, or why there are none. Raises nothing."""
        now = self._clock.monotonic()
        self._peers = {i: p for i, p in self._peers.items() if now - p.asked_at < FORGOTTEN}
        answers = {instance.id: self._answer(instance, now) for instance in instances}
        if answers:
            await asyncio.wait(answers.values())
        return {instance: answer.result() for instance, answer in answers.items()}

    def _answer(self, instance: Instance, now: timedelta) -> "asyncio.Task[Told]":
        """The one that is under way or has just been given, or that to a new question."""
        old = self._peers.get(instance.id)
        if old is not None and old.answer is not None and old.serves(instance.host, now):
            return old.answer
        peer = self._peers[instance.id] = _Peer(instance.host, now)
        if old is not None:
            peer.run, peer.moments, peer.silent = old.run, old.moments, old.silent
        asked = self._asked(instance, peer)
        peer.answer = asyncio.create_task(asked, name=f"reading of {instance.id}")
        return peer.answer

    async def _asked(self, instance: Instance, peer: _Peer) -> Told:
        """Something else stands in for who is silent, so nobody would hear of a wrong token."""
        told = await self._answered(instance, peer)
        silent = isinstance(told, str)
        if silent and not peer.silent:
            log.info("peer.missed", instance=instance.id, because=told)
        peer.silent = silent
        return told

    async def _answered(self, instance: Instance, peer: _Peer) -> Told:
        pod = instance.id
        body = self.told() if pod == self._pod else await self._fetched(instance)
        if isinstance(body, str):
            return body
        try:
            answer = _Answer.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            return f"{pod} answers what is no reading: {where}{first['msg']}"
        if answer.pod != pod:
            return f"at the address of {pod} another pod answers: {quoted(answer.pod.encode())}"
        if not answer.samples:
            return f"{pod}: {answer.missing or 'it has no numbers of the last seconds'}"
        return self._placed(peer, answer)

    async def _fetched(self, instance: Instance) -> bytes | str:
        pod, host = instance.id, instance.host
        if not host:
            return f"{pod} has no address yet"
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{self.rules.port}/readings"
        try:
            headers = {"Authorization": f"Bearer {secret(self.rules.token_file)}"}
            async with self._room, asyncio.timeout(DEADLINE.total_seconds()):
                answer = await self._client.fetch(
                    url, headers=headers, tls=None, most_bytes=MOST_BYTES
                )
        except TimeoutError:
            return f"{pod} did not answer at {url} within {DEADLINE.total_seconds():g} s"
        except ScalerError as error:
            return f"{pod}: {error}"
        if answer.status == 401:
            return f"{pod} refuses our token; what token_file holds must be the same in all pods"
        if answer.status != 200:
            return f"{pod} answered {answer.status} at {url}: {quoted(answer.body)}"
        return answer.body

    def _placed(self, peer: _Peer, answer: _Answer) -> tuple[Heard, ...]:
        """On our clock. A sample keeps the moment that it was given when it was first heard of."""
        now = self._clock.now()
        known = peer.moments if peer.run == answer.run else {}
        moments = {s.number: now - s.age_ms * MILLISECOND for s in answer.samples}
        moments |= {number: known[number] for number in known.keys() & moments.keys()}
        peer.run, peer.moments = answer.run, moments
        heard = [
            Heard(moments[s.number], s.window_ms * MILLISECOND, s.cpu, s.memory, s.containers)
            for s in answer.samples
        ]
        return tuple(sorted(heard, key=lambda one: one.at))

    async def aclose(self) -> None:
        asked = [peer.answer for peer in self._peers.values() if peer.answer is not None]
        for answer in asked:
            answer.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await self.samples.aclose()
        await self._client.aclose()


def opened(rules: Sidecar, clock: Clock, random: Random) -> Peers:
    """Those of the pod that this process runs in.

    Raises:
        PermanentError: nobody says which pod that is.
    """
    samples = PodSamples(clock, PodUsage())
    return Peers(rules, samples, pod=kube_self.pod_name(), clock=clock, random=random)


def _written(point: Point, now: timedelta) -> dict[str, float]:
    return {
        "number": point.number,
        "age_ms": max(0.0, (now - point.at) / MILLISECOND),
        "window_ms": min(point.window / MILLISECOND, MOST_MS),
        "cpu": point.cpu,
        "memory": point.memory,
        "containers": point.containers,
    }
