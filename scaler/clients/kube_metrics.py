"""What metrics.k8s.io says of all pods of a namespace, asked for once for all targets there.

The metrics-server looks at the nodes every fifteen seconds or so, and nobody tells when it has. So
its rhythm is learned: it is asked a little before new numbers are due, and then twice a second
until they are there. That costs two or three requests a period, and what is new is seen half a
second after it can be.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from scaler.clients import kube_quantity
from scaler.clients.kubernetes import Api, Json
from scaler.clients.notices import Notices
from scaler.core.units import parse_span
from scaler.errors import NotFound, ScalerError, Unavailable

PERIOD: Final = timedelta(seconds=15)  # until it has been learned
LONGEST: Final = timedelta(minutes=2)
STEP: Final = timedelta(seconds=0.5)
MOST_STEPS: Final = 6  # then it is late, and asked for ever more seldom
IDLE: Final = timedelta(minutes=2)  # without a reader nobody asks


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
        self._readers: dict[str, Collection[str]] = {}  # by policy: its pods
        self._read_at = timedelta()
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def look(self, policy: str, pods: Collection[str]) -> Mapping[str, Usage]:
        """The newest numbers of all pods; `policy` is told when there are newer ones of its own."""
        self._readers[policy] = pods
        self._read_at = self._api.clock.monotonic()
        if self._task is None or self._task.done():
            self._first.clear()
            self._task = asyncio.create_task(self._follow(), name="pod metrics")
        await self._first.wait()
        return self.pods

    def forget(self, policy: str) -> None:
        self._readers.pop(policy, None)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
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
            await clock.sleep(rhythm.next(now, news=bool(news), window=self._window()))

    def _window(self) -> timedelta:
        """Over which the server measures, which is about as long as it waits between two looks."""
        windows = sorted(usage.window for usage in self.pods.values())
        return windows[len(windows) // 2] if windows else timedelta()

    async def _ask(self) -> set[str]:
        """Which pods have newer numbers than before."""
        try:
            answer = await self._api.get(self._path)
        except NotFound:
            self.trouble = (
                "the API server has no metrics.k8s.io: install the metrics-server, or name another "
                "source for this metric"
            )
            return set()
        except ScalerError as error:
            self.trouble = str(error)
            if isinstance(error, Unavailable):
                self._api.gate.failed(error)
            return set()
        self._api.gate.answered()
        self.trouble = ""
        old = self.pods
        self.pods = {name: usage for name, usage in map(_usage, _items(answer)) if usage}
        return {
            name for name, usage in self.pods.items() if name not in old or old[name].at != usage.at
        }


class Rhythm:
    """When to ask next, on the monotonic clock of whoever asks.

    What is new came between the last question that brought nothing and the one that brought it. So
    the next round begins where the last fruitless question was; when the first question of a round
    finds something, it came too late, and the next round begins earlier.
    """

    def __init__(self) -> None:
        self._wait = PERIOD - STEP  # from something new to the next question
        self._seen_at: timedelta | None = None
        self._gap = timedelta()  # between the last two questions
        self._fruitless = 0  # questions since something new
        self._at_once = 0  # rounds in a row whose first question was too late

    def next(self, now: timedelta, *, news: bool, window: timedelta = timedelta()) -> timedelta:
        """How long to wait after a question at `now`, which brought something new or did not.

        The first guess of the period is the `window` of the first numbers.
        """
        if not news:
            self._fruitless += 1
            beyond = max(0, self._fruitless - MOST_STEPS)
            doubled: timedelta = STEP * 2 ** min(beyond, 10)
            self._gap = min(doubled, PERIOD)
            return self._gap
        if self._seen_at is not None:
            self._learn(now - self._seen_at)
        elif window:
            self._wait = min(max(window - STEP, STEP), LONGEST)
        self._seen_at, self._fruitless = now, 0
        return self._wait

    def _learn(self, took: timedelta) -> None:
        if self._fruitless:
            self._at_once = 0
            wait = took - self._gap
        else:
            earlier: timedelta = STEP * 2 ** min(self._at_once, 4)
            self._at_once += 1
            wait = self._wait - earlier
        self._wait = min(max(wait, STEP), LONGEST)


def _usage(item: Json) -> tuple[str, Usage | None]:
    """A pod and what it used; nothing when it is written strangely."""
    try:
        name = str(item["metadata"]["name"])
        containers = tuple(
            (
                str(one["name"]),
                _amount(one["usage"].get("cpu", "0")),
                _amount(one["usage"].get("memory", "0")),
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
