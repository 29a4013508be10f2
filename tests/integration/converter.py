"""Converts `transactions` and kills itself at the second point that is new: `DSN UNTIL FILE`.

The file holds the points that were passed, by this process and by those before it, a line each.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from scaler.clients.postgres import Postgres
from scaler.maintenance.partition_convert import Conversion
from scaler.maintenance.partition_notes import Stage
from scaler.maintenance.partition_rules import PartitionSet
from scaler.maintenance.partition_steps import Ears

WISH = {"table": "transactions", "by": "created_at", "every": "1 month"}
STRIDE = 2


async def main(dsn: str, until: str, file: Path) -> None:
    passed = file.read_text().splitlines()
    left = STRIDE

    def after(statement: str) -> None:
        nonlocal left
        point = " ".join(statement.split())
        if point in passed:
            return
        passed.append(point)
        left -= 1
        if not left:
            file.write_text("\n".join(passed))
            os.kill(os.getpid(), signal.SIGKILL)

    wish = PartitionSet.model_validate({**WISH, "migrate": {"batch_rows": 500}})
    database = Postgres(dsn)
    await Conversion(database, wish, ears=Ears(after=after)).run(Stage(until))
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
