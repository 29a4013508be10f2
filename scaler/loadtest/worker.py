"""One worker process of a load test; `workers.Crew` starts it and speaks with it in lines of JSON.

It ends early when its standard input does, so none outlives who started it.
"""

import asyncio
import json
import signal
import sys
from typing import Any

from scaler.clock import SystemClock
from scaler.errors import ScalerError
from scaler.loadtest.engine import Share
from scaler.loadtest.loops import run
from scaler.loadtest.plan import Plan
from scaler.loadtest.progress import Progress
from scaler.loadtest.tester import Solo


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Do what the first line on standard input says, from the moment that the second names."""
    reader = asyncio.StreamReader(limit=8 * 2**20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())
    plan = Plan.model_validate(order["plan"])
    share = Share(order["number"], plan.workers)
    solo = Solo(plan, SystemClock(), share, allow_host=order["allow_host"])
    try:
        async with solo:
            say({"ready": True})
            line = await reader.readline()
            if not line:
                return
            watcher = asyncio.create_task(_stop_at_the_end(reader, solo))
            record = await solo.run(json.loads(line)["begin"], _tell)
            watcher.cancel()
            say({"record": record.to_dict(), "cpu": solo.engine.cpu})
    except ScalerError as error:
        say({"error": str(error)})


async def _stop_at_the_end(reader: asyncio.StreamReader, solo: Solo) -> None:
    await reader.read()
    solo.engine.stop()


def _tell(told: Progress) -> None:
    say({"progress": told.to_dict()})


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; who started it decides
    run(main())
