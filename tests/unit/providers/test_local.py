"""What a person may write under `target: {local: ...}`."""

import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from scaler.clients.ports import Ports
from scaler.providers.local import LocalTarget


@pytest.mark.parametrize(
    ("written", "message"),
    [
        pytest.param({}, "command", id="no command"),
        pytest.param({"command": []}, "at least 1", id="an empty command"),
        pytest.param({"command": [""]}, "first word is empty", id="an empty program"),
        pytest.param(
            {"command": "app --port 1"}, '["app", "--port", "1"]', id="a command as one string"
        ),
        pytest.param({"command": ["a\0b"]}, "zero byte", id="a zero byte"),
        pytest.param({"command": ["a", "{port}"]}, "no port is given", id="{port} and no port"),
        pytest.param({"port": "9020-9000"}, "the lower first", id="a range backwards"),
        pytest.param({"port": 70000}, "1..65535", id="a port too high"),
        pytest.param({"port": True}, "is not a port", id="a port that is no number"),
        pytest.param({"stop_signal": "STOP"}, "no signal that stops", id="a signal that suspends"),
        pytest.param({"stop_signal": "TREM"}, "no signal that stops", id="a misspelt signal"),
        pytest.param({"grace": "2h"}, "between 0s and 1h", id="a grace too long"),
        pytest.param({"grace": 10}, "has no unit", id="a grace without unit"),
        pytest.param(
            {"env": {"SCALER_X": "1"}}, '"SCALER_X" cannot be set', id="a variable of ours"
        ),
        pytest.param({"env": {"A=B": "1"}}, "cannot be set", id="a variable that is none"),
        pytest.param({"log": {"max_size": 5}}, "at least 1KiB", id="a log too small"),
        pytest.param({"cpu": 0}, "greater than 0", id="no core"),
        pytest.param({"memory": 0}, "no memory", id="no memory"),
        pytest.param({"on_exit": "kill"}, "'keep' or 'stop'", id="an unknown word"),
        pytest.param({"comand": ["a"]}, "Extra inputs", id="an unknown key"),
    ],
)
def test_a_slip_of_the_pen_is_explained(written: dict[str, Any], message: str) -> None:
    whole = written if "command" in written or not written else {"command": ["app"], **written}
    with pytest.raises(ValidationError, match=re.escape(message)):
        LocalTarget.model_validate(whole)


def test_defaults_and_readings() -> None:
    target = LocalTarget.model_validate(
        {"command": ["app", "{port}"], "port": "9000-9002", "stop_signal": "sigint"}
    )
    assert target.port == Ports(9000, 9002)
    assert (target.stop_signal, target.on_exit, target.cpu) == ("INT", "keep", 1.0)
    assert (target.grace, target.log.keep) == (timedelta(seconds=10), 3)
    assert target.log.max_size == 10 * 1024**2
    shared = LocalTarget.model_validate({"command": ["app"], "port": 9000})
    assert shared.port == Ports(9000, 9000, shared=True)
    for one in (target, shared):
        assert LocalTarget.model_validate(one.model_dump(mode="json")) == one
    assert LocalTarget.model_json_schema()["properties"]["port"]["anyOf"][0]["maximum"] == 65535


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"grace": "5s"}, True),
        ({"log": {"keep": 1}}, True),
        ({"command": ["other"]}, False),
        ({"env": {"A": "1"}}, False),
        ({"directory": "/"}, False),
        ({"port": 9000}, False),
    ],
    ids=["grace", "log", "command", "env", "directory", "port"],
)
def test_the_template_changes_when_instances_would(change: dict[str, Any], same: bool) -> None:
    before = LocalTarget.model_validate({"command": ["app"]})
    after = LocalTarget.model_validate({"command": ["app"], **change})
    assert (after.template == before.template) is same
