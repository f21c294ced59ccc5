"""Which errors of the kernel say that the node has run out of something, and nothing of what was asked.

A table that is full, a fork that is denied: nothing was looked at, so nothing is known, nothing is to be
trusted less than before, and the same attempt may succeed later. Asked wherever an ``OSError`` is judged.
"""

from __future__ import annotations

import errno
import os

from agent.core.errors import ShortageError
from agent.core.model import Reason

_SHORTAGES = {
    errno.EMFILE: "the agent has as many files open as it may",
    errno.ENFILE: "all processes together have as many files open as there can be",
    errno.ENOMEM: "memory is used up",
    errno.EAGAIN: "there can be no further process now, or something is busy for the moment",
    errno.EINTR: "it was interrupted",
    errno.ENOBUFS: "the kernel's buffers are used up",
    errno.ENOLCK: "the kernel's locks are used up",
    errno.ETOOMANYREFS: "too many descriptors are on their way between processes",
}
_NO_SPACE = {
    errno.ENOSPC: "the filesystem is full",
    errno.EDQUOT: "the quota is used up",
}


def is_shortage(error: BaseException, *, writes: bool = False) -> bool:
    """Tell whether an error means that the node has run out of something.

    ``writes``: it is about a file of the agent's own being written, for which space may be what is missing.
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, OSError):
        return False
    return error.errno in _SHORTAGES or (writes and error.errno in _NO_SPACE)


def explain_shortage(what: str, error: BaseException) -> ShortageError:
    """Return what to say of ``what`` that could not be done; ``what`` is a sentence without its end."""
    number = error.errno or 0 if isinstance(error, OSError) else errno.ENOMEM
    why = _SHORTAGES.get(number) or _NO_SPACE.get(number) or os.strerror(number)
    way_out = "Free some space" if number in _NO_SPACE else "See what uses it up (systemd-cgtop)"
    return ShortageError(
        f"{what}: {os.strerror(number)} ({why}).",
        hint=f"{way_out}; it is tried again by itself, and nothing is concluded from it.",
        reason=Reason.NODE_EXHAUSTED,
    )
