"""What is wrong with the node as a whole, where no one volume is meant: shown until it is over.

Each is about one thing, as a driver's name, and carries the word that alerts key on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from msgspec import Struct

from agent.core.model import NodeReason


class NodeCondition(Struct, frozen=True):
    """One thing that is wrong, and what a person can do about it."""

    reason: NodeReason
    about: str
    message: str
    hint: str | None
    since: datetime


class NodeConditions:
    """Those of now, by reason and by what they are about. ``tell`` is called whenever they change."""

    def __init__(self, now: Callable[[], datetime], tell: Callable[[], None]) -> None:
        self._now = now
        self._tell = tell
        self._present: dict[tuple[NodeReason, str], NodeCondition] = {}

    def __iter__(self) -> Iterator[NodeCondition]:
        return iter(sorted(self._present.values(), key=lambda one: (one.reason, one.about)))

    def show(self, reason: NodeReason, about: str, message: str, hint: str | None = None) -> bool:
        """Show it from now on, since it began; tell whether it is news, or is said otherwise."""
        old = self._present.get((reason, about))
        since = self._now() if old is None else old.since
        new = NodeCondition(reason, about, message, hint, since)
        if new == old:
            return False
        self._present[reason, about] = new
        self._tell()
        return True

    def end(self, reason: NodeReason, about: str) -> bool:
        """Show it no more; tell whether it was there."""
        if self._present.pop((reason, about), None) is None:
            return False
        self._tell()
        return True
