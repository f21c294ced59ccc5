"""What was probably meant by a word that nothing is called: one way of saying so, whatever has names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

MANY = 16
"""More words than these are not listed."""
_LONGEST = 60
_LIKE, _LIKE_AS_ID = 0.6, 0.85
"""How alike words are that may be meant; IDs of one kind are all alike by half."""
_ID = re.compile(r"[a-z]+-[0-9a-f]{8,}", re.ASCII)


def find_meant(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like ``word``, whatever the case; None where none is like it."""
    by_small = {one.lower(): one for one in known}
    small = word[:_LONGEST].strip().lower()
    likeness = _LIKE_AS_ID if _ID.fullmatch(small) else _LIKE
    close = get_close_matches(small, by_small, n=1, cutoff=likeness)
    return by_small[close[0]] if close else None


def suggest_word(word: str, known: list[str]) -> str | None:
    """Return the known word that is most like what was written, or all where there are few."""
    meant = find_meant(word, known)
    return list_known(known) if meant is None else f"Did you mean {meant}?"


def list_known(known: list[str]) -> str | None:
    """Return which words there are, where they are few."""
    if len(known) == 1:
        return f"Write {known[0]}."
    return f"Known are {', '.join(known)}." if 0 < len(known) <= MANY else None


def hint_at_known(word: str, known: Iterable[str], listed: str, *, also: Iterable[str] = ()) -> str:
    """Return which of the names was meant, and which there are, as in ``Did you mean a? LISTED a, b.``.

    ``also``: other words for the same, which may be meant and are not listed.
    """
    names = list(dict.fromkeys(known))
    meant = find_meant(word, [*names, *also])
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    told = f"{listed} {', '.join(names[:MANY]) or 'none'}{more}."
    return told if meant is None else f"Did you mean {meant}? {told}"
