"""Keeps the latest events across restarts: one JSON object a line in the state directory, bounded in size.

Nothing is decided by it, so a line that makes no sense is left out, and a file that cannot be read is begun
anew. Reading and writing are done in a worker: the disk may be slow.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import anyio

from agent.base.file_reading import read_end
from agent.base.log import get_logger
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.core.model import parse_volume_id
from agent.core.units import parse_time
from agent.node.state.append_log import append_lines, replace_lines
from agent.report.api import show_event
from agent.report.board.events import MAX_EVENTS, Event, EventHistory, EventName

FILE_NAME = "events.jsonl"
BURST_S = 0.2
"""Events come in bursts, as volumes do: what comes within so long is written at once."""
MAX_FILE_BYTES = 4 << 20
"""Read no more than its last so many bytes, whoever wrote it."""

log = get_logger(__name__)

Save = Callable[..., Awaitable[None]]
"""Runs a function that writes to the state directory where it may block, and waits until it is done."""


async def load_history(path: Path, aside: Aside = do_here, capacity: int = MAX_EVENTS) -> EventHistory:
    """Return a history that goes on where the file at ``path`` ends; a new one where it cannot be read."""
    history = EventHistory(capacity)
    for event in await _read_events(path, aside):
        if event.number > history.next_number - 1:
            history.append(event)
    return history


async def _read_events(path: Path, aside: Aside) -> Iterable[Event]:
    try:
        content = await aside(read_end, str(path), MAX_FILE_BYTES, subject=str(path))
    except (AgentError, OSError) as error:
        log.warning("history.unreadable", path=str(path), error=str(error))
        return ()
    lines = (content or b"").splitlines()
    return [event for line in lines if (event := parse_event(line)) is not None]


def parse_event(line: bytes) -> Event | None:
    """Return the event that ``show_event`` gave this line, or None."""
    try:
        values: dict[str, Any] = json.loads(line)
        name, at, number = EventName(values.pop("event")), values.pop("at"), values.pop("number")
        volume_id = values.pop("volume_id", None)
        return Event(
            name,
            parse_time(at),
            None if volume_id is None else parse_volume_id(volume_id),
            values,
            _check_number(number),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, AgentError):
        return None


def _check_number(number: object) -> int:
    if not isinstance(number, int) or not 0 < number < 1 << 53:
        raise ValueError("an event's number counts up from 1")
    return number


class HistoryKeeper:
    """Writes a history's new events down as they come."""

    def __init__(self, history: EventHistory, path: Path, save: Save) -> None:
        self._history = history
        self._path = path
        self._save = save
        self._written = history.next_number - 1
        self._line_count = len(history.latest())
        self._is_failing = False

    async def run(self) -> None:
        """Write until cancelled."""
        async for _ in self._history.follow(self._written):
            await anyio.sleep(BURST_S)
            await self.flush()

    async def flush(self) -> None:
        """Write what is not written yet. A full or stalled disk costs the history, and nothing else."""
        events = self._history.after(self._written)
        if not events:
            return
        # Rarely, so that the file is about twice as long as it need be at most.
        is_due = self._line_count + len(events) > 2 * MAX_EVENTS
        kept = self._history.latest() if is_due else events
        lines = [json.dumps(show_event(event), default=str) for event in kept]
        try:
            await self._save(replace_lines if is_due else append_lines, self._path, lines)
        except (AgentError, OSError, ValueError) as error:
            if not self._is_failing:
                log.warning("history.unwritable", path=str(self._path), error=str(error))
            self._is_failing = True
            return
        self._is_failing = False
        self._written = events[-1].number
        self._line_count = len(kept) if is_due else self._line_count + len(kept)
