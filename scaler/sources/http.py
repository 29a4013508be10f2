"""A number that a service says of itself, in JSON or on a page of metrics.

`{host}` and `{port}` in the address ask every instance; otherwise the answer is for the target. A
ratio is meant as it stands: for `utilization`, 1 is 100 %.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

import orjson
from pydantic import Field, model_validator

from scaler.clients import jsonpath, metricspage
from scaler.clients.web import REDUCE, Web, WebSource, quoted
from scaler.core.document import Target, Wrong
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample, State
from scaler.core.policy import Metric
from scaler.errors import ScalerError
from scaler.interfaces import Context

AT_ONCE: Final = 16  # requests of one metric
LARGE: Final = 64 * 1024  # bytes of a page from which it is parsed in a thread
MILLISECONDS: Final = 1e11  # as seconds this is the year 5138: a larger timestamp counts ms


class HttpSource(WebSource):
    """A number from a web page. Exactly one of `json` and `metric`.

    `{host}` and `{port}` in `url` stand for those of each instance.
    """

    json_: str = Field(default="", alias="json")
    """The way to a number in a JSON answer: `$.queue.depth`, `$.queues[0].depth`, `$["a key"]`."""
    metric: str = ""
    """A metric of a page as exporters of Prometheus write it: `queue_depth{queue="mail"}`."""
    timestamp: str = ""
    """The way to the moment of the number in the same JSON: seconds or ms since 1970, or ISO."""
    reduce: Literal["sum", "avg", "max", "min"] | None = None
    """How several lines of the metric become one number."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.json_) == bool(self.metric):
            raise ValueError("write exactly one of json and metric")
        if self.timestamp and not self.json_:
            raise Wrong("it is a part of a JSON answer; a page of metrics has its own", "timestamp")
        for field, text in (("json", self.json_), ("timestamp", self.timestamp)):
            try:
                jsonpath.parse(text or "$")
            except ValueError as error:
                raise Wrong(str(error), field) from error
        try:
            metricspage.parse(self.metric or "up")
        except ValueError as error:
            raise Wrong(str(error), "metric") from error
        return self

    @property
    def for_each(self) -> bool:
        """Whether every instance is asked."""
        return "{host}" in self.url or "{port}" in self.url


class HttpMetrics:
    """One question of one policy."""

    def __init__(self, name: str, source: HttpSource, web: Web) -> None:
        self._name = name
        self._source = source
        self._web = web
        self._json = jsonpath.parse(source.json_) if source.json_ else None
        self._timestamp = jsonpath.parse(source.timestamp) if source.timestamp else None
        self._wanted = metricspage.parse(source.metric or "up")

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - no past
        if not self._source.for_each:
            return self._reading([await self._ask(self._source.url, None, now)])
        running = [i for i in fleet.instances if i.state is State.RUNNING]
        if not running:
            return Reading(metric=self._name, missing="no instance is running")
        return self._reading(await self._ask_all(running, now))

    async def aclose(self) -> None: ...

    def _reading(self, answers: Sequence[Sample | str]) -> Reading:
        samples = tuple(answer for answer in answers if isinstance(answer, Sample))
        if samples:
            return Reading(metric=self._name, samples=samples)
        reasons = [answer for answer in answers if isinstance(answer, str)]
        more = f" (and {len(reasons) - 1} others)" if len(reasons) > 1 else ""
        return Reading(metric=self._name, missing=reasons[0] + more)

    async def _ask_all(self, running: Sequence[Instance], now: datetime) -> list[Sample | str]:
        """Whoever has answered when the time is over counts; the others are silent."""
        room = asyncio.Semaphore(AT_ONCE)

        async def one(instance: Instance) -> Sample | str:
            url = _filled(self._source.url, instance)
            if url is None:
                return f"{instance.id} has no port; write one in place of {{port}}"
            async with room:
                return await self._ask(url, instance.id, now)

        asked = [asyncio.ensure_future(one(instance)) for instance in running]
        try:
            await asyncio.wait(asked, timeout=self._source.timeout.total_seconds())
        finally:
            late = [task for task in asked if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        silent = "no answer in time"
        return [silent if task.cancelled() else task.result() for task in asked]

    async def _ask(self, url: str, instance: InstanceId | None, now: datetime) -> Sample | str:
        try:
            body = (await self._web.get(self._source, url)).body
        except ScalerError as error:
            return str(error)
        try:
            if len(body) > LARGE:
                value, at = await asyncio.to_thread(self._found, body)
            else:
                value, at = self._found(body)
        except LookupError as error:
            return str(error.args[0])
        except (TypeError, ValueError, OverflowError) as error:
            return f"the answer is not understood ({error}): {quoted(body)}"
        if not math.isfinite(value):
            return f"the value is {'not a number' if math.isnan(value) else 'infinite'}"
        return Sample(at=at or now, value=value, instance=instance, base=1.0)

    def _found(self, body: bytes) -> tuple[float, datetime | None]:
        """The number and its moment.

        Raises:
            LookupError: it is not there; the message is for people.
            ValueError: this is something else.
        """
        if self._json is None:
            return self._on_page(body.decode())
        document = orjson.loads(body)
        value = _number(jsonpath.find(document, self._json))
        if self._timestamp is None:
            return value, None
        return value, _moment(jsonpath.find(document, self._timestamp))

    def _on_page(self, page: str) -> tuple[float, datetime | None]:
        found = metricspage.find(page, self._wanted)
        if not found:
            raise LookupError(f"the page has no {self._source.metric}")
        reduce = self._source.reduce
        if len(found) > 1 and reduce is None:
            labels = ", ".join(f'{key}="{value}"' for key, value in found[0].labels.items())
            remedy = "name more of their labels, or write reduce: sum"
            raise LookupError(f"{len(found)} lines fit, such as {{{labels}}}; {remedy}"[:300])
        moments = [series.at for series in found if series.at]
        value = REDUCE[reduce or "sum"]([series.value for series in found])
        return value, min(moments, default=None)


def _filled(url: str, instance: Instance) -> str | None:
    """The address of one instance; None when a port is needed and it has none."""
    if "{port}" in url and instance.port is None:
        return None
    host = instance.host or "127.0.0.1"
    shown = f"[{host}]" if ":" in host else host
    return url.replace("{host}", shown).replace("{port}", str(instance.port))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    return float(value)


def _moment(value: Any) -> datetime:
    if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
        moment = datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = _number(value)
    if not math.isfinite(seconds):
        raise ValueError("the timestamp is not a number")
    return datetime.fromtimestamp(seconds / 1000 if seconds > MILLISECONDS else seconds, UTC)


class _Plugin:
    source = HttpSource

    def open(self, metric: Metric, target: Target, context: Context) -> HttpMetrics:  # noqa: ARG002 - any target
        assert isinstance(metric.source, HttpSource)  # noqa: S101 - the loader made it
        web = context.shared.setdefault(Web, Web())
        return HttpMetrics(metric.name, metric.source, web)


PLUGIN: Final = _Plugin()
