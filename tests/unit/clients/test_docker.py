"""What the errors of the SDK mean to us."""

from typing import Any

import pytest
from docker.errors import APIError, DockerException
from requests import Response
from requests.exceptions import ConnectionError as Unreachable
from requests.exceptions import ReadTimeout

from scaler.clients import docker
from scaler.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PermanentError,
    ScalerError,
    Unavailable,
)


def answered(status: int, explanation: str) -> APIError:
    response = Response()
    response.status_code = status
    return APIError("failed", response=response, explanation=explanation)


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        pytest.param(answered(400, "no such option"), PermanentError, id="a bad request"),
        pytest.param(answered(403, "blocked by proxy"), Forbidden, id="a proxy that forbids"),
        pytest.param(answered(404, "no such container"), NotFound, id="gone meanwhile"),
        pytest.param(answered(409, "name in use"), Conflict, id="a name that is taken"),
        pytest.param(answered(418, "tea"), PermanentError, id="another refusal"),
        pytest.param(answered(500, "server error"), Unavailable, id="the engine in trouble"),
        pytest.param(
            answered(500, "rpc error: update out of sequence"), Conflict, id="swarm says 500"
        ),
        pytest.param(ReadTimeout("read timed out"), Unavailable, id="no answer in time"),
        pytest.param(Unreachable("connection aborted"), Unavailable, id="the engine has ended"),
        pytest.param(DockerException("no version"), Unavailable, id="no version to agree on"),
        pytest.param(OSError("broken pipe"), Unavailable, id="a broken connection"),
    ],
)
def test_an_error_becomes_what_the_caller_does_next(
    raised: Exception, ours: type[ScalerError]
) -> None:
    with pytest.raises(ours, match="stopping web-1: ") as caught, docker.errors("stopping web-1"):
        raise raised
    assert type(caught.value) is ours
    assert caught.value.__cause__ is raised


def test_a_bug_stays_a_bug() -> None:
    broken: dict[str, Any] = {}
    with pytest.raises(KeyError), docker.errors("looking"):
        broken["Id"]


async def test_an_engine_that_is_not_there_is_said_so() -> None:
    engine = docker.Engine("unix:///no/such/socket")
    with pytest.raises(Unavailable, match="is the engine running"):
        await engine.call("looking", lambda client: client.containers())
    await engine.aclose()


def test_the_place_of_the_engine_is_that_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert docker.default_url() == docker.DEFAULT_URL
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    assert docker.default_url() == "tcp://127.0.0.1:2375"
    assert docker.Engines().at().url == "tcp://127.0.0.1:2375"
