"""What readers of the board are told: which volume changed, the newest state of each and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from msgspec import Struct

from agent.core.model import VolumeId
from agent.report.board.volume_status import VolumeStatus

MAX_PENDING_CHANGES = 1024
"""Per subscriber: more volumes than a node can have attached at once."""


class Change(Struct, frozen=True):
    """A volume's newest status, or its removal from the board; no volume ID: what concerns the whole node."""

    volume_id: VolumeId | None
    status: VolumeStatus | None


class Subscription:
    """Changes one reader has not read yet, at most one per volume: the newest wins.

    An endless async iterator. Its ``__anext__`` may be cancelled and called again; nothing is lost.
    """

    def __init__(self) -> None:
        self._pending: dict[VolumeId | None, Change] = {}
        self._news = anyio.Event()

    def put(self, change: Change) -> None:
        self._pending.pop(change.volume_id, None)
        if len(self._pending) >= MAX_PENDING_CHANGES:
            self._pending.pop(next(iter(self._pending)))
        self._pending[change.volume_id] = change
        self._news.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            self._news = anyio.Event()
            await self._news.wait()
        return self._pending.pop(next(iter(self._pending)))


class Readers:
    """Those who read the changes of one board."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Give an endless iterator of changes from now on, coalesced per volume; bounded in memory."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def tell(self, change: Change) -> None:
        """Tell all of them."""
        for subscription in self._subscriptions:
            subscription.put(change)
