"""What metrics.k8s.io says of all pods of a namespace, asked for once for all targets there.

The metrics-server looks at the nodes every fifteen seconds or so, and nobody tells when it has. So
its rhythm is learned: it is asked a little before new numbers are due, and then twice a second
until they are there. That costs two or three requests a period, and what is new is seen half a
second after it can be. An adapter that computes on the spot has something new whenever it is asked;
it is asked every five seconds.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from scaler.clients import kube_quantity
from scaler.clients.kubernetes import Api, Json, parsed
from scaler.clients.notices import Notices
from scaler.core.units import parse_span
from scaler.errors import NotFound, ScalerError, Unavailable

PERIOD: Final = timedelta(seconds=15)  # until it has been learned
LONGEST: Final = timedelta(minutes=2)
SHORTEST: Final = timedelta(seconds=5)  # metrics-server refuses a period below 10 s
STEP: Final = timedelta(seconds=0.5)
MOST_STEPS: Final = 6  # then it is late, and asked for ever more seldom
SELDOM: Final = timedelta(seconds=4)
IDLE: Final = timedelta(minutes=2)  # without a reader nobody asks
AHEAD: Final = timedelta(seconds=5)  # of our clock; more is worth a word

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one pod used, in the window that ended at `at`."""

    at: datetime
    window: timedelta
    containers: tuple[tuple[str, float, float], ...]  # name, cores, bytes


