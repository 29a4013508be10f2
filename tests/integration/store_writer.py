"""Run by `test_store_faults`: for each line it is sent, a process that writes until it is killed.

The process says its number and then, after each save that was acknowledged, the number it saved.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from scaler.core.journal import Entry, Kind
from scaler.core.model import History, Hold, Point
from scaler.stores.sqlite import SqliteStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TARGETS = "abc"


async def write(path: Path) -> None:
    store = SqliteStore(path)
    held = (await store.load()).get("a", History()).hold
    for number in count(held.count + 1 if held else 1):
        at = NOON + number * timedelta(seconds=1)
        points = tuple(Point(at - n * timedelta(seconds=1), n, n) for n in range(50, -1, -1))
        history = History(at=at, hold=Hold(count=number), points={"cpu": points})
        entry = Entry(at=at, kind=Kind.ACTED, target="a", summary=str(number))
        await store.save(dict.fromkeys(TARGETS, history), [entry])
        os.write(1, b"%d\n" % number)  # at once: half a line would tell nothing


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(write(Path(sys.argv[1])))
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)
