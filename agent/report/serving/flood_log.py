"""Counts what strangers cause at a face, and says so in the log now and then: never a line for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from agent.base.log import get_logger

SAY_EVERY_S = 60.0
"""At most one line of a kind in this time, with how many there were."""

log = get_logger(__name__)


class Outcome(str, Enum):
    """What became of a connection, or of a request on it; the label ``outcome`` of the metric."""

    ACCEPTED = "accepted"
    EVICTED = "evicted"
    """Closed to let somebody else in: it was the one that had been silent longest."""
    REFUSED = "refused"
    """Closed at once: its user has as many as one user may have."""
    LATE = "late"
    """Closed since it took too long to ask, or to take its answer."""
    MALFORMED = "malformed"
    """What it sent was no HTTP, no TLS, or more than is taken."""
    MISDIRECTED = "misdirected"
    """It asked for a host that this agent is not."""
    FAILED = "failed"
    """Answering failed: a mistake of the agent's."""
    STARVED = "starved"
    """It could not be accepted: no descriptor or memory was left."""


Count = Callable[[str, str], None]


class Tally:
    """What happened at one face. ``count`` is told each time: the face and the outcome."""

    def __init__(
        self,
        face: str,
        count: Count | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.face = face
        self._count = count
        self._clock = clock
        self._said_at: dict[Outcome, float] = {}
        self._unsaid: dict[Outcome, int] = {}

    def note(self, outcome: Outcome, error: BaseException | None = None, **about: Any) -> None:
        """Count it. All but what is usual is said, ``error`` with its traceback where it is ours."""
        if self._count is not None:
            self._count(self.face, outcome.value)
        if outcome is Outcome.ACCEPTED:
            return
        unsaid = self._unsaid[outcome] = self._unsaid.get(outcome, 0) + 1
        now = self._clock()
        said_at = self._said_at.get(outcome)
        if said_at is not None and now < said_at + SAY_EVERY_S:
            return
        self._said_at[outcome], self._unsaid[outcome] = now, 0
        if outcome is Outcome.FAILED:
            log.error("face.failed", face=self.face, count=unsaid, exc_info=error, **about)
        else:
            why = {} if error is None else {"error": str(error)[:200]}
            log.warning(
                "connection.closed", face=self.face, outcome=outcome.value, count=unsaid, **why, **about
            )
