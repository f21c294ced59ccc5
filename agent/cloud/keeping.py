"""Keeps what is remembered of claims in a file that outlasts the process, and a loss of power."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from agent.node.notes import write_synced

_LIMIT_BYTES = 1 << 20


class FileStore:
    """A file below the state directory, written in one step."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes | None:
        """Return what was written last; raise OSError or ValueError where that cannot be told."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(content) > _LIMIT_BYTES:
            raise ValueError(f"{self._path} is larger than anything the agent writes there")
        return content

    async def write(self, content: bytes) -> None:
        """Put the file in place, synced; a disk that hangs hangs a thread and nothing else."""
        await anyio.to_thread.run_sync(write_synced, self._path, content, abandon_on_cancel=True)
