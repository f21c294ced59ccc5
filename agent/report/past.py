"""Keeps how volumes were in the last hour across restarts of the agent, in a file, for the page's strips.

Nothing is decided by it. What cannot be read, or makes no sense, is as if it were not there.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

from agent.base.file_reading import read_file
from agent.base.log import get_logger
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.core.model import Condition
from agent.core.units import utc_now
from agent.node.state.append_log import replace_lines
from agent.report.board.board import Board
from agent.report.board.timelines import MOST_PAST, PastOfVolumes
from agent.report.board.volume_status import Past

FILE_NAME = "past.json"
MAX_FILE_BYTES = 1 << 20
MOST_VOLUMES = 256
LONGEST_GAP = timedelta(minutes=10)
"""What was written longer ago is not gone on with: how volumes were meanwhile nobody knows."""
PAUSE_S = 60.0
"""After a change, and so between two writes."""
LONGEST_PAUSE_S = 300.0
"""Between two writes where nothing changes: that the agent was there is all they tell."""
READ_LIMIT_S = 2.0

log = get_logger(__name__)

Save = Callable[..., Awaitable[None]]
"""Runs a function that writes to the state directory where it may block, and waits until it is done."""


async def load_past(
    path: Path, aside: Aside = do_here, now: Callable[[], datetime] = utc_now
) -> PastOfVolumes:
    """Return how volumes were before this agent began; nothing where that is not known, or told late."""
    with anyio.move_on_after(READ_LIMIT_S):
        try:
            found = await aside(read_file, str(path), MAX_FILE_BYTES + 1, subject=str(path))
        except FileNotFoundError:
            return {}
        except (AgentError, OSError) as error:
            log.warning("past.unreadable", path=str(path), error=str(error))
            return {}
        return parse_past(found.content, now())
    return {}


def parse_past(content: bytes, now: datetime) -> PastOfVolumes:
    """Return what ``write_past`` wrote; nothing where it did not write this, or too long ago."""
    if len(content) > MAX_FILE_BYTES:
        return {}
    try:
        values: dict[str, Any] = json.loads(content)
        at = _parse_time(values["at"])
        if not now - LONGEST_GAP <= at <= now:
            return {}
        volumes = islice(values["volumes"].items(), MOST_VOLUMES)
        return {key: _parse_spans(spans, at) for key, spans in volumes}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return {}


def _parse_spans(spans: Any, end: datetime) -> tuple[Past, ...]:
    found = tuple(Past(_parse_time(since), Condition(condition)) for since, condition in spans[-MOST_PAST:])
    times = [*(one.since for one in found), end]
    if times != sorted(times):
        raise ValueError("conditions follow each other")
    return found


def _parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time is of a zone")
    return at


def write_past(past: Mapping[str, tuple[Past, ...]], now: datetime) -> str:
    """Return one line of JSON: how each volume was, of so many as are kept."""
    volumes = {
        key: [(one.since.isoformat(), one.condition.value) for one in spans[-MOST_PAST:]]
        for key, spans in islice(past.items(), MOST_VOLUMES)
    }
    return json.dumps({"at": now.isoformat(), "volumes": volumes})


class PastKeeper:
    """Writes down how volumes were: seldom, and where anything has changed."""

    def __init__(
        self,
        board: Board,
        path: Path,
        save: Save,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._board = board
        self._path = path
        self._save = save
        self._now = now
        self._clock = clock
        self._written: PastOfVolumes | None = None
        self._written_at_s = clock()
        self._is_failing = False

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            with anyio.move_on_after(LONGEST_PAUSE_S), self._board.subscribe() as changes:
                await anext(changes)
            await anyio.sleep(PAUSE_S)
            if (
                self._board.list_past() != self._written
                or self._clock() - self._written_at_s > LONGEST_PAUSE_S
            ):
                await self.flush()

    async def flush(self) -> None:
        """Write it now. A full or stalled disk costs the strips their past, and nothing else."""
        past = self._board.list_past()
        self._written_at_s = self._clock()
        try:
            await self._save(replace_lines, self._path, [write_past(past, self._now())])
        except (AgentError, OSError, ValueError) as error:
            if not self._is_failing:
                log.warning("past.unwritable", path=str(self._path), error=str(error))
            self._is_failing = True
            return
        self._is_failing = False
        self._written = past
