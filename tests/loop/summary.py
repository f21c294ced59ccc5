"""Numbers that the tests of this tier collect, printed at the end of the run."""

from __future__ import annotations

from collections import Counter

SUMMARY: Counter[str] = Counter()
"""``corpus cases``, ``trials of interruption`` and the like, counted by the tests themselves."""
