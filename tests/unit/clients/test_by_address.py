"""A client is shared by all who use its address, and closed when the last leaves."""

from scaler.clients.by_address import ByAddress


class Line:
    def __init__(self, address: str) -> None:
        self.address = address
        self.open = True

    async def aclose(self) -> None:
        self.open = False


async def test_one_for_each_address_until_nobody_uses_it() -> None:
    lines = ByAddress(Line)
    one = await lines.used("a", "x")
    assert await lines.used("a", "y") is one
    other = await lines.used("b", "x")  # x has moved
    assert (one.open, other.address) == (True, "b")
    await lines.leave("y")
    assert (one.open, other.open) == (False, True)
    assert await lines.used("a", "y") is not one
    await lines.leave("nobody")
    assert other.open
    await lines.aclose()
    assert not other.open
