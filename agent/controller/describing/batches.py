"""Gathers what many ask for at about the same time, and asks once for all of them.

Whoever asks gets what was described after that. An answer that is awaited by several is no one's to give up:
it is waited for by the others when one of them leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import anyio
from msgspec import Struct, field

from agent.core.errors import AgentError

K = TypeVar("K", bound=str)
V = TypeVar("V")

WINDOW_S = 0.3
"""How long the first waits for others to come."""
MOST_AT_ONCE = 200
"""Values that EC2 takes in one filter. Source: the EC2 API reference, "Filtering"."""


class _Batch(Struct, Generic[K, V], eq=False):
    """Some that are asked for together."""

    keys: dict[K, None] = field(default_factory=dict)
    answer: asyncio.Task[Mapping[K, V | AgentError]] | None = None


class Batches(Generic[K, V]):
    """Asks ``ask`` for many keys at once; what it returns has an answer, or an error, for each."""

    def __init__(
        self,
        ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V | AgentError]]],
        window_s: float = WINDOW_S,
    ) -> None:
        self._ask = ask
        self._window_s = window_s
        self._open: _Batch[K, V] | None = None

    async def find(self, key: K) -> V:
        """Return what is said of ``key``, or raise AgentError."""
        batch = self._open
        if batch is None or len(batch.keys) >= MOST_AT_ONCE:
            batch = self._open = _Batch()
        batch.keys[key] = None
        if batch.answer is None:
            batch.answer = asyncio.get_running_loop().create_task(self._answer(batch))
        said = (await asyncio.shield(batch.answer))[key]
        if isinstance(said, AgentError):
            raise said
        return said

    async def _answer(self, batch: _Batch[K, V]) -> Mapping[K, V | AgentError]:
        await anyio.sleep(self._window_s)
        if self._open is batch:
            self._open = None
        return await self._ask(tuple(batch.keys))


class OneAtATime(Generic[V]):
    """Asks ``ask`` for something long: never twice at once, and once for all who come meanwhile."""

    def __init__(self, ask: Callable[[], Awaitable[V]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._next: asyncio.Task[V] | None = None

    async def find(self) -> V:
        """Return what is said, asked for after this call."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._answer())
        return await asyncio.shield(self._next)

    async def _answer(self) -> V:
        async with self._asking:
            self._next = None
            return await self._ask()
