"""Reads one object of AWS's answer, member by member: the right type, no longer than it can be, or an error.

What comes back from the worker was written by a process that talks to the internet. Nothing of it is kept,
compared or shown that was not read here: no object where text belongs, no endless number, no book.

An entry of a list that is not what it has to be stands for itself, and the others are read: what cannot be
read is neither gone nor nothing. It is in the type of what a call answers, so that whoever asks has to say
what comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import Reason

T = TypeVar("T")

TEXT_LIMIT = 1024
"""Characters: a tag's value has 256 at most, an ARN some 200."""
ITEMS_LIMIT = 50_000
"""Volumes, snapshots or nodes of one answer; an account's quotas are 5,000 to 100,000 in a region."""
_NUMBER_LIMIT = 1 << 53
_SHOWN = 60
_ID = re.compile(r"[a-z]{1,8}-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)


class Members:
    """The members of ``value``, which is ``what``, as in "an attachment of vol-0123456789abcdef0"."""

    def __init__(self, value: Any, what: str) -> None:
        if not isinstance(value, Mapping):
            raise _misread(f"{what} is {shorten(value)}, which is no object")
        self._members = value
        self.what = what

    def text(self, name: str) -> str:
        """Return a member that has to be there and to say something."""
        found = self.find_text(name)
        if found is None:
            raise self._complain(name, "text")
        return found

    def find_text(self, name: str) -> str | None:
        """Return a member that is a word or a line, None where it is missing, null or empty."""
        value = self.find_free_text(name)
        if value is not None and not value.isprintable():
            raise self._complain(name, "printable")
        return value

    def find_free_text(self, name: str, limit: int = TEXT_LIMIT) -> str | None:
        """Return a member that people choose and that may hold any character, as a tag's value may."""
        value = self._members.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str) or not is_text(value, limit):
            raise self._complain(name, f"text of {limit} characters at most")
        return value

    def number(self, name: str) -> int:
        """Return a whole number that has to be there."""
        found = self.find_number(name)
        if found is None:
            raise self._complain(name, "a whole number")
        return found

    def find_number(self, name: str) -> int | None:
        value = self._members.get(name)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < _NUMBER_LIMIT:
            raise self._complain(name, "a whole number")
        return value

    def is_set(self, name: str) -> bool:
        """Return a flag; one that is missing or null is not set."""
        value = self._members.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._complain(name, "true or false")
        return bool(value)

    def members(self, name: str) -> Members:
        """Return an object that has to be there."""
        return Members(self._members.get(name), f"the {name} of {self.what}")

    def find_members(self, name: str) -> Members | None:
        return None if self._members.get(name) is None else self.members(name)

    def list(self, name: str, limit: int = ITEMS_LIMIT) -> tuple[Any, ...]:
        """Return the items of a list that has to be there; nothing is known of them yet."""
        value = self._members.get(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._complain(name, f"a list of {limit} items at most")
        return tuple(value)

    def find_list(self, name: str, limit: int = ITEMS_LIMIT) -> tuple[Any, ...]:
        """Return the items of a list, none where it is missing or null."""
        return () if self._members.get(name) is None else self.list(name, limit)

    def _complain(self, name: str, wanted: str) -> AgentError:
        found = f"is {shorten(self._members[name])}" if name in self._members else "is missing"
        return _misread(f"the {name} of {self.what} {found}, and has to be {wanted}")


def is_text(value: str, limit: int = TEXT_LIMIT) -> bool:
    """Return whether text is short enough and can be written as UTF-8, which half of a pair cannot."""
    return len(value) <= limit and not any("\ud800" <= character <= "\udfff" for character in value)


def clean(text: str) -> str:
    """Return text that is fit for a terminal and a log, since it is shown to people."""
    return "".join(character if character.isprintable() else " " for character in text)


def shorten(value: Any) -> str:
    """Return what a value is, briefly, and printable whatever it is."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= _NUMBER_LIMIT:
        return "a number out of bounds"
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _misread(problem: str) -> AgentError:
    return AgentError(problem, reason=Reason.CLOUD_ERROR)


class Unread(Struct, frozen=True):
    """One entry that cannot be read."""

    name: str | None
    """The ID of what it is about; None where not even that can be read."""
    problem: str
    """What is wrong with it, a clause."""

    def describe(self) -> tuple[str, str]:
        """Return a sentence that says so, and one that says what to do."""
        about = "something that it does not name" if self.name is None else self.name
        message = f"AWS's answer about {about} cannot be read: {self.problem.rstrip('.')}."
        return (
            message,
            "Nothing is done to it. Is there a proxy to AWS that changes answers?",
        )


def read_entry(read: Callable[[Any], T], named_by: str, value: Any) -> T | Unread:
    """Return what an entry says; where that cannot be read, an ``Unread`` with its ID, in ``named_by``."""
    try:
        return read(value)
    except AgentError as error:
        return Unread(_find_name(named_by, value), error.message)


def _find_name(named_by: str, value: Any) -> str | None:
    try:
        name = Members(value, "an entry").find_text(named_by)
    except AgentError:
        return None
    return name if name is not None and _ID.fullmatch(name) else None


def split(found: Iterable[T | Unread]) -> tuple[tuple[T, ...], tuple[Unread, ...]]:
    """Return what could be read, and what could not."""
    entries = tuple(found)
    unread = tuple(one for one in entries if isinstance(one, Unread))
    return tuple(one for one in entries if not isinstance(one, Unread)), unread
