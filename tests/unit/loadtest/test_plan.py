from pathlib import Path
from typing import Any

import pytest

from scaler.errors import ConfigError
from scaler.loadtest import plan
from scaler.loadtest.plan import Plan
from scaler.located import InvalidFiles

TARGET = "http://127.0.0.1:8080"
WHOLE = """\
target: https://localhost:8443/api
load:
  stages: [{to: 100/s, for: 10s}, {to: 100/s, for: 1m}]
  arrivals: poisson
  warm_up: 5s
scenario:
  - {weight: 9, path: "/accounts/${id}", checks: {status: [200, 304], contains: balance}}
  - {name: pay, method: POST, path: /pay, body: '{"n": "${id}"}', headers: {A: b}}
auth: {basic: "me:secret"}
variables: {id: 1..1000}
timeouts: {connect: 1s}
tls: {verify: false}
workers: 2
thresholds: p99<250ms, errors<0.1%
"""


def made(**fields: Any) -> Plan:
    return plan.of_fields({"target": TARGET, "load": {"rate": "10/s"}, **fields})


def test_a_plan_survives_json(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(WHOLE)
    read = plan.load(file)
    assert Plan.model_validate_json(read.model_dump_json(by_alias=True)) == read
    arrivals = read.load.schedule()
    assert arrivals is not None
    assert arrivals.requests == 500 + 6000


@pytest.mark.parametrize(
    ("load", "requests"),
    [
        pytest.param({"rate": "30/m", "for": "1m"}, 30, id="a constant rate"),
        pytest.param({"rate": "10/s"}, 300, id="half a minute unless it is said"),
        pytest.param({"rate": "10/s", "stages": [{"to": "20/s", "for": "2s"}]}, 30, id="a ramp"),
        pytest.param(
            {"waves": {"low": "0/s", "high": "10/s", "period": "2s"}, "for": "4s"}, 20, id="waves"
        ),
    ],
)
def test_a_load_has_so_many_requests(load: dict[str, Any], requests: float) -> None:
    arrivals = made(load=load).load.schedule()
    assert arrivals is not None
    assert arrivals.requests == pytest.approx(requests)


def test_a_trace_stands_beside_the_plan(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("timestamp,value\n0,600\n60,1200\n")
    file = tmp_path / "plan.yaml"
    file.write_text(f"target: {TARGET}\nload: {{replay: {{file: trace.csv, speed: 60}}}}\n")
    arrivals = plan.load(file).load.schedule()
    assert arrivals is not None
    assert (arrivals.seconds, arrivals.requests) == pytest.approx((2, 30))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"load": {}}, "nothing says how much", id="no load"),
        pytest.param(
            {"load": {"rate": "1/s", "users": 3}}, "found rate and users; give one", id="two loads"
        ),
        pytest.param({"load": {"rate": "500"}}, "500.* is not a rate", id="no unit"),
        pytest.param({"load": {"rate": "-1/s"}}, "below zero", id="below zero"),
        pytest.param({"load": {"rate": "1/s", "think": "1s"}}, "only users think", id="think"),
        pytest.param({"load": {"rate": "1/s", "for": "25h"}}, "out of range", id="too long"),
        pytest.param({"target": "127.0.0.1:80"}, "is no target", id="no scheme"),
        pytest.param({"target": "http://h:99999"}, "is no target", id="no port"),
        pytest.param({"scenario": [{"path": "x"}]}, "pattern", id="a path without slash"),
        pytest.param({"scenario": [{"headers": {"a": "b\r\nc: d"}}]}, "pattern", id="two lines"),
        pytest.param({"variables": {"id": "9..1"}}, "is no range", id="backwards"),
        pytest.param({"auth": {"basic": "me"}}, "needs a colon", id="no password"),
        pytest.param({"thresholds": "p99<250"}, "250 has no unit", id="a bare number"),
        pytest.param({"load": {"users": 1}, "workers": 2}, "cannot share 1", id="more workers"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**fields)


def test_a_rate_beyond_every_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="beyond"):
        made(load={"rate": "2M/s"}).load.schedule()


def test_a_mistake_in_a_file_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(f"target: {TARGET}\nload:\n  rate: 500/s\n  fro: 3s\n")
    with pytest.raises(InvalidFiles, match=r'plan.yaml:4:3: error: .*did you mean "for"'):
        plan.load(file)
