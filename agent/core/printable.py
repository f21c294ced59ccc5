"""Text that others chose, made fit to be shown: in messages, logs, JSON and on terminals."""

from __future__ import annotations


def make_printable(text: str) -> str:
    """Return ``text`` with a question mark for every character that cannot be printed: escapes, raw bytes.

    Names of mounts, devices and programs come from whoever made them, and need not even be UTF-8.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
