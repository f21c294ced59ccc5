"""What is remembered of one volume that is sampled."""

from __future__ import annotations

from collections import deque

import anyio
from msgspec import Struct, field

from agent.node.sampling.values import SampleRequest
from agent.report.board.readings import Health, Reading, Verdict

WINDOW_READINGS = 60
"""Per volume: a quarter of an hour at the usual interval."""


class Track(Struct):
    """One volume being sampled."""

    readings: deque[Reading] = field(default_factory=lambda: deque(maxlen=WINDOW_READINGS))
    verdicts: tuple[Verdict, ...] = ()
    health: Health = field(default_factory=Health)
    request: SampleRequest | None = None
    rests: bool = False
    """Sampled, found well and doing nothing; ``wake`` ends it."""
    is_changing: bool = False
    was_changed: bool = False  # mounted or moved since it was sampled
    wake: anyio.Event = field(default_factory=anyio.Event)
    sampled: anyio.Event = field(default_factory=anyio.Event)
    """Set when a sample has ended, however it did."""
    log_page_problem: str | None = None


def is_well(track: Track) -> bool:
    """Tell whether nothing is wrong with a volume and nothing is in flight, all of which is known."""
    newest = track.readings[-1] if track.readings else None
    if newest is None or newest.sample is None or newest.counters is None:
        return False
    return not newest.counters.in_flight and not track.verdicts
