"""The answer of Prometheus, or of what speaks like it, to an instant query.

One series speaks for the whole target. Several are put to instances by a label, or become one
number. A ratio is meant as it stands: for `utilization`, 1 is 100 %.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

import orjson
import structlog
from pydantic import Field, model_validator

from scaler.clients.web import LONGEST_QUOTE, REDUCE, Web, WebSource, quoted
from scaler.core.document import Target, Wrong
from scaler.core.model import Fleet, Instance, InstanceId, Reading, Sample
from scaler.core.policy import Metric
from scaler.errors import ScalerError
from scaler.interfaces import Context

log = structlog.get_logger(__name__)

EXPLAINED: Final = (200, 400, 422, 503)  # the body says what is wrong
MOST_SERIES: Final = 10_000
WARNINGS: Final = 20  # different ones that are remembered as told


class PrometheusSource(WebSource):
    """An instant query to Prometheus, Thanos, Mimir or VictoriaMetrics.

    `url` is the address without `/api/v1/query`.
    """

    query: str = Field(min_length=1, max_length=4096)
    """The query in PromQL."""
    instance_label: str = ""
    """The label whose value says which instance a series is of: its id, host:port or host."""
    reduce: Literal["sum", "avg", "max", "min"] | None = None
    """How several series become one number, for the target or for each instance."""

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if not self.query.strip():
            raise Wrong("it is empty; write a query such as sum(rate(requests_total[1m]))", "query")
        return self


class PrometheusMetrics:
    """One query of one policy."""

    def __init__(self, name: str, source: PrometheusSource, web: Web) -> None:
        self._name = name
        self._source = source
        self._web = web
        seconds = f"{source.timeout.total_seconds():g}s"
        asked = {"query": source.query, "timeout": seconds, "partial_response": "false"}
        self._url = f"{source.url.rstrip('/')}/api/v1/query?{urlencode(asked)}"
        self._warned: set[str] = set()

    async def read(self, fleet: Fleet, since: datetime, now: datetime) -> Reading:  # noqa: ARG002 - an instant
        try:
            answer = await self._web.get(self._source, self._url, fine=EXPLAINED)
        except ScalerError as error:
            return Reading(metric=self._name, missing=str(error))
        found = self._understood(answer.body, answer.status, fleet)
        if isinstance(found, str):
            return Reading(metric=self._name, missing=found)
        return Reading(metric=self._name, samples=tuple(found))

    async def aclose(self) -> None: ...

    def _understood(self, body: bytes, status: int, fleet: Fleet) -> list[Sample] | str:
        try:
            said = orjson.loads(body)
            if said["status"] != "success":
                why = f"{said.get('errorType', 'error')}: {said.get('error', '')}"
                return f"the query failed: {why[:LONGEST_QUOTE]}"
            kind, result = said["data"]["resultType"], said["data"]["result"]
            warned = self._warn(said.get("warnings") or ())
            found = self._samples(kind, result, fleet)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            return f"the answer ({status}) is not one of Prometheus: {quoted(body)}"
        return f"{found}; it warns: {warned}" if isinstance(found, str) and warned else found

    def _samples(self, kind: str, result: Any, fleet: Fleet) -> list[Sample] | str:
        if kind == "scalar":
            return _whole([_point(result)])
        if kind != "vector":
            remedy = "it has to be a vector or a scalar, such as rate(...[1m])"
            return f"the answer is a {kind}; {remedy}"
        if not result:
            return "no series"
        if len(result) > MOST_SERIES:
            return f"{len(result)} series came; aggregate them in the query"
        if any("value" not in series for series in result):
            return "a series is a native histogram; write histogram_quantile(...) around it"
        if self._source.instance_label:
            return self._by_instance(result, fleet)
        if len(result) > 1 and not self._source.reduce:
            remedy = "write sum() around the query, reduce: sum, or instance_label:"
            return f"{len(result)} series came, such as {_labels(result[0])}; {remedy}"
        return _whole([_point(series["value"]) for series in result], self._source.reduce)

    def _by_instance(self, result: Sequence[Any], fleet: Fleet) -> list[Sample] | str:
        label, known = self._source.instance_label, _names(fleet.instances)
        points: defaultdict[InstanceId, list[tuple[datetime, float]]] = defaultdict(list)
        for series in result:
            instance = known.get(str(series["metric"].get(label, "")))
            if instance is not None:
                points[instance].append(_point(series["value"]))
        if not points:
            return f"no series has an instance of the target in {label}: {_labels(result[0])}"
        samples: list[Sample] = []
        troubles: list[str] = []
        for instance, several in points.items():
            if len(several) > 1 and not self._source.reduce:
                remedy = f"write sum by ({label}) (...) around the query, or reduce: sum"
                return f"{len(several)} series came for {instance}; {remedy}"
            whole = _whole(several, self._source.reduce, instance)
            if isinstance(whole, str):
                troubles.append(f"{instance}: {whole}")
            else:
                samples += whole
        return samples or "; ".join(troubles[:3])

    def _warn(self, warnings: Sequence[object]) -> str:
        """Say each warning once; all of them in words."""
        told = [str(warning)[:LONGEST_QUOTE] for warning in list(warnings)[:5]]
        for warning in told:
            if warning not in self._warned and len(self._warned) < WARNINGS:
                self._warned.add(warning)
                log.warning("prometheus.warned", metric=self._name, warning=warning)
        return "; ".join(told)


def _names(instances: Sequence[Instance]) -> Mapping[str, InstanceId]:
    """What a label may call an instance; a host only where it has a single one."""
    hosts = [instance.host for instance in instances]
    known = {i.host: i.id for i in instances if i.host and hosts.count(i.host) == 1}
    known |= {f"{i.host}:{i.port}": i.id for i in instances if i.host and i.port}
    return known | {str(i.id): i.id for i in instances}


def _point(value: Any) -> tuple[datetime, float]:
    moment, number = value
    return datetime.fromtimestamp(float(moment), UTC), float(number)


def _whole(
    points: Sequence[tuple[datetime, float]],
    reduce: str | None = None,
    instance: InstanceId | None = None,
) -> list[Sample] | str:
    """One sample; a number that is none spoils the whole, since a sum without it is too low."""
    wrong = next((value for _, value in points if not math.isfinite(value)), None)
    if wrong is not None:
        return f"the value is {'not a number' if math.isnan(wrong) else 'infinite'}"
    value = REDUCE[reduce or "sum"]([value for _, value in points])
    at = min(at for at, _ in points)
    return [Sample(at=at, value=value, instance=instance, base=1.0)]


def _labels(series: Mapping[str, Any]) -> str:
    labels = ", ".join(f'{key}="{value}"' for key, value in series["metric"].items())
    return f"{{{labels}}}"[:LONGEST_QUOTE]


class _Plugin:
    source = PrometheusSource

    def open(self, metric: Metric, target: Target, context: Context) -> PrometheusMetrics:  # noqa: ARG002 - any target
        assert isinstance(metric.source, PrometheusSource)  # noqa: S101 - the loader made it
        web = context.shared.setdefault(Web, Web())
        return PrometheusMetrics(metric.name, metric.source, web)


PLUGIN: Final = _Plugin()
