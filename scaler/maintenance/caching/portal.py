"""Functions without `await` and their cache: an event loop in a thread that serves the others.

Such a function runs in the thread that called it, also when it answers for others; only early
refreshes run in threads of their own.
"""

import asyncio
from collections.abc import Callable, Coroutine
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")
Work = tuple[asyncio.Future[Any], Callable[[], Any]]


class Portal:
    """Started when it is first used."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = Thread(target=self._loop.run_forever, name="cache", daemon=True)
                self._thread.start()
            return self._loop

    @property
    def started(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if anybody has used it."""
        return self._loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine answers; it runs in the portal's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def answer(
        self,
        fetch: Callable[[Callable[[], Any]], Coroutine[Any, Any, T]],
        function: Callable[[], Any],
    ) -> T:
        """What `fetch` answers. If it has to call `function`, that is done in this thread."""
        orders: SimpleQueue[Work | None] = SimpleQueue()
        loop = self.loop

        async def handed() -> Any:
            future = asyncio.get_running_loop().create_future()
            orders.put((future, function))
            return await future

        fetched = asyncio.run_coroutine_threadsafe(fetch(handed), loop)
        fetched.add_done_callback(lambda _: orders.put(None))
        while (order := orders.get()) is not None:
            _carried_out(loop, *order)
        return fetched.result()

    def close(self) -> None:
        """Nothing may be under way any more."""
        with self._lock:
            if self._loop is not None and self._thread is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
                self._loop = None


def _carried_out(
    loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", function: Callable[[], Any]
) -> None:
    """Run it here and hand over what became of it."""
    try:
        value = function()
    except BaseException as error:
        loop.call_soon_threadsafe(_settle, future, None, error)
        if not isinstance(error, Exception):
            raise
    else:
        loop.call_soon_threadsafe(_settle, future, value, None)


def _settle(future: "asyncio.Future[Any]", value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
