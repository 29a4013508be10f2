"""Keeps partition sets and kills itself, as nobody can catch, right before its n-th statement.

Arguments: the rules as JSON, the moment, and n.
"""

import asyncio
import os
import signal
import sys
from datetime import datetime
from typing import Any

from scaler.clients.postgres import Handle, Postgres
from scaler.maintenance.partition_rules import Database
from scaler.maintenance.partitions import DatabasePartitioner
from tests.integration.ledgers import Clock

left = int(sys.argv[3])
run = Handle._run


async def counted(self: Handle, *words: Any) -> Any:
    global left  # noqa: PLW0603 - one process, one count
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return await run(self, *words)


Handle._run = counted  # type: ignore[method-assign, assignment]
rules = Database.model_validate_json(sys.argv[1])
clock = Clock(datetime.fromisoformat(sys.argv[2]))
asyncio.run(DatabasePartitioner(rules, clock=clock, connect=Postgres).run())
