"""A process that leads until it is killed; given are the kind of lease, where, and a token."""

import asyncio
import sys
from datetime import timedelta
from random import Random

from scaler.engine.leader import Leadership
from scaler.interfaces import Lease
from tests.integration.lease_places import CLOCK, connected, on_kubernetes, on_redis


async def main() -> None:
    kind, url, token = sys.argv[1:]
    lease: Lease = on_kubernetes(connected(url, token)) if kind == "kubernetes" else on_redis(url)
    leadership = Leadership(
        lease,
        holder="another process",
        ttl=timedelta(seconds=3),
        clock=CLOCK,
        random=Random(),
        gained=lambda: print("leads", flush=True),
        lost=lambda why: print(why, flush=True),
    )
    await leadership.start()


asyncio.run(main())
