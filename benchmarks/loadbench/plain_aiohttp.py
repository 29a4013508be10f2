"""aiohttp as a peer: users in a closed loop, or the same open schedule with a task per request."""

import asyncio
import contextlib
import json
import resource
import sys
import time

import aiohttp

with contextlib.suppress(ImportError):
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Peer:
    """One run."""

    def __init__(self, url: str, seconds: float) -> None:
        self.url = url
        self.seconds = seconds
        self.latencies: list[float] = []

    async def ask(self, session: aiohttp.ClientSession, due: float) -> None:
        async with session.get(self.url) as response:
            await response.read()
        self.latencies.append(time.monotonic() - due)

    async def closed(self, session: aiohttp.ClientSession, users: int) -> None:
        end = time.monotonic() + self.seconds

        async def user() -> None:
            while time.monotonic() < end:
                await self.ask(session, time.monotonic())

        await asyncio.gather(*(user() for _ in range(users)))

    async def open(self, session: aiohttp.ClientSession, rate: float) -> None:
        begin = time.monotonic()
        tasks = set()
        for number in range(int(rate * self.seconds)):
            due = begin + number / rate
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.ask(session, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def run(self, users: int, rate: float) -> dict[str, float]:
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(connector=connector) as session:
            before, begin = cpu(), time.monotonic()
            await (self.closed(session, users) if users else self.open(session, rate))
            used, took = cpu() - before, time.monotonic() - begin
        ordered = sorted(self.latencies)
        found = {f"p{n}": ordered[len(ordered) * n // 100] for n in (50, 90, 99)}
        count = len(ordered)
        return {**found, "per_cpu_s": count / used, "rate": count / took, "cpu": used / took}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    peer = Peer(order["url"], order["seconds"])
    print(json.dumps(asyncio.run(peer.run(order.get("users", 0), order.get("rate", 0)))))
