"""News about policies, from whoever hears them to whoever brings their ticks forward."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

WAITING_MOST: Final = 1000  # names that a reader has not read; more are dropped


class Notices:
    """Names of policies something has happened to, for any number of readers."""

    def __init__(self) -> None:
        self._readers: set[_Reader] = set()

    def notify(self, name: str) -> None:
        for reader in self._readers:
            reader.add(name)

    def changes(self) -> AsyncIterator[str]:
        """Names from now on, each once until it is read; never ends by itself."""
        reader = _Reader()
        self._readers.add(reader)
        return self._read(reader)

    async def _read(self, reader: "_Reader") -> AsyncIterator[str]:
        try:
            while True:
                yield await reader.next()
        finally:
            self._readers.discard(reader)


class _Reader:
    """What one reader has not read yet."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._news = asyncio.Event()

    def add(self, name: str) -> None:
        if len(self._names) < WAITING_MOST:  # a notice only brings a tick forward; one may be lost
            self._names[name] = None
            self._news.set()

    async def next(self) -> str:
        while not self._names:
            self._news.clear()
            await self._news.wait()
        return self._names.popitem()[0]
