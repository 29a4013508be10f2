"""A small web service that does real work: what the demo and the tests scale.

`python -m scaler.demo.service --port 8000 --work-ms 20`. One thread, so requests queue when there
are too many; `/work` burns CPU, `/healthz` and `/readyz` are for probes, `/hang` stops answering
for good and `/crash` ends the process. It is the outside world to scaler and shares nothing.
"""

import argparse
import asyncio
import os
import signal
import sys
import time

STATUS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


def burn(seconds: float) -> None:
    """Use that much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(500))


class Service:
    """The state of one process."""

    def __init__(self, work: float, start: float) -> None:
        self.work = work
        self.ready_at = time.monotonic() + start  # noqa: TID251 - an application of its own
        self.ending = asyncio.Event()
        self.under_way = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while request := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                self.under_way += 1
                self.idle.clear()
                try:
                    status, text = self.answer(request.split(b" ")[1].decode())
                    writer.write(
                        f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Length: {len(text)}\r\n"
                        f"Content-Type: text/plain\r\n\r\n{text}".encode()
                    )
                    await writer.drain()
                finally:
                    self.under_way -= 1
                    if not self.under_way:
                        self.idle.set()
                if self.ending.is_set():
                    break
        except (ConnectionError, IndexError):
            pass  # the client went away, or speaks no HTTP
        finally:
            writer.close()

    def answer(self, path: str) -> tuple[int, str]:
        if path == "/work":
            burn(self.work)
            return 200, f"done by {os.getpid()}\n"
        if path == "/healthz":
            return 200, "ok\n"
        if path == "/readyz":
            up = time.monotonic() >= self.ready_at  # noqa: TID251
            return (200, "ready\n") if up else (503, "starting\n")
        if path == "/hang":
            time.sleep(3600)  # noqa: TID251 - a deadlock, as real as it gets
        if path == "/crash":
            os._exit(3)
        return 404, "not found\n"


async def run(host: str, port: int, work: float, start: float) -> None:
    service = Service(work, start)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.ending.set)
    server = await asyncio.start_server(service.serve, host, port, backlog=512, reuse_port=True)
    sys.stdout.write(f"listening on {port}\n")
    sys.stdout.flush()
    await service.ending.wait()
    server.close()
    await service.idle.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    parser.add_argument("--work-ms", type=float, default=20.0, help="CPU time of one /work")
    parser.add_argument("--start-s", type=float, default=0.0, help="time until it is ready")
    given = parser.parse_args()
    asyncio.run(run(given.host, given.port, given.work_ms / 1000, given.start_s))


if __name__ == "__main__":
    main()
