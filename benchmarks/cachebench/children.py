"""Processes of a benchmark that begin at one moment and answer with numbers.

`python -m benchmarks.cachebench.children MODULE:FUNCTION JSON` is such a process. The function is
handed the arguments and `go`, which says that the child is ready and waits for the moment. What
would have been logged is counted instead, as `lines` of the answer.
"""

import asyncio
import importlib
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

Go = Callable[[], Awaitable[float]]
LEAD_S = 0.3  # from the word to the moment: all have heard it by then
START_S = 60.0  # until a child is ready


class Lines(logging.Handler):
    """Counts what would have been logged; a record with its traceback counts once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0
        logging.getLogger().addHandler(self)
        structlog.configure(
            processors=[self._event],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=False,
        )

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self.count += 1

    def _event(self, logger: Any, method: str, event: Any) -> Any:
        del logger, method, event
        self.count += 1
        raise structlog.DropEvent


class Child:
    """One of them, seen from the parent."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ready(self) -> None:
        assert self.process.stdout is not None
        said = await asyncio.wait_for(self.process.stdout.readline(), START_S)
        assert said == b"ready\n", f"the child said {said!r}; its stderr is above"

    def go(self, at: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{at}\n".encode())

    async def answer(self, patience_s: float) -> dict[str, Any] | None:
        """None when it has not ended by then: it is killed."""
        assert self.process.stdout is not None
        try:
            said = await asyncio.wait_for(self.process.stdout.readline(), patience_s)
        except TimeoutError:
            return None
        finally:
            self.kill()  # what a library left running may keep it from ending by itself
            await self.process.wait()
        found: dict[str, Any] = json.loads(said)
        return found

    def kill(self) -> None:
        try:
            self.process.kill()
        except ProcessLookupError:
            return


async def start(function: str, given: dict[str, Any], count: int = 1) -> tuple[list[Child], float]:
    """That many children, and the moment (`time.monotonic`) at which all of them begin."""
    made = [
        Child(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                function,
                json.dumps({**given, "number": number}),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 24,
            )
        )
        for number in range(count)
    ]
    try:
        for child in made:
            await child.ready()
    except BaseException:
        for child in made:
            child.kill()
        raise
    at = time.monotonic() + LEAD_S
    for child in made:
        child.go(at)
    return made, at


async def together(
    function: str, given: dict[str, Any], count: int, patience_s: float
) -> list[dict[str, Any]]:
    """What they have found; those that hung are left out."""
    made, _ = await start(function, given, count)
    answers = await asyncio.gather(*(child.answer(patience_s) for child in made))
    return [answer for answer in answers if answer is not None]


async def _go() -> float:
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    at = float(await loop.run_in_executor(None, sys.stdin.readline))
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    return at


def main() -> None:
    name, given = sys.argv[1:]
    module, _, function = name.partition(":")
    asked: Callable[[dict[str, Any], Go], Awaitable[dict[str, Any]]]
    asked = getattr(importlib.import_module(module), function)

    async def whole() -> None:
        lines = Lines()
        found = await asked(json.loads(given), _go)
        print(json.dumps({**found, "lines": lines.count}), flush=True)

    asyncio.run(whole())


if __name__ == "__main__":
    main()
