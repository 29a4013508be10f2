"""Run by `test_store_faults` where a small disk can be mounted unseen; prints what happened.

`mount`: in a mount namespace of its own, which the kernel clears away whatever happens here.
`limit`: where mounting is not permitted, a limit on the size of files stands for the full disk, and
a folder that somebody else owns for the read-only one.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from scaler.core.journal import Entry, Kind
from scaler.core.model import History, Hold
from scaler.errors import Unavailable
from scaler.stores.sqlite import SqliteStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOBODY = 65_534


def mount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", *options, "-t", "tmpfs", "tmpfs", str(folder)], check=True)


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def saved(store: SqliteStore, number: int) -> str:
    """Why it was not; empty when it was."""
    entry = Entry(at=NOON, kind=Kind.ACTED, summary=str(number), data={"x": "y" * 20_000})
    try:
        await store.save({"web": History(at=NOON, hold=Hold(count=number))}, [entry])
    except Unavailable as error:
        return str(error)
    return ""


async def kept(store: SqliteStore) -> list[object]:
    hold = (await store.load())["web"].hold
    entries = [int(entry.summary) for entry in await store.read(limit=1_000)]
    return [hold.count if hold else None, len(entries), entries[-1]]


async def main(
    folder: Path, fill: Callable[[], None], empty: Callable[[], None]
) -> dict[str, object]:
    fill()
    store = SqliteStore(folder / "s.db")
    number = 0
    while not (full := await saved(store, number + 1)) and number < 500:
        number += 1
    found: dict[str, object] = {"acknowledged": number, "full": full}
    found["again"] = await saved(store, number + 1)
    found["kept while full"] = await kept(store)
    empty()
    found["after"] = await saved(store, number + 1)
    found["kept after"] = await kept(store)
    await store.aclose()
    return found


async def read_only(folder: Path, close: Callable[[], None]) -> dict[str, object]:
    close()
    store = SqliteStore(folder / "s.db")
    found: dict[str, object] = {"read-only": await saved(store, 0)}
    await store.aclose()
    return found


def run(how: str, folder: Path) -> dict[str, object]:
    if how == "mount":
        mount(folder, "-o", "size=1m")
        found = asyncio.run(
            main(folder, lambda: None, lambda: mount(folder, "-o", "remount,size=16m"))
        )
        return found | asyncio.run(read_only(folder, lambda: mount(folder, "-o", "remount,ro")))
    found = asyncio.run(main(folder, lambda: limit(1 << 20), lambda: limit(resource.RLIM_INFINITY)))
    return found | asyncio.run(read_only(folder, lambda: give_up(folder)))


def give_up(folder: Path) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.setuid(NOBODY)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], Path(sys.argv[2]))))
