"""Requests as bytes, made once where nothing varies; with variables, joined from pieces."""

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Final
from urllib.parse import quote, urlsplit

from scaler.errors import ConfigError
from scaler.loadtest.plan import Auth, Plan, Request, numbers

AGENT: Final = "scaler-loadtest"
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_PATH: Final = "/?&=%:@!$'()*+,;~-._"  # what a value may bring into a path unchanged


@dataclass(frozen=True, slots=True)
class Wire:
    """A request of the scenario, ready to be sent."""

    fixed: bytes | None  # the bytes, where nothing varies
    render: Callable[[], bytes]
    no_body: bool
    statuses: frozenset[int]
    contains: bytes

    def right(self, status: int) -> bool:
        return status in self.statuses if self.statuses else status < 400


def wires_of(plan: Plan, host: str, worker: int = 0) -> list[Wire]:
    """The requests of a plan in its order; `host` as it stands in the Host field.

    Raises:
        ConfigError: a variable or a secret is not there.
    """
    values = _values(plan, worker)
    before = urlsplit(plan.target).path.rstrip("/")
    shared = dict(plan.headers)
    if plan.auth is not None:
        shared["Authorization"] = _authorization(plan.auth)
    return [_wire(plan, request, host, before, shared, values) for request in plan.scenario]


def _values(plan: Plan, worker: int) -> Mapping[str, Iterator[str]]:
    """Endless values of each variable; workers begin at different ones."""
    found: dict[str, Iterator[str]] = {}
    for name, values in plan.variables.items():
        if isinstance(values, str):
            low, high = numbers(values, name)
            found[name] = _at_random(low, high, Random(f"{plan.load.seed} {worker} {name}"))
        else:
            first = worker % len(values)
            found[name] = cycle([str(value) for value in values[first:] + values[:first]])
    return found


def _at_random(low: int, high: int, random: Random) -> Iterator[str]:
    while True:
        yield str(random.randint(low, high))


def _authorization(auth: Auth) -> str:
    name = auth.bearer_env or auth.basic_env
    secret = auth.bearer or auth.basic
    if name:
        secret = os.environ.get(name, "")
        if not secret:
            raise ConfigError(f"auth: the environment has no {name}; set it to the secret")
    if auth.bearer or auth.bearer_env:
        return f"Bearer {secret}"
    return "Basic " + base64.b64encode(secret.encode()).decode()


def _wire(
    plan: Plan,
    request: Request,
    host: str,
    before: str,
    shared: Mapping[str, str],
    values: Mapping[str, Iterator[str]],
) -> Wire:
    headers = _joined({"Host": host, "User-Agent": AGENT, "Accept": "*/*"}, shared, request.headers)
    if not plan.keep_alive:
        headers["Connection"] = "close"
    names = _names(request, headers)
    if unknown := names - values.keys():
        one = min(unknown)
        raise ConfigError(f"{request.title}: ${{{one}}} is no variable; add {one}: to variables")

    def render() -> bytes:
        filled = {name: next(values[name]) for name in names}
        return _bytes(request, before, headers, filled)

    fixed = None if names else render()
    return Wire(
        fixed=fixed,
        render=render,
        no_body=request.method == "HEAD",
        statuses=frozenset(request.checks.status),
        contains=request.checks.contains.encode(),
    )


def _joined(*several: Mapping[str, str]) -> dict[str, str]:
    """The last of each name wins, however it is capitalised."""
    found = {name.lower(): (name, value) for headers in several for name, value in headers.items()}
    return dict(found.values())


def _names(request: Request, headers: Mapping[str, str]) -> set[str]:
    texts = [request.path, request.body, *headers.values()]
    return {name for text in texts for name in _VARIABLE.findall(text)}


def _bytes(
    request: Request, before: str, headers: Mapping[str, str], filled: Mapping[str, str]
) -> bytes:
    def put(text: str) -> str:
        return _VARIABLE.sub(lambda found: filled[found[1]], text)

    path = quote(put(before + request.path), safe=_PATH)
    body = put(request.body).encode()
    lines = [f"{request.method} {path} HTTP/1.1"]
    lines += [f"{name}: {_one_line(put(value))}" for name, value in headers.items()]
    if body or request.method in {"POST", "PUT", "PATCH"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


def _one_line(value: str) -> str:
    """No value of a variable begins a field of its own."""
    return re.sub(r"[\r\n\0]", " ", value)
