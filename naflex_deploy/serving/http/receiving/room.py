"""Room that clients share, so that none of them can take it all."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """A quantity of which a client may hold as much as is still free.

    One client alone gets up to half of the total, the second up to a third, and so on: there is always some left for
    one who comes. This is the dynamic threshold of Choudhury and Hahne (1998) with a factor of one.

    Args:
        total: How much there is.

    Attributes:
        used: How much all clients hold together.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._held: dict[str, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def fits(self, client: str, amount: int) -> bool:
        """Whether a client may take so much more now."""
        return self._held.get(client, 0) + amount <= self.total - self.used

    def take(self, client: str, amount: int) -> bool:
        """Give a client so much more, or nothing where it does not fit."""
        held = self._held.get(client, 0) + amount
        if held > self.total - self.used:
            return False
        self._held[client] = held
        self.used += amount
        return True

    async def wait_for(self, client: str, amount: int) -> None:
        """Give a client so much more once it fits."""
        while not self.take(client, amount):
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    def give_back(self, client: str, amount: int) -> None:
        """Free what a client took."""
        self.used -= amount
        left = self._held.get(client, 0) - amount
        if left:
            self._held[client] = left
        else:
            self._held.pop(client, None)
        while self._waiting:
            if not (waiting := self._waiting.popleft()).done():
                waiting.set_result(None)
