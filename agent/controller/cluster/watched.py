"""Keeps what the API server says of all objects of a kind: listed, and from then on told of each change.

Whatever ends a watch, the list is read anew after a pause: a version too old (410), a restarted API server, a
connection that fell silent, throttling.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from typing import Generic, Protocol, TypeVar

import anyio

from agent.base.log import get_logger
from agent.controller.cluster.api import ClusterError
from agent.controller.cluster.objects import CsiNode, Node, VolumeAttachment
from agent.controller.patience import Patience

T = TypeVar("T", Node, CsiNode, VolumeAttachment)

# The first one is for a watch that lasted: it mostly ends because the API server does.
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

log = get_logger(__name__)


class WatchApi(Protocol):
    """What tells of objects."""

    async def list_all(self, kind: type[T], /) -> tuple[str, list[T]]:
        """Return the list's version, and all objects of a kind."""

    def watch(self, kind: type[T], version: str, /) -> AsyncIterator[tuple[str, T]]:
        """Yield what happens after a version; ClusterError when that ends."""


class Bell:
    """Wakes one task that waits for changes; what rings while it works is not lost."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Return when it rang since it was last waited for, or after a time."""
        with anyio.move_on_after(timeout_s):
            await self._event.wait()
        self._event = anyio.Event()


class Watched(Generic[T]):
    """All objects of a kind by name, as they were last told of."""

    def __init__(
        self,
        api: WatchApi,
        kind: type[T],
        patience: Patience = Patience(),  # noqa: B008 -- it is frozen
        rng: random.Random | None = None,
    ) -> None:
        self._api = api
        self._kind: type[T] = kind
        self._patience = patience
        self._rng = rng or random.Random()  # noqa: S311 -- spreads load
        self._bells: list[Bell] = []
        self._known: dict[str, T] | None = None
        self.lists = 0
        """How often all were listed."""

    @property
    def known(self) -> Mapping[str, T]:
        """Objects by name; empty until they were listed."""
        return self._known or {}

    @property
    def is_listed(self) -> bool:
        return self._known is not None

    def add_bell(self, bell: Bell) -> None:
        """Have a bell ring at each change."""
        self._bells.append(bell)

    async def keep(self) -> None:
        """Keep what is known up to date; never returns."""
        failures = 0
        while True:
            begun_s = self._patience.clock()
            error = await self._follow_list()
            has_lasted = self._patience.clock() - begun_s > PAUSES_S[-1]
            failures = 0 if has_lasted else failures + 1
            log.info("care.watch_lost", kind=self._kind.__name__, error=error.message, hint=error.hint)
            pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)] * self._rng.uniform(0.5, 1.0)
            await self._patience.sleep(max(error.retry_after_s, pause_s))

    async def _follow_list(self) -> ClusterError:
        """List all and follow what happens; returns why that ended."""
        try:
            version, known = await self._list()
            await self._follow(version, known)
        except ClusterError as error:
            return error
        return ClusterError(f"The watch of {self._kind.__name__} ended.")

    async def _list(self) -> tuple[str, dict[str, T]]:
        version, objects = await self._api.list_all(self._kind)
        known = {found.metadata.name: found for found in objects}
        self._known = known
        self.lists += 1
        self._ring()
        return version, known

    async def _follow(self, version: str, known: dict[str, T]) -> None:
        async for change, found in self._api.watch(self._kind, version):
            if change == "DELETED":
                known.pop(found.metadata.name, None)
            else:
                known[found.metadata.name] = found
            self._ring()

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring()
