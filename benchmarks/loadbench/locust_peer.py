"""Locust's FastHttpUser as a peer: users who ask again at once, or each at its rate.

CPU counts once all have started.
"""

import json
import resource
import sys
from typing import Any


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(url: str, users: int, seconds: float, rate: float) -> dict[str, float]:
    locust: Any = __import__("locust")
    gevent: Any = __import__("gevent")
    environment: Any = __import__("locust.env", fromlist=["Environment"])

    def ask(user: Any) -> None:
        user.client.get(url)

    fields: dict[str, Any] = {"host": url, "tasks": [ask]}
    if rate:
        fields["wait_time"] = locust.constant_throughput(rate / users)
    kind = type("Asking", (locust.FastHttpUser,), fields)
    made = environment.Environment(user_classes=[kind])
    runner = made.create_local_runner()
    runner.start(users, spawn_rate=users)
    gevent.sleep(1)
    count, before = runner.stats.total.num_requests, cpu()
    gevent.sleep(seconds)
    asked, used = runner.stats.total.num_requests - count, cpu() - before
    runner.quit()
    total = runner.stats.total
    return {
        "per_cpu_s": asked / used,
        "rate": asked / seconds,
        "p50": total.get_response_time_percentile(0.5) / 1000,
        "p90": total.get_response_time_percentile(0.9) / 1000,
        "p99": total.get_response_time_percentile(0.99) / 1000,
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    print(json.dumps(run(order["url"], order["users"], order["seconds"], order["rate"])))
