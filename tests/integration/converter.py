"""Converts `transactions` in one process after the other: `DSN UNTIL`.

Each kills itself, as nobody can catch, at the second point that none before it has passed, and the
next goes on. A point is a statement that was done, a commit, or a range that was compared. Prints
the points at which one was killed, a line each, when one came to the end.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_steps import Ears

WISH = {"table": "transactions", "by": "created_at", "every": "1 month"}
STRIDE = 2


def wish(**more: Any) -> PartitionSet:
    """Months of the ledger, in batches of a thousand rows."""
    return PartitionSet.model_validate({**WISH, "migrate": {"batch_rows": 1000}, **more})


async def convert(dsn: str, until: Stage, after: Callable[[str], None]) -> None:
    database = Postgres(dsn)
    small = wish(migrate={"batch_rows": 500})
    await Conversion(database, small, ears=Ears(after=after)).run(until)
    await database.aclose()


def one(dsn: str, until: Stage, passed: list[str], told: int) -> None:
    """In a process of its own. What it passes is told through a pipe before it dies."""
    new: list[str] = []

    def after(statement: str) -> None:
        point = " ".join(statement.split())
        if point in passed or point in new:
            return
        new.append(point)
        if len(new) == STRIDE:
            os.write(told, "\n".join(new).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(convert(dsn, until, after))


def main(dsn: str, until: Stage) -> int:
    passed: list[str] = []
    kills: list[str] = []
    while True:
        heard, told = os.pipe()
        if (child := os.fork()) == 0:
            one(dsn, until, passed, told)
            os._exit(0)
        os.close(told)
        with os.fdopen(heard) as file:
            new = file.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            sys.stdout.write("\n".join(kills))
            return code
        passed += new
        kills.append(new[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Stage(sys.argv[2])))
