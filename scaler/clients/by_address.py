"""One client for each address, for as long as somebody uses it."""

from collections.abc import Callable
from typing import Generic, TypeVar

from scaler.interfaces import Closing

Client = TypeVar("Client", bound=Closing)


class ByAddress(Generic[Client]):
    """The clients of one kind in this process. There are never more than there are users."""

    def __init__(self, connect: Callable[[str], Client]) -> None:
        """`connect` makes the client for an address; whatever it raises, `used` raises."""
        self._connect = connect
        self._open: dict[str, tuple[Client, set[object]]] = {}

    async def used(self, address: str, user: object) -> Client:
        """The client for `address`; another that `user` had used before is left."""
        await self.leave(user, but=address)
        if address not in self._open:
            self._open[address] = (self._connect(address), set())
        client, users = self._open[address]
        users.add(user)
        return client

    async def leave(self, user: object, *, but: str = "") -> None:
        """Close what nobody else uses."""
        for address, (client, users) in tuple(self._open.items()):
            if address == but or user not in users:
                continue
            users.discard(user)
            if not users:
                del self._open[address]
                await client.aclose()

    async def aclose(self) -> None:
        for client, _ in self._open.values():
            await client.aclose()
        self._open.clear()
