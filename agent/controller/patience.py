"""Waits for what AWS does in its own time: it is looked at soon, and then ever more rarely."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
from msgspec import Struct

FIRST_PAUSE_S = 1.0
"""An attachment seldom takes less."""
LONGEST_PAUSE_S = 8.0
_GROWTH = 1.5


class Patience(Struct, frozen=True):
    """How time passes: the machine's, or a test's."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep

    def begin(self) -> Waiting:
        """Return a waiting that begins now."""
        return Waiting(self)


class Waiting:
    """One thing that is waited for."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._begun_s = patience.clock()
        self._pause_s = FIRST_PAUSE_S

    @property
    def waited_s(self) -> float:
        """How long it has been waited for."""
        return self._patience.clock() - self._begun_s

    async def pause(self) -> None:
        """Return when it is to be looked at again."""
        await self._patience.sleep(self._pause_s)
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * _GROWTH)
