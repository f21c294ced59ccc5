"""Numbers that tests collect, added up over all workers and printed at the end of the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

SUMMARY: Counter[str] = Counter()
"""``corpus cases``, ``trials of interruption`` and the like, counted by the tests themselves."""


class SummaryPlugin:
    """Says how much was tried, and what was lost in all of it."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand a worker's numbers to the run it belongs to."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["summary"] = dict(SUMMARY)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take a worker's numbers; one that crashed has none to give."""
        SUMMARY.update(getattr(node, "workeroutput", {}).get("summary", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if SUMMARY:
            terminalreporter.section("never lose a byte")
            for words, number in sorted(SUMMARY.items()):
                terminalreporter.line(f"{words:<40} {number}")
