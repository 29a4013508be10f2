"""Asks the daemon over its unix socket. Only the standard library: a question must cost nothing."""

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from scaler.errors import ConfigError, NotFound, Refused, ScalerError, Unavailable

ERROR_OF: Final[Mapping[int, type[ScalerError]]] = {
    404: NotFound,
    409: Refused,
    422: ConfigError,
}
PATIENCE: Final = 30.0  # seconds for an answer


class NoDaemon(Unavailable):
    """Nobody answers at the socket."""


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


class Daemon:
    """The daemon behind a socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, *parts: str, **query: str | None) -> dict[str, Any]:
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._ask("GET", _path(parts) + (f"?{asked}" if asked else ""), None)

    def post(self, *parts: str, body: Mapping[str, object] | str | None = None) -> dict[str, Any]:
        text = body if isinstance(body, str) else json.dumps(body or {})
        return self._ask("POST", _path(parts), text)

    def _ask(self, method: str, path: str, body: str | None) -> dict[str, Any]:
        connection = _Connection(self._path)
        try:
            connection.request(method, path, body=body and body.encode())
            response = connection.getresponse()
            text = response.read()
        except PermissionError as error:
            raise NoDaemon(
                f"you may not use {self._path}; use sudo, or join the group that owns it"
            ) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemon(
                f"no daemon answers at {self._path}; start one with `scaler run`, "
                "or name its socket with --socket"
            ) from error
        except (OSError, HTTPException) as error:
            raise NoDaemon(f"the daemon at {self._path} does not answer: {error}") from error
        finally:
            connection.close()
        return _answer(response.status, text)


def _path(parts: tuple[str, ...]) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _answer(status: int, text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        raise NoDaemon("what answers at the socket is not scaler") from None
    if status >= 400:
        raise ERROR_OF.get(status, ScalerError)(str(answer.get("error", status)))
    assert isinstance(answer, dict)  # noqa: S101 - the daemon answers with objects only
    return answer
