"""Keeps what is remembered of claims in a file that outlasts the process, and a loss of power."""

from __future__ import annotations

from pathlib import Path

from agent.base.off_loop import Aside, do_here
from agent.node.state.record_files import write_synced

SUBJECT = "state directory"
"""Of all that is asked of its disk: while that hangs, nothing further is."""

_LIMIT_BYTES = 1 << 20


class FileStore:
    """A file below the state directory, written in one step."""

    def __init__(self, path: Path, aside: Aside = do_here) -> None:
        self._path = path
        self._aside = aside

    def exists(self) -> bool:
        """Tell whether anything was ever written."""
        return self._path.exists()

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
        """Put the file in place, synced, or raise OSError, or NotAnsweringError where its disk hangs."""
        await self._aside(write_synced, self._path, content, subject=SUBJECT)
