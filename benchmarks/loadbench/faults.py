"""What can go wrong with a request, made to happen once each: is it told apart?"""

import asyncio
from typing import Any, Final

from scaler.clock import SystemClock
from scaler.loadtest.failures import Failure
from scaler.loadtest.plan import of_fields
from scaler.loadtest.tester import LoadTester
from tests.integration.faultyserver import deaf_port, faulty_server
from tests.integration.ports import free_port

TIMEOUTS: Final = {"connect": "200ms", "first_byte": "300ms", "whole": "400ms", "end": "5s"}
PATHS: Final = {
    "/reset": Failure.RESET,
    "/nothing": Failure.FIRST_BYTE_TIMEOUT,
    "/half": Failure.BODY_TIMEOUT,
    "/incomplete": Failure.INCOMPLETE,
    "/garbage": Failure.MALFORMED,
    "/error": Failure.WRONG_STATUS,
}


def told_apart() -> dict[str, bool]:
    """Each class by name, and whether all requests that met it were counted under it alone."""
    return asyncio.run(_all())


async def _all() -> dict[str, bool]:
    found: dict[Failure, bool] = {}
    async with faulty_server() as server, deaf_port() as deaf:
        here = f"http://127.0.0.1:{server.port}"
        for path, failure in PATHS.items():
            found[failure] = await _is(failure, here, {"path": path})
        check = {"path": "/ok", "checks": {"contains": "what is not there"}}
        found[Failure.FAILED_CHECK] = await _is(Failure.FAILED_CHECK, here, check)
        for failure, target in (
            (Failure.CONNECT_TIMEOUT, f"http://127.0.0.1:{deaf}"),
            (Failure.REFUSED, f"http://127.0.0.1:{free_port()}"),
            (Failure.DNS, "http://no-such-host.invalid"),
        ):
            found[failure] = await _is(failure, target, {"path": "/"})
    return {failure.name.lower(): right for failure, right in found.items()}


async def _is(failure: Failure, target: str, request: dict[str, Any]) -> bool:
    plan = of_fields(
        {
            "target": target,
            "load": {"rate": "50/s", "for": "200ms"},
            "scenario": [request],
            "timeouts": TIMEOUTS,
        }
    )
    report = await LoadTester(plan, clock=SystemClock(), allow_host=True).run()
    return dict(report.record.failures) == {failure.value: report.record.due}
