"""Since when each volume is shown as it is, and how it was in the hour before. In memory, and bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from agent.core.model import Condition, Reason
from agent.report.board.volume_status import Past, VolumeStatus

KEPT = timedelta(hours=1)
MOST_PAST = 40
"""Of one volume: of one that changes more often than every 90 seconds the oldest are lost."""


class _Shown(NamedTuple):
    condition: Condition
    reason: Reason | None
    since: datetime
    past: tuple[Past, ...]


class Timelines:
    """What is shown of each volume, with the time at which it was first shown so."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._shown: dict[str, _Shown] = {}

    def date(self, status: VolumeStatus) -> VolumeStatus:
        """Return a status that is shown from now on, with since when it is so and how it was before."""
        key = make_key(status)
        old = self._shown.get(key)
        if old is None:
            since, past = status.since or self._now(), status.past
        elif (old.condition, old.reason) == (status.condition, status.reason):
            since, past = old.since, old.past
        else:
            since, past = self._now(), _end(old, self._now())
        self._shown[key] = _Shown(status.condition, status.reason, since, past)
        if (status.since, status.past) == (since, past):
            return status  # the same object, so that whoever compares is done at once
        return replace(status, since=since, past=past)

    def keep_only(self, statuses: Iterable[VolumeStatus]) -> None:
        """Forget all volumes but these."""
        keys = {make_key(status) for status in statuses}
        self._shown = {key: shown for key, shown in self._shown.items() if key in keys}


def make_key(status: VolumeStatus) -> str:
    """Return what tells a volume on the board from all others: its ID, or its entry's name behind a blank."""
    return status.volume_id or f" {status.name}"


def _end(old: _Shown, now: datetime) -> tuple[Past, ...]:
    """Return the past of a volume that is shown as another from now on: spans of an hour, no two alike."""
    past = (*old.past, Past(old.since, old.condition))
    merged = [
        past[0],
        *(after for before, after in pairwise(past) if after.condition is not before.condition),
    ]
    ends = [*(one.since for one in merged[1:]), now]
    return tuple(one for one, end in zip(merged, ends, strict=True) if end > now - KEPT)[-MOST_PAST:]
