"""Entries of an answer that are not what they have to be: each stands for itself, and the others are read.

What cannot be read is neither gone nor nothing. It is in the type of what a call answers, so that whoever
asks has to say what comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.cloud.aws.answer_fields import Members
from agent.cloud.errors.explain import CloudError
from agent.core.errors import AgentError
from agent.core.model import Reason

T = TypeVar("T")

_ID = re.compile(r"[a-z]{1,8}-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)
_REST_S = 60.0


@dataclass(frozen=True)
class Unread:
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

    def explain(self) -> CloudError:
        """Return it as the error of whatever needs to know what it says."""
        message, hint = self.describe()
        return CloudError(
            message,
            hint=hint,
            reason=Reason.CLOUD_ERROR,
            code="NotUnderstood",
            retry_after_s=_REST_S,
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


def require_read(found: Iterable[T | Unread]) -> tuple[T, ...]:
    """Return what was found, or raise CloudError where some of it could not be read."""
    read, unread = split(found)
    for one in unread:
        raise one.explain()
    return read
