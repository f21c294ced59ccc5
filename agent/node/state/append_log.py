"""A file of lines in the state directory that grows at its end. For workers: its disk may be slow.

What is kept so may be lost with the machine's power; records that decisions hang on are kept in
:mod:`agent.node.state.record_files`.
"""

from __future__ import annotations

import os
from pathlib import Path

from agent.node.state.record_files import write_synced


def append_lines(path: Path, lines: list[str]) -> None:
    """Add lines, in one write, to the end of the file, made with its directory where missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as file:
        file.write(_join(lines))


def replace_lines(path: Path, lines: list[str]) -> None:
    """Put a file with these lines in place of the one there is, in one step."""
    write_synced(path, _join(lines))


def _join(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
