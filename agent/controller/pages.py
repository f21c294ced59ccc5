"""Hands out a long list in pages, each from one and the same list, however it changes meanwhile."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

from agent.controller.calls import Page
from agent.core.errors import OvertakenError
from agent.core.quoting import quote

T = TypeVar("T")

_PLACE = re.compile(r"[0-9]{1,9}", re.ASCII)

LISTS = 8
"""How many lists may be read at once, page by page; the one begun first is given up for another."""


class Pages(Generic[T]):
    """The lists that somebody is in the middle of reading."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, Sequence[T]] = OrderedDict()

    def begin(self, entries: Sequence[T], most: int | None) -> Page[T]:
        """Return the first page of ``entries``, of ``most`` at the most; None: all of them."""
        if most is None or len(entries) <= most:
            return Page(tuple(entries))
        name = secrets.token_hex(8)
        self._lists[name] = entries
        while len(self._lists) > LISTS:
            self._lists.popitem(last=False)
        return self._cut(name, entries, 0, most)

    def turn(self, token: str, most: int | None) -> Page[T]:
        """Return the page that ``token`` stands for.

        Raises OvertakenError where the list is not known any more: it is to be begun anew.
        """
        name, _, place = token.partition(".")
        entries = self._lists.get(name)
        start = int(place) if _PLACE.fullmatch(place) else None
        if entries is None or start is None or start > len(entries):
            raise OvertakenError(
                f"The list that {quote(token)} goes on is not known any more.", hint="Begin it anew."
            )
        return self._cut(name, entries, start, len(entries) if most is None else most)

    @staticmethod
    def _cut(name: str, entries: Sequence[T], start: int, most: int) -> Page[T]:
        end = start + most
        return Page(tuple(entries[start:end]), f"{name}.{end}" if end < len(entries) else None)
