"""What is said of a filesystem that somebody froze, by whoever finds out: plan, step, sample or worker."""

from __future__ import annotations

import shlex

from agent.core.quoting import make_printable

MAYBE_FROZEN = "If somebody froze its filesystem (fsfreeze -f), fsfreeze -u lets it go on."
"""Said beside a stall of which the kernel does not show what it waits for."""


def tell_frozen(subject: str, path: str | None = None) -> str:
    """Return the sentence about a filesystem of ``subject``, mounted at ``path``."""
    where = "" if path is None else f" at {make_printable(path)}"
    return f"The filesystem of {subject}{where} is frozen: whoever writes to it waits until it is thawed."


def hint_at_thaw(path: str | None = None) -> str:
    """Return the way out."""
    where = "MOUNTPOINT" if path is None else make_printable(shlex.quote(path))
    return (
        f"Nothing is lost. Somebody froze it (fsfreeze -f), perhaps for a backup that is under way;"
        f" if not: fsfreeze -u {where}. What is due to it goes on by itself then."
    )
