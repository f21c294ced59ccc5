"""Since when each volume is shown as it is, and how it was in the hour before. In memory, and bounded.

How it was before this agent began is recalled from what the one before wrote down: ``agent.report.past``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from agent.core.model import Condition, Reason
from agent.core.replace import replace
from agent.report.board.volume_status import Past, VolumeStatus

KEPT = timedelta(hours=1)
MOST_PAST = 40
"""Of one volume: of one that changes more often than every 90 seconds the oldest are lost."""


RECALLED_FOR = timedelta(minutes=10)
"""After it was read: of a volume that is shown later for the first time nobody knows how it was meanwhile."""

PastOfVolumes: TypeAlias = Mapping[str, tuple[Past, ...]]
"""Of each volume, by ``make_key``, the conditions it was in, the last being that in which it was left."""


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
        self._recalled: dict[str, tuple[Past, ...]] = {}
        self._recalled_until = now()

    def recall(self, past: PastOfVolumes) -> None:
        """Go on with how volumes were before, for those that are shown soon."""
        self._recalled = dict(past)
        self._recalled_until = self._now() + RECALLED_FOR

    def list_past(self) -> PastOfVolumes:
        """Return how each volume was and is, also of those that were recalled and not shown yet."""
        shown = {key: (*one.past, Past(one.since, one.condition)) for key, one in self._shown.items()}
        return {**shown, **self._list_recalled()}

    def _list_recalled(self) -> dict[str, tuple[Past, ...]]:
        if self._recalled and self._now() > self._recalled_until:
            self._recalled = {}
        return self._recalled

    def date(self, status: VolumeStatus) -> VolumeStatus:
        """Return a status that is shown from now on, with since when it is so and how it was before."""
        key = make_key(status)
        old = self._shown.get(key)
        if old is None:
            since = status.since or self._now()
            past = status.past or _trim(self._list_recalled().pop(key, ()), since)
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
    """Return the past of a volume that is shown as another from now on."""
    return _trim((*old.past, Past(old.since, old.condition)), now)


def _trim(past: tuple[Past, ...], now: datetime) -> tuple[Past, ...]:
    """Return the spans of the last hour, no two neighbours alike; the last of them ends now."""
    if not past:
        return ()
    merged = [
        past[0],
        *(after for before, after in pairwise(past) if after.condition is not before.condition),
    ]
    ends = [*(one.since for one in merged[1:]), now]
    return tuple(one for one, end in zip(merged, ends, strict=True) if end > now - KEPT)[-MOST_PAST:]
