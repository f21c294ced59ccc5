"""Things that are not blank: a corpus of volume contents that no formatting agent may ever overwrite.

A case is a function that writes to an image file; see ``tests.corpus.case`` to add one. ``python -m
tests.corpus`` lists them and makes them into a directory. Nothing here knows the agent.
"""

from __future__ import annotations

from tests.corpus import filesystems, members, plain, remains, tables
from tests.corpus.case import CASES, Case, Kept, find_missing

__all__ = ["CASES", "Case", "Kept", "filesystems", "find_missing", "members", "plain", "remains", "tables"]
