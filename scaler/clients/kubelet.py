"""What kubelets say of the pods on their nodes, each node asked once for all targets there.

Counters with the moment they were read at, from `/metrics/resource`; a rate takes two of them. The
way leads through the API server (`nodes/proxy`), so no kubelet need be reached or trusted by us. A
kubelet that does not answer says nothing of the API server, whose gate is left as it is.
Source: Kubernetes `pkg/kubelet/metrics/collectors/resource_metrics.go`.
"""

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from scaler.clients.kube_metrics import Usage
from scaler.clients.kubernetes import Api
from scaler.errors import Forbidden, ScalerError

DEADLINE: Final = timedelta(seconds=2)  # of one node
PATIENCE: Final = timedelta(seconds=4)  # with all nodes; the others go on meanwhile
AT_ONCE: Final = 16  # nodes of one cluster
MOST_CHARACTERS: Final = 16 << 20  # of one page; a node of 500 pods writes half a million
FORGOTTEN: Final = timedelta(minutes=5)  # a node that nobody asked for
SHORTEST: Final = timedelta(milliseconds=500)  # of a rate; shorter spans are mostly noise
CPU: Final = "cpu_usage_seconds_total"
_LINE: Final = re.compile(
    r"^container_(cpu_usage_seconds_total|memory_working_set_bytes)"
    r"\{([^}\n]*)\} (\S+)(?: (\d{1,15}))?\r?$",
    re.MULTILINE,
)
_LABEL: Final = re.compile(r'(container|namespace|pod)="([^"\n]*)"')

Key = tuple[str, str, str]  # namespace, pod, container


@dataclass(frozen=True, slots=True)
class _Counter:
    """The CPU of one container, and its rate as far as there was an older number."""

    at: datetime  # on the clock of the node
    seen_at: datetime  # the same on ours, at the latest when we first heard of it
    seconds: float
    cores: float | None = None
    window: timedelta = timedelta()

    def then(self, at: datetime, seconds: float, now: datetime) -> "_Counter":
        """After another look. Kubelets look at each container in its own rhythm."""
        window = at - self.at
        if window < timedelta() or seconds < self.seconds:
            return _Counter(at, min(at, now), seconds)  # it counts from nothing again
        if window < SHORTEST:
            return self
        cores = (seconds - self.seconds) / window.total_seconds()
        return _Counter(at, min(at, now), seconds, cores, window)


@dataclass(slots=True)
class _Node:
    """One node, as far as it was asked."""

    wanted_at: timedelta
    asked_at: timedelta | None = None  # None: not yet
    asking: asyncio.Task[None] | None = None
    counters: dict[Key, _Counter] = field(default_factory=dict)
    pods: dict[tuple[str, str], Usage] = field(default_factory=dict)  # by namespace and name
    trouble: str = ""


class Kubelets:
    """All nodes of one cluster that are asked."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._nodes: dict[str, _Node] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def look(
        self, namespace: str, nodes: Collection[str], every: timedelta
    ) -> tuple[Mapping[str, Usage], str]:
        """The pods of a namespace on these nodes, and what is wrong with any of the nodes.

        A node is asked when its last answer is older than `every`. What a node said stays until it
        says something else, with the moment it is of.
        """
        now = self._api.clock.monotonic()
        self._nodes = {n: it for n, it in self._nodes.items() if now - it.wanted_at < FORGOTTEN}
        asking = [task for name in nodes if (task := self._ask(name, every, now))]
        if asking:
            done, _ = await asyncio.wait(asking, timeout=PATIENCE.total_seconds())
            for task in done:
                task.result()
        found = [self._nodes[name] for name in nodes if name in self._nodes]
        pods = {
            pod: usage
            for node in found
            for (place, pod), usage in node.pods.items()
            if place == namespace
        }
        return pods, next((node.trouble for node in found if node.trouble), "")

    def _ask(self, name: str, every: timedelta, now: timedelta) -> "asyncio.Task[None] | None":
        node = self._nodes.setdefault(name, _Node(now))
        node.wanted_at = now
        if node.asking is not None and not node.asking.done():
            return node.asking
        if node.asked_at is not None and now - node.asked_at < every:
            return None
        node.asked_at = now
        node.asking = asyncio.create_task(self._read(name, node), name=f"kubelet of {name}")
        return node.asking

    async def _read(self, name: str, node: _Node) -> None:
        try:
            async with self._room, asyncio.timeout(DEADLINE.total_seconds()):
                answer = await self._api.raw(f"/api/v1/nodes/{name}/proxy/metrics/resource")
        except TimeoutError:
            node.trouble = f"the kubelet of {name} did not answer within 2 s"
        except Forbidden as error:
            node.trouble = (
                f"{error}; the source kubelet needs the right to get nodes/proxy in the whole "
                "cluster: grant it, or leave the source out for metrics.k8s.io"
            )
        except ScalerError as error:
            node.trouble = f"the kubelet of {name}: {error}"
        else:
            node.trouble = ""
            self._take(name, node, answer.decode(errors="replace"))

    def _take(self, name: str, node: _Node, page: str) -> None:
        if len(page) > MOST_CHARACTERS:
            node.trouble = f"the kubelet of {name} answers with more than {MOST_CHARACTERS} bytes"
            return
        counters: dict[Key, _Counter] = {}
        memory: dict[Key, float] = {}
        now = self._api.clock.now()
        for kind, key, at, value in _lines(page, now):
            if kind != CPU:
                memory[key] = value
            elif (old := node.counters.get(key)) is not None:
                counters[key] = old.then(at, value, now)
            else:
                counters[key] = _Counter(at, min(at, now), value)
        if not counters:
            node.trouble = f"the kubelet of {name} says nothing of any container"
            return
        node.counters, node.pods = counters, _pods(counters, memory)

    async def aclose(self) -> None:
        asking = [node.asking for node in self._nodes.values() if node.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def _lines(page: str, now: datetime) -> Iterator[tuple[str, Key, datetime, float]]:
    """Counters that can be understood. Few kubelets leave the moment out; then it is `now`."""
    for kind, labels, written, milliseconds in _LINE.findall(page):
        of = dict(_LABEL.findall(labels))
        try:
            value = float(written)
            at = datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else now
            key = of["namespace"], of["pod"], of["container"]
        except (ValueError, OverflowError, OSError, KeyError):
            continue
        if math.isfinite(value) and value >= 0:
            yield kind, key, at, value


def _pods(
    counters: Mapping[Key, _Counter], memory: Mapping[Key, float]
) -> dict[tuple[str, str], Usage]:
    """Those that something is known of each container of; a part of them would be too little."""
    parts: defaultdict[tuple[str, str], list[tuple[str, float, float]]] = defaultdict(list)
    of_pod: defaultdict[tuple[str, str], list[_Counter]] = defaultdict(list)
    for key, counter in counters.items():
        namespace, pod, container = key
        of_pod[namespace, pod].append(counter)
        if counter.cores is not None and key in memory:
            parts[namespace, pod].append((container, counter.cores, memory[key]))
    return {
        pod: Usage(min(c.seen_at for c in some), max(c.window for c in some), tuple(parts[pod]))
        for pod, some in of_pod.items()
        if len(parts[pod]) == len(some)
    }
