"""A page of docs/ as steps: its fenced blocks in their order, with what is said about them.

- ``sh`` is pasted into a shell on the reader's machine, ``sh node`` into one on the node.
- ``text`` is all that the ``sh`` before it prints; without one it prints nothing. ``…`` stands for anything
  within a line, and alone on one for any lines; IDs and the width of gaps vary.
- Blocks of other languages are files to look at.
- A comment before a block, ``<!-- not run: WHY -->``, keeps it from being run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_PART = re.compile(
    r"^ *<!-- not run: (?P<why>[^\n]+?) -->\n\n?"
    r"|^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_ID = re.compile(r"\b(?:vol|snap|i|ami)-[0-9a-f]{8,17}\b")
_VARYING = re.compile(rf"(?P<id>{_ID.pattern})|(?P<gap>\s+)|(?P<rest>…)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    not_run: str | None = None
    """Why the test does not run it."""
    expected: str = ""
    """All that it prints."""

    @property
    def is_command(self) -> bool:
        return self.language in {"sh", "sh node"}


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of a page; ValueError where words about a block have none to belong to."""
    blocks: list[Block] = []
    why: str | None = None
    end = 0
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        if why is not None and text[end : part.start()].strip():
            raise ValueError(f"line {line}: nothing follows what is said not to be run: {why}")
        if part["why"] is not None:
            why, end = part["why"], part.end()
            continue
        body = "".join(row.removeprefix(part["indent"]) for row in part["body"].splitlines(keepends=True))
        if part["language"] == "text":
            if not blocks or not blocks[-1].is_command or blocks[-1].expected:
                raise ValueError(f"line {line}: what is printed here, no command before it prints")
            blocks[-1] = replace(blocks[-1], expected=body)
        else:
            blocks.append(Block(part["language"], body, line, why))
        why = None
    if why is not None:
        raise ValueError(f"nothing follows what is said not to be run: {why}")
    return blocks


def find_difference(expected: str, printed: str) -> str | None:
    """Return how what was printed differs from what a page shows, None where it does not."""
    rows = [row for row in printed.splitlines() if row.strip()]
    wanted = [row for row in expected.splitlines() if row.strip()]
    while wanted:
        if wanted[0].strip() == "…":
            wanted.pop(0)
            if not wanted:
                return None
            while rows and not _is_like(wanted[0], rows[0]):
                rows.pop(0)
        if not rows:
            return f"this is not printed: {wanted[0]}"
        if not _is_like(wanted[0], rows[0]):
            return f"in place of: {wanted[0]}\nit prints:   {rows[0]}"
        wanted.pop(0)
        rows.pop(0)
    return f"this is not on the page: {rows[0]}" if rows else None


def _is_like(wanted: str, row: str) -> bool:
    def vary(found: re.Match[str]) -> str:
        kind = found.lastgroup
        return {"id": f"(?:{_ID.pattern})", "gap": r"\s+", "rest": ".*?"}[str(kind)]

    parts, at = [], 0
    for found in _VARYING.finditer(wanted.strip()):
        parts += [re.escape(wanted.strip()[at : found.start()]), vary(found)]
        at = found.end()
    parts.append(re.escape(wanted.strip()[at:]))
    return re.fullmatch("".join(parts), row.strip()) is not None
