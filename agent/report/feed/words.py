"""What a face's process writes to its standard error, told in the log as its words, and no faster than so.

Strangers speak with it, so that what it writes may be theirs. Whoever writes more than is told waits.
"""

from __future__ import annotations

import asyncio

from agent.base.companion import open_words
from agent.base.log import get_logger
from agent.core.quoting import fit

LINES_AT_ONCE = 60
REFILL_S = 10.0
"""After those, one line in this time."""
LINE_LIMIT = 400

log = get_logger(__name__)


class Words:
    """Tells the words of one process after the other, all of them no faster than one may speak.

    ``event``: what the log calls them.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._left = float(LINES_AT_ONCE)
        self._counted_at = 0.0

    async def tell(self, pipe: int, pid: int) -> None:
        """Log what comes through the descriptor ``pipe`` until it ends, and close it."""
        async with open_words(pipe) as reader:
            await self._tell_lines(reader, pid)

    async def _tell_lines(self, reader: asyncio.StreamReader, pid: int) -> None:
        rest = b""
        while chunk := await reader.read(4096):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > 4 * LINE_LIMIT:
                lines, rest = [*lines, rest], b""
            for line in lines:
                await self._tell_line(line, pid)
        await self._tell_line(rest, pid)

    async def _tell_line(self, line: bytes, pid: int) -> None:
        text = fit(line.decode("utf-8", "replace").strip(), LINE_LIMIT)
        if not text:
            return
        while not self._has_left():  # noqa: ASYNC110 -- it is time itself that is waited for
            await asyncio.sleep(REFILL_S)
        self._left -= 1
        log.warning(self._event, pid=pid, text=text)

    def _has_left(self) -> bool:
        now = asyncio.get_running_loop().time()
        more = (now - self._counted_at) / REFILL_S
        self._left, self._counted_at = min(float(LINES_AT_ONCE), self._left + more), now
        return self._left >= 1
