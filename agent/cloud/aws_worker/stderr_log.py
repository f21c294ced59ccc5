"""What the worker process writes to its standard error, told in the log as the worker's words.

A traceback of a worker that crashed belongs in the journal. But the worker talks to the internet: what it
writes must neither look like a line of the daemon's, nor fill the journal, nor hold the daemon up. It is
cleaned, cut, told under an event of its own, and after so much the pipe is closed.
"""

from __future__ import annotations

import asyncio

from agent.base.companion import open_words
from agent.base.log import get_logger

LINES_LIMIT = 60
"""Of one worker's life: two tracebacks."""
BYTES_LIMIT = 64 << 10
LINE_LIMIT = 400
"""Characters of a line that are told."""

log = get_logger(__name__)


async def tell_words(pipe: int, pid: int) -> None:
    """Log what comes through the descriptor ``pipe`` until it ends or was too much, and close it."""
    async with open_words(pipe) as reader:
        await _tell_lines(reader, pid)


async def _tell_lines(reader: asyncio.StreamReader, pid: int) -> None:
    told = taken = 0
    rest = b""
    while chunk := await reader.read(4096):
        taken += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines[: LINES_LIMIT - told]:
            _tell(line, pid)
        told += len(lines)
        if told >= LINES_LIMIT or taken > BYTES_LIMIT:
            log.warning("cloud.worker_silenced", pid=pid, lines=LINES_LIMIT, bytes=BYTES_LIMIT)
            return
    if rest:
        _tell(rest, pid)


def _tell(line: bytes, pid: int) -> None:
    text = line[: 4 * LINE_LIMIT].decode("utf-8", "replace")
    cleaned = "".join(character if character.isprintable() else " " for character in text).rstrip()
    if cleaned:
        log.warning("cloud.worker_said", pid=pid, text=cleaned[:LINE_LIMIT])