class Gauge:
    """The pods of one namespace."""

    def __init__(self, api: Api, namespace: str, notices: Notices) -> None:
        self.trouble = ""  # why there are no newer numbers
        self.pods: Mapping[str, Usage] = {}
        self._api = api
        self._path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
        self._notices = notices
        self._stamps: dict[str, datetime] = {}  # of the pods, on the server's clock
        self._warned = False
        self._readers: dict[str, Collection[str]] = {}  # by policy: its pods
        self._read_at = timedelta()
        self._first = asyncio.Event()
        self._digest = 0  # of the last answer: most questions come before there is anything new
        self._task: asyncio.Task[None] | None = None

    async def look(
        self, policy: str, pods: Collection[str], *, wait: bool = True
    ) -> Mapping[str, Usage]:
        """The newest numbers of all pods; `policy` is told when there are newer ones of its own.

        Without `wait` there may be none yet although the server has some.
        """
        self._readers[policy] = pods
        self._read_at = self._api.clock.monotonic()
        if self._task is None or self._task.done():
            self._first.clear()
            self._task = asyncio.create_task(self._follow(), name="pod metrics")
        if wait:
            await self._first.wait()
        return self.pods

    def forget(self, policy: str) -> None:
        self._readers.pop(policy, None)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        try:
            await self._ask_on()
        finally:
            self._first.set()  # whoever waits is not left alone with a defect

    async def _ask_on(self) -> None:
        clock = self._api.clock
        rhythm = Rhythm()
        while clock.monotonic() - self._read_at < IDLE:
            await self._api.gate.enter()
            now = clock.monotonic()
            news = await self._ask()
            self._first.set()
            for policy, pods in self._readers.items() if news else ():
                if not news.isdisjoint(pods):
                    self._notices.notify(policy)
            wait = rhythm.next(now, news=bool(news), window=self._window(), age=self._age())
            await clock.sleep(STEP if self._api.gate.closed else wait)

    def _window(self) -> timedelta:
        """Over which the server measures, which is about as long as it waits between two looks."""
        windows = sorted(usage.window for usage in self.pods.values())
        return windows[len(windows) // 2] if windows else timedelta()

    def _age(self) -> timedelta:
        """Of the newest number; by two clocks, so only a guess."""
        newest = max((usage.at for usage in self.pods.values()), default=None)
        return timedelta() if newest is None else self._api.clock.now() - newest

    async def _ask(self) -> set[str]:
        """Which pods have newer numbers than before."""
        try:
            answer = await self._api.raw(self._path)
            if (digest := hash(answer)) == self._digest:
                self._in_touch()
                return set()
            pods = _items(parsed(answer, f"GET {self._path}"))
        except NotFound:
            self.trouble = (
                "the API server has no metrics.k8s.io: install the metrics-server, or name another "
                "source for this metric"
            )
            return set()
        except ScalerError as error:
            self.trouble = str(error)
            if isinstance(error, Unavailable) and error.retry_after is not None:
                self._api.gate.failed(error)  # without it, only the metrics-server may be away
            return set()
        self._in_touch()
        self._digest = digest
        return self._take({name: usage for name, usage in map(_usage, pods) if usage})

    def _in_touch(self) -> None:
        self._api.gate.answered()
        self.trouble = ""

    def _take(self, found: Mapping[str, Usage]) -> set[str]:
        """What is from the future gets the moment it was first seen at, and grows old from there.

        At each question anew it would be as of now, although the numbers stand still.
        """
        now = self._api.clock.now()
        old, stamps = self.pods, self._stamps
        self._stamps = {name: usage.at for name, usage in found.items()}
        news = {name for name, stamp in self._stamps.items() if stamps.get(name) != stamp}
        self.pods = {
            name: replace(usage, at=min(usage.at, now)) if name in news else old[name]
            for name, usage in found.items()
        }
        ahead = max((self._stamps[name] - now for name in news), default=timedelta())
        if ahead > AHEAD and not self._warned:
            self._warned = True
            seconds = round(ahead.total_seconds())
            log.warning("metrics.from_the_future", path=self._path, ahead_s=seconds)
        return news


class Rhythm:
    """When to ask next, on the monotonic clock of whoever asks.

    What is new came between the last question that brought nothing and the one that brought it. So
    the next round begins where the last fruitless question was; when the first question of a round
    finds something, it came too late, and the next round begins earlier.
    """

    def __init__(self) -> None:
        self._wait = PERIOD - STEP  # from something new to the next question
        self._seen_at: timedelta | None = None
        self._in_step = False  # the first numbers may have been there for long
        self._gap = timedelta()  # between the last two questions
        self._fruitless = 0  # questions since something new
        self._at_once = 0  # rounds in a row whose first question was too late
        self._was_late = False  # in the round before

    def next(
        self,
        now: timedelta,
        *,
        news: bool,
        window: timedelta = timedelta(),
        age: timedelta = timedelta(),
    ) -> timedelta:
        """How long to wait after a question at `now`, which brought something new or did not.

        The first guess of the period is the `window` of the first numbers, if that is the shorter
        one: a guess that is too short costs questions, one that is too long makes numbers old. How
        much of it is over already says their `age`.
        """
        if not news:
            self._fruitless += 1
            beyond = max(0, self._fruitless - MOST_STEPS)
            doubled: timedelta = STEP * 2 ** min(beyond, 10)
            self._gap = min(doubled, SELDOM)
            return self._gap
        shortest = max(min(SHORTEST, window / 3), STEP) if window else SHORTEST
        first = self._seen_at is None
        if window and not self._in_step:
            self._wait = min(PERIOD - STEP, window - STEP)
        elif self._seen_at is not None:
            self._learn(now - self._seen_at)
        self._wait = min(max(self._wait, shortest), LONGEST)
        self._in_step = not first or not window
        self._seen_at, self._fruitless = now, 0
        if first and timedelta() < age < window:
            return max(self._wait - age, STEP)
        return self._wait

    def _learn(self, took: timedelta) -> None:
        """A round that was much too long was an outage, unless the next one is as long."""
        late = self._fruitless > MOST_STEPS
        if not self._fruitless:
            earlier: timedelta = STEP * 2 ** min(self._at_once, 4)
            self._at_once += 1
            self._wait -= earlier
        else:
            self._at_once = 0
            if not late or self._was_late:
                self._wait = took - self._gap
        self._was_late = late


def _usage(item: Json) -> tuple[str, Usage | None]:
    """A pod and what it used; nothing when it is written strangely, or not all is known of it."""
    try:
        name = str(item["metadata"]["name"])
        containers = tuple(
            (
                str(one["name"]),
                _amount(one["usage"]["cpu"]),
                _amount(one["usage"]["memory"]),
            )
            for one in item["containers"]
        )
        at = datetime.fromisoformat(item["timestamp"])
        window = parse_span(_seconds(item.get("window", "0s")))
    except (KeyError, TypeError, ValueError, AttributeError):
        return "", None
    return name, Usage(at, window, containers) if at.tzinfo else None


def _amount(written: str) -> float:
    amount = kube_quantity.parse(written)
    if amount < 0:
        raise ValueError(f"{written} is negative")
    return amount


def _seconds(written: str) -> str:
    """`15.032s` as whole seconds, which is all that anybody needs of it; `1m30s` as it is."""
    whole, dot, _ = written.partition(".")
    return f"{whole}s" if dot else written


def _items(answer: Json) -> list[Any]:
    found = answer.get("items")
    return found if isinstance(found, list) else []
