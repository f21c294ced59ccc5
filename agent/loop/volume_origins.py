"""What is known of where each volume comes from, and which volumes that is still waited for.

Volume by volume, since they come one by one: what the cloud said of those at the start says nothing of one
attached later. A failure is no answer. The waiting has a limit, counted from when a volume was first seen or
the cloud began to be asked, whichever is later; what was once said to forbid something outlasts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from time import monotonic

import anyio
from msgspec import Struct

from agent.base.log import get_logger
from agent.core.model import Origin, OriginAnswer, VolumeId
from agent.core.replace import replace
from agent.core.units import utc_now

log = get_logger(__name__)


class _Moment(Struct, frozen=True):
    """One moment by the clock that counts, and by the one people read."""

    at_s: float
    time: datetime


class Origins:
    """What the cloud answered about volumes, kept for as long as the agent runs."""

    def __init__(self, clock: Callable[[], float] = monotonic, now: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._now = now
        self.known: Mapping[VolumeId, Origin] = {}
        """What the cloud says now, where it is asked and says something."""
        self._untold: frozenset[VolumeId] = frozenset()
        """Volumes of which it has said that it will not tell."""
        self._unread: frozenset[VolumeId] = frozenset()
        """Volumes about which its answer cannot be read."""
        self._forbidding: dict[VolumeId, Origin] = {}
        """What it ever said that forbids something."""
        self._seen: dict[VolumeId, _Moment] = {}
        """When each volume that is here was first seen since it came."""
        self._asked: _Moment | None = None
        """Since when the cloud is asked; None: it is not."""
        self._limit_s: float | None = None
        self._news = anyio.Event()

    def expect(self, *, is_asked: bool, limit_s: float | None) -> bool:
        """Say whether the cloud is asked, and for how long its answers are waited for; None: without end.

        Returns whether that is news.
        """
        is_news = (is_asked, limit_s) != (self._asked is not None, self._limit_s)
        if not is_asked:
            self._asked = None
        elif self._asked is None:
            self._asked = self._note_moment()
        self._limit_s = limit_s
        self._news.set()
        return is_news

    def see(self, present: Collection[VolumeId]) -> None:
        """Say which volumes are here; of one that was away the time is counted anew."""
        now = self._note_moment()
        self._seen = {volume: self._seen.get(volume, now) for volume in present}
        self._news.set()

    def put(
        self,
        origins: Mapping[VolumeId, Origin],
        untold: Iterable[VolumeId],
        unread: Iterable[VolumeId] = (),
    ) -> frozenset[VolumeId]:
        """Take over what the cloud says; returns the volumes of which it says something else than before.

        ``unread``: volumes about which its answer cannot be read, which is waited for however long it takes.
        """
        old, old_untold, old_unread = self.known, self._untold, self._unread
        self._unread = frozenset(unread)
        self.known = {volume: self._keep_made_from(volume, origin) for volume, origin in origins.items()}
        self._untold = frozenset(untold) - self.known.keys()
        for volume, origin in self.known.items():
            if origin.keeps_hands_off:
                self._forbidding[volume] = origin
            else:
                self._forbidding.pop(volume, None)
        self._news.set()
        changed = {volume for volume in {*old, *self.known} if old.get(volume) != self.known.get(volume)}
        return frozenset(changed | (old_untold ^ self._untold) | (old_unread ^ self._unread))

    def find(self, volume: VolumeId) -> OriginAnswer:
        """Return how far the question is where ``volume`` comes from."""
        if volume in self.known:
            return OriginAnswer(self.known[volume])
        remembered = self._forbidding.get(volume)
        begun = self._find_begin(volume)
        if begun is None:
            return OriginAnswer(remembered)
        if self._limit_s is None or volume in self._unread:
            return OriginAnswer(remembered, is_awaited=True, since=begun.time)
        if self._clock() >= begun.at_s + self._limit_s:
            return OriginAnswer(remembered)
        until = begun.time + timedelta(seconds=self._limit_s)
        return OriginAnswer(remembered, is_awaited=True, since=begun.time, until=until)

    async def run(self, wake: Callable[[VolumeId], None]) -> None:
        """Wake each volume that has waited for as long as it is to, until cancelled."""
        let_go: set[VolumeId] = set()
        while True:
            self._news = anyio.Event()
            now_s = self._clock()
            ends = {volume: end_s for volume in self._seen if (end_s := self._find_end_s(volume)) is not None}
            over = {volume for volume, end_s in ends.items() if end_s <= now_s}
            for volume in sorted(over - let_go):
                log.warning("volume.origin_unknown", volume_id=volume, waited_s=self._limit_s)
                wake(volume)
            let_go = over
            next_s = min((end_s for end_s in ends.values() if end_s > now_s), default=math.inf)
            with anyio.move_on_after(next_s - now_s):
                await self._news.wait()

    def _find_end_s(self, volume: VolumeId) -> float | None:
        """Return when the waiting for a volume's answer ends; None where nothing ends, or all is known."""
        begun = None if volume in self.known else self._find_begin(volume)
        is_endless = self._limit_s is None or volume in self._unread
        return None if begun is None or is_endless else begun.at_s + (self._limit_s or 0.0)

    def _find_begin(self, volume: VolumeId) -> _Moment | None:
        """Return since when an answer about a volume is missing; None where none is to come."""
        if self._asked is None or volume in self._untold:
            return None
        # One that nobody has told of yet is new.
        seen = self._seen.setdefault(volume, self._note_moment())
        return max(seen, self._asked, key=lambda moment: moment.at_s)

    def _keep_made_from(self, volume: VolumeId, origin: Origin) -> Origin:
        """Return an answer with what it leaves out and an earlier one said: what a volume was made from."""
        earlier = self._forbidding.get(volume)
        if earlier is None or origin.made_from is not None:
            return origin
        return replace(
            origin,
            snapshot_id=earlier.snapshot_id,
            source_volume_id=earlier.source_volume_id,
        )

    def _note_moment(self) -> _Moment:
        return _Moment(self._clock(), self._now())
