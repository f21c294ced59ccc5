"""Hands out a long list in pages, each from one and the same list, however it changes meanwhile.

A list is kept until its last page is handed out. One that nobody reads to its end is given up: after some
time, and sooner where others need its room.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from agent.controller.calls import Page
from agent.core.errors import OvertakenError
from agent.core.quoting import quote

T = TypeVar("T")

_PLACE = re.compile(r"[0-9]{1,9}", re.ASCII)

ENTRIES = 20_000
"""How many entries are kept of all lists together, some 3 kB each; the last list is kept whole always."""
IDLE_S = 300.0
"""How long the next page may be waited for. A sidecar asks for it at once, or never."""


class _List(Struct, Generic[T]):
    """One list that somebody is in the middle of reading."""

    entries: Sequence[T]
    read_at_s: float


class Pages(Generic[T]):
    """The lists that somebody is in the middle of reading."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lists: OrderedDict[str, _List[T]] = OrderedDict()
        """The one that was read last comes last."""

    def begin(self, entries: Sequence[T], most: int | None) -> Page[T]:
        """Return the first page of ``entries``, of ``most`` at the most; None: all of them."""
        if most is None or len(entries) <= most:
            self._give_up_idle()
            return Page(tuple(entries))
        name = secrets.token_hex(8)
        self._lists[name] = _List(entries, self._clock())
        self._give_up_idle()
        while len(self._lists) > 1 and self._count_entries() > ENTRIES:
            self._lists.popitem(last=False)
        return self._cut(name, entries, 0, most)

    def turn(self, token: str, most: int | None) -> Page[T]:
        """Return the page that ``token`` stands for.

        Raises OvertakenError where the list is not known any more: it is to be begun anew.
        """
        self._give_up_idle()
        name, _, place = token.partition(".")
        found = self._lists.get(name)
        start = int(place) if _PLACE.fullmatch(place) else None
        if found is None or start is None or start > len(found.entries):
            raise OvertakenError(
                f"The list that {quote(token)} goes on is not known any more.", hint="Begin it anew."
            )
        found.read_at_s = self._clock()
        self._lists.move_to_end(name)
        page = self._cut(name, found.entries, start, len(found.entries) if most is None else most)
        if page.next_token is None:
            del self._lists[name]
        return page

    def _count_entries(self) -> int:
        return sum(len(one.entries) for one in self._lists.values())

    def _give_up_idle(self) -> None:
        now_s = self._clock()
        while self._lists and now_s - next(iter(self._lists.values())).read_at_s > IDLE_S:
            self._lists.popitem(last=False)

    @staticmethod
    def _cut(name: str, entries: Sequence[T], start: int, most: int) -> Page[T]:
        end = start + most
        return Page(tuple(entries[start:end]), f"{name}.{end}" if end < len(entries) else None)
