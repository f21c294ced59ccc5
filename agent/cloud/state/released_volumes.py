"""Keeps on the node's disk which volumes a person took away from the policy, until they are given back.

So a restart, an upgrade or a crash attaches and mounts nothing that somebody has taken away for a repair.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import anyio

from agent.base.log import get_logger
from agent.cloud.state.state_file import FileStore
from agent.core.errors import AgentError
from agent.core.model import VolumeId, parse_volume_id

EVERYTHING = VolumeId("*")
"""Among released volumes: nothing at all is to be brought here, nor made for this node."""
WRITE_LIMIT_S = 10.0
"""How long an order waits for the state directory's disk before it goes on without the note."""

log = get_logger(__name__)


class ReleasedNote:
    """The list of released volumes as a file below the state directory."""

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self._noted: frozenset[VolumeId] = frozenset()
        self._changed = anyio.Event()
        self._lock = anyio.Lock()

    def read(self) -> set[VolumeId]:
        """Return the volumes that were released when the agent last ran; none where that cannot be told."""
        try:
            content = self._store.read()
            found = json.loads(content) if content is not None else []
            self._noted = frozenset(
                EVERYTHING if volume == EVERYTHING else parse_volume_id(volume) for volume in found
            )
        except (AgentError, OSError, ValueError, TypeError, RecursionError) as error:
            log.warning("released.unreadable", error=str(error))
        return set(self._noted)

    async def write(self, released: Collection[VolumeId]) -> bool:
        """Have the list on disk, synced; False, and logged, where it is not.

        A full disk keeps nobody from detaching.
        """
        async with self._lock:
            wanted = frozenset(released)
            if wanted == self._noted:
                return True
            try:
                with anyio.fail_after(WRITE_LIMIT_S):
                    await self._store.write(json.dumps(sorted(wanted)).encode())
            except (AgentError, OSError, ValueError) as error:
                log.warning("released.unwritable", error=str(error))
                return False
            self._noted = wanted
            return True

    def note_change(self) -> None:
        """Have ``run`` write the list soon."""
        self._changed.set()

    async def run(self, released: Collection[VolumeId]) -> None:
        """Write the list after each change until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await self.write(released)
