"""Has those who ask wait for each other, so that answers take a share of the loop's time."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

SHARE = 0.25
"""Of the loop's time that answers to strangers may take, however many ask: volumes have the rest."""


class Turns:
    """Has requests answered one after the other, and after each waits, so that all take a share of the time.

    ``async with turns:`` around each answer. Whoever asks alone is not kept waiting.
    """

    def __init__(self, share: float = SHARE) -> None:
        self._pause_per_s = 1 / share - 1
        self._lock = asyncio.Lock()
        self._free_at_s = 0.0
        self._began_s = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            await asyncio.sleep(max(0.0, self._free_at_s - asyncio.get_running_loop().time()))
        except BaseException:
            self._lock.release()
            raise
        self._began_s = time.thread_time()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s = time.thread_time() - self._began_s
        self._free_at_s = asyncio.get_running_loop().time() + took_s * self._pause_per_s
        self._lock.release()
