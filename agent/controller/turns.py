"""Whose turn it is: one deed at a time on each volume, in the order in which they were asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct, field


class _Queue(Struct):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Lets those who wait in by the order of their coming."""
    people: int = 0
    """Who waits, and who is in."""


class Turns:
    """The queues before everything that somebody does something to, or waits for."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[None]:
        """Enter once all who asked for ``name`` earlier are done, or have given up."""
        queue = self._queues.setdefault(name, _Queue())
        queue.people += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.people -= 1
            if not queue.people:
                del self._queues[name]

    def __len__(self) -> int:
        """Return of how many things somebody has a turn, or waits for one."""
        return len(self._queues)
