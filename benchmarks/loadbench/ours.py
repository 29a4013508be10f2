"""Our own tester in a process of its own: one order as JSON, figures as JSON."""

import json
import sys
from urllib.parse import urlsplit

from scaler.clock import SystemClock
from scaler.loadtest.loops import run
from scaler.loadtest.plan import of_fields
from scaler.loadtest.report import Report
from scaler.loadtest.tester import LoadTester


async def tested(url: str, load: dict[str, object], connections: int) -> Report:
    parts = urlsplit(url)
    plan = of_fields(
        {
            "target": f"{parts.scheme}://{parts.netloc}",
            "load": load,
            "scenario": [{"path": parts.path}],
            "bounds": {"connections": connections},
        }
    )
    return await LoadTester(plan, clock=SystemClock()).run()


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    report = run(tested(order["url"], order["load"], order.get("connections", 64)))
    lag = report.record.lag.percentiles([0.5, 0.99])
    found = {
        **report.figures(),
        "per_cpu_s": report.figures()["rate"] / max(report.cpu[0], 1e-6),
        "cpu": report.cpu[0],
        "lag_p50": lag[0],
        "lag_p99": lag[1],
        "due": report.record.due,
        "sent": report.record.sent,
        "doubts": report.doubts(),
    }
    print(json.dumps(found))
