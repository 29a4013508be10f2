"""A process with many callers of one cached function: `cache_caller.py URL CALLERS SECONDS KIND`.

The backend counts its calls in Redis and takes `SECONDS`; it answers or, with KIND `failing`,
fails. Prints how many callers had an answer, and how many an error.
"""

import asyncio
import sys
from datetime import timedelta

from redis.asyncio import Redis

from scaler.maintenance.cache import CacheManager


async def main(url: str, callers: int, seconds: float, kind: str) -> None:
    counting = Redis.from_url(url)
    cache = CacheManager(url, namespace="many", budget=timedelta(seconds=5))

    @cache.cached(ttl="1m", errors="10s", name="slow", version="1")
    async def slow(key: str) -> str:
        await counting.incr("backend calls")
        await asyncio.sleep(seconds)
        if kind == "failing":
            raise OSError("the backend is down")
        return key * 2

    await cache.start()
    await counting.incr("ready")
    while await counting.get("go") is None:
        await asyncio.sleep(0.005)
    answers = await asyncio.gather(*[slow("a") for _ in range(callers)], return_exceptions=True)
    failed = sum(isinstance(answer, Exception) for answer in answers)
    print(answers.count("aa"), failed, flush=True)
    await cache.aclose()
    await counting.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
