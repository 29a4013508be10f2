"""Converts `transactions` and kills itself after so many statements: `DSN UNTIL COUNT`."""

import asyncio
import os
import signal
import sys

from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_steps import Ears

WISH = {"table": "transactions", "by": "created_at", "every": "1 month"}


async def main(dsn: str, until: str, most: int) -> None:
    done = 0

    def after(_: str) -> None:
        nonlocal done
        done += 1
        if done >= most:
            os.kill(os.getpid(), signal.SIGKILL)

    wish = PartitionSet.model_validate({**WISH, "migrate": {"batch_rows": 500}})
    database = Postgres(dsn)
    await Conversion(database, wish, ears=Ears(after=after)).run(Stage(until))
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
