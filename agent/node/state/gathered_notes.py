"""The notes about volumes, read anew for whoever asks: by one call to a worker for all who ask together.

After twenty volumes were attached, twenty passes ask at each of their looks. Each is answered by a call that
began after it had asked, so that what another process wrote or took away until then is seen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import anyio
from msgspec import Struct, field

from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.node.state.volume_records import Notes

Found: TypeAlias = Mapping[VolumeId, Notes | AgentError]
"""As ``read_notes_of`` returns it."""


class _Batch(Struct, eq=False):
    """Who asks by the next call, and what came of that."""

    volumes: set[VolumeId] = field(default_factory=set)
    found: Found | AgentError | OSError | None = None


class GatheredNotes:
    """The notes of one state directory.

    ``read`` returns those of some volumes. It raises AgentError or OSError where none could be read.
    """

    def __init__(self, read: Callable[[tuple[VolumeId, ...]], Awaitable[Found]]) -> None:
        self._read = read
        self._next = _Batch()
        self._turn = anyio.Lock(fast_acquire=True)

    async def read(self, volume: VolumeId) -> Notes:
        """Return what a look needs of the notes about a volume. Raises as ``read_notes`` and ``read`` do."""
        batch = self._next
        batch.volumes.add(volume)
        async with self._turn:
            # Else it was read for whoever asked first. Where that was cancelled, the next one reads it.
            found = batch.found
            if found is None:
                found = batch.found = await self._ask(batch)
        if isinstance(found, Exception):
            raise found
        notes = found[volume]
        if isinstance(notes, AgentError):
            raise notes
        return notes

    async def _ask(self, batch: _Batch) -> Found | AgentError | OSError:
        if batch is self._next:
            self._next = _Batch()
        try:
            return await self._read(tuple(batch.volumes))
        except (AgentError, OSError) as error:
            return error
